"""Zips that two programs read differently, each made byte by byte.

Every case stands in an archive and, where it makes sense, around a pytorch_model.bin; the reader is the same. APPNOTE
is PKWARE's description of the format.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.intake import archives
from tests import zip_by_hand as by_hand
from tests.zip_by_hand import DEFLATED, Part

Refused = Callable[..., set[str]]
DATA = b"\x80\x02}."
FIRST, SECOND = Part(b"m/data.pkl", DATA), Part(b"m/version", b"3\n")
CRC = zlib.crc32(DATA)


def first(**lies: object) -> bytes:
    return by_hand.make(Part(b"m/data.pkl", DATA, **lies), SECOND)  # type: ignore[arg-type]


def extra(kind: int, data: bytes) -> bytes:
    return struct.pack("<HH", kind, len(data)) + data


def two_directories() -> bytes:
    """A whole zip whose own directory and end stand before those of another."""
    hidden = by_hand.plain(**{"m/data.pkl": b"hidden"})
    return by_hand.make(Part(b"m/data.pkl", DATA), between=hidden[hidden.index(b"PK\x01\x02") :])


def in_comment() -> bytes:
    """The last 22 bytes are an end record, and so is what they are the comment of."""
    plain = by_hand.make(FIRST, SECOND)
    inner = plain[-22:]
    return plain[:-2] + struct.pack("<H", len(inner)) + inner


def quoted() -> bytes:
    """Fifield: the local header of the second member lies within the first one's bytes."""
    inner = Part(b"m/version", b"3\n")
    row = inner.fields()
    return by_hand.make(Part(b"m/data.pkl", by_hand.local(row) + inner.data), Part(
        b"m/version", b"3\n", central={"offset": 40},
    ))  # fmt: skip


def wide(*, count: int = 2, length: int = 0, begin: int = 0, place: int = 0, full: bool = True) -> bytes:
    """A zip with 64-bit end records; the arguments are added to what would be right."""
    plain = by_hand.make(FIRST, SECOND)
    size, start = struct.unpack("<2I", plain[-10:-2])
    record = by_hand.end64(count, size + length, start + begin, start + size + place)
    narrow = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF) if full else (2, size, start)
    return plain[:-22] + record + by_hand.end(*narrow)


def inflated(packed: bytes, size: int, crc: int) -> bytes:
    """A member whose deflated bytes are `packed`, and which says that they make `size` bytes."""
    fields = {"method": DEFLATED, "size": size, "crc": crc}
    return by_hand.make(Part(b"config.json", packed, local=fields, central=fields))


