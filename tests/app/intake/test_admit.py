"""What the intake lets in, and what it makes of it: the pure part, without torch."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import ModelRefused
from app.intake.admit import Admission, Order, admit
from app.intake.config_keys import FAMILIES, rebuild
from app.intake.safetensors_header import read_header
from app.intake.weights import Table
from tests.checkpoint_by_hand import CONFIG, TOKENIZER, dumped, safetensors, tar, tensors, torch_zip, write, zip_of

SHAPES: Mapping[str, tuple[int, ...]] = {"bert.a.LayerNorm.weight": (8, 4), "classifier.bias": (2,)}
README = {"README.md": b"# hello", ".gitattributes": b"*", "__MACOSX/._config.json": b"x"}


class Bench:
    """Stands where torch would: the table is given, and what it is handed is kept."""

    def __init__(self) -> None:
        self.config: Mapping[str, Any] = {}
        self.staged: dict[str, Any] = {}

    def table(self, config: Mapping[str, Any]) -> Table:
        self.config = config
        return Table(SHAPES, "bert", 8)

    def convert_pickle(self, pickle: Path, name: str, out: Path) -> None:
        raise AssertionError("there is no pickle")

    def build_tokenizer(self, staging: Path, out: Path, table: Table) -> None:
        self.staged = {file.name: json.loads(file.read_bytes()) for file in staging.iterdir()}


def good() -> dict[str, bytes]:
    return {
        "config.json": dumped(
            CONFIG | {"_name_or_path": "x", "use_cache": True, "surprise": 1, "torch_dtype": "float16"}
        ),
        "model.safetensors": tensors(SHAPES),
        "tokenizer.json": dumped(
            TOKENIZER | {"padding": {"strategy": {"Fixed": 200_000_000}}, "truncation": {"x": 1}}
        ),
    }


def run(source: Mapping[str, bytes] | bytes, folder: Path, bench: Bench | None = None) -> Admission:
    inputs, work, out = folder / "in", folder / "work", folder / "out"
    for room in (inputs, work, out):
        room.mkdir()
    if isinstance(source, bytes):
        (inputs / "archive").write_bytes(source)
        return admit(Order({}, inputs / "archive", work, out, 1 << 26), bench or Bench())
    return admit(Order(write(inputs, source), None, work, out, 1 << 26), bench or Bench())


def test_what_workers_load_is_written_anew(tmp_path: Path) -> None:
    bench = Bench()
    found = run(good() | README, tmp_path, bench)
    assert found.facts.labels == ("no", "yes")
    assert found.facts.parameters == 34
    config = json.loads((tmp_path / "out/config.json").read_bytes())
    assert config == {**CONFIG, "dtype": "float32"}
    assert "surprise" in next(note.message for note in found.notes if note.rule == "CF-DROPPED")
    assert {note.file for note in found.notes if note.rule == "FN-IGNORED"} == set(README)
    assert bench.staged["tokenizer.json"]["padding"] is None
    assert bench.staged["tokenizer.json"]["truncation"] is None
    assert (tmp_path / "out/model.safetensors").read_bytes() != good()["model.safetensors"]
    header = read_header(tmp_path / "out/model.safetensors", "out")
    assert [(entry.name, entry.shape) for entry in header.tensors] == list(SHAPES.items())


@pytest.mark.parametrize("top", ["", "my-model/"])
@pytest.mark.parametrize("pack", [tar, zip_of, lambda files: gzip.compress(tar(files))])
def test_an_archive_gives_the_same_files(pack: Any, top: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    run({f"{name}": data for name, data in good().items()}, tmp_path / "one")
    run(pack({f"{top}{name}": data for name, data in (README | good()).items()}), tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "one/out" / name).read_bytes() == (tmp_path / "two/out" / name).read_bytes()


def test_an_archive_of_the_tar_program_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name, data in good().items():
        (folder / name).write_bytes(data)
    made = subprocess.run(["tar", "-C", str(folder), "-czf", "-", "."], check=True, capture_output=True).stdout
    assert run(made, tmp_path).facts.labels == ("no", "yes")


def test_shards_become_one_file(tmp_path: Path) -> None:
    files = good()
    del files["model.safetensors"]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for file, tensor in zip(names, SHAPES, strict=True):
        files[file] = tensors({tensor: SHAPES[tensor]})
    weight_map = dict(zip(SHAPES, names, strict=True))
    files["model.safetensors.index.json"] = dumped({"metadata": {"total_size": 1}, "weight_map": weight_map})
    run(files, tmp_path)
    assert len(read_header(tmp_path / "out/model.safetensors", "out").tensors) == 2


def test_old_names_become_todays_and_caches_are_left_out(tmp_path: Path) -> None:
    files = good() | {
        "model.safetensors": tensors(
            {"bert.a.LayerNorm.gamma": (8, 4), "classifier.bias": (2,), "bert.embeddings.position_ids": (1,)}
        )
    }
    found = run(files, tmp_path)
    assert {entry.name for entry in read_header(tmp_path / "out/model.safetensors", "out").tensors} == set(SHAPES)
    assert "position_ids" in next(note.message for note in found.notes if note.rule == "WT-DROPPED")


@pytest.mark.parametrize(
    ("dtype", "size", "named"), [("F16", 2, "float16"), ("BF16", 2, "bfloat16"), ("F64", 8, "float64")]
)
def test_the_number_format_is_kept(dtype: str, size: int, named: str, tmp_path: Path) -> None:
    rows = {
        "bert.a.LayerNorm.weight": {"dtype": dtype, "shape": [8, 4], "data_offsets": [0, 32 * size]},
        "classifier.bias": {"dtype": dtype, "shape": [2], "data_offsets": [32 * size, 34 * size]},
    }
    run(good() | {"model.safetensors": safetensors(rows, bytes(34 * size))}, tmp_path)
    assert json.loads((tmp_path / "out/config.json").read_bytes())["dtype"] == named


def test_a_double_beyond_float32_is_refused(tmp_path: Path) -> None:
    rows = {
        "bert.a.LayerNorm.weight": {"dtype": "F64", "shape": [8, 4], "data_offsets": [0, 256]},
        "classifier.bias": {"dtype": "F64", "shape": [2], "data_offsets": [256, 272]},
    }
    data = bytes(264) + struct.pack("<d", 1e39)
    with pytest.raises(ModelRefused, match="infinite"):
        run(good() | {"model.safetensors": safetensors(rows, data)}, tmp_path)


def test_what_is_not_needed_is_said_and_left_out(tmp_path: Path) -> None:
    files = good() | {"pytorch_model.bin": torch_zip(b"\x80\x02}."), "tokenizer_config.json": dumped({"chat": "x"})}
    assert {"WT-UNUSED", "TK-DROPPED", "CF-DROPPED"} == {note.rule for note in run(files, tmp_path).notes}


def test_every_broken_part_is_named_at_once(tmp_path: Path) -> None:
    files = {"config.json": b"{", "model.safetensors": b"", "tokenizer.json": b"[]"}
    with pytest.raises(ModelRefused) as caught:
        run(files, tmp_path)
    assert [finding.file for finding in caught.value.details["findings"]] == list(files)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_missing_is_named(missing: str, tmp_path: Path) -> None:
    files = good()
    del files[missing]
    with pytest.raises(ModelRefused) as caught:
        run(files, tmp_path)
    assert [finding.rule for finding in caught.value.details["findings"]] == ["FN-MISSING"]


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_takes_its_librarys_own_config(model_type: str) -> None:
    """Each key that transformers writes for it is read, or known to say nothing."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoConfig

    raw = json.loads(AutoConfig.for_model(model_type).to_json_string(use_diff=False))
    raw["architectures"] = [FAMILIES[model_type].architecture]
    rebuilt = rebuild(raw)
    assert rebuilt.architecture == FAMILIES[model_type].architecture
    assert rebuilt.notes == ()


