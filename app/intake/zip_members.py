"""A zip read by its bytes, strictly: its directory, every local header and the bytes between must tell one story.

Readers differ in which directory they find, in whether they believe it or the local headers, in what they do with
gaps, and in how they decode a name; scanners have been led past payloads by each of these. Guarantee: the members
that `read_directory` returns fill the file from its first byte to its directory, which ends where the end record
begins, which ends the file.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from app.domain.errors import ModelRefused
from app.intake.rules import refusal, shown

CHUNK = 1024 * 1024
DIRECTORY_BYTES = 4 * 1024 * 1024
STORED, DEFLATED = 0, 8
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL = 0xFFFFFFFF  # stands where the 64-bit extra field holds the number
_DESCRIPTOR, _UTF8, _ENCRYPTED = 0x0008, 0x0800, 0x2041
_KNOWN_FLAGS = 0x0006 | _DESCRIPTOR | _UTF8
_ZIP64 = 0x0001
_VERSION = 63  # of the format: the last that common readers take
_AMBIGUOUS_EXTRAS = {0x7075: "a second name", 0x9901: "encryption", 0x0017: "encryption"}


@dataclass(frozen=True, slots=True)
class ZipMember:
    """`begin` is the offset of its `packed` bytes, which unpack to `size`; `mode` is the Unix one, or 0."""

    name: str
    mode: int
    begin: int
    packed: int
    size: int
    crc: int
    deflated: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Zip:
    handle: BinaryIO
    name: str
    rule: str

    def fail(self, message: str) -> ModelRefused:
        return refusal(self.rule, self.name, f"{message} Make it again.")

    def read(self, offset: int, length: int) -> bytes:
        self.handle.seek(offset)
        data = self.handle.read(length)
        if len(data) != length:
            raise self.fail("it is cut short.")
        return data


def read_directory(handle: BinaryIO, name: str, rule: str, most: int) -> list[ZipMember]:
    """The members in the order of their bytes. Raises ModelRefused: `rule`, AR-COUNT, AR-ENCRYPTED, AR-FORMAT."""
    file = _Zip(handle, name, rule)
    begin, end, count = _directory(file)
    if count > most:
        raise refusal("AR-COUNT", name, f"it has over {most} members. Leave out what the model does not need.")
    entries = sorted(_entries(file, file.read(begin, end - begin), count), key=lambda entry: entry.offset)
    if len({entry.raw_name for entry in entries}) != len(entries):
        raise file.fail("it names a member twice.")
    members, place = [], 0
    for entry in entries:
        if entry.offset != place:
            raise file.fail("its members share bytes, leave gaps, or do not start at the first byte.")
        member, place = _member(file, entry)
        members.append(member)
    if place != begin:
        raise file.fail("there are bytes between its members and its directory.")
    return members


def unpacked(handle: BinaryIO, member: ZipMember, name: str, rule: str) -> Iterator[bytes]:
    """The member's content in pieces of at most CHUNK bytes: exactly as long, and with the checksum, as it says."""
    total = crc = 0
    handle.seek(member.begin)
    for piece in _inflated(handle, member.packed) if member.deflated else _stored(handle, member.packed):
        total, crc = total + len(piece), zlib.crc32(piece, crc)
        if total > member.size:
            break
        yield piece
    if total != member.size or crc != member.crc:
        raise refusal(rule, name, f"its member {shown(member.name)} is not what its directory says. Make it again.")


def _stored(handle: BinaryIO, left: int) -> Iterator[bytes]:
    while left and (piece := handle.read(min(CHUNK, left))):
        left -= len(piece)
        yield piece


def _inflated(handle: BinaryIO, packed: int) -> Iterator[bytes]:
    """Raises zlib.error unless the bytes are one deflate stream and nothing else."""
    stream = zlib.decompressobj(-15)
    for data in _stored(handle, packed):
        piece = stream.decompress(data, CHUNK)
        while piece or stream.unconsumed_tail:
            yield piece
            piece = stream.decompress(stream.unconsumed_tail, CHUNK)
        if stream.unused_data:
            raise zlib.error("bytes follow the end of a member")
    if not stream.eof:
        raise zlib.error("a member is cut short")


def _directory(file: _Zip) -> tuple[int, int, int]:
    """Begin, end and number of entries, by the end record at the very end; there is no comment."""
    size = file.handle.seek(0, io.SEEK_END)
    if size < _END.size:
        raise file.fail("it is cut short.")
    end = size - _END.size
    mark, disk, first, here, count, length, begin, comment = _END.unpack(file.read(end, _END.size))
    if mark != b"PK\x05\x06" or comment:
        raise file.fail("bytes follow its end record, or it is cut short.")
    if (disk, first) != (0, 0) or here != count:
        raise file.fail("it is a part of several.")
    end64 = end - _LOCATOR.size - _END64.size
    if end64 >= 0 and file.read(end - _LOCATOR.size, 4) == b"PK\x06\x07":
        wide = _directory64(file, end64)
        if any(narrow not in (whole, most) for narrow, whole, most in zip(
            (count, length, begin), wide, (0xFFFF, _FULL, _FULL), strict=True
        )):  # fmt: skip
            raise file.fail("its two end records differ.")
        (count, length, begin), end = wide, end64
    if length > DIRECTORY_BYTES:
        raise file.fail(f"its directory has {length:,} bytes.")
    if begin + length != end:
        raise file.fail("its directory does not end where its end record begins.")
    return begin, end, count


