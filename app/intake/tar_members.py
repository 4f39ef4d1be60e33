"""A tar read by its bytes, strictly and in one pass: every header is checked, and nothing follows its end.

Python's tarfile takes what is damaged for the end, keeps every header, recurses by headers, and had its own holes
(CVE-2019-20907, CVE-2024-6232, CVE-2025-8194); here a header has a bounded size and is looked at once. Formats:
ustar, pax and GNU, as far as plain files and folders need them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from app.domain.errors import ModelRefused
from app.intake.rules import refusal, shown

BLOCK = 512
CHUNK = 1024 * 1024
HEADER_BYTES = 64 * 1024  # of one extended header
LARGE = 1 << 33  # from this size on a plain header cannot hold the size
NAME = "archive"
_FILES, _LINKS = (b"0", b"\0", b"7"), (b"1", b"2")
_FOLDER, _PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK = b"5", b"x", b"g", b"L", b"K"
_OBEYED = ("path", "size", "linkpath", "hdrcharset")

Read = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file of `size` bytes, or a folder."""

    name: str
    size: int
    folder: bool


@dataclass
class _Said:
    """What extended headers say of the next member."""

    records: Mapping[str, str] | None = None
    name: bytes | None = None
    link: bool = False
    common: bool = False

    def __bool__(self) -> bool:
        return self.records is not None or self.name is not None or self.link or self.common


@dataclass
class TarReader:
    """`read(count)` gives the next bytes, fewer only at the end."""

    read: Read
    _left: int = field(default=0, init=False)
    _padding: int = field(default=0, init=False)

    def members(self) -> Iterator[TarMember]:
        """Each member, whose `content` is to be read before the next. Raises ModelRefused (AR-*)."""
        said = _Said()
        while (block := self._block()).strip(b"\0"):
            name, size, kind = _header(block)
            if kind in (_PAX, _PAX_FOR_ALL, _LONG_NAME, _LONG_LINK):
                self._extended(kind, size, said)
                continue
            member = _member(name, size, kind, said)
            self._left, self._padding = member.size, -member.size % BLOCK
            yield member
            for _ in self.content():
                pass
            said = _Said()
        if said:
            raise _damaged("an extended header has no member")
        self._end()

    def content(self) -> Iterator[bytes]:
        """What is left of the member's bytes, in pieces."""
        while self._left:
            piece = self.read(min(CHUNK, self._left))
            if not piece:
                raise _damaged("it is cut short")
            self._left -= len(piece)
            yield piece
        if len(self.read(self._padding)) != self._padding:
            raise _damaged("it is cut short")
        self._padding = 0

    def _block(self) -> bytes:
        block = self.read(BLOCK)
        if len(block) != BLOCK:
            raise _damaged("it does not end as a tar does, and may be cut short")
        return block

    def _end(self) -> None:
        """After the first block of zeros: a second, and nothing but zeros."""
        rest = self._block()
        while rest:
            if rest.strip(b"\0"):
                raise refusal("AR-AMBIGUOUS", NAME, "bytes follow its end. Make it again.")
            rest = self.read(CHUNK)

    def _extended(self, kind: bytes, size: int, said: _Said) -> None:
        if size > HEADER_BYTES:
            raise _damaged("a header in it is far too large")
        data = self.read(size + -size % BLOCK)
        if len(data) != size + -size % BLOCK:
            raise _damaged("it is cut short")
        data, padding = data[:size], data[size:]
        if padding.strip(b"\0") or (kind == _LONG_NAME and b"\0" in data[:-1]):
            raise refusal("AR-AMBIGUOUS", NAME, "an extended header goes on after its end. Make it again.")
        twice = {_PAX: said.records is not None, _LONG_NAME: said.name is not None, _LONG_LINK: said.link}
        if twice.get(kind):
            raise refusal("AR-AMBIGUOUS", NAME, "a member has two extended headers of one kind. Make it again.")
        if kind == _PAX:
            said.records = _records(data)
        elif kind == _LONG_NAME:
            said.name = data.removesuffix(b"\0")
        elif kind == _LONG_LINK:
            said.link = True
        elif not any(key in _OBEYED or key.startswith("GNU.sparse") for key in _records(data)):
            said.common = True
        else:
            raise refusal("AR-AMBIGUOUS", NAME, "it gives all its members one name or size. Make it again.")


