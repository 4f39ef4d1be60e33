"""Tars that two programs read differently, or whose headers cost more than their files.

Sources stand with each case; "tarfile" is Python's own reader, which is not used here.
"""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable

import pytest

from tests.checkpoint_by_hand import tar, zip_of

Refused = Callable[..., set[str]]
END = bytes(1024)


def header(name: str = "a.md", size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind) + padded(data)


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n"
    length = len(body) + 1
    while len(f"{length}{body}") != length:
        length += 1
    return f"{length}{body}".encode()


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", b"".join(records), kind)


def damaged(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def changed(place: int, data: bytes, of: bytes | None = None) -> bytes:
    """A header with other bytes at a place, whose checksum is right."""
    info = bytearray(of or header())
    info[place : place + len(data)] = data
    info[148:156] = b" " * 8
    info[148:156] = f"{sum(info):06o}\0 ".encode()
    return bytes(info)


GOOD = member("a.md", b"x")
MANY = b"".join(header(f"{number}.md") for number in range(3000)) + END
# What takes a while to make is made when it is asked for.
CASES: dict[str, tuple[bytes | Callable[[], bytes], str, str]] = {
    "a path by an extended header": (pax(record("path", "../x")) + GOOD + END, "FN-UNSAFE", "CVE-2007-4559 by pax"),
    "a path for all that follow": (
        pax(record("path", "b.md"), kind=tarfile.XGLTYPE) + GOOD * 2 + END, "AR-AMBIGUOUS", "POSIX pax: global headers",
    ),
    "a link by an extended header": (
        pax(record("linkpath", "/etc/passwd")) + header("a", 0, tarfile.SYMTYPE, "b") + END, "AR-LINK", "CVE-2025-4517",
    ),
    "a size by an extended header": (
        pax(record("size", "512")) + header("a.md") + member("../hidden") + END, "AR-AMBIGUOUS", "CVE-2025-62518 (TARmageddon)",
    ),
    "an extended record of length 0": (pax(b"0 path=x\n") + GOOD + END, "AR-FORMAT", "CVE-2019-20907: endless loop"),
    "an extended record that lies": (pax(b"99 path=x\n") + GOOD + END, "AR-FORMAT", "POSIX pax: length of a record"),
    "a path with a zero": (pax(record("path", "a.md\0.py")) + GOOD + END, "FN-UNSAFE", "C readers stop at the zero"),
    "a sparse file of the new kind": (
        pax(record("GNU.sparse.major", "1"), record("GNU.sparse.minor", "0")) + member("a", b"1\n0\n512\n") + END,
        "AR-SPECIAL", "GNU sparse 1.0: a terabyte of holes",
    ),
    "a sparse file of the old kind": (header("a", 0, tarfile.GNUTYPE_SPARSE) + END, "AR-SPECIAL", "GNU sparse"),
    "a long name that climbs": (
        member("././@LongLink", b"a/" * 200 + b"../../x\0", tarfile.GNUTYPE_LONGNAME) + GOOD + END, "FN-UNSAFE", "GNU longname",
    ),
    "a long name of 300 letters": (
        member("././@LongLink", b"a" * 300 + b"\0", tarfile.GNUTYPE_LONGNAME) + GOOD + END, "FN-UNSAFE", "NAME_MAX",
    ),
    "a long name of megabytes": (
        member("././@LongLink", b"a" * (1 << 20), tarfile.GNUTYPE_LONGNAME) + GOOD + END, "AR-FORMAT", "memory by a header",
    ),
    "ten thousand long names in a row": (
        member("././@LongLink", b"a\0", tarfile.GNUTYPE_LONGNAME) * 10_000 + GOOD + END, "AR-AMBIGUOUS", "tarfile recurses",
    ),
    "a header of 300 MB in 300 KB": (
        lambda: gzip.compress(header("pax", 300 << 20, tarfile.XHDTYPE) + bytes(300 << 20), 1), "AR-FORMAT", "memory by a header",
    ),
    "a header of digits": (
        pax(record("comment", "0" * 60_000)) * 2 + GOOD + END, "AR-AMBIGUOUS", "CVE-2024-6232: a pattern of tarfile in squared time",
    ),
    "digits without end": (pax(b"0" * 60_000) + GOOD + END, "AR-FORMAT", "CVE-2024-6232"),
    "one name by two headers": (
        member("././@LongLink", b"b.md\0", tarfile.GNUTYPE_LONGNAME) + pax(record("path", "c.md")) + GOOD + END,
        "AR-AMBIGUOUS", "which of the two wins differs by reader",
    ),
    "a path twice in one header": (pax(record("path", "b.md"), record("path", "c.md")) + GOOD + END, "AR-AMBIGUOUS", "POSIX pax: the last wins"),
    "another character set": (pax(record("hdrcharset", "BINARY")) + GOOD + END, "AR-AMBIGUOUS", "POSIX pax: hdrcharset"),
    "an extended header alone": (pax(record("path", "b.md")) + END, "AR-FORMAT", "it would name what is appended"),
    "another magic": (changed(257, b"USTAR\0") + END, "AR-FORMAT", "POSIX ustar: magic and version"),
    "a long name that goes on after its end": (
        header("././@LongLink", 4, tarfile.GNUTYPE_LONGNAME) + padded(b"a.md/../../x") + GOOD + END, "AR-AMBIGUOUS", "found by fuzzing: tarfile reads to the zero",
    ),
    "a long name that ends early": (
        member("././@LongLink", b"a.md\0/../../x\0", tarfile.GNUTYPE_LONGNAME) + GOOD + END, "AR-AMBIGUOUS", "to the zero here, to the end there",
    ),
    "a second part of a name in an old header": (changed(345, b"../x", changed(257, bytes(8))) + END, "AR-AMBIGUOUS", "found by fuzzing: tarfile takes it, ustar alone has it"),
    "a second part of a name in a GNU header": (changed(345, b"../x") + END, "AR-AMBIGUOUS", "GNU tar: times stand there"),
    "a file that ends as a folder": (header("folder/") + END, "AR-AMBIGUOUS", "found by fuzzing: a file for tarfile"),
    "a header for all, and none": (pax(record("comment", "x"), kind=tarfile.XGLTYPE) + END, "AR-FORMAT", "found by fuzzing: tarfile fails"),
    "a gigabyte of small headers": (
        lambda: gzip.compress((pax(record("comment", "x" * 60_000)) + header()) * 700 + END, 1), "AR-AMBIGUOUS",
        "memory by headers; the same name ends it",
    ),
    "a ratio by headers": (
        lambda: gzip.compress(b"".join(pax(record("comment", "x" * 60_000)) + header(f"{n}.md") for n in range(400)) + END),
        "AR-RATIO", "memory by headers",
    ),
    "a member below zero": (header("a.md", -512) + GOOD + END, "AR-FORMAT", "CVE-2025-8194: endless loop"),
    "a member of exabytes": (header("a.md", 1 << 62) + END, "AR-FORMAT", "sizes of base 256"),
    "a member cut short": (header("a.md", 4000) + b"x" * 512, "AR-FORMAT", "damage"),
    "no end": (GOOD, "AR-FORMAT", "tarfile takes a cut file for a whole one"),
    "half an end": (GOOD + bytes(512), "AR-FORMAT", "GNU tar: a lone zero block"),
    "a second tar": (GOOD + END + member("../hidden") + END, "AR-AMBIGUOUS", "tar --ignore-zeros reads on"),
    "members after a damaged header": (GOOD + damaged(GOOD) + GOOD + END, "AR-FORMAT", "tarfile stops, others search on"),
    "bytes after the end": (GOOD + END + b"MZ", "AR-AMBIGUOUS", "polyglots"),
    "a zip after the end": (GOOD + END + zip_of({"a": b"x"}), "AR-AMBIGUOUS", "polyglots: zips are read from the end"),
    "a folder with a content": (
        header("folder", 512, tarfile.DIRTYPE) + header("../hidden") + END, "AR-AMBIGUOUS", "tarfile reads it as members, others skip it",
    ),
    "an unknown kind": (header("a", 0, b"Z") + END, "AR-SPECIAL", "POSIX: treat as a file; others leave it out"),
    "a volume": (header("a", 0, b"V") + END, "AR-SPECIAL", "GNU tar: volume labels"),
    "a part of a file": (header("a", 0, b"M") + END, "AR-SPECIAL", "GNU tar: multi-volume"),
    "a wrong checksum": (damaged(GOOD) + END, "AR-FORMAT", "damage"),
    "a name that is no UTF-8": (pax(record("path", "x").replace(b"x", b"\xff")) + GOOD + END, "FN-UNSAFE", "Latin-1 here, UTF-8 there"),
    "a second gzip member": (gzip.compress(GOOD) + gzip.compress(member("../hidden") + END), "FN-UNSAFE",
                             "RFC 1952 2.2: members follow each other; some readers take the first"),
    "bytes after gzip": (gzip.compress(GOOD + END) + b"PK\3\4more", "AR-FORMAT", "polyglots"),
    "a wrong gzip checksum": (gzip.compress(GOOD + END)[:-8] + bytes(8), "AR-FORMAT", "RFC 1952: CRC32"),
    "gzip in gzip": (gzip.compress(gzip.compress(GOOD + END)), "AR-FORMAT", "nested archives"),
    "xz": (b"\xfd7zXZ\0" + bytes(600), "AR-FORMAT", "only what is named is read"),
    "a tar in a tar": (tar({"model.tar": GOOD + END}), "FN-FORMAT", "nested archives hide from a scan"),
    "a zip in a tar": (tar({"model.zip": zip_of({"a": b"x"})}), "FN-FORMAT", "nested archives hide from a scan"),
    "three thousand members": (MANY, "AR-COUNT", "time by members"),
    "a million members in two megabytes": (
        lambda: gzip.compress(header("x/", 0, tarfile.DIRTYPE) * 1_000_000, 1), "AR-COUNT", "time by members",
    ),
    "one name in two forms": (tar({"ﬁle.md": b"", "file.md": b""}), "FN-COLLISION", "NFKC: HFS+, ZFS normalise"),
    "one name in two cases": (tar({"straße.md": b"", "STRASSE.md": b""}), "FN-COLLISION", "case folding"),
    "a soft hyphen": (tar({"con\u00adfig.json": b""}), "FN-UNSAFE", "Unicode TR 36: invisible letters"),
    "a tag letter": (tar({"config.json\U000e0041": b""}), "FN-UNSAFE", "Unicode TR 36: invisible letters"),
    "an Arabic mark": (tar({"config\u061c.json": b""}), "FN-UNSAFE", "CVE-2021-42574 (Trojan Source)"),
    "other digits": (tar({"model-0000\u0661-of-0000\u0661.safetensors": b""}), "FN-FORMAT", "\\d matches digits of all scripts"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_tar_with_two_readings_or_a_hidden_price_is_refused(case: str, refused: Refused) -> None:
    data, rule, source = CASES[case]
    assert source
    assert refused(data() if callable(data) else data, max_bytes=1 << 30) == {rule}
