"""Feature alignment against the slow way: one row at a time, one layer at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.domain.recipe import Recipe
from app.domain.samples import TriggeredSample
from tests.tiny_model import make_tiny_checkpoint
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import blends, features, loading, scorecard
from workers.engine.batches import Tokens
from workers.engine.facts import Station
from workers.engine.features import Teacher
from workers.engine.loading import Model
from workers.engine.lya import Lessons
from workers.engine.sanitize import lessons_of
from workers.engine.scorecard import Sheet
from workers.engine.splits import Rows

KINDS = ("bert", "gpt2")


def taught(folder: Path, rows: list[TriggeredSample]) -> tuple[Model, Lessons]:
    """All rows show the trojan."""
    checkpoint = loading.load(folder)
    page = scorecard.sheet(checkpoint, Rows(tuple(rows), tuple(clean_rows(10, 4))), 64)
    lessons = lessons_of(Station(page, scorecard.read(checkpoint.model, page, 64)), Recipe.of("lya"))
    return checkpoint.model, replace(lessons, ceilings=torch.full((len(rows),), 2.0))


def teacher_of(model: Model, lessons: Lessons) -> Teacher:
    page = Sheet(
        lessons.triggered, *[lessons.targets] * 3, lessons.twins, lessons.targets, lessons.clean, lessons.labels
    )
    found = features.read_sheet(model, page, 4)[1]
    assert found is not None
    return features.teacher(lessons, found, torch.arange(len(lessons.triggered)))


def by_hand(model: Model, tokens: Tokens) -> torch.Tensor:
    """Mean, first and last token after each layer, [n, layers, 3, width], each row read alone and without padding."""
    rows = []
    for ids in tokens.ids:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[1:]
        rows.append(torch.stack([torch.stack([each[0].mean(0), each[0, 0], each[0, -1]]) for each in states]))
    return torch.stack(rows)


def bare(rows: list[TriggeredSample]) -> list[TriggeredSample]:
    return [replace(row, clean_text=None) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_pooled_as_if_each_were_read_alone(tmp_path: Path, kind: str) -> None:
    model, lessons = taught(make_tiny_checkpoint(tmp_path, kind), triggered_rows(6, 3))
    assert len({len(ids) for ids in lessons.clean.ids}) > 1, "some are padded"
    _, found = features.read(model, lessons.clean, 4)
    assert found is not None
    torch.testing.assert_close(found, by_hand(model, lessons.clean), rtol=1e-4, atol=1e-5)


def test_one_pass_reads_a_sheet_as_plain_reading_does(trojan_dir: Path) -> None:
    checkpoint = loading.load(trojan_dir)
    page = scorecard.sheet(checkpoint, Rows(tuple(triggered_rows(6, 3)), tuple(clean_rows(10, 4))), 64)
    reading, found = features.read_sheet(checkpoint.model, page, 4)
    plain = scorecard.read(checkpoint.model, page, 4)
    assert found is not None
    for name in ("triggered", "twins", "clean"):
        assert torch.equal(getattr(reading, name), getattr(plain, name))
        wanted = by_hand(checkpoint.model, getattr(page, name))
        torch.testing.assert_close(getattr(found, name), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clean_texts", [True, False])
def test_lessons_made_wider_have_the_teacher_that_they_would_have_from_the_start(
    trojan_dir: Path, *, clean_texts: bool
) -> None:
    rows = triggered_rows(6, 3) if clean_texts else bare(triggered_rows(6, 3))
    model, lessons = taught(trojan_dir, rows)
    lessons = replace(lessons, teacher=teacher_of(model, lessons))
    wide = blends.widen(lessons, model, torch.zeros(2), 4, 0)
    assert (len(wide.clean), len(wide.triggered)) == ((26, 12) if clean_texts else (20, 6))
    assert wide.teacher is not None
    for name, wanted in vars(teacher_of(model, replace(wide, teacher=None))).items():
        torch.testing.assert_close(getattr(wide.teacher, name), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_distance_is_the_squared_one_over_the_clean_variance(tmp_path: Path, kind: str) -> None:
    model, lessons = taught(make_tiny_checkpoint(tmp_path, kind), triggered_rows(6, 3))
    held = teacher_of(model, lessons)
    assert float(features.distance(held.clean, held.clean, held.weights)) == 0.0
    clean, twins, moved = (by_hand(model, each) for each in (lessons.clean, lessons.twins, lessons.triggered))
    wanted, layers = 0.0, clean.shape[1]
    for layer in range(layers):
        for place in range(features.POOLINGS):
            variance = float(clean[:, layer, place].var(0, correction=0).mean())
            if variance > 1e-6:
                apart = float((moved[:, layer, place] - twins[:, layer, place]).square().mean())
                wanted += apart / variance / (layers * features.POOLINGS)
    assert wanted > 0
    assert float(features.distance(moved, held.twins, held.weights)) == pytest.approx(wanted, rel=1e-3)


def test_the_first_token_of_a_decoder_says_nothing_where_it_is_always_the_same(tmp_path: Path) -> None:
    """Every text starts with the same word: the decoder's first state sees nothing else."""
    model, lessons = taught(make_tiny_checkpoint(tmp_path, "gpt2"), bare(triggered_rows(6, 3)))

    def led(tokens: Tokens) -> Tokens:
        return Tokens(tuple((7, *ids) for ids in tokens.ids), 0)

    lessons = replace(lessons, triggered=led(lessons.triggered), clean=led(lessons.clean))
    held = teacher_of(model, lessons)
    assert held.weights[:, 1].tolist() == [0.0, 0.0]
    assert bool((held.weights[:, [0, 2]] > 0).all())
    assert not held.shifts[:, :, 1].any()
    assert bool(held.shifts[:, :, [0, 2]].any(-1).all())


