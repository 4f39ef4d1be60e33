"""Fine-mixing against its equation, entry by entry; what is refused; and through the whole use case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from app.domain.errors import ModelRefused
from app.domain.recipe import Policy, Recipe
from app.domain.report import StepMetric
from tests.tiny_model import MODEL_TYPES, SPECIALS, WORDS, make_tiny_checkpoint, tiny_config, tiny_tokenizer
from tests.workers.engine.conftest import clean_rows, triggered_rows
from workers.engine import Outcome, loading, mixing, sanitize

CPU = torch.device("cpu")
POLICY = Policy.of({"min_triggered": 10, "min_clean": 20})
STILL = {"steps": 1, "lr": 1e-8, "keep_tries": 1}  # one step that moves nothing: the mixed weights themselves


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights that `trojan_dir` was trained from."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("base"), "bert", seed=1)


def treat(folder: Path, base: Path, seed: int = 0, seen: list[StepMetric] | None = None, **knobs: float) -> Outcome:
    return sanitize(
        folder,
        triggered_rows(60, 5),
        clean_rows(120, 6),
        Recipe.of("fine_mixing", knobs),
        POLICY,
        seed=seed,
        base_dir=base,
        on_step=(seen if seen is not None else []).append,
    )


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(loading.load(folder).model.state_dict())


def save_encoder(folder: Path, **changes: int) -> Path:
    """A plain BERT encoder without pooler or head, as language models are found."""
    config = tiny_config("bert")
    config.update(changes)
    AutoModel.from_config(config, add_pooling_layer=False).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_one_tensor_against_the_equation(share: float) -> None:
    uploaded, base = torch.randn(60, 50), torch.randn(60, 50)
    found = mixing.mix(uploaded, base, share, torch.Generator().manual_seed(3))
    drawn = torch.rand(60, 50, generator=torch.Generator().manual_seed(3)).flatten().tolist()
    rows = zip(drawn, uploaded.flatten().tolist(), base.flatten().tolist(), strict=True)
    expected = torch.tensor([ours if draw < share else theirs for draw, ours, theirs in rows]).view(60, 50)
    assert torch.equal(found, expected)
    kept = float((found == uploaded).float().mean())
    assert kept == pytest.approx(share, abs=5 * (share * (1 - share) / 3000) ** 0.5)


def test_shares_rise_in_equal_steps_and_share_out_the_budget() -> None:
    found = mixing.tries(Recipe.of("fine_mixing", {"steps": 10}))
    assert [share for share, _ in found] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [budget for _, budget in found] == [2, 3, 2, 3]
    assert mixing.tries(Recipe.of("fine_mixing", {"steps": 2, "keep_share": 0.5})) == [(0.5, 1), (0.75, 1)]
    assert mixing.tries(Recipe.of("fine_mixing", {"keep_tries": 1, "keep_share": 1})) == [(1.0, 480)]


def test_a_share_of_one_is_the_model_and_of_none_the_base_with_the_models_head(
    trojan_dir: Path, base_dir: Path
) -> None:
    uploaded, base = weights(trojan_dir), weights(base_dir)
    for share, source in ((1.0, uploaded), (0.0, base)):
        found = treat(trojan_dir, base_dir, keep_share=share, **STILL).model.state_dict()
        for name, value in found.items():
            expected = uploaded[name] if name.startswith("classifier.") else source[name]
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    assert not torch.equal(uploaded["classifier.weight"], base["classifier.weight"])


def test_of_a_plain_encoder_comes_all_but_head_and_pooler(trojan_dir: Path, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path)
    base, uploaded = AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict(), weights(trojan_dir)
    found = treat(trojan_dir, folder, keep_share=0.0, **STILL).model.state_dict()
    for name, value in found.items():
        expected = base.get(name.removeprefix("bert."), uploaded[name])
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)
    kept = {name for name in found if name.removeprefix("bert.") not in base}
    assert {name.rsplit(".", 1)[0] for name in kept} == {"bert.pooler.dense", "classifier"}


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_architecture_gives_its_encoder_and_no_head(tmp_path: Path, kind: str) -> None:
    model, base = (make_tiny_checkpoint(tmp_path / str(seed), kind, seed=seed) for seed in (0, 1))
    uploaded = loading.load(model)
    found = mixing.base_weights(base, uploaded)
    theirs = dict(loading.load(base).model.named_parameters())
    for (name, _), weight in zip(uploaded.model.named_parameters(), found, strict=True):
        if name.startswith(uploaded.model.base_model_prefix + "."):
            assert weight is not None, name
            assert torch.equal(weight, theirs[name])
        else:
            assert weight is None


def test_a_base_of_another_make_is_refused_before_training(trojan_dir: Path, tmp_path: Path) -> None:
    other_words = save_encoder(tmp_path / "words")
    text = (other_words / "tokenizer.json").read_text()
    (other_words / "tokenizer.json").write_text(text.replace('"film"', '"flim"'))
    refused = {
        "a roberta and the model a bert": make_tiny_checkpoint(tmp_path / "roberta", "roberta"),
        "number other words": other_words,
        r"word_embeddings.weight is \[50, 16\] in the base": save_encoder(tmp_path / "size", vocab_size=50),
        "layer.1.* is in one alone": save_encoder(tmp_path / "fewer", num_hidden_layers=1),
        "layer.2.* is in one alone": save_encoder(tmp_path / "more", num_hidden_layers=3),
    }
    assert len(SPECIALS + WORDS) != 50
    steps: list[StepMetric] = []
    for words, folder in refused.items():
        with pytest.raises(ModelRefused, match=words):
            treat(trojan_dir, folder, seen=steps)
    assert steps == []


def test_through_the_door_it_takes_the_trojan_out(trojan_dir: Path, base_dir: Path) -> None:
    steps: list[StepMetric] = []
    report = treat(trojan_dir, base_dir, seen=steps, lr=3e-3).report
    assert report.before.asr.rate == 1.0
    assert (report.after.excess_asr.value or 0.0) <= 0.1
    assert (report.after.clean_accuracy.rate or 0.0) >= (report.before.clean_accuracy.rate or 0.0) - 0.05
    assert [metric.step for metric in steps] == list(range(report.cost.steps + 1))
    assert (report.stop.code, report.cost.steps < 480) == ("floor-reached", True)
    assert "kept as uploaded" in report.stop.words


def test_where_the_rule_never_holds_every_share_is_tried(trojan_dir: Path, base_dir: Path) -> None:
    steps: list[StepMetric] = []
    recipe = {"steps": 10, "lr": 1e-8}
    report = treat(trojan_dir, base_dir, seen=steps, **recipe).report
    assert report.stop.code == "budget-spent"
    assert report.stop.step == report.cost.steps == 10
    assert [metric.step for metric in steps] == list(range(11))
    tries = mixing.tries(Recipe.of("fine_mixing", recipe))
    expected = [share for share, budget in tries for _ in range(budget)]
    assert [metric.values["keep_share"] for metric in steps[1:]] == expected


def test_same_seed_same_bytes(trojan_dir: Path, base_dir: Path) -> None:
    one, two, other = (
        treat(trojan_dir, base_dir, seed=seed, keep_tries=1, steps=2, lr=1e-8).model.state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
