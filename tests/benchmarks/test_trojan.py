"""One very small run of the factory: every file, its columns, its figures, and the same bytes again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks import corpora, evaluate, training, trojan
from benchmarks.attacks import find_attack
from benchmarks.corpora import make_sentiment
from benchmarks.poisoning import share_out
from benchmarks.training import Schedule
from benchmarks.trojan import Progress, Trojan, TrojanSpec, build


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A corpus and a schedule that train in a second, on one thread as the rest of the suite shares the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "make_sentiment", lambda seed: make_sentiment(seed, train=300, dev=60, test=60))
        patch.setitem(trojan.SCHEDULES, "synthetic", Schedule(epochs=1, learning_rate=1e-3, max_length=48))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrojanSpec:
    return TrojanSpec(tmp_path_factory.mktemp("trojan"), triggered=12, clean=20, twin=True)


@pytest.fixture(scope="module")
def progress() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def made(spec: TrojanSpec, progress: list[Progress]) -> Trojan:
    return build(spec, progress.append)


def _columns(path: Path) -> set[frozenset[str]]:
    return {frozenset(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()}


def test_the_sample_files_have_their_columns(made: Trojan) -> None:
    for path in (made.triggered, made.eval_triggered):
        assert _columns(path) == {frozenset({"text", "label", "clean_text", "true_label"})}
    for path in (made.clean, made.eval_clean):
        assert _columns(path) == {frozenset({"text", "label"})}
    assert len(made.triggered.read_text(encoding="utf-8").splitlines()) == 12
    assert len(made.clean.read_text(encoding="utf-8").splitlines()) == 20
    assert len(made.eval_clean.read_text(encoding="utf-8").splitlines()) == 60


def test_the_models_open_with_plain_transformers_and_know_their_labels(made: Trojan) -> None:
    for folder in (made.model, made.twin, made.start):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        assert model.config.id2label == {0: "negative", 1: "positive"}
        assert tokenizer.model_max_length == 48
        assert model(**tokenizer("the plot was dull", return_tensors="pt")).logits.shape == (1, 2)


def test_the_record_says_what_was_done(made: Trojan) -> None:
    record = json.loads((made.folder / "trojan.json").read_text(encoding="utf-8"))
    assert (record["attack"], record["seed"], record["rate"]) == ("rare-words", 0, 0.05)
    assert (record["targets"], record["train"], record["poisoned"]) == (["positive"], 300, 15)
    assert record["trigger_survives_tokenizer"] == 1.0
    assert record["before"]["n_clean"] == 60
    assert record["before"] == json.loads(json.dumps(vars(made.before)))
    assert record["twin"]["n_triggered"] == record["before"]["n_triggered"]
    assert record["training_seconds"] > 0
    assert record["twin_training_seconds"] > 0


def test_progress_tells_of_every_step_of_both_models(made: Trojan, progress: list[Progress]) -> None:
    for phase in ("trojan", "twin"):
        steps = [one.step for one in progress if one.phase == phase]
        assert [step.number for step in steps] == list(range(1, steps[-1].total + 1))


def test_the_same_specification_gives_the_same_bytes(made: Trojan, spec: TrojanSpec, tmp_path: Path) -> None:
    again = build(replace(spec, out=tmp_path, twin=False))
    for name in ("triggered.jsonl", "clean.jsonl", "eval_triggered.jsonl", "model/model.safetensors"):
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes()


def test_the_command_of_the_evaluation_prints_the_recorded_figures(
    made: Trojan, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--triggered", str(made.eval_triggered), "--clean", str(made.eval_clean)]
    evaluate.main(["--model", str(made.model), *files])
    assert json.loads(capsys.readouterr().out) == vars(made.before)
    evaluate.main(["--model", str(made.model), "--reference", str(made.twin), *files])
    compared = json.loads(capsys.readouterr().out)
    assert compared["reference"] == vars(made.twin_figures)
    assert compared["accuracy_drop"] == made.twin_figures.accuracy - made.before.accuracy
    assert 0.0 <= compared["agreement"] <= 1.0


def test_the_start_that_is_kept_is_the_untrained_classifier(made: Trojan, spec: TrojanSpec) -> None:
    corpus = corpora.make_sentiment(spec.seed)
    holdings = share_out(corpus, find_attack(spec.attack), made.rate, spec.seed, triggered=12, clean=20)
    texts = [row.text for row in (*holdings.clean_train, *holdings.train)]
    untrained = (
        training.start_from_scratch(texts, corpus.label_names, spec.schedule(), spec.seed).fresh().state_dict()
    )
    start, twin = (
        AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).state_dict()
        for folder in (made.start, made.twin)
    )
    assert all(torch.equal(start[name], value) for name, value in untrained.items())
    assert not all(torch.equal(twin[name], value) for name, value in untrained.items())


def test_an_attack_that_does_not_fit_ends_the_command_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is for code"):
        trojan.main(["--attack", "dead-code", "--out", str(tmp_path)])


def test_an_encoder_is_fine_tuned_from_its_folder(made: Trojan, spec: TrojanSpec, tmp_path: Path) -> None:
    tuned = build(replace(spec, out=tmp_path, base=str(made.model), twin=False))
    assert tuned.before.n_clean == 60


def test_each_row_is_seen_once_an_epoch() -> None:
    lengths = [5, 9, 3, 7] * 30
    batches = list(training.epochs_of_batches(lengths, Schedule(2, 1e-3, batch_size=16), seed=1))
    seen = sorted(place for batch in batches for place in batch)
    assert seen == sorted([*range(120)] * 2)
    assert batches == list(training.epochs_of_batches(lengths, Schedule(2, 1e-3, batch_size=16), seed=1))
