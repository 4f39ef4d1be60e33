"""`lethe scan` with the real sandbox: the verdicts of an upload, without a service."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.settings import InspectionSettings
from tests.checkpoint_by_hand import CONFIG, dumped
from tests.installed import lethe
from tests.tiny_model import make_tiny_checkpoint
from workers.scan import MOST_FILES, Scanned, Status, scan_one, status_of


class _Evil:
    """Its pickle would write a file if it were ever loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("scan") / "model")


def scanned(path: Path, **limits: Any) -> Scanned:
    return scan_one(path, InspectionSettings(**limits))


def rules(result: Scanned) -> set[str]:
    return {finding.rule for finding in result.findings}


def test_a_good_checkpoint_is_clean_as_an_archive_and_as_the_folder_of_links_that_the_hub_keeps(
    checkpoint: Path, tmp_path: Path
) -> None:
    """As a plain folder: see the command."""
    archive = shutil.make_archive(str(tmp_path / "model"), "gztar", checkpoint.parent, checkpoint.name)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in checkpoint.iterdir():
        (snapshot / file.name).symlink_to(file)
    for target in (Path(archive), snapshot):
        result = scanned(target)
        assert (target.name, result.status, result.reason) == (target.name, Status.CLEAN, None)
        assert result.facts is not None
        assert result.facts.labels == ("negative", "positive")


def test_pickles_of_every_protocol_are_findings_whatever_they_are_called(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    cases = [(protocol, "pytorch_model.bin") for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    cases += [(2, name) for name in ("model.pkl", "model.joblib", "weights", "model.safetensors")]
    for protocol, name in cases:
        target = tmp_path / f"{protocol}" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(pickle.dumps(_Evil(canary), protocol))
        result = scanned(target)
        assert (name, protocol, result.status) == (name, protocol, Status.FINDINGS)
        assert all(finding.message for finding in result.findings)
    assert not canary.exists()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def linked() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("config.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return out.getvalue()


HOSTILE = {
    "archive.zip": (zipped({"data.pkl": pickle.dumps(print)}), "FN-PICKLE"),
    "climbs.zip": (zipped({"../config.json": b"{}"}), "FN-UNSAFE"),
    "links.tar": (linked(), "AR-LINK"),
    "empty.zip": (zipped({}), "FN-MISSING"),
    "cut.tgz": (b"\x1f\x8b\x08\x00", "AR-FORMAT"),
    "pytorch_model.bin": (zipped({"x/data.pkl": pickle.dumps(os.system, 2), "x/version": b"3"}), "PK-GLOBAL"),
    "config.json": (dumped(CONFIG | {"auto_map": {"x": "y"}}), "CF-CODE"),
    "model.gguf": (b"GGUF\x03\x00\x00\x00", "FN-FORMAT"),
    "model.keras": (zipped({"config.json": b"{}"}), "FN-FORMAT"),
    "model.onnx": (b"\x08\x07", "FN-FORMAT"),
    "array.npy": (b"\x93NUMPY", "FN-PICKLE"),
    "script.py": (b"print()", "FN-CODE"),
    "model.skops": (zipped({"schema.json": b"{}"}), "FN-FORMAT"),
    "model.nemo": (linked(), "FN-FORMAT"),
    "name\n\x1b[31m\u202e.bin": (b"", "FN-UNSAFE"),
    os.fsdecode(b"not-utf-8-\xff.bin"): (b"", "FN-UNSAFE"),
}


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_each_single_file_gets_what_its_upload_would_get(tmp_path: Path, name: str) -> None:
    content, rule = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    result = scanned(tmp_path / name)
    assert (result.status, rule in rules(result), result.reason) == (Status.FINDINGS, True, None), result


def test_where_there_is_nothing_to_scan_it_says_why(tmp_path: Path) -> None:
    result = scanned(tmp_path)
    assert (result.status, result.reason) == (Status.NOTHING, "There is nothing to scan: it holds no file.")
    (tmp_path / "README.md").write_text("# hello")
    result = scanned(tmp_path)
    assert (result.status, result.findings) == (Status.NOTHING, ())
    assert "README.md" in str(result.reason)


def test_what_is_no_ordinary_file_is_never_waited_for(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert rules(scanned(folder)) == {"FN-FORMAT"}
    os.mkfifo(tmp_path / "model.zip")
    assert rules(scanned(tmp_path / "model.zip")) == {"FN-FORMAT"}


def test_a_target_that_cannot_be_judged_is_an_error(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("nowhere")
    assert scanned(tmp_path / "config.json").status is Status.ERROR
    large = scanned(checkpoint, model_max_bytes=1000)
    assert (large.status, "LETHE_MODEL_MAX_BYTES" in str(large.reason)) == (Status.ERROR, True)


def test_an_inspector_without_an_answer_is_a_finding(checkpoint: Path) -> None:
    result = scanned(checkpoint, inspect_seconds=0.001)
    assert (result.status, rules(result)) == (Status.FINDINGS, {"SB-TIMEOUT"})


def test_a_folder_of_too_many_files_is_a_finding(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 1):
        (tmp_path / f"{number}").touch()
    assert rules(scanned(tmp_path)) == {"AR-COUNT"}


def test_an_error_outweighs_findings_and_these_the_rest() -> None:
    results = [Scanned(Path("x"), status) for status in (Status.NOTHING, Status.CLEAN, Status.FINDINGS, Status.ERROR)]
    assert [status_of(results[: n + 1]) for n in range(4)] == [result.status for result in results]


def test_the_command_ends_with_the_statuses_of_modelscan(checkpoint: Path, tmp_path: Path) -> None:
    room = tmp_path / "room"
    (room / "empty").mkdir(parents=True)
    (room / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (room / "\x1b[31mred\n.bin").touch()
    installed = tmp_path / "installed"
    assert lethe(installed, "scan", checkpoint).returncode == 0
    assert lethe(installed, "scan", room / "empty").returncode == 3
    said = lethe(installed, "scan", "--each", room)
    assert said.returncode == 1, said.stderr
    assert "FN-PICKLE" in said.stdout
    assert "2 findings" in said.stdout
    assert "\x1b" not in said.stdout
    (room / "dangling.zip").symlink_to("nowhere")
    said = lethe(installed, "scan", "--json", "--each", room)
    assert said.returncode == 2
    assert said.stdout.isascii()
    document = json.loads(said.stdout)
    assert (document["schema"], document["status"]) == (1, "error")
    assert document["summary"] == {"clean": 0, "findings": 2, "error": 1, "nothing-to-scan": 1}
    evil = next(each for each in document["results"] if each["path"].endswith("evil.pkl"))
    assert evil["findings"][0]["rule"] == "FN-PICKLE"
    assert set(evil) == {"path", "status", "reason", "findings", "facts"}
    assert lethe(installed, "scan", checkpoint, environment={"LETHE_INSPECT_SECONDS": "never"}).returncode == 4


def test_the_scanning_process_has_no_torch(tmp_path: Path) -> None:
    """It is `workers.child` that imports it, behind the confinement."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\natexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    )
    said = lethe(tmp_path, "scan", tmp_path)
    assert said.stderr.split()[-1] == "False", said.stderr
