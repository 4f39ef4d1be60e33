"""tus 1.0.0 against a real process: creation, offsets, checksums, termination, expiry, refusals."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import Engine, text

from app.intake.expire import remove_expired
from app.store.vault import Vault
from tests.api_process import ApiProcess, running_api

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}
MIB = 1024 * 1024


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def create(http: httpx2.Client, length: int, name: str = "model.bin") -> str:
    headers = TUS | {"Upload-Length": str(length), "Upload-Metadata": f"filename {b64(name.encode())}"}
    answer = http.post("/v1/uploads", headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def append(http: httpx2.Client, url: str, offset: int, data: bytes, **headers: str) -> httpx2.Response:
    return http.patch(url, headers=CHUNK | {"Upload-Offset": str(offset)} | headers, content=data)


def offset_of(http: httpx2.Client, url: str) -> int:
    answer = http.head(url, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def stored(api: ApiProcess, sha256: str) -> bytes:
    with Vault(api.vault).open_verified(sha256) as file:
        return file.read()


def incoming(api: ApiProcess) -> list[Path]:
    return list((api.vault / "incoming").iterdir())


def test_the_server_says_what_it_speaks(http: httpx2.Client) -> None:
    answer = http.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "termination",
        "expiration",
        "checksum",
        "concatenation",
    }
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
    assert int(answer.headers["tus-max-size"]) > 0


def test_a_file_in_three_chunks(api: ApiProcess, http: httpx2.Client) -> None:
    data = os.urandom(2 * MIB + 17)
    url = create(http, len(data), "model.safetensors")
    assert offset_of(http, url) == 0
    for start, end in ((0, 5), (5, MIB), (MIB, len(data))):
        answer = append(http, url, start, data[start:end])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(end))
        assert "upload-expires" in answer.headers
    seen = http.get(url).json()
    assert seen["sha256"] == hashlib.sha256(data).hexdigest()
    assert (seen["name"], seen["size"], seen["received"]) == ("model.safetensors", len(data), len(data))
    assert stored(api, seen["sha256"]) == data
    assert not (api.vault / "incoming" / seen["id"]).exists()


def test_head_tells_length_metadata_and_not_to_cache(http: httpx2.Client) -> None:
    answer = http.head(create(http, 10), headers=TUS)
    assert answer.headers["upload-length"] == "10"
    assert answer.headers["upload-metadata"] == f"filename {b64(b'model.bin')}"
    assert answer.headers["cache-control"] == "no-store"


def test_an_empty_file_is_finished_at_once(http: httpx2.Client) -> None:
    assert http.get(create(http, 0)).json()["sha256"] == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("data", [b"whole", b"who"])
def test_creation_with_upload(http: httpx2.Client, data: bytes) -> None:
    answer = http.post("/v1/uploads", headers=CHUNK | {"Upload-Length": "5"}, content=data)
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, str(len(data)))
    url = answer.headers["location"]
    if len(data) < 5:
        append(http, url, 3, b"le")
    assert http.get(url).json()["sha256"] == hashlib.sha256(b"whole").hexdigest()


def test_two_uploads_of_the_same_bytes_share_one_object(api: ApiProcess, http: httpx2.Client) -> None:
    urls = [create(http, 4), create(http, 4)]
    for url in urls:
        assert append(http, url, 0, b"same").status_code == 204
    first, second = (http.get(url).json() for url in urls)
    assert first["sha256"] == second["sha256"]
    assert stored(api, first["sha256"]) == b"same"


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_checksum_that_fits_is_accepted_and_another_discards_the_chunk(http: httpx2.Client, algorithm: str) -> None:
    data = os.urandom(3 * MIB)
    url = create(http, len(data))
    right = f"{algorithm} {b64(hashlib.new(algorithm, data[:MIB]).digest())}"
    assert append(http, url, 0, data[:MIB], **{"Upload-Checksum": right}).status_code == 204
    refused = append(http, url, MIB, data[MIB:], **{"Upload-Checksum": right})
    assert refused.status_code == 460
    assert refused.json()["code"] == "checksum-mismatch"
    assert refused.headers["tus-resumable"] == "1.0.0"
    assert offset_of(http, url) == MIB
    assert append(http, url, MIB, data[MIB:]).status_code == 204
    assert http.get(url).json()["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("header", ["md5 1B2M2Y8AsgTpgAmY7PhCfg==", "sha256", "sha256 !!!!", "sha1 " + b64(b"short")])
def test_a_checksum_that_cannot_be_checked_is_refused(http: httpx2.Client, header: str) -> None:
    url = create(http, 5)
    assert append(http, url, 0, b"hello", **{"Upload-Checksum": header}).status_code == 400
    assert offset_of(http, url) == 0


@pytest.mark.parametrize("offset", [0, 4, 6, 100])
def test_another_offset_is_a_conflict(http: httpx2.Client, offset: int) -> None:
    url = create(http, 10)
    append(http, url, 0, b"hello")
    answer = append(http, url, offset, b"x")
    assert (answer.status_code, answer.json()["code"], answer.json()["offset"]) == (409, "offset-mismatch", 5)
    assert offset_of(http, url) == 5


def test_a_body_beyond_the_length_is_refused(http: httpx2.Client) -> None:
    url = create(http, 5)
    assert append(http, url, 0, b"hello!").status_code == 413
    assert offset_of(http, url) == 0
    assert append(http, url, 0, b"hello").status_code == 204
    assert append(http, url, 5, b"!").status_code == 413
    assert append(http, url, 5, b"").status_code == 204


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/octet-stream"}, 415),
        ({"Upload-Offset": ""}, 400),
        ({"Upload-Offset": "-1"}, 400),
        ({"Upload-Offset": "1e3"}, 400),
        ({"Tus-Resumable": "0.2.2"}, 412),
        ({"Tus-Resumable": ""}, 412),
    ],
)
def test_a_chunk_with_wrong_headers(http: httpx2.Client, headers: dict[str, str], status: int) -> None:
    url = create(http, 5)
    answer = append(http, url, 0, b"hello", **headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert (answer.headers.get("tus-version") == "1.0.0") == (status == 412)
    assert offset_of(http, url) == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"Upload-Length": "ten"}, 400),
        ({"Upload-Length": "-1"}, 400),
        ({"Upload-Length": "9" * 18}, 413),
        ({"Upload-Length": "9" * 19}, 400),
        ({"Upload-Defer-Length": "1"}, 400),
        ({"Upload-Length": "5", "Upload-Concat": "part"}, 400),
        ({"Upload-Length": "5", "Upload-Metadata": "filename ***"}, 400),
        ({"Upload-Length": "5", "Upload-Metadata": "filename YQ==,filename YQ=="}, 400),
        ({"Upload-Length": "5", "Upload-Metadata": f"filename {b64(b'../etc/passwd')}"}, 400),
        ({"Upload-Length": "5", "Upload-Metadata": f"filename {b64(bytes([255, 254]))}"}, 400),
        ({"Upload-Length": "5", "Upload-Metadata": "k " + "A" * 9000}, 400),
        ({"Upload-Length": "5", "Tus-Resumable": "2.0.0"}, 412),
    ],
)
def test_a_creation_with_wrong_headers(http: httpx2.Client, headers: dict[str, str], status: int) -> None:
    answer = http.post("/v1/uploads", headers=TUS | headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["a/b.safetensors", "my model (1).tar.gz", ".gitattributes", "x"])
def test_plain_names(http: httpx2.Client, name: str) -> None:
    assert http.get(create(http, 1, name)).json()["name"] == name


def test_termination(api: ApiProcess, http: httpx2.Client) -> None:
    url = create(http, 10)
    append(http, url, 0, b"hello")
    assert http.delete(url, headers=TUS).status_code == 204
    assert http.head(url, headers=TUS).status_code == 404
    assert append(http, url, 5, b"world").status_code == 404
    assert not (api.vault / "incoming" / url.rsplit("/", 1)[1]).exists()


@pytest.mark.parametrize("override", ["PATCH", "patch"])
def test_a_method_that_a_proxy_does_not_let_through(http: httpx2.Client, override: str) -> None:
    url = create(http, 5)
    headers = CHUNK | {"Upload-Offset": "0", "X-HTTP-Method-Override": override}
    assert http.post(url, headers=headers, content=b"hello").status_code == 204
    assert http.post(url, headers=TUS | {"X-HTTP-Method-Override": "HEAD"}).headers["upload-offset"] == "5"
    assert http.post(url, headers=TUS | {"X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert http.get(url).status_code == 404


@pytest.mark.parametrize(
    "upload_id", ["1", "0192aaaa-0000-7000-8000-000000000000", "0192AAAA-0000-7000-8000-000000000000"]
)
def test_an_unknown_upload(http: httpx2.Client, upload_id: str) -> None:
    answer = http.head(f"/v1/uploads/{upload_id}", headers=TUS)
    assert answer.status_code == 404
    assert "upload-offset" not in answer.headers
    assert append(http, f"/v1/uploads/{upload_id}", 0, b"x").status_code == 404


def test_even_a_missing_key_is_told_the_protocol(api: ApiProcess) -> None:
    answer = httpx2.post(f"{api.url}/v1/uploads", headers=TUS | {"Upload-Length": "5"})
    assert (answer.status_code, answer.headers["tus-resumable"]) == (401, "1.0.0")


def test_an_expired_upload_is_gone_and_then_swept(api: ApiProcess, http: httpx2.Client, database: Engine) -> None:
    url, finished, living = create(http, 10), create(http, 5), create(http, 10)
    append(http, url, 0, b"hello")
    append(http, finished, 0, b"hello")
    sha256 = http.get(finished).json()["sha256"]
    with database.begin() as connection:
        dead = [each.rsplit("/", 1)[1] for each in (url, finished)]
        connection.execute(
            text("UPDATE uploads SET expires_at = clock_timestamp() WHERE id = ANY(CAST(:ids AS uuid[]))"),
            {"ids": dead},
        )
    assert http.head(url, headers=TUS).status_code == 410
    assert append(http, url, 5, b"world").status_code == 410
    assert remove_expired(database, Vault(api.vault)) == 2
    assert http.head(url, headers=TUS).status_code == 404
    assert not (api.vault / "incoming" / dead[0]).exists()
    assert offset_of(http, living) == 0
    assert stored(api, sha256) == b"hello"


def test_what_a_crash_left_without_a_row_is_swept_after_a_day(api: ApiProcess, database: Engine) -> None:
    old, young = api.vault / "incoming" / "tmp-old", api.vault / "incoming" / "tmp-young"
    for file in (old, young):
        file.write_bytes(b"x")
    os.utime(old, (0, 0))
    remove_expired(database, Vault(api.vault))
    assert not old.exists()
    assert young.exists()
    young.unlink()


@pytest.fixture(scope="module")
def small(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A service with low limits."""
    limits = {"LETHE_UPLOAD_MAX_BYTES": "1000", "LETHE_BODY_MAX_BYTES": "1000", "LETHE_BODY_GRACE_SECONDS": "0.3"}
    vault = tmp_path_factory.mktemp("small")
    with running_api(database_url, redis_url, vault, **limits) as process, process.client() as client:
        yield client


def test_the_size_limit(small: httpx2.Client) -> None:
    assert small.options("/v1/uploads").headers["tus-max-size"] == "1000"
    assert small.post("/v1/uploads", headers=TUS | {"Upload-Length": "1001"}).status_code == 413
    assert small.put("/v1/uploads/a", content=b"x" * 1001).status_code == 413
    assert small.put("/v1/uploads/a", content=iter([b"x" * 900, b"x" * 101])).status_code == 413
    assert small.put("/v1/uploads/a", content=b"x" * 1000).status_code == 201


def test_a_json_body_is_capped_before_any_route_reads_it(small: httpx2.Client) -> None:
    for content in (b"x" * 1001, iter([b"x" * 900, b"x" * 101])):
        answer = small.post("/v1/jobs", content=content)
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
    assert small.post("/v1/jobs", content=b"x" * 1000).status_code != 413


def test_the_address_of_creation_may_end_with_a_slash(http: httpx2.Client) -> None:
    answer = http.post("/v1/uploads/", headers=TUS | {"Upload-Length": "5"})
    assert answer.status_code == 201
    assert http.head(answer.headers["location"], headers=TUS).headers["upload-length"] == "5"
    assert http.options("/v1/uploads/").headers["tus-version"] == "1.0.0"
