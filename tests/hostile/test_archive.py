"""Archives that write elsewhere, that are two things at once, or that unpack to far more than they weigh.

Sources: CVE-2007-4559 (tarfile traversal); Snyk's zip-slip; David Fifield's overlapping zip (2019); the "zip of
death"; Python's tarfile filters (PEP 706) for links and devices.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoint_by_hand import tar, tar_of, zip_of

Refused = Callable[..., set[str]]
NAMES = {
    "climbs": ("../canary", "FN-UNSAFE"),
    "climbs inside": ("model/../../canary", "FN-UNSAFE"),
    "absolute": ("/tmp/canary", "FN-UNSAFE"),
    "backslash": ("..\\canary", "FN-UNSAFE"),
    "drive": ("C:canary", "FN-UNSAFE"),
    "control": ("a\x1b[2Jb", "FN-UNSAFE"),
    "newline": ("config.json\nx", "FN-UNSAFE"),
    "right to left": ("nosj\u202e.exe", "FN-UNSAFE"),
    "zero width": ("config\u200b.json", "FN-UNSAFE"),
    "not NFC": ("cafe\u0301.json", "FN-UNSAFE"),
    "dot": ("./.", "FN-UNSAFE"),
    "trailing dot": ("config.json/..", "FN-UNSAFE"),
    "trailing space": ("config.json ", "FN-UNSAFE"),
    "double slash": ("a//config.json", "FN-UNSAFE"),
    "long": ("a" * 300, "FN-UNSAFE"),
}


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("case", sorted(NAMES))
def test_a_name_that_is_not_plain_is_refused(case: str, kind: str, refused: Refused, canary: Path) -> None:
    name, rule = NAMES[case]
    members = {name: b"x"}
    assert refused(tar(members) if kind == "tar" else zip_of(members)) == {rule}


def test_names_that_are_one_on_some_file_systems_collide(refused: Refused, good: dict[str, bytes]) -> None:
    assert refused(tar(good | {"Config.json": b"{}"})) == {"FN-COLLISION"}


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_same_name_twice_is_refused(kind: str, refused: Refused) -> None:
    out = io.BytesIO()
    if kind == "tar":
        data = tar_of(tarfile.TarInfo("config.json"), tarfile.TarInfo("config.json"))
    else:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("config.json", b"{}")
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("config.json", b"{} ")
        data = out.getvalue()
    assert refused(data) == {"AR-AMBIGUOUS"}


def special(kind: bytes, target: str = "") -> bytes:
    info = tarfile.TarInfo("config.json")
    info.type, info.linkname = kind, target
    return tar_of(info)


def sparse() -> bytes:
    info = tarfile.TarInfo("model.safetensors")
    info.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,512"}
    info.size = 512
    return tar_of(info)


def zip_link() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("config.json")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return out.getvalue()


def encrypted() -> bytes:
    data = bytearray(zip_of({"config.json": b"{}"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def overlapping() -> bytes:
    """Two directory entries that share one member's bytes."""
    plain = zip_of({"a": b"x" * 100, "b": b"y" * 100}, zipfile.ZIP_STORED)
    first = plain.index(b"PK\x01\x02")
    second = plain.index(b"PK\x01\x02", first + 4)
    changed = bytearray(plain)
    changed[second + 42 : second + 46] = struct.pack("<I", 10)
    return bytes(changed)


KINDS = {
    "symbolic link": (special(tarfile.SYMTYPE, "/etc/passwd"), "AR-LINK"),
    "hard link": (special(tarfile.LNKTYPE, "../../x"), "AR-LINK"),
    "pipe": (special(tarfile.FIFOTYPE), "AR-SPECIAL"),
    "character device": (special(tarfile.CHRTYPE), "AR-SPECIAL"),
    "block device": (special(tarfile.BLKTYPE), "AR-SPECIAL"),
    "sparse": (sparse(), "AR-SPECIAL"),
    "link in a zip": (zip_link(), "AR-LINK"),
    "encrypted": (encrypted(), "AR-ENCRYPTED"),
    "overlapping members": (overlapping(), "AR-AMBIGUOUS"),
    "tar before a zip": (b"x" * 512 + zip_of({"config.json": b"{}"}), "AR-FORMAT"),
    "bytes after a zip": (zip_of({"config.json": b"{}"}) + b"more", "AR-AMBIGUOUS"),
    "zip with a comment": (zip_of({"a": b""})[:-2] + b"\x04\0text", "AR-AMBIGUOUS"),
    "nothing known": (b"7z\xbc\xaf\x27\x1c" + bytes(600), "AR-FORMAT"),
    "cut gzip": (gzip.compress(tar({"config.json": b"{}" * 9000}))[:-40], "AR-FORMAT"),
    "empty": (b"", "AR-FORMAT"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(KINDS))
def test_what_is_no_ordinary_file_is_refused(case: str, refused: Refused, canary: Path) -> None:
    data, rule = KINDS[case]
    assert refused(data) == {rule}


ZEROS = bytes(1 << 20)


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("config.json", "w") as member:
        for _ in range(40):
            member.write(ZEROS)
    return out.getvalue()


def long_header() -> bytes:
    """A tar whose extended header claims gigabytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


SIZES = {
    "ratio": (bomb(), 1 << 30, "AR-RATIO"),
    "ratio in gzip": (gzip.compress(tar({"config.json": ZEROS * 40})), 1 << 30, "AR-RATIO"),
    "bytes": (tar({"config.json": ZEROS * 3}), 2 << 20, "AR-SIZE"),
    "count": (tar({f"f{number}.md": b"" for number in range(2_001)}), 1 << 30, "AR-COUNT"),
    "count in a zip": (zip_of({f"f{number}.md": b"" for number in range(2_001)}), 1 << 30, "AR-COUNT"),
    "extended header": (long_header(), 1 << 30, "AR-FORMAT"),
}


@pytest.mark.parametrize("case", sorted(SIZES))
def test_a_bomb_costs_no_more_than_the_cap(case: str, refused: Refused) -> None:
    data, max_bytes, rule = SIZES[case]
    assert refused(data, max_bytes=max_bytes) == {rule}


def test_through_the_real_child(refused_by_child: Refused, canary: Path) -> None:
    assert refused_by_child(tar({f"../{canary.name}": b"x", str(canary): b"x"})) == {"FN-UNSAFE"}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("modeling_evil.py", "FN-CODE"),
        ("setup.sh", "FN-CODE"),
        ("model.h5", "FN-FORMAT"),
        ("deep/config.json", "FN-FOLDER"),
        ("archive.dat", "FN-PICKLE"),
    ],
)
def test_files_that_have_no_place_in_a_checkpoint(
    name: str, rule: str, good: dict[str, bytes], refused: Refused
) -> None:
    assert refused(tar(good | {name: b"x"})) == {rule}