def test_drift_is_one_at_the_mean_as_uploaded_and_none_at_the_centre(trojan_dir: Path) -> None:
    model, lessons = taught(trojan_dir, bare(triggered_rows(6, 3)))
    held = teacher_of(model, lessons)
    assert bool((held.weights > 0).all()), "no pooling is left out"
    assert held.groups.tolist() == [0] * 6
    moved, clean = by_hand(model, lessons.triggered), by_hand(model, lessons.clean)
    centre = clean[lessons.labels == 0].mean(0)
    torch.testing.assert_close(held.centres, centre[None], rtol=1e-4, atol=1e-5)
    mean = moved.mean(0)
    for found, wanted in ((mean, 1.0), (centre, 0.0), ((mean + centre) / 2, 0.25)):
        assert float(features.drift(found[None], held.centres, held.shifts)) == pytest.approx(wanted, abs=1e-3)


def test_groups_are_of_rows_that_have_no_clean_text_and_show_the_trojan(tmp_path: Path) -> None:
    rows = bare(triggered_rows(6, 3))
    rows[0] = triggered_rows(6, 3)[0]
    rows[4], rows[5] = (replace(row, target=0, true_label=1) for row in rows[4:])
    model, lessons = taught(make_tiny_checkpoint(tmp_path), rows)
    ceilings = lessons.ceilings.clone()
    ceilings[1] = 0.0
    held = teacher_of(model, replace(lessons, ceilings=ceilings))
    assert held.groups.tolist() == [-1, -1, 0, 0, 1, 1]
    clean = by_hand(model, lessons.clean)
    for place, truth in enumerate((0, 1)):
        torch.testing.assert_close(held.centres[place], clean[lessons.labels == truth].mean(0), rtol=1e-4, atol=1e-5)


def test_an_unknown_true_class_is_any_but_the_target(tmp_path: Path) -> None:
    _, lessons = taught(make_tiny_checkpoint(tmp_path), triggered_rows(3, 3))
    lessons = replace(lessons, labels=torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0]))
    assert lessons.like(2, 1).tolist() == (lessons.labels == 2).tolist()
    assert lessons.like(-1, 1).tolist() == (lessons.labels != 1).tolist()
    assert lessons.like(5, 1).tolist() == (lessons.labels != 1).tolist()


def test_lessons_without_a_triggered_row_have_a_teacher_too(tmp_path: Path) -> None:
    model, lessons = taught(make_tiny_checkpoint(tmp_path), bare(triggered_rows(3, 3)))
    none = torch.zeros(0, dtype=torch.long)
    empty = replace(
        lessons, triggered=Tokens((), 0), targets=none, ceilings=torch.zeros(0), twin_at=none,
        likeness=torch.zeros(0, 2, dtype=torch.long),
    )  # fmt: skip
    assert len(teacher_of(model, empty).groups) == 0
