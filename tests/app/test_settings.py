"""Where the vault is said to be, and which devices a worker uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import Settings, vault_address


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


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """The settings of a worker, with these devices named."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("REDIS_URL", "redis://host")

    def settings(devices: str) -> Settings:
        monkeypatch.setenv("LETHE_DEVICE", devices)
        return Settings()

    return settings


@pytest.mark.parametrize("devices", ["auto", "cpu", "cuda", "cuda:1", "cuda:0,cuda:3"])
def test_devices(named: Callable[[str], Settings], devices: str) -> None:
    assert named(devices).device == devices


@pytest.mark.parametrize("neither", ["gpu", "cpu,cuda:0", "cuda:0,", "cuda,cuda:1", "cuda:x"])
def test_what_is_no_device(named: Callable[[str], Settings], neither: str) -> None:
    with pytest.raises(ValueError, match=r"^1 validation error for Settings\ndevice"):
        named(neither)
