"""tus concatenation against a real process: parts side by side, by tuspy and by hand, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import os

import httpx2
import pytest
from sqlalchemy import Engine, text
from tusclient.client import TusClient

from app.store.vault import Vault
from tests.api_process import KEY, ApiProcess

TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = TUS | {"Content-Type": "application/offset+octet-stream"}


def a_part(http: httpx2.Client, data: bytes, **headers: str) -> str:
    made = {"Upload-Concat": "partial", "Upload-Length": str(len(data))} | headers
    answer = http.post("/v1/uploads", headers=CHUNK | made, content=data)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


def joined(http: httpx2.Client, *parts: str, **headers: str) -> httpx2.Response:
    return http.post("/v1/uploads", headers=TUS | {"Upload-Concat": "final;" + " ".join(parts)} | headers)


def test_parts_become_one_file_in_the_order_that_was_asked(api: ApiProcess, http: httpx2.Client) -> None:
    first, second, empty = a_part(http, b"hello "), a_part(http, b"world"), a_part(http, b"")
    name = base64.b64encode(b"model.bin").decode()
    answer = joined(http, second, empty, first, **{"Upload-Metadata": f"filename {name}"})
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-offset"] == "11"
    upload = http.get(answer.headers["location"]).json()
    assert (upload["name"], upload["size"], upload["received"]) == ("model.bin", 11, 11)
    assert upload["sha256"] == hashlib.sha256(b"worldhello ").hexdigest()
    with Vault(api.vault).open_verified(upload["sha256"]) as stored:
        assert stored.read() == b"worldhello "


def test_head_tells_a_part_from_a_whole(http: httpx2.Client) -> None:
    part, other = a_part(http, b"abc"), a_part(http, b"def")
    assert http.head(part, headers=TUS).headers["upload-concat"] == "partial"
    whole = http.head(joined(http, part, other).headers["location"], headers=TUS).headers
    assert whole["upload-concat"] == f"final;{part} {other}"
    assert (whole["upload-length"], whole["upload-offset"]) == ("6", "6")


def test_a_joined_upload_takes_no_bytes(http: httpx2.Client) -> None:
    whole = joined(http, a_part(http, b"abc")).headers["location"]
    answer = http.patch(whole, headers=CHUNK | {"Upload-Offset": "3"}, content=b"d")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_parts_may_be_named_by_their_whole_address(api: ApiProcess, http: httpx2.Client) -> None:
    assert joined(http, api.url + a_part(http, b"abc"), a_part(http, b"def")).headers["upload-offset"] == "6"


def test_a_part_is_taken_once(api: ApiProcess, http: httpx2.Client) -> None:
    """Else a small request would fill the disk with one part many times."""
    part = a_part(http, b"abc")
    for parts in ((part, part), (part, f"{api.url}{part}")):
        assert joined(http, *parts).json()["code"] == "bad-request"


def test_parts_that_tuspy_sent(api: ApiProcess, http: httpx2.Client) -> None:
    data, parts = os.urandom(3_000_000), []
    client = TusClient(
        f"{api.url}/v1/uploads", headers={"Authorization": f"Bearer {KEY}", "Upload-Concat": "partial"}
    )
    for piece in (data[:1_000_000], data[1_000_000:]):
        uploader = client.uploader(file_stream=io.BytesIO(piece), chunk_size=400_000)
        uploader.upload()
        parts.append(uploader.url)
    whole = http.get(joined(http, *parts).headers["location"]).json()
    assert whole["sha256"] == hashlib.sha256(data).hexdigest()


def test_an_unfinished_part_is_waited_for(http: httpx2.Client) -> None:
    begun = http.post("/v1/uploads", headers=TUS | {"Upload-Concat": "partial", "Upload-Length": "9"})
    answer = joined(http, a_part(http, b"abc"), begun.headers["location"])
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_an_upload_that_is_no_part_is_not_joined(http: httpx2.Client) -> None:
    whole = http.put("/v1/uploads/a.bin", content=b"abc").headers["location"]
    assert joined(http, whole).status_code == 400
    assert joined(http, joined(http, a_part(http, b"abc")).headers["location"]).status_code == 400


def test_a_part_that_expired_or_was_never_made(http: httpx2.Client, database: Engine) -> None:
    part = a_part(http, b"abc")
    with database.begin() as connection:
        connection.execute(text("UPDATE uploads SET expires_at = clock_timestamp() - interval '1 s'"))
    assert joined(http, part).status_code == 410
    assert joined(http, "/v1/uploads/019ab1c2-0000-7000-8000-000000000000").status_code == 404


@pytest.mark.parametrize("more", [{"Upload-Length": "3"}, {"Content-Type": CHUNK["Content-Type"]}])
def test_length_and_bytes_are_those_of_the_parts(http: httpx2.Client, more: dict[str, str]) -> None:
    assert joined(http, a_part(http, b"abc"), **more).json()["code"] == "bad-request"


def test_the_whole_has_the_limit_of_an_upload(http: httpx2.Client, database: Engine) -> None:
    part, other = a_part(http, b"abc"), a_part(http, b"def")
    with database.begin() as connection:  # as if they had been sent
        connection.execute(text("UPDATE uploads SET length = 9000000000, received = 9000000000"))
    answer = joined(http, part, other)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