def _directory64(file: _Zip, place: int) -> tuple[int, int, int]:
    """Number of entries, length and begin, by the 64-bit end record, which stands right before its locator."""
    locator = _LOCATOR.unpack(file.read(place + _END64.size, _LOCATOR.size))
    mark, length, _, _, disk, first, here, count, size, begin = _END64.unpack(file.read(place, _END64.size))
    fine = mark == b"PK\x06\x06" and length == _END64.size - 12 and (disk, first) == (0, 0) and here == count
    if not fine or locator[1:] != (0, place, 1):
        raise file.fail("its 64-bit end record is not where it belongs.")
    return count, size, begin


def _entries(file: _Zip, directory: bytes, count: int) -> Iterator[_Entry]:
    place = 0
    for _ in range(count):
        if len(directory) < place + _ENTRY.size:
            raise file.fail("its directory has fewer entries than it says.")
        entry = _ENTRY.unpack_from(directory, place)
        (
            mark,
            _,
            needed,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            size,
            named,
            extra,
            comment,
            disk,
            _,
            attributes,
            offset,
        ) = entry
        texts = directory[place + _ENTRY.size :][: named + extra + comment]
        if mark != b"PK\x01\x02" or len(texts) != named + extra + comment or disk:
            raise file.fail("its directory is damaged.")
        if needed > _VERSION:
            raise file.fail("it needs a program that knows a later version of the format.")
        wide = _extras(file, texts[named : named + extra])
        packed, size, offset = _widened(file, (size, packed, offset), wide)
        yield _Entry(texts[:named], flags, method, crc, packed, size, attributes >> 16, offset)
        place += _ENTRY.size + len(texts)
    if place != len(directory):
        raise file.fail("its directory has more entries than it says.")


def _extras(file: _Zip, data: bytes) -> bytes:
    """What the 64-bit field holds, or nothing. No field may be one that some readers obey and others do not."""
    found: dict[int, bytes] = {}
    while data:
        kind, length = struct.unpack("<HH", data[:4]) if len(data) >= 4 else (0, len(data))
        if len(data) < 4 + length or kind in found:
            raise file.fail("an extra field of it is damaged.")
        if kind in _AMBIGUOUS_EXTRAS:
            raise file.fail(f"an extra field of it brings in {_AMBIGUOUS_EXTRAS[kind]}.")
        found[kind], data = data[4 : 4 + length], data[4 + length :]
    return found.get(_ZIP64, b"")


def _widened(file: _Zip, narrow: tuple[int, int, int], wide: bytes) -> tuple[int, int, int]:
    """(packed, size, offset) from (size, packed, offset), each that is full taken from the 64-bit field in turn."""
    values = []
    for value in narrow:
        if value == _FULL:
            if len(wide) < 8:
                raise file.fail("a 64-bit size is missing.")
            value, wide = struct.unpack("<Q", wide[:8])[0], wide[8:]  # noqa: PLW2901 - the field in its place
        values.append(value)
    if wide and _FULL in narrow:
        raise file.fail("it has a 64-bit size too many.")
    return values[1], values[0], values[2]


def _member(file: _Zip, entry: _Entry) -> tuple[ZipMember, int]:
    """The member, once its local header says the same as the directory; and where its bytes end."""
    name = _name(file, entry)
    _check_packing(file, entry, name)
    local = _LOCAL.unpack(file.read(entry.offset, _LOCAL.size))
    mark, _, flags, method, _, _, crc, packed, size, named, extra = local
    texts = file.read(entry.offset + _LOCAL.size, named + extra)
    wide = _extras(file, texts[named:])
    if _FULL in (packed, size):
        packed, size, _ = _widened(file, (size, packed, 0), wide)
    same = (mark, texts[:named], flags, method) == (b"PK\x03\x04", entry.raw_name, entry.flags, entry.method)
    given, known = (crc, packed, size), (entry.crc, entry.packed, entry.size)
    later = entry.flags & _DESCRIPTOR
    if not same or any(a != b and not (later and a == 0) for a, b in zip(given, known, strict=True)):
        raise file.fail(f"its directory and its member {shown(name)} differ.")
    begin = entry.offset + _LOCAL.size + named + extra
    end = begin + entry.packed
    found = ZipMember(name, entry.mode, begin, entry.packed, entry.size, entry.crc, entry.method == DEFLATED)
    return found, end + (_descriptor(file, entry, end) if later else 0)


def _name(file: _Zip, entry: _Entry) -> str:
    try:
        return entry.raw_name.decode("utf-8" if entry.flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise file.fail("the name of a member can be read in several ways.") from None


def _check_packing(file: _Zip, entry: _Entry, name: str) -> None:
    if entry.flags & _ENCRYPTED:
        raise refusal(
            "AR-ENCRYPTED", file.name, f"its member {shown(name)} is encrypted. Pack it without a password."
        )
    if entry.flags & ~_KNOWN_FLAGS:
        raise file.fail(f"its member {shown(name)} has flags that not every program knows.")
    if entry.method not in (STORED, DEFLATED):
        message = f"its member {shown(name)} is neither stored nor deflated. Pack it in the usual way."
        raise refusal("AR-FORMAT", file.name, message)
    if entry.method == STORED and entry.packed != entry.size:
        raise file.fail(f"its member {shown(name)} has two sizes.")
    if name.endswith("/") and entry.size:
        raise file.fail(f"its folder {shown(name)} has a content.")


def _descriptor(file: _Zip, entry: _Entry, place: int) -> int:
    """The length of the record after a member whose sizes were not known before; it repeats the directory."""
    known = (entry.crc, entry.packed, entry.size)
    forms = [struct.pack("<IQQ", *known)]
    if max(known[1:]) < _FULL:
        forms.append(struct.pack("<III", *known))
    file.handle.seek(place)
    data = file.handle.read(24)
    for form in [b"PK\x07\x08" + form for form in forms] + forms:
        if data.startswith(form):
            return len(form)
    raise file.fail("the record after a member differs from the directory.")
