"""The main job over a vault in a bucket: the API and the worker share nothing but PostgreSQL, Redis and the store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Engine, text

from client.api import LetheClient
from tests.api_process import KEY, ApiProcess, running_api
from tests.s3_server import Bucket
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples
from tests.worker_process import worker

SHORT = {"steps": 6, "eval_every": 3, "fisher_samples": 8}


@pytest.fixture
def api(database: Engine, database_url: str, redis_url: str, bucket: Bucket, tmp_path: Path) -> Iterator[ApiProcess]:
    place = {"LETHE_VAULT": bucket.address, "LETHE_SCRATCH": str(tmp_path / "api-scratch")}
    with running_api(database_url, redis_url, tmp_path / "api", **place, **bucket.environment) as process:
        yield process


def test_a_model_goes_in_and_a_treated_one_comes_out_of_a_bucket(  # noqa: PLR0917 - one for each server
    api: ApiProcess, database: Engine, database_url: str, redis_url: str, bucket: Bucket, tmp_path: Path
) -> None:
    write_tiny_samples(tmp_path)
    scratch = tmp_path / "worker-scratch"
    place = {"LETHE_VAULT": bucket.address, "LETHE_SCRATCH": str(scratch)} | bucket.environment
    with LetheClient(api.url, KEY) as lethe, worker(database_url, redis_url, tmp_path, **place) as one:
        model = lethe.wait_for_model(lethe.push(make_tiny_checkpoint(tmp_path / "model")).id)
        assert model.status == "admitted", one.said()
        triggered, clean = (lethe.add_samples(tmp_path / f"{kind}.jsonl", kind) for kind in ("triggered", "clean"))
        job = lethe.wait(lethe.submit(model.id, triggered.id, clean.id, recipe=SHORT, seed=3).id)
        assert (job.status, job.failure) == ("succeeded", None), one.said()
        pulled = lethe.pull(job.id, tmp_path / "treated")
        assert one.stop() == 0
    for folder in (scratch, tmp_path / "api-scratch"):
        assert list(folder.iterdir()) == []
    with database.connect() as connection:
        rows = connection.execute(
            text("SELECT f ->> 'sha256' FROM jobs, jsonb_array_elements(artifact -> 'files') f")
        )
        named = set(rows.scalars())
    assert {hashlib.sha256(file.read_bytes()).hexdigest() for file in pulled} == named
    assert all(len(bucket.keys(f"objects/{each[:2]}/{each}")) == 1 for each in named)
    for secret in ("AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        assert bucket.environment[secret] not in (tmp_path / "api/api.log").read_text()
    _a_flipped_bit_is_never_served(api, bucket, job.id)


def _a_flipped_bit_is_never_served(api: ApiProcess, bucket: Bucket, job_id: str) -> None:
    with api.client() as http:
        assert http.get("/readyz").json()["parts"]["storage"]
        file = next(each for each in http.get(f"/v1/jobs/{job_id}/artifacts").json()["files"] if each["size"] > 100)
        part = http.get(file["href"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, len(part.content)) == (206, 10)
        bucket.damage(file["sha256"], b"x" * file["size"])
        answer = http.get(file["href"], headers={"Range": "bytes=0-0"})
        assert (answer.status_code, answer.json()["code"]) == (500, "corrupt-object")
        with pytest.raises(httpx2.HTTPError):
            http.get(f"/v1/jobs/{job_id}/artifacts?format=tar")


def test_without_the_store_the_api_says_so_and_takes_nothing(api: ApiProcess, bucket: Bucket) -> None:
    with api.client() as http:
        assert http.get("/readyz").json()["parts"]["storage"]
        bucket.drop()
        assert not http.get("/readyz").json()["parts"]["storage"]
        answer = http.put("/v1/uploads/a.bin", content=b"some bytes")
        assert (answer.status_code, answer.json()["code"]) == (503, "dependency-down")
        assert http.get("/v1/jobs").status_code == 200