PACKED = by_hand.deflate(DATA)
LATER = {"crc": 0, "packed": 0, "size": 0}
# Case -> file, source. All are ambiguous, or damaged for a pickle.
BOTH: dict[str, tuple[bytes, str]] = {
    "another name in the local header": (first(local={"name": b"m/data.bin"}), "CVE-2025-1944 (picklescan)"),
    "another length of name": (first(local={"name": b"m/data.pkl.txt"}), "CVE-2025-1944 (picklescan)"),
    "a flag in the local header": (first(local={"flags": 1}), "CVE-2025-1945 (picklescan)"),
    "a flag that nobody knows": (first(flags=0x8000), "CVE-2025-1945 (picklescan)"),
    "a patch": (first(flags=0x20), "APPNOTE 4.4.4: bit 5"),
    "a wrong checksum": (first(local={"crc": 1}, central={"crc": 1}), "CVE-2025-10156 (picklescan)"),
    "two checksums": (first(local={"crc": 1}), "CVE-2025-10156 (picklescan)"),
    "two methods": (first(local={"method": DEFLATED}), "readers by stream and by directory"),
    "two sizes": (first(local={"size": 1}), "readers by stream and by directory"),
    "a stored member of two sizes": (first(central={"size": 1}, local={"size": 1}), "APPNOTE 4.4.8"),
    "bytes before a member": (by_hand.make(FIRST, Part(b"m/version", b"3\n", before=DATA)), "gaps hide payloads"),
    "bytes before the first": (by_hand.make(Part(b"m/data.pkl", DATA, before=b""), SECOND, begin=1), "self-extractors"),
    "bytes after the last": (by_hand.make(FIRST, SECOND, between=DATA), "gaps hide payloads"),
    "a member that no directory names": (
        by_hand.make(FIRST, Part(b"m/version", b"3\n", before=by_hand.local(FIRST.fields()) + DATA)),
        "readers by stream see it",
    ),
    "two directories": (two_directories(), "two central directories: parser differentials"),
    "an end in the comment": (in_comment(), "APPNOTE 4.3.16: which end record counts"),
    "fewer entries than there are": (by_hand.make(FIRST, SECOND, count=1), "APPNOTE 4.3.16"),
    "more entries than there are": (by_hand.make(FIRST, SECOND, count=3), "APPNOTE 4.3.16"),
    "a part of several": (by_hand.make(FIRST, SECOND, disk=1), "APPNOTE 4.4.19: split archives"),
    "a directory elsewhere": (by_hand.make(FIRST, SECOND, begin=0), "zipfile shifts all offsets"),
    "a directory cut short": (by_hand.make(FIRST, SECOND, length=10), "APPNOTE 4.3.16"),
    "a directory of gigabytes": (by_hand.make(FIRST, SECOND, length=0x7FFFFFFF), "memory by a length"),
    "the same bytes twice": (by_hand.make(FIRST, Part(b"m/version", DATA, central={"offset": 0})), "Fifield 2019"),
    "a quoted header": (quoted(), "Fifield 2019: quoted overlap"),
    "a name twice": (by_hand.make(FIRST, FIRST), "CVE-2013-4787 (Android master key)"),
    "a second name": (
        first(central={"extra": extra(0x7075, b"\1" + struct.pack("<I", zlib.crc32(b"m/data.pkl")) + b"m/x.pkl")}),
        "APPNOTE 4.6.9: Info-ZIP Unicode path",
    ),
    "a second name in the local header": (first(local={"extra": extra(0x7075, b"\1\0\0\0\0m/x")}), "APPNOTE 4.6.9"),
    "an extra field twice": (first(central={"extra": extra(1, b"") * 2}), "the first wins here, the last there"),
    "an extra field cut short": (first(central={"extra": b"\1\0\xff\xff"}), "APPNOTE 4.5"),
    "a 64-bit size that is not there": (first(central={"size": 0xFFFFFFFF}), "APPNOTE 4.5.3"),
    "a 64-bit size that differs": (
        first(local={"size": 0xFFFFFFFF, "extra": extra(1, struct.pack("<2Q", 1 << 40, 0))}), "APPNOTE 4.5.3",
    ),
    "a 64-bit size too many": (
        first(central={"size": 0xFFFFFFFF, "extra": extra(1, struct.pack("<2Q", 4, 4))}), "APPNOTE 4.5.3",
    ),
    "64-bit ends that differ": (wide(count=1, full=False), "APPNOTE 4.3.14: which end record counts"),
    "a 64-bit directory elsewhere": (wide(begin=1), "APPNOTE 4.3.14"),
    "a 64-bit directory of exabytes": (wide(length=1 << 60), "memory by a length"),
    "a locator that points elsewhere": (wide(place=1), "APPNOTE 4.3.15"),
    "a name in two encodings": (by_hand.make(Part("m/dät".encode())), "cp437 here, UTF-8 there"),
    "a name that is no UTF-8": (by_hand.make(Part(b"m/\xff", flags=0x800)), "APPNOTE appendix D"),
    "a record after a member that differs": (
        first(flags=8, local=LATER, after=b"PK\7\x08" + struct.pack("<3I", 1, 4, 4)), "APPNOTE 4.3.9",
    ),
    "no record after a member": (first(flags=8, local=LATER), "APPNOTE 4.3.9"),
    "a version to come": (first(central={"needed": 255}), "APPNOTE 4.4.3; found by fuzzing: zipfile refuses it"),
    "cut in the middle": (by_hand.make(FIRST, SECOND)[:40] + by_hand.make(FIRST, SECOND)[-22:], "damage"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(BOTH))
def test_a_zip_with_two_readings_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    data, source = BOTH[case]
    assert source
    assert refused(data) == {"AR-AMBIGUOUS"}


@pytest.mark.parametrize("case", sorted(BOTH))
def test_the_same_around_a_pickle(case: str, good: dict[str, bytes], refused: Refused) -> None:
    del good["model.safetensors"]
    assert refused(good | {"pytorch_model.bin": BOTH[case][0]}) == {"PK-LEGACY"}


REPARSED = Part(b"config.json", b"/etc/passwd", attributes=0o120777 << 16)
OTHERS: dict[str, tuple[bytes, str, str]] = {
    "strong encryption": (by_hand.make(Part(b"a", flags=0x40)), "AR-ENCRYPTED", "APPNOTE 4.4.4: bit 6"),
    "masked headers": (by_hand.make(Part(b"a", flags=0x2000)), "AR-ENCRYPTED", "APPNOTE 4.4.4: bit 13"),
    "AES": (by_hand.make(Part(b"a", method=99, flags=1)), "AR-ENCRYPTED", "WinZip AE-2"),
    "AES without the flag": (by_hand.make(Part(b"a", method=99)), "AR-FORMAT", "WinZip AE-2"),
    "bzip2": (by_hand.make(Part(b"a", method=12)), "AR-FORMAT", "far beyond the 1,000 to 1 of deflate"),
    "LZMA": (by_hand.make(Part(b"a", method=14)), "AR-FORMAT", "a dictionary of 4 GB before the first byte"),
    "zstd": (by_hand.make(Part(b"a", method=93)), "AR-FORMAT", "a window of gigabytes"),
    "a link": (by_hand.make(REPARSED), "AR-LINK", "zip slip by links (Snyk 2018)"),
    "a pipe": (by_hand.make(Part(b"a", attributes=0o010644 << 16)), "AR-SPECIAL", "Unix modes in attributes"),
    "a folder with a content": (by_hand.make(Part(b"code/", b"x")), "AR-AMBIGUOUS", "a file here, a folder there"),
    "a folder that climbs": (by_hand.make(Part(b"../x/")), "FN-UNSAFE", "zip slip (Snyk 2018)"),
    "a name cut by a zero": (by_hand.make(Part(b"config.json\0.py")), "FN-UNSAFE", "C readers stop at the zero"),
    "a tar as well": (
        by_hand.make(Part(b"a", local={"extra": extra(0xCAFE, bytes(222) + b"ustar" + bytes(100))})),
        "AR-AMBIGUOUS", "polyglots (Albertini, Corkami)",
    ),
    "more than it says": (inflated(PACKED, 3, zlib.crc32(DATA[:3])), "AR-AMBIGUOUS", "zipfile reads what is said"),
    "less than it says": (inflated(PACKED, 5, CRC), "AR-AMBIGUOUS", "zipfile stops early"),
    "bytes after the deflated ones": (inflated(PACKED + b"more", 4, CRC), "AR-FORMAT", "gaps hide payloads"),
    "deflated bytes cut short": (inflated(PACKED[:-1], 4, CRC), "AR-FORMAT", "damage"),
    "no deflated bytes": (inflated(b"\xff" * 9, 4, CRC), "AR-FORMAT", "damage"),
    "a bomb in small pieces": (
        by_hand.make(*(Part(f"{n}.md".encode(), bytes(1 << 20), DEFLATED) for n in range(20))),
        "AR-RATIO", "42.zip, flattened",
    ),
    "a million members": (by_hand.end(0xFFFF, 0, 0), "AR-COUNT", "time by members"),
    "cases": (by_hand.make(Part(b"m/config.json"), Part(b"m/CONFIG.json")), "FN-COLLISION", "miniz ignores case"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(OTHERS))
def test_a_zip_of_odd_members_is_refused(case: str, refused: Refused) -> None:
    data, rule, source = OTHERS[case]
    assert source
    assert refused(data) == {rule}


def controls() -> Iterator[tuple[str, bytes]]:
    later = Part(b"m/data.pkl", DATA, flags=8, local=LATER, after=b"PK\7\x08" + struct.pack("<3I", CRC, 4, 4))
    yield "plain", by_hand.make(FIRST, SECOND)
    yield "sizes after the member", by_hand.make(later, SECOND)
    yield "sizes of 64 bits", by_hand.make(
        Part(b"m/data.pkl", DATA, local={"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF,
                                         "extra": extra(1, struct.pack("<2Q", 4, 4))}), SECOND
    )  # fmt: skip
    yield "64-bit ends", wide()
    yield "64-bit ends beside others", wide(full=False)
    yield "padding in an extra field", first(local={"extra": extra(0x4246, bytes(30))})
    yield "UTF-8", by_hand.make(Part("m/dät".encode(), DATA, flags=0x800), SECOND)


@pytest.mark.parametrize(("case", "data"), list(controls()), ids=[name for name, _ in controls()])
def test_without_the_lie_each_is_read(case: str, data: bytes, tmp_path: Path) -> None:
    """The control of this page."""
    (tmp_path / "archive").write_bytes(data)
    (tmp_path / "out").mkdir()
    found = archives.unpack(tmp_path / "archive", tmp_path / "out", 1 << 20)
    assert [file.read_bytes() for file in found.values()] == [DATA, b"3\n"]