def _damaged(what: str) -> ModelRefused:
    return refusal("AR-FORMAT", NAME, f"as a tar it cannot be read: {what}. Make it again.")


def _header(block: bytes) -> tuple[bytes, int, bytes]:
    """Name, size and kind of a header whose checksum is right."""
    given = _octal(block[148:156])
    if given != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise _damaged("the checksum of a header is wrong, or it is no tar, tar.gz or zip")
    magic, prefix = block[257:265], block[345:500].partition(b"\0")[0]
    if magic not in (b"ustar\x0000", b"ustar  \0", bytes(8)):
        raise _damaged("a header is of an unknown kind")
    name = block[:100].partition(b"\0")[0]
    if prefix and magic != b"ustar\x0000":
        raise refusal(
            "AR-AMBIGUOUS", NAME, "a header has a second part of a name that its kind lacks. Make it again."
        )
    if prefix:
        name = prefix + b"/" + name
    return name, _size(block[124:136]), block[156:157]


def _octal(text: bytes) -> int:
    digits = text.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise _damaged("a number in a header is damaged")
    return int(digits, 8)


def _size(text: bytes) -> int:
    """Octal digits, or, from 8 GiB on, a number of base 256 that begins with 0x80."""
    if text[0] < 0x80:
        return _octal(text)
    size = int.from_bytes(text[1:], "big")
    if text[0] != 0x80 or not LARGE <= size < 1 << 62:
        raise _damaged("a size in it is negative or no size")
    return size


def _records(data: bytes) -> dict[str, str]:
    """The records of a pax header: length, blank, key=value, line end."""
    found: dict[str, str] = {}
    while data:
        digits, _, _ = data[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if not len(digits) + 4 <= length <= len(data) or record[-1:] != b"\n" or not equals:
            raise _damaged("a record of an extended header is damaged")
        name = key.decode("utf-8", "replace")
        if name in found:
            raise refusal("AR-AMBIGUOUS", NAME, f"an extended header says {shown(name)} twice. Make it again.")
        found[name] = _text(value) if name in _OBEYED else ""
        data = data[length:]
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise refusal("FN-UNSAFE", shown(raw), "the name is not UTF-8. Rename the file.") from None


def _member(raw: bytes, size: int, kind: bytes, said: _Said) -> TarMember:
    records = said.records or {}
    if said.name is not None and "path" in records:
        raise refusal("AR-AMBIGUOUS", NAME, "a member has two long names. Make it again.")
    name = records.get("path", _text(said.name if said.name is not None else raw))
    if kind in _LINKS:
        raise refusal("AR-LINK", NAME, f"its member {shown(name)} is a link. Pack the file itself.")
    sparse = any(key.startswith("GNU.sparse") for key in records)
    if sparse or said.link or kind not in (*_FILES, _FOLDER):
        raise refusal("AR-SPECIAL", NAME, f"its member {shown(name)} is no ordinary file.")
    size = _one_size(records, size, name)
    folder = kind == _FOLDER or name.endswith("/")
    if folder and (size or kind not in (_FOLDER, b"\0")):
        raise refusal("AR-AMBIGUOUS", NAME, f"its member {shown(name)} is a folder and a file. Make it again.")
    return TarMember(name, size, folder)


def _one_size(records: Mapping[str, str], size: int, name: str) -> int:
    """An extended header gives the size where the plain one cannot hold it, and only there."""
    if "hdrcharset" in records or "size" not in records:
        if "hdrcharset" in records:
            raise refusal(
                "AR-AMBIGUOUS", NAME, f"the name {shown(name)} is in an encoding of its own. Make it again."
            )
        return size
    said = records["size"]
    wide = int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0
    if wide < LARGE or size not in (0, wide):
        raise refusal("AR-AMBIGUOUS", NAME, f"its member {shown(name)} has two sizes. Make it again.")
    return wide