def test_the_types_that_are_taken_are_named_to_users() -> None:
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    told = page[page.index("of one of these types") :].partition("): ")[2].partition(". Weights")[0]
    assert set(re.findall(r"`([^`]+)`", told)) == set(FAMILIES)


TRAINED = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_1.pth")
BESIDE = ("checkpoint-50/optimizer.pt", "runs/Nov23/events.out.tfevents.1.host", "onnx/model.onnx", "tf_model.h5")


@pytest.mark.parametrize("folder", ["", "out/", "checkpoint-500/"])
def test_what_trainers_and_hubs_put_beside_a_checkpoint_is_left_out_unread(folder: str, tmp_path: Path) -> None:
    pickle = b"\x80\x02cos\nsystem\n."
    files = good() | dict.fromkeys((*TRAINED, *BESIDE), pickle)
    admission = run(tar({folder + name: data for name, data in files.items()}), tmp_path)
    left_out = {note.file for note in admission.notes if note.rule == "FN-IGNORED"}
    assert left_out == {*TRAINED, *BESIDE}
    assert not [file for file in (tmp_path / "out").iterdir() if file.read_bytes() == pickle]


def test_a_config_whose_label2id_was_never_set() -> None:
    rebuilt = rebuild(CONFIG | {"label2id": {"LABEL_0": 0, "LABEL_1": 1}})
    assert rebuilt.config["label2id"] == {"no": 0, "yes": 1}
