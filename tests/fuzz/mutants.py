"""Mutants that know the structure: fields of JSON, headers of tar and zip, instructions of pickle, cells of tables."""

from __future__ import annotations

import copy
import gzip
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from tests import zip_by_hand
from tests.fuzz import seeds
from tests.zip_by_hand import DEFLATED, STORED, Part

Draw = Callable[[st.SearchStrategy[Any]], Any]
NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    -1,
    8,
    0x7FFF,
    0xFFFF,
    1 << 24,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 48,
    (1 << 63) - 1,
    1 << 64,
)
WORDS = (
    "", "a", "../x", "/etc/passwd", "\0", "\x1b[2J", "\u202e", "é", "e\u0301", "ﷺ", "\ud800", "F32", "I64", "(a+)+$",
    "bert", "http://127.0.0.1/x", "user/kernel", "__class__", "a" * 300, "\r", "🙂",
)  # fmt: skip
KEYS = (
    "auto_map", "attn_implementation", "quantization_config", "model_type", "architectures", "vocab_size", "dtype",
    "shape", "data_offsets", "__metadata__", "normalizer", "type", "model", "added_tokens", "padding", "text", "label",
)  # fmt: skip
PARTS = (seeds.BYTES, seeds.TEMPLATE, seeds.SPACES, {"type": "NFKC"}, {"type": "Prepend", "prepend": "ab"})
leaves = (
    st.sampled_from(NUMBERS)
    | st.sampled_from(WORDS)
    | st.sampled_from((None, True, False, 1.0, -0.0, 1e308, [], {}))
    | st.sampled_from(PARTS)
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(KEYS + WORDS), inner, max_size=2), max_leaves=4)  # fmt: skip
TEXTS = (b'"', b"\\u0000", b"\\ud800", b"NaN", b"1e999", b"9" * 60, b"[" * 70, b"{", b"}", b",", b"\xef\xbb\xbf", b"\xff",
         b"\0", b"\n", b"\r", b"\t", b"''", b'"a":1,"a":2', b"-0.0", b"\xed\xa0\x80", b" ")  # fmt: skip


def mutants(kind: str) -> st.SearchStrategy[bytes]:
    if kind in ("header", "config", "tokenizer"):
        return _json(kind)
    made = {"tar": _tar, "zip": _zip, "pickle": _pickle}
    return made[kind]() if kind in made else _table(kind)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _edit(draw: Draw, root: Any) -> None:
    container, key = draw(st.sampled_from(list(_places(root)) or [({}, "x")]))
    match draw(st.integers(0, 5)):
        case 0 | 1:
            container[key] = copy.deepcopy(draw(values))
        case 2 if isinstance(container, dict):
            container.pop(key, None)
        case 3 if isinstance(container, dict):
            container[draw(st.sampled_from(KEYS + WORDS))] = copy.deepcopy(draw(values))
        case 4 if isinstance(container, list):
            container[:] = container * draw(st.integers(0, 20))
        case _:
            if key in container if isinstance(container, dict) else True:
                container[key] = [container[key]] * draw(st.integers(1, 3))


@st.composite
def _json(draw: Draw, kind: str) -> bytes:
    root = draw(st.sampled_from(range(len(seeds.objects(kind)))))
    found = seeds.objects(kind)[root]
    for _ in range(draw(st.integers(0, 3))):
        _edit(draw, found)
    data = json.dumps(found, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        data = _spoiled(draw, data)
    if kind != "header":
        return data
    length = draw(st.sampled_from((len(data),) * 8 + (0, 2, len(data) - 1, len(data) + 1, 1 << 63)))
    size = max([40] + [n for n in _ends(found) if n < 1000])
    return struct.pack("<Q", length) + data + bytes(size + draw(st.sampled_from((0, 0, 0, 0, -4, 4, 1))))


def _ends(header: Any) -> Iterator[int]:
    for row in header.values() if isinstance(header, dict) else ():
        offsets = row.get("data_offsets") if isinstance(row, dict) else None
        if isinstance(offsets, list):
            yield from (end for end in offsets if type(end) is int)


def _spoiled(draw: Draw, data: bytes) -> bytes:
    """Bytes put in, taken out or doubled, wherever."""
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data = data[:place] + draw(st.sampled_from(TEXTS)) + data[place:]
            case 1:
                data = data[:place] + data[place + draw(st.integers(1, 16)) :]
            case 2:
                data = data[:place] + data[place : place + 40] * 2 + data[place + 40 :]
            case _:
                number = struct.pack("<Q", draw(st.sampled_from(NUMBERS)) % (1 << 64))[
                    : draw(st.sampled_from((1, 2, 4, 8)))
                ]
                data = data[:place] + number + data[place + len(number) :]
    return data


@st.composite
def _table(draw: Draw, kind: str) -> bytes:
    return _spoiled(draw, seeds.files(kind)[0])


TYPES = (b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"Z")
NAMES = (
    b"a.md",
    b"./b.md",
    b"../x",
    b"/x",
    b"folder/",
    b"c\0d",
    b"\xff",
    "é".encode(),
    b"config.json",
    b"a" * 99,
    b".",
)
RECORDS = (b"", b"16 path=../../x\n", b"13 path=b.md\n", b"9 size=0\n", b"0 path=x\n", b"99 a=b\n", b"22 GNU.sparse.size=9\n",
           b"13 path=b.md\n" * 2, b"b.md\0", b"../b\0", b"\xff")  # fmt: skip


@st.composite
def _tar(draw: Draw) -> bytes:
    out = b""
    for _ in range(draw(st.integers(0, 4))):
        out += _tar_member(draw)
    out += bytes(512 * draw(st.sampled_from((2, 2, 2, 4, 20, 1, 0))))
    if draw(st.integers(0, 3)) == 0:
        out = _spoiled(draw, out)
    if draw(st.integers(0, 4)) == 0:
        out = gzip.compress(out, mtime=0)
        return _spoiled(draw, out) if draw(st.booleans()) else out
    return out


def _tar_member(draw: Draw) -> bytes:
    kind = draw(st.sampled_from((b"0",) * 8 + TYPES))
    data = draw(st.sampled_from(RECORDS)) if kind in b"xgLK" else b"x" * draw(st.sampled_from((0, 1, 511, 512, 513)))
    size = draw(st.sampled_from((len(data),) * 12 + NUMBERS))
    magic = draw(st.sampled_from((b"ustar\x0000",) * 4 + (b"ustar  \0", bytes(8), b"USTAR\x0000")))
    block = bytearray(512)
    name = draw(st.sampled_from(NAMES))
    block[: len(name)] = name
    octal = f"{size:011o}".encode() + b"\0"
    block[124:136] = octal if 0 <= size < 1 << 33 else b"\x80" + (size % (1 << 64)).to_bytes(11, "big")
    block[100:124] = b"0000644\0" + b"0000000\0" * 2
    block[136:148] = b"00000000000\0"
    block[156:157], block[257:265] = kind, magic
    if draw(st.integers(0, 9)) == 0:
        block[345:350] = b"../pr"
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block) + data + bytes(-len(data) % 512)


