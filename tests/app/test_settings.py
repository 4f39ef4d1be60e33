"""Where the vault is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import vault_address


@pytest.mark.parametrize("folder", ["var/vault", "/srv/vault", "s3/vault"])
def test_a_folder(folder: str) -> None:
    assert vault_address(folder) == Path(folder)
    assert vault_address(Path(folder)) == Path(folder)


@pytest.mark.parametrize("bucket", ["s3://bucket", "s3://my.bucket-1/lethe/vault"])
def test_a_bucket(bucket: str) -> None:
    assert vault_address(bucket) == bucket


@pytest.mark.parametrize(
    "neither", ["s3:/bucket", "s3://", "s3://Bucket", "s3://bucket/", "s3://a:b@host/x", "s3:bucket"]
)
def test_what_is_neither(neither: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        vault_address(neither)
