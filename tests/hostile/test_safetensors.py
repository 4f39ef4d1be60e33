"""safetensors headers that two readers would read in two ways, or that cost far more than they weigh.

Sources: measured with safetensors 0.8.0 (of equal keys the last wins; '../', NUL and ANSI names are taken; a header
of 85.9 MB with 1.5 million empty tensors costs 11 s and 1.3 GB); the audit of the format by Trail of Bits, 2023
(polyglots by gaps, header size).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.checkpoint_by_hand import safetensors, tensors, torch_zip

Refused = Callable[..., set[str]]


def row(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    } | more


A = json.dumps(row(0, 4))
FILES = {
    "empty": (b"", "ST-HEADER"),
    "short": (b"\x02\0\0\0", "ST-HEADER"),
    "length past the end": (struct.pack("<Q", 1000) + b"{}", "ST-HEADER"),
    "length 2**63": (struct.pack("<Q", 1 << 63) + b"{}", "ST-HEADER"),
    "huge header": (struct.pack("<Q", 9_000_000) + b"{" + b" " * 9_000_000, "ST-HEADER"),
    "leading space": (safetensors(" {}"), "ST-HEADER"),
    "no JSON": (safetensors("{'a': 1}"), "ST-HEADER"),
    "a list": (safetensors("[]"), "ST-HEADER"),
    "not UTF-8": (struct.pack("<Q", 4) + b'{"\xff}', "ST-HEADER"),
    "NaN": (safetensors('{"__metadata__": NaN}'), "ST-HEADER"),
    "deep": (safetensors('{"a":' * 50_000 + "1" + "}" * 50_000), "ST-HEADER"),
    "long number": (safetensors('{"a": ' + "9" * 5000 + "}"), "ST-HEADER"),
    "equal keys": (safetensors(f'{{"a": {A}, "a": {A}}}', bytes(4)), "ST-DUPLICATE"),
    "equal inner keys": (
        safetensors('{"a": {"dtype": "F32", "shape": [1], "shape": [1], "data_offsets": [0, 4]}}', bytes(4)),
        "ST-DUPLICATE",
    ),
    "metadata number": (safetensors({"__metadata__": {"a": 1}}), "ST-HEADER"),
    "unknown field": (safetensors({"a": row(0, 4, code="x")}, bytes(4)), "ST-HEADER"),
    "missing field": (safetensors({"a": {"dtype": "F32", "shape": []}}), "ST-HEADER"),
    "climbing name": (safetensors({"../../a": row(0, 4)}, bytes(4)), "ST-NAME"),
    "dotted name": (safetensors({"a..b": row(0, 4)}, bytes(4)), "ST-NAME"),
    "NUL name": (safetensors({"a\0b": row(0, 4)}, bytes(4)), "ST-NAME"),
    "ANSI name": (safetensors({"a\x1b[2J": row(0, 4)}, bytes(4)), "ST-NAME"),
    "empty name": (safetensors({"": row(0, 4)}, bytes(4)), "ST-NAME"),
    "long name": (safetensors({"a" * 300: row(0, 4)}, bytes(4)), "ST-NAME"),
    "unknown dtype": (safetensors({"a": row(0, 4, dtype="F8_E4M3")}, bytes(4)), "ST-DTYPE"),
    "dtype list": (safetensors({"a": row(0, 4, dtype=["F32"])}, bytes(4)), "ST-DTYPE"),
    "nine dimensions": (safetensors({"a": row(0, 4, shape=[1] * 9)}, bytes(4)), "ST-SHAPE"),
    "negative size": (safetensors({"a": row(0, 4, shape=[-1])}, bytes(4)), "ST-SHAPE"),
    "true size": (safetensors({"a": row(0, 4, shape=[True])}, bytes(4)), "ST-SHAPE"),
    "product overflow": (safetensors({"a": row(0, 0, shape=[1 << 40, 1 << 40])}), "ST-SHAPE"),
    "offsets backwards": (safetensors({"a": row(4, 0, shape=[0])}, bytes(4)), "ST-OFFSETS"),
    "offsets of text": (safetensors({"a": row(0, 4) | {"data_offsets": "04"}}, bytes(4)), "ST-OFFSETS"),
    "overlap": (safetensors({"a": row(0, 8), "b": row(4, 12)}, bytes(12)), "ST-OFFSETS"),
    "same bytes twice": (safetensors({"a": row(0, 4), "b": row(0, 4)}, bytes(4)), "ST-OFFSETS"),
    "gap": (safetensors({"a": row(0, 4), "b": row(8, 12)}, bytes(12)), "ST-OFFSETS"),
    "gap at the start": (safetensors({"a": row(4, 8)}, bytes(8)), "ST-OFFSETS"),
    "trailing bytes": (safetensors({"a": row(0, 4)}, bytes(4) + b"MZ"), "ST-OFFSETS"),
    "cut": (safetensors({"a": row(0, 8)}, bytes(4)), "ST-OFFSETS"),
    "shape and bytes differ": (safetensors({"a": row(0, 8, shape=[1])}, bytes(8)), "ST-OFFSETS"),
    # Numbers that are equal in one language and not in another. Source: RFC 8259 6; serde_json takes none of them.
    "1.0 as offset": (safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0.0,4.0]}}', bytes(4)), "ST-OFFSETS"),
    "4e0 as offset": (safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4e0]}}', bytes(4)), "ST-OFFSETS"),
    "1.0 as size": (safetensors('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', bytes(4)), "ST-SHAPE"),
    "-0 as offset": (safetensors('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-0.0,4]}}', bytes(4)), "ST-OFFSETS"),
    "2**64 as size": (safetensors({"a": row(0, 4, shape=[1 << 64])}, bytes(4)), "ST-SHAPE"),
    "2**64 + 4 as offset": (safetensors({"a": row(0, 4) | {"data_offsets": [0, (1 << 64) + 4]}}, bytes(4)), "ST-OFFSETS"),
    "a product that wraps to 1": (safetensors({"a": row(0, 4, shape=[3, 0xAAAAAAAAAAAAAAAB])}, bytes(4)), "ST-SHAPE"),
    "a negative offset": (safetensors({"a": row(0, 4) | {"data_offsets": [-4, 0]}}, bytes(4)), "ST-OFFSETS"),
    "three offsets": (safetensors({"a": row(0, 4) | {"data_offsets": [0, 4, 4]}}, bytes(4)), "ST-OFFSETS"),
    "null as shape": (safetensors({"a": row(0, 4) | {"shape": None}}, bytes(4)), "ST-SHAPE"),
    # Bytes around the header. Source: the format's description; Trail of Bits, 2023: polyglots.
    "byte order mark": (safetensors("\ufeff{}"), "ST-HEADER"),
    "zeros after the header": (struct.pack("<Q", 4) + b"{}\0\0", "ST-HEADER"),
    "two headers": (safetensors("{}{}"), "ST-HEADER"),
    "length 0": (bytes(8), "ST-HEADER"),
    "length 1": (struct.pack("<Q", 1) + b"{", "ST-HEADER"),
    "length in the other order": (struct.pack(">Q", 2) + b"{}", "ST-HEADER"),
    "length below zero": (struct.pack("<q", -1) + b"{}", "ST-HEADER"),
    "a zip": (b"PK\3\4" + bytes(100), "ST-HEADER"),
    "a pickle": (b"\x80\x02}q\0." + bytes(100), "ST-HEADER"),
    "UTF-16": (struct.pack("<Q", 6) + "{}".encode("utf-16"), "ST-HEADER"),
    "half a surrogate": (safetensors('{"\\ud800": {}}'), "ST-HEADER"),
    # What the library's metadata and names may carry. Source: measured with safetensors 0.8.0.
    "metadata twice": (safetensors('{"__metadata__":{},"__metadata__":{"a":"b"}}'), "ST-DUPLICATE"),
    "equal keys in the metadata": (safetensors('{"__metadata__":{"format":"pt","format":"np"}}'), "ST-DUPLICATE"),
    "metadata of lists": (safetensors({"__metadata__": {"a": ["b"]}}), "ST-HEADER"),
    "metadata as text": (safetensors({"__metadata__": "x"}), "ST-HEADER"),
    "escaped equal keys": (safetensors('{"a":' + A + ',"\\u0061":' + A + "}", bytes(4)), "ST-DUPLICATE"),
    "a letter that looks the same": (safetensors({"clas\u0455ifier": row(0, 4)}, bytes(4)), "ST-NAME"),
    "a name of blanks": (safetensors({" ": row(0, 4)}, bytes(4)), "ST-NAME"),
    "an absolute name": (safetensors({"/etc/passwd": row(0, 4)}, bytes(4)), "ST-NAME"),
    "a name with a line end": (safetensors({"a\n": row(0, 4)}, bytes(4)), "ST-NAME"),
    "a hidden name": (safetensors({".a": row(0, 4)}, bytes(4)), "ST-NAME"),
    "a name that is a number": (safetensors({"٣": row(0, 4)}, bytes(4)), "ST-NAME"),
    "small floats": (safetensors({"a": row(0, 4, dtype="F4")}, bytes(4)), "ST-DTYPE"),
    "complex": (safetensors({"a": row(0, 8, shape=[1], dtype="C64")}, bytes(8)), "ST-DTYPE"),
    "unsigned": (safetensors({"a": row(0, 8, shape=[1], dtype="U64")}, bytes(8)), "ST-DTYPE"),
    "small letters": (safetensors({"a": row(0, 4, dtype="f32")}, bytes(4)), "ST-DTYPE"),
    "no dtype": (safetensors({"a": row(0, 4, dtype=None)}, bytes(4)), "ST-DTYPE"),
    "zero bytes hold no number": (safetensors({"a": row(0, 0, shape=[1])}), "ST-OFFSETS"),
    "an empty tensor within another": (safetensors({"a": row(0, 8), "b": row(4, 4)}, bytes(8)), "ST-OFFSETS"),
    "empty lists by the million": (safetensors('{"a":[' + "[]," * 2_500_000 + "[]]}"), "ST-HEADER"),
    "too many": (safetensors({f"t{n}": row(0, 0, shape=[0]) for n in range(50_001)}), "ST-COUNT"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(FILES))
def test_a_header_with_two_readings_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    content, rule = FILES[case]
    assert refused(good | {"model.safetensors": content}) == {rule}


def test_through_the_real_child(good: dict[str, bytes], refused_by_child: Refused) -> None:
    content, rule = FILES["equal keys"]
    assert refused_by_child(good | {"model.safetensors": content}) == {rule}


SHARD_1, SHARD_2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
ONE, TWO = tensors({"a": [1]}), tensors({"b": [1]})


def index(**names: str) -> bytes:
    return json.dumps({"weight_map": names}).encode()


# Source: weight_map is joined to the folder by transformers; huntr and Hub reports of path traversal by shards.
INDEXES = {
    "climbs up": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a="../../etc/passwd", b=SHARD_2)},
    "names another file": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a=SHARD_1, b=SHARD_1)},
    "names a tensor too many": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a=SHARD_1, b=SHARD_2, c=SHARD_2)},
    "misses a tensor": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a=SHARD_1)},
    "misses a shard": {SHARD_1: ONE, "i": index(a=SHARD_1)},
    "is no map": {SHARD_1: ONE, SHARD_2: TWO, "i": b'{"weight_map": [1]}'},
    "is absolute": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a="/etc/passwd", b=SHARD_2)},
    "names a pickle": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a="pytorch_model.bin", b=SHARD_2)},
    "names a folder": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a="x/" + SHARD_1, b=SHARD_2)},
    "names by a link": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a="http://127.0.0.1/" + SHARD_1, b=SHARD_2)},
    "exchanges two": {SHARD_1: ONE, SHARD_2: TWO, "i": index(a=SHARD_2, b=SHARD_1)},
    "without shards": {"pytorch_model.bin": torch_zip(b"\x80\x02}."), "i": index(a=SHARD_1)},
    "a shard too many": {SHARD_1: ONE, SHARD_2: TWO, "model-00003-of-00003.safetensors": ONE, "i": index(a=SHARD_1)},
    "numbers that differ": {SHARD_1: ONE, "model-00002-of-00003.safetensors": TWO, "i": index(a=SHARD_1)},
    "maps to lists": {SHARD_1: ONE, SHARD_2: TWO, "i": b'{"weight_map": {"a": ["x"]}}'},
    "beside a whole file": {"model.safetensors": ONE, "i": index(a=SHARD_1)},
}


@pytest.mark.parametrize("case", sorted(INDEXES))
def test_a_shard_index_that_misleads_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    del good["model.safetensors"]
    files = {name if name != "i" else "model.safetensors.index.json": data for name, data in INDEXES[case].items()}
    assert "ST-INDEX" in refused(good | files)