LIES = ("name", "flags", "method", "crc", "packed", "size", "extra", "disk", "offset")
FLAGS = (0, 0, 0, 0, 1, 2, 8, 0x800, 0x2000, 0x8000)
EXTRAS = (b"", b"FB\4\0abcd", b"\x75\x70\1\0\1", b"\1\0\x08\0" + bytes(8), b"\1\0", b"\1\0\x10\0" + bytes(16))


def _lie(draw: Draw) -> dict[str, Any]:
    key = draw(st.sampled_from(LIES))
    if key == "name":
        return {key: draw(st.sampled_from(NAMES))}
    if key == "extra":
        return {key: draw(st.sampled_from(EXTRAS))}
    if key in ("flags", "method", "disk"):
        return {key: draw(st.sampled_from((0, 1, 8, 12, 14, 99, 0x800)))}
    return {key: draw(st.sampled_from((0, 1, 3, 30, 0xFFFF, 0xFFFFFFFF)))}


def _part(draw: Draw) -> Part:
    data = b"x" * draw(st.sampled_from((0, 1, 100)))
    method, flags = draw(st.sampled_from((STORED, DEFLATED))), draw(st.sampled_from(FLAGS))
    part = Part(
        draw(st.sampled_from(NAMES)),
        data,
        method,
        flags,
        draw(st.sampled_from((0, 0, 0o100644 << 16, 0o120777 << 16))),
    )
    if draw(st.integers(0, 2)) == 0:
        part.local = _lie(draw)
    if draw(st.integers(0, 4)) == 0:
        part.central = part.local if draw(st.booleans()) else _lie(draw)
    part.before = draw(st.sampled_from((b"",) * 9 + (b"gap",)))
    if flags & 8:
        row = part.fields()
        part.after = b"PK\7\x08" + struct.pack("<3I", row["crc"], row["packed"], row["size"])
    return part


@st.composite
def _zip(draw: Draw) -> bytes:
    parts = [_part(draw) for _ in range(draw(st.integers(0, 4)))]
    lies = (
        {draw(st.sampled_from(("count", "length", "begin"))): draw(st.integers(0, 200))}
        if draw(st.integers(0, 6)) == 0
        else {}
    )
    data = zip_by_hand.make(*parts, between=draw(st.sampled_from((b"",) * 9 + (b"gap",))), **lies)
    return _spoiled(draw, data) if draw(st.integers(0, 4)) == 0 else data


STEPS = (
    b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"\x87", b"N", b"\x88", b"\x89", b"K\1", b"J\xff\xff\xff\xff", b"\x8a\1\7",
    b"X\1\0\0\0a", b"X\7\0\0\0storage", b"q\0", b"h\0", b"h\2", b"j\1\0\0\0", b"r\1\0\0\0", b"s", b"u", b"a", b"e", b"R", b"b",
    b"Q", b".", b"0", b"2", b"o", b"\x81", b"\x93", b"\x94", b"\x82\1", b"\x80\2", b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"ios\nsystem\n",
)  # fmt: skip


@st.composite
def _pickle(draw: Draw) -> bytes:
    program = seeds.PROGRAM
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(2, len(program)))
        step = draw(st.sampled_from(STEPS))
        program = program[:place] + step + program[place + draw(st.integers(0, 2)) :]
    if draw(st.integers(0, 9)) == 0:
        program = b"\x80\x02" + b"".join(draw(st.lists(st.sampled_from(STEPS), max_size=30))) + b"."
    data = seeds.pickled(program)
    return _spoiled(draw, data) if draw(st.integers(0, 5)) == 0 else data
