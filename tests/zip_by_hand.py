"""Zips made byte by byte, so that any field can lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

STORED, DEFLATED = 0, 8


@dataclass
class Part:
    """One member. `local` and `central` replace fields of the header of that name; `before` are bytes before it."""

    name: bytes
    data: bytes = b""
    method: int = STORED
    flags: int = 0
    attributes: int = 0
    before: bytes = b""
    after: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)

    @property
    def packed(self) -> bytes:
        return deflate(self.data) if self.method == DEFLATED else self.data

    def fields(self) -> dict[str, Any]:
        return {
            "name": self.name, "flags": self.flags, "method": self.method, "crc": zlib.crc32(self.data),
            "packed": len(self.packed), "size": len(self.data), "extra": b"", "comment": b"",
            "attributes": self.attributes, "disk": 0, "needed": 20,
        }  # fmt: skip


def deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


def local(row: dict[str, Any]) -> bytes:
    numbers = (row["needed"], row["flags"], row["method"], 0, 0x21, row["crc"], row["packed"], row["size"])
    return (
        struct.pack("<4s5H3I2H", b"PK\x03\x04", *numbers, len(row["name"]), len(row["extra"]))
        + row["name"]
        + row["extra"]
    )


def central(row: dict[str, Any]) -> bytes:
    texts = (row["name"], row["extra"], row["comment"])
    numbers = (0x0314, row["needed"], row["flags"], row["method"], 0, 0x21, row["crc"], row["packed"], row["size"])
    tail = (*map(len, texts), row["disk"], 0, row["attributes"], row["offset"])
    return struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *numbers, *tail) + b"".join(texts)


def end(count: int, length: int, begin: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\x05\x06", disk, disk, count, count, length, begin, len(comment)) + comment


def end64(count: int, length: int, begin: int, place: int) -> bytes:
    """The 64-bit end record and its locator, which says that the record stands at `place`."""
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, begin)
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)


def make(*parts: Part, between: bytes = b"", **lies: Any) -> bytes:
    """A zip of the parts. `between` stands before the directory; `lies` go into the end record."""
    out, directory = b"", b""
    for part in parts:
        out += part.before
        row = part.fields()
        directory += central(row | {"offset": len(out)} | part.central)
        out += local(row | part.local) + part.packed + part.after
    out += between
    told = {"count": len(parts), "length": len(directory), "begin": len(out)} | lies
    return out + directory + end(**told)


def plain(**members: bytes) -> bytes:
    return make(*(Part(name.encode(), data) for name, data in members.items()))
