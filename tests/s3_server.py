"""A store that speaks S3 over HTTP, for the tests of a vault in a bucket: moto's server, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import FakeKey, s3_backends
from moto.server import ThreadedMotoServer

from app.store.bucket_vault import BucketVault


@dataclass(frozen=True)
class Bucket:
    """One of its own for each test. `environment` is what a process needs beside LETHE_VAULT."""

    name: str
    environment: dict[str, str]

    @property
    def address(self) -> str:
        return f"s3://{self.name}/some/prefix"

    def vault(self, scratch: Path) -> BucketVault:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return BucketVault(self.address, scratch)

    def keys(self, part: str = "") -> dict[str, FakeKey]:
        """What is stored, by key below the prefix, for those that hold the part."""
        stored: dict[str, FakeKey] = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[self.name].keys
        cut = len("some/prefix/")
        return {key[cut:]: stored[key] for key in list(stored) if part in key}

    def damage(self, sha256: str, data: bytes) -> None:
        """Every key of the object now has these bytes."""
        for stored in self.keys(f"objects/{sha256[:2]}/{sha256}").values():
            stored.value = data

    def age(self, sha256: str, seconds: float) -> None:
        for stored in self.keys(sha256).values():
            stored.last_modified = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)

    def drop(self) -> None:
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets.pop(self.name)

    def make(self) -> None:
        httpx2.put(f"{self.environment['AWS_ENDPOINT_URL']}/{self.name}").raise_for_status()


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-store",
        "NO_PROXY": ",".join(filter(None, ("127.0.0.1", os.environ.get("NO_PROXY")))),
    }
    server.stop()


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> Bucket:
    made = Bucket(f"bucket-{uuid4().hex}", s3_environment)
    made.make()
    return made
