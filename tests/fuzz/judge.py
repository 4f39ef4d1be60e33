"""One mutant before its reader, and what the reader lets in before a second, independent look.

`judge` gives the rule of the refusal, or "admitted". Anything else that happens is a finding: an exception that no
reader may raise, or Unsafe, where the second look disagrees.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import tokenizers

from app.domain.errors import BadSamples, ModelRefused
from app.domain.samples import SampleKind
from app.intake import archives, config_keys, pickle_opcodes, tokenizer_parts
from app.intake.safetensors_header import read_header
from app.intake.sample_files import Columns, SampleFormat, read_rows
from app.intake.strict_json import parse_object

MAX_BYTES = 1 << 20
PLAIN = re.compile(r"[A-Za-z0-9_|]{0,80}")
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
TEXT = "a b ﷺ 東京\n"


class Unsafe(Exception):
    """The reader let in what another reader reads otherwise, or what no rule lets in."""


def judge(kind: str, data: bytes) -> str:
    try:
        JUDGES[kind](data)
    except ModelRefused as refused:
        findings = refused.details["findings"]
        if not findings or any(len(finding.message) < 15 for finding in findings):
            raise Unsafe("a refusal that says nothing") from refused
        return str(findings[0].rule)
    except BadSamples:
        return "bad samples"
    return "admitted"


def _sure(fine: bool, what: str) -> None:
    if not fine:
        raise Unsafe(what)


def _file(data: bytes) -> Path:
    file = Path(tempfile.gettempdir()) / "mutant"
    file.write_bytes(data)
    return file


def _header(data: bytes) -> None:
    found = read_header(_file(data), "model.safetensors")
    theirs = {
        name: (row["dtype"], tuple(row["shape"]), len(row["data"])) for name, row in safetensors.deserialize(data)
    }
    ours = {entry.name: (entry.dtype, entry.shape, entry.end - entry.begin) for entry in found.tensors}
    _sure(ours == theirs, "safetensors reads other tensors")


def _config(data: bytes) -> None:
    rebuilt = config_keys.rebuild(parse_object(data, "config.json"))
    raw, labels = json.loads(data), set(rebuilt.labels)
    for key, value in rebuilt.config.items():
        _sure(key in raw or key in ("id2label", "label2id"), f"{key} came from nowhere")
        words = [word for word in _texts(value) if word not in labels]
        _sure(all(PLAIN.fullmatch(word) for word in words), f"{key} holds {words}")
        _sure(all(abs(number) < 1e10 for number in _numbers(value)), f"{key} is huge")
    _sure(not any(raw.get(key) for key in ("auto_map", "trust_remote_code", "quantization_config")), "leads to code")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(inner)


def _tokenizer(data: bytes) -> None:
    rebuilt = tokenizer_parts.rebuild(parse_object(data, "tokenizer.json"))
    _sure(rebuilt["padding"] is None and rebuilt["truncation"] is None, "padding or truncation")
    try:
        built = tokenizers.Tokenizer.from_str(json.dumps(rebuilt))
        tokens = built.encode(TEXT * 20).ids
    except BaseException as error:  # a panic is no Exception; the sandbox is there for it
        if isinstance(error, KeyboardInterrupt | MemoryError):
            raise
        return
    _sure(len(tokens) < 200 * len(TEXT.encode()) * 20, f"{len(tokens)} tokens of a short text")
    known = set(built.get_vocab().values())
    _sure(set(tokens) <= known, "ids that no token has")


def _archive(theirs: Callable[[bytes], Mapping[str, bytes]], data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = archives.unpack(_file(data), Path(folder), MAX_BYTES)
        ours = {path: file.read_bytes() for path, file in found.items()}
    for path in ours:
        _sure(not path.startswith("/") and ".." not in path.split("/") and path.isprintable(), f"the name {path!r}")
    _sure(sum(map(len, ours.values())) <= MAX_BYTES, "more bytes than the cap")
    _sure(ours == theirs(data), "Python reads other members")


def _by_tarfile(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as reader:
        infos = [info for info in reader if info.isreg()]
        return {info.name.removeprefix("./"): reader.extractfile(info).read() for info in infos}  # type: ignore[union-attr]


def _by_zipfile(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        return {info.filename: reader.read(info) for info in reader.infolist() if not info.is_dir()}


def _tar(data: bytes) -> None:
    _archive(_by_tarfile if data[:2] != b"PK" else _by_zipfile, data)


def _pickle(data: bytes) -> None:
    pickle_opcodes.check(_file(data), "pytorch_model.bin")
    with zipfile.ZipFile(io.BytesIO(data)) as reader:
        (name,) = [name for name in reader.namelist() if name.endswith("data.pkl")]
        program = reader.read(name)
    pickletools.dis(program, out=io.StringIO())  # walks the stack and the memory, and fails where they do not fit
    named = {str(argument) for opcode, argument, _ in pickletools.genops(program) if "GLOBAL" in opcode.name}
    _sure(all(each in GLOBALS or re.fullmatch(r"torch \w+Storage", each) for each in named), f"it names {named}")


def _samples(form: SampleFormat, data: bytes) -> None:
    lines = data.split(b"\n")
    for row in read_rows(io.BytesIO(data), form, SampleKind.TRIGGERED, Columns(), 1000):
        _sure(bool(row.text.strip()) and "\0" not in row.text, "an empty text")
        row.text.encode()
        _sure(type(row.label) in (int, str), "a label of another type")
        if form is SampleFormat.JSONL:
            said = json.loads(lines[row.line - 1].decode("utf-8-sig"))
            _sure(row.text in said.values() and row.label in said.values(), "not what the line says")


JUDGES: Mapping[str, Callable[[bytes], None]] = {
    "header": _header,
    "config": _config,
    "tokenizer": _tokenizer,
    "tar": _tar,
    "zip": _tar,
    "pickle": _pickle,
    "jsonl": lambda data: _samples(SampleFormat.JSONL, data),
    "csv": lambda data: _samples(SampleFormat.CSV, data),
    "tsv": lambda data: _samples(SampleFormat.TSV, data),
}
