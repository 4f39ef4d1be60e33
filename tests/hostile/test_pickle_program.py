"""Pickles of plain weights that are none: every name and instruction is on the list, and the whole is an attack.

The layout of a tensor follows `torch._utils._rebuild_tensor_v2`; each case names its source.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.errors import ModelRefused
from app.intake import pickle_opcodes
from tests.checkpoint_by_hand import torch_zip

Refused = Callable[..., set[str]]
ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def row(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: bytes = number(4), kind: str = "torch\nFloatStorage") -> bytes:
    return b"(" + text("storage") + f"c{kind}\n".encode() + text(key) + text("cpu") + count + b"tQ"


def tensor(
    inside: bytes = storage(),
    offset: int = 0,
    size: bytes = row(4),
    stride: bytes = row(1),
    gradient: bytes = b"\x89",
    hooks: bytes = ORDERED,
    more: bytes = b"",
) -> bytes:
    start = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return start + inside + number(offset) + size + stride + gradient + hooks + more + b"tR"


def state(*tensors: bytes) -> bytes:
    items = b"".join(text(f"t{index}") + each for index, each in enumerate(tensors))
    return b"\x80\x02}(" + items + b"u."


def weights(program: bytes) -> bytes:
    return torch_zip(program, {"archive/data/0": bytes(16)})


@pytest.mark.parametrize(
    "program",
    [
        state(tensor()),
        state(tensor(size=row(2, 2), stride=row(2, 1)), tensor(offset=3, size=row(1))),
        state(tensor(size=row(), stride=row()), tensor(size=row(0), stride=row(1))),
        state(b"ctorch._utils\n_rebuild_parameter\n(" + tensor() + b"\x88" + ORDERED + b"tR"),
        b"\x80\x02" + ORDERED + text("a") + tensor() + b"s}" + text("_metadata") + ORDERED + b"sb.",
    ],
)
def test_the_layout_is_what_the_reader_takes(program: bytes, tmp_path: Path) -> None:
    """The control of this page: without the lie, each would be read."""
    (tmp_path / "weights").write_bytes(weights(program))
    pickle_opcodes.check(tmp_path / "weights", "pytorch_model.bin")


PROTO = b"\x80\x02"
BAD_ATTRIBUTE = b"}" + text("__class__") + text("x") + b"sb."
# Case -> program, rule, source.
PROGRAMS: dict[str, tuple[bytes, str, str]] = {
    "an item set on a tensor": (PROTO + tensor() + text("a") + tensor() + b"s.", "PK-CONTENT", "CVE-2026-24747"),
    "items set on a tuple": (PROTO + b")(" + text("a") + text("b") + b"u.", "PK-CONTENT", "CVE-2026-24747"),
    "a storage larger than its record": (
        state(tensor(storage(count=number(1 << 20)))), "PK-CONTENT", "CVE-2026-24747",
    ),
    "a storage smaller than its record": (state(tensor(storage(count=number(3)), size=row(3))), "PK-CONTENT",
                                          "torch.serialization: load_tensor by numel"),
    "a storage that is not there": (state(tensor(storage(key="1"))), "PK-CONTENT", "torch.serialization: get_record"),
    "a storage by a path": (state(tensor(storage(key="../data.pkl"))), "PK-CONTENT", "CWE-22 by get_record(data/KEY)"),
    "a negative storage": (state(tensor(storage(count=number(-4)))), "PK-CONTENT", "torch issue tracker: numel < 0"),
    "a count of text": (state(tensor(storage(count=text("4")))), "PK-CONTENT", "torch.serialization: numel is an int"),
    "a storage of two kinds": (
        state(tensor(), tensor(storage(kind="torch\nIntStorage"))), "PK-CONTENT", "torch.serialization: loaded_storages",
    ),
    "a function as storage": (
        state(tensor(storage(kind="torch._utils\n_rebuild_parameter"))), "PK-CONTENT", "torch.serialization: persistent_load",
    ),
    "a persistent id of text": (PROTO + text("file:///etc/passwd") + b"Q.", "PK-CONTENT", "pickle: persistent_load"),
    "a persistent id of a function": (PROTO + b"ctorch\nFloatStorage\nQ.", "PK-CONTENT", "pickle: persistent_load"),
    "a negative offset": (state(tensor(offset=-1)), "PK-CONTENT", "torch.Tensor.set_: storage_offset"),
    "an offset beyond the end": (state(tensor(offset=1)), "PK-CONTENT", "torch.Tensor.set_: bounds"),
    "an offset of 2**70": (state(tensor(offset=1 << 70)), "PK-CONTENT", "int64 overflow in set_"),
    "a negative stride": (state(tensor(stride=row(-1))), "PK-CONTENT", "torch.as_strided: negative strides"),
    "a stride beyond the end": (state(tensor(size=row(2), stride=row(4))), "PK-CONTENT", "torch.Tensor.set_: bounds"),
    "a negative size": (state(tensor(size=row(-4))), "PK-CONTENT", "torch.Tensor.set_: sizes"),
    "sizes whose product overflows": (
        state(tensor(size=row(1 << 40, 1 << 40), stride=row(0, 0))), "PK-CONTENT", "int64 overflow in computeStorageNbytes",
    ),
    "sixteen bytes that become a terabyte": (
        state(tensor(size=row(1 << 38), stride=row(0))), "PK-CONTENT", "torch.Tensor.expand: stride 0 costs nothing saved",
    ),
    "fewer strides than sizes": (state(tensor(size=row(2, 2), stride=row(1))), "PK-CONTENT", "torch.Tensor.set_"),
    "nine dimensions": (state(tensor(size=row(*[1] * 9), stride=row(*[1] * 9))), "PK-CONTENT", "rule 7 of the readers"),
    "a size of text": (state(tensor(size=text("4"))), "PK-CONTENT", "type confusion in _rebuild_tensor_v2"),
    "hooks": (
        state(tensor(hooks=ORDERED + text("h") + text("x") + b"s")), "PK-CONTENT", "torch.Tensor._backward_hooks are called",
    ),
    "hooks as a plain dict": (state(tensor(hooks=b"}")), "PK-CONTENT", "torch.Tensor._backward_hooks"),
    "metadata of a tensor": (
        state(tensor(more=b"}" + text("x") + text("y") + b"s")), "PK-CONTENT", "torch._utils.set_tensor_metadata",
    ),
    "one argument too many": (state(tensor(more=b"NN")), "PK-CONTENT", "pickle: REDUCE"),
    "a dict of what is no tensor": (state(text("x")), "PK-CONTENT", "arXiv 2508.19774: data beside weights"),
    "a dict in a dict": (state(b"}" + text("a") + tensor() + b"s"), "PK-CONTENT", "arXiv 2508.19774"),
    "a number as name": (PROTO + b"}K\x01" + tensor() + b"s.", "PK-CONTENT", "torch.nn.Module.load_state_dict: names are text"),
    "a name twice": (PROTO + b"}(" + (text("a") + tensor()) * 2 + b"u.", "PK-CONTENT", "the last of two equal keys wins"),
    "no dict at all": (PROTO + tensor() + b".", "PK-CONTENT", "torch.load returns what it is given"),
    "two values left": (PROTO + b"}}.", "PK-CONTENT", "pickle: the stack at STOP"),
    "an attribute of a tensor": (PROTO + tensor() + BAD_ATTRIBUTE, "PK-CONTENT", "pickle: BUILD calls __setstate__"),
    "a class set by attribute": (PROTO + ORDERED + BAD_ATTRIBUTE, "PK-CONTENT", "pickle: BUILD updates __dict__"),
    "an OrderedDict of arguments": (
        PROTO + b"ccollections\nOrderedDict\n(" + text("x") + b"tR.", "PK-CONTENT", "pickle: REDUCE calls with anything",
    ),
    "a call of a tensor": (PROTO + tensor() + b")R.", "PK-CONTENT", "pickle: REDUCE"),
    "a call of text": (PROTO + text("os.system") + b")R.", "PK-CONTENT", "pickle: REDUCE"),
    "memory written twice": (PROTO + b"}q\0" + text("a") + b"q\0.", "PK-CONTENT", "found by fuzzing: pickletools fails"),
    "memory never written": (PROTO + b"h\x07.", "PK-CONTENT", "fickling: memo tricks"),
    "memory far out": (PROTO + b"}r\xff\xff\xff\x7f.", "PK-CONTENT", "CPython gh-115952: LONG_BINPUT makes room up to it"),
    "a tuple without its mark": (PROTO + b"t.", "PK-CONTENT", "pickle: stack underflow"),
    "a mark taken for a value": (PROTO + b"(\x85.", "PK-CONTENT", "pickle: stack underflow"),
    "nothing on the stack": (PROTO + b".", "PK-CONTENT", "pickle: stack underflow"),
    "an endless stack": (PROTO + b"(" * 200_000 + b".", "PK-CONTENT", "memory by MARK"),
    "a million instructions": (PROTO + b"]" + b"Na" * 500_001 + b".", "PK-CONTENT", "time by APPEND"),
    "bytes shared a thousand times": (state(*[tensor()] * 1000), "PK-CONTENT", "a clone of each takes its own bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(PROGRAMS))
def test_what_only_looks_like_weights_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    program, rule, source = PROGRAMS[case]
    assert source
    del good["model.safetensors"]
    assert refused(good | {"pytorch_model.bin": weights(program)}) == {rule}


def test_a_large_endian_file_is_refused(tmp_path: Path) -> None:
    """torch.serialization swaps the bytes of every number; a reader that does not sees other weights."""
    file = tmp_path / "weights"
    file.write_bytes(torch_zip(state(tensor()), {"archive/data/0": bytes(16), "archive/byteorder": b"big"}))
    with pytest.raises(ModelRefused) as caught:
        pickle_opcodes.check(file, "pytorch_model.bin")
    assert [finding.rule for finding in caught.value.details["findings"]] == ["PK-CONTENT"]
