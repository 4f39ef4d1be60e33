"""Attacks by requests that are well framed: headers, parameters and bodies. Nothing is a 5xx, and the API goes on
(see `unhurt` in conftest.py)."""

from __future__ import annotations

import gzip
import json
import zlib
from uuid import UUID

import pytest
from sqlalchemy import Engine

from app.domain.manifest import FileEntry
from app.store import claim_rows
from app.store.vault import Vault
from tests.api_process import ApiProcess
from tests.hostile.raw_http import Answer, Wire, request
from tests.job_rows_at_hand import a_delivery, add_job

JSON = "Content-Type: application/json"
NOBODY = "019ab1c2-0000-7000-8000-000000000000"
TUS = "Tus-Resumable: 1.0.0"
CHUNK = "Content-Type: application/offset+octet-stream"


@pytest.fixture
def job(database: Engine, attacked_api: ApiProcess) -> UUID:
    """A job that has succeeded, with one file of 100,000 bytes."""
    data = bytes(100_000)
    stored = Vault(attacked_api.vault).put([data])
    with database.begin() as connection:
        found = add_job(connection)
        claim = claim_rows.claim(connection, found.id, "worker", 300, 3)
        assert claim is not None
        claim_rows.finish(connection, claim, a_delivery(FileEntry("model.bin", len(data), stored.sha256)))
    return found.id


def new_job(**changes: object) -> bytes:
    return json.dumps({"model": NOBODY, "triggered": NOBODY, "clean": NOBODY} | changes).encode()


# Headers with much in them


@pytest.mark.parametrize("value", [
    "bytes=" + ",".join(f"{n}-" for n in range(5000)),
    "bytes=" + ",".join("0-" for _ in range(5000)),
    "bytes=" + "0-1," * 5000 + "x",
    "bytes=" + "1" * 20_000 + "-",
    "bytes=" + " " * 20_000 + "0-1",
    "bytes=0-1" + "\t" * 20_000 + "x",
    "bytes=1-0", "bytes=-0-0", "bytes=--1", "bytes=a-b", "=", "bytes", "items=0-1", "bytes=0x0-0x1",
    "bytes=\xb2-\xb3",
])  # fmt: skip
def test_range_bombs(wire: Wire, job: UUID, value: str) -> None:
    """Many overlapping ranges, and ranges that a regular expression chokes on: CVE-2011-3192, CVE-2025-62727."""
    answer = wire.one(f"GET /v1/jobs/{job}/artifacts/model.bin", f"Range: {value}")
    assert answer.status in (200, 206, 416)
    assert len(answer.body) <= 100_000


@pytest.mark.parametrize("value", [
    '"a",' * 7000, '"' * 30_000, "W/" * 14_000, '"a' * 14_000, "*" * 30_000, '"\\' * 14_000, ", " * 14_000,
    "\xff" * 999,
])  # fmt: skip
def test_if_none_match_bombs(wire: Wire, job: UUID, value: str) -> None:
    """Lists of tags without end, and quotes without partner: CWE-1333."""
    for path in ("", "/artifacts", "/artifacts/model.bin"):
        assert wire.one(f"GET /v1/jobs/{job}{path}", f"If-None-Match: {value}").status == 200


@pytest.mark.parametrize("value", [
    "a/b," * 7000 + "*/*", "application/json;q=nan", "*/*;q=inf", "*/*;q=-1", "*/*;q=1e999", "*/*" + ";a=b" * 7000,
    "/" * 30_000, ";" * 30_000, "application/json" + ";q=0.1" * 5000, "\xff/\xfe", "*/json", "q=1", " ",
])  # fmt: skip
def test_accept_bombs(wire: Wire, job: UUID, value: str) -> None:
    """Long and senseless preferences: CVE-2024-26144, CVE-2022-24999 and kin; CWE-1333."""
    for path in ("/report", "/artifacts"):
        assert wire.one(f"GET /v1/jobs/{job}{path}", f"Accept: {value}").status in (200, 406)


@pytest.mark.parametrize(
    "value", ["wait=99999999", "wait=-1", "wait=1e9", "wait=\xb2", "wait=" + "9" * 9000, "wait=0, " * 3000]
)
def test_preference_to_wait_for_ever(wire: Wire, job: UUID, value: str) -> None:
    """Prefer: wait is bounded, and a job that is done is not waited for: RFC 7240, section 4.3; CWE-400."""
    answer = wire.one(f"GET /v1/jobs/{job}", f"Prefer: {value}")
    assert answer.status == 200
    assert answer.headers.get("preference-applied", "wait=60") in ("wait=60", "wait=0")


@pytest.mark.parametrize(
    "value", ["-1", "1e3", "a", "9" * 18, "9" * 19, "9" * 9000, "\xb2", "1\t2", "'; DROP TABLE jobs; --", "0x1"]
)
def test_last_event_id_that_is_none(wire: Wire, job: UUID, value: str) -> None:
    """Ids of events that no stream has given: WHATWG HTML, section 9.2; CWE-20, CWE-89."""
    answer = wire.one(f"GET /v1/jobs/{job}/events", f"Last-Event-ID: {value}")
    assert answer.status in (200, 204, 400)


@pytest.mark.parametrize("value", ["", "a" * 256, "a" * 9000, "\xff", "\t", "a\tb", "\x7f", "'; DROP TABLE jobs; --"])
def test_idempotency_key_that_is_none(wire: Wire, value: str) -> None:
    """Keys that are empty, endless or not printable: CWE-20."""
    answer = wire.one("POST /v1/jobs", JSON, f"Idempotency-Key: {value}", body=new_job())
    assert answer.problem["code"] in ("bad-request", "not-found")


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Bearer \xff\xfe", "Bearer " + "a" * 9000, "bearer  ", "Basic YTpi", "\xff", "", "Bearer a, Bearer b"],
)
def test_keys_that_are_none(wire: Wire, value: str) -> None:
    """Credentials in other schemes, bytes and sizes: RFC 6750; CWE-287."""
    answers = wire.exchange(
        f"GET /v1/jobs HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: {value}\r\n\r\n".encode("latin-1")
    )
    assert [answer.problem["code"] for answer in answers] == ["unauthenticated"]
    assert answers[0].headers["www-authenticate"].startswith("Bearer")


def test_two_keys(wire: Wire) -> None:
    """The right key beside a wrong one, which another server might look at: CWE-287."""
    head = request("GET /v1/jobs", "Connection: close").replace(
        b"Host: a", b"Host: a\r\nAuthorization: Bearer nobody"
    )
    assert [answer.status for answer in wire.exchange(head)] == [401]


@pytest.mark.parametrize(
    "header",
    [
        "Cookie: " + "a=b; " * 5000,
        "Cookie: " + "=" * 30_000,
        "Traceparent: " + "0" * 30_000,
        "__proto__: 1",
        "Accept-Language: " + "a," * 9999,
    ],
)
def test_headers_that_nobody_reads(wire: Wire, header: str) -> None:
    """What is not read costs nothing: CVE-2023-46136 and kin; CWE-1333."""
    assert wire.one("GET /v1/jobs", header).status == 200


# Parameters


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "1e9", "1000000000", "9" * 400, "%d9%a1", "1.5", "true", "0x10", "%00", "", "NaN"],
)
def test_limits_out_of_bounds(wire: Wire, job: UUID, value: str) -> None:
    """Pages without end, of nothing, and of no number: CWE-770, CWE-1284."""
    for path in ("jobs", "models", "samples", f"jobs/{job}/metrics"):
        answer = wire.one(f"GET /v1/{path}?limit={value}")
        assert answer.problem["code"] == "invalid-request"


@pytest.mark.parametrize(
    "query",
    [
        "limit=1&limit=0",
        "limit=1&limit=2&limit=3",
        "status=queued&status=failed",
        "after=a&after=b",
        "limit[]=1",
        "limit%00=1",
        "&" * 5000,
        "=" * 5000,
        "a=b&" * 5000,
        "%",
        "%ff=%ff",
        "status=%00",
        "model=%00",
        "after=%00",
    ],
)
def test_parameters_that_are_repeated_or_broken(wire: Wire, query: str) -> None:
    """The same parameter twice, and ones that do not decode: CWE-235 (parameter pollution), CWE-20."""
    assert wire.one(f"GET /v1/jobs?{query}").status in (200, 404, 422)


@pytest.mark.parametrize("text", [
    "019AB1C2-0000-7000-8000-000000000000", "019ab1c200007000800000000000000",
    "{019ab1c2-0000-7000-8000-000000000000}",
    "urn:uuid:019ab1c2-0000-7000-8000-000000000000", "019ab1c2-0000-7000-8000-000000000000%00", "0", "-1", "null",
    "'",
    "019ab1c2-0000-7000-8000-00000000000g", "%EF%BC%90" * 36, "1" * 9000, "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff", "%20019ab1c2-0000-7000-8000-000000000000",
])  # fmt: skip
def test_other_writings_of_an_id(wire: Wire, text: str) -> None:
    """An id has one form, so that nothing compares it in another: CWE-178, CWE-20, CWE-89."""
    for path in ("jobs", "models", "samples", "uploads"):
        assert wire.one(f"GET /v1/{path}/{text}").problem["code"] == "not-found"
        assert wire.one(f"DELETE /v1/{path}/{text}", TUS).problem["code"] == "not-found"


def test_names_that_would_split_an_answer(wire: Wire) -> None:
    """CR LF in what comes back in a header: CWE-113; CVE-2024-52875 and kin."""
    for target in (
        "GET /v1/jobs?limit=1&x=%0d%0aSet-Cookie:a",
        f"GET /v1/jobs/{NOBODY}/artifacts/a%0d%0aSet-Cookie:a",
    ):
        assert "set-cookie" not in wire.one(target).headers


@pytest.mark.parametrize("host", ["evil.example", "[::1", "]", "%00", "\xff", "a b", "evil.example/x?"])
def test_host_in_the_link_to_the_next_page(wire: Wire, job: UUID, database: Engine, host: str) -> None:
    """Host never comes back in an address, and a malformed one harms nobody: CWE-644."""
    with database.begin() as connection:
        add_job(connection)
    (answer,) = wire.exchange(request("GET /v1/jobs?limit=1", "Connection: close", host=f"Host: {host}"))
    assert answer.status in (200, 400)
    assert answer.headers.get("link", "</v1/jobs?").startswith("</v1/jobs?")


# Bodies


@pytest.mark.parametrize(
    "target",
    ["POST /v1/jobs", "POST /v1/models", "POST /v1/samples?kind=clean", "PUT /v1/uploads/a", "POST /v1/uploads"],
)
def test_multipart_bodies(wire: Wire, target: str) -> None:
    """Forms are refused without being parsed: CVE-2024-53981, CVE-2024-24762, CVE-2025-54121, CVE-2023-30798."""
    body = b"\r\n" * 200_000 + b"--a\r\nContent-Disposition: form-data; name=x\r\n\r\n"
    answer = wire.one(target, "Content-Type: multipart/form-data; boundary=a", TUS, "Upload-Length: 9", body=body)
    assert answer.problem["code"] == "unsupported-media-type"


def test_form_that_a_regular_expression_chokes_on(wire: Wire) -> None:
    """A Content-Type of backslashes: CVE-2024-24762 (python-multipart)."""
    answer = wire.one(
        "POST /v1/jobs", 'Content-Type: application/x-www-form-urlencoded; !="' + "\\" * 20_000, body=b"a=b"
    )
    assert answer.problem["code"] == "unsupported-media-type"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip", "GZIP", "aes128gcm"])
def test_compressed_bodies(wire: Wire, coding: str) -> None:
    """Bodies that unpack to far more are refused as they are: CWE-409; CVE-2024-39917 and kin."""
    bomb = zlib.compress(bytes(5_000_000)) if coding == "deflate" else gzip.compress(bytes(5_000_000))
    encoding = f"Content-Encoding: {coding}"
    for target in ("POST /v1/samples?kind=clean&format=csv", "PUT /v1/uploads/a"):
        assert wire.one(target, encoding, body=bomb).problem["code"] == "unsupported-media-type"
    assert 400 <= wire.one("POST /v1/jobs", JSON, encoding, body=bomb).status < 500


@pytest.mark.parametrize("body", [
    b"[" * 500_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000,
    b'{"recipe":' + b"[" * 5000 + b"]" * 5000 + b"}",
], ids=["open", "keys", "closed", "inner"])  # fmt: skip
def test_deep_json(wire: Wire, body: bytes) -> None:
    """Nesting that ends the stack: CWE-674; CVE-2025-52999 and kin."""
    for target in ("POST /v1/jobs", "POST /v1/models"):
        assert wire.one(target, JSON, body=body).problem["code"] in ("bad-request", "invalid-request")


def test_json_that_names_a_key_twice(wire: Wire) -> None:
    """Two readers see two requests: RFC 8259, section 4; CVE-2017-12635; CWE-436."""
    body = b'{"model": "a", ' + new_job()[1:]
    assert "twice" in wire.one("POST /v1/jobs", JSON, body=body).problem["detail"]
    assert wire.one("POST /v1/jobs", JSON, body=b" " + body).problem["code"] == "bad-request"


@pytest.mark.parametrize(
    "number",
    [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b"9" * 5000,
        b"1" + b"0" * 400 + b".5",
        b"0x1",
        b"01",
        b"1.",
        b"+1",
    ],
)
def test_numbers_that_are_none(wire: Wire, number: bytes) -> None:
    """NaN, infinity and integers of thousands of digits: RFC 8259, section 6; CVE-2020-10735."""
    for place in (b'"seed": ', b'"recipe": {"lr": ', b'"policy": {"max_asr": '):
        body = new_job()[:-1] + b", " + place + number + (b"}}" if place.endswith(b'": ') and b"{" in place else b"}")
        assert wire.one("POST /v1/jobs", JSON, body=body).problem["code"] == "bad-request"


@pytest.mark.parametrize(
    "text",
    [
        rb'"\ud800"',
        rb'"\udfff\ud800"',
        b'"\xed\xa0\x80"',
        b'"\xff"',
        b'"\xc0\xae"',
        rb'"\u0000"',
        b'"a\x00b"',
        b'"\n"',
    ],
)
def test_texts_that_are_none(wire: Wire, text: bytes) -> None:
    """Lone surrogates, overlong forms, NUL and raw control characters: RFC 8259, section 8; CWE-176, CWE-158."""
    for body in (
        new_job()[:-1] + b', "metadata": {"a": ' + text + b"}}",
        b'{"name": ' + text + b', "archive": "' + NOBODY.encode() + b'"}',
    ):
        target = "POST /v1/models" if b"archive" in body else "POST /v1/jobs"
        assert wire.one(target, JSON, body=body).problem["code"] in ("bad-request", "invalid-request")


@pytest.mark.parametrize("coding", ["utf-16", "utf-32", "utf-16-le", "utf-8-sig", "utf-7", "cp037"])
def test_json_in_another_encoding(wire: Wire, coding: str) -> None:
    """JSON is UTF-8, whatever the charset says: RFC 8259, section 8.1; CWE-838."""
    answer = wire.one("POST /v1/jobs", f"{JSON}; charset={coding}", body=new_job().decode().encode(coding))
    assert answer.problem["code"] in ("bad-request", "not-found") if coding == "utf-7" else "bad-request"


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "",
        "json",
        "application/json, text/plain",
        "\xff",
    ],
)
def test_json_under_another_name(wire: Wire, kind: str) -> None:
    """What browsers send without asking is no JSON here: CWE-352; CVE-2021-32677 (FastAPI)."""
    assert wire.one("POST /v1/jobs", f"Content-Type: {kind}", body=new_job()).status in (415, 422)


def test_body_over_the_cap(wire: Wire) -> None:
    """A JSON body over its limit, declared or not: CWE-770."""
    body = b'{"name": "' + b"a" * 1_100_000 + b'"}'
    assert wire.one("POST /v1/models", JSON, body=body).problem["code"] == "too-large"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:600_000], body[600_000:])) + b"0\r\n\r\n"
    answer = wire.one("POST /v1/models", JSON, "Transfer-Encoding: chunked", body=chunks, framed=False)
    assert answer.problem["code"] == "too-large"


@pytest.mark.parametrize("name", ["__class__", "constructor", "__proto__", "$where", "a" * 9000])
def test_fields_that_nobody_asked_for(wire: Wire, name: str) -> None:
    """Mass assignment and its kin: CWE-915, CWE-1321."""
    assert (
        wire.one("POST /v1/jobs", JSON, body=new_job(**{name: {"admin": True}})).problem["code"] == "invalid-request"
    )


# tus


def begin(wire: Wire, length: int = 10) -> str:
    return wire.one("POST /v1/uploads", TUS, f"Upload-Length: {length}").headers["location"]


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "1e3",
        "9" * 18,
        "9" * 19,
        "9" * 400,
        str(2**63),
        str(2**64),
        "0x10",
        "",
        " ",
        "\xb2",
        "1,2",
        "+1",
        "1.0",
        "NaN",
    ],
)
def test_upload_length_that_is_none(wire: Wire, value: str) -> None:
    """Negative, endless and overflowing lengths: tus 1.0.0, Upload-Length; CWE-190, CWE-1284."""
    answer = wire.one("POST /v1/uploads", TUS, f"Upload-Length: {value}")
    assert answer.problem["code"] in ("bad-request", "too-large")


@pytest.mark.parametrize("value", ["11", "1", "-1", "9" * 18, "9" * 19, str(2**64), "", "\xb2", "0x0", "0, 0"])
def test_upload_offset_that_is_another(wire: Wire, value: str) -> None:
    """Offsets behind the end, before the start and in another writing: tus 1.0.0, Upload-Offset; CWE-787."""
    at = begin(wire)
    answer = wire.one(f"PATCH {at}", TUS, CHUNK, f"Upload-Offset: {value}", body=b"x")
    assert answer.problem["code"] in ("bad-request", "offset-mismatch")
    assert wire.one(f"HEAD {at}", TUS).headers["upload-offset"] == "0"


def test_two_offsets(wire: Wire) -> None:
    """The right offset beside another: CWE-235."""
    answer = wire.one(f"PATCH {begin(wire)}", TUS, CHUNK, "Upload-Offset: 0", "Upload-Offset: 5", body=b"x")
    assert answer.problem["code"] == "bad-request"


def test_more_bytes_than_were_announced(wire: Wire) -> None:
    """A chunk that goes beyond the upload's length: CWE-131."""
    at = begin(wire)
    assert wire.one(f"PATCH {at}", TUS, CHUNK, "Upload-Offset: 0", body=b"x" * 11).problem["code"] == "too-large"
    assert wire.one(f"HEAD {at}", TUS).headers["upload-offset"] == "0"


@pytest.mark.parametrize(
    "kind",
    [
        "application/octet-stream",
        "",
        "application/offset+octet-streams",
        "multipart/form-data; boundary=a",
        "text/plain",
    ],
)
def test_chunk_of_another_type(wire: Wire, kind: str) -> None:
    """PATCH takes one media type: tus 1.0.0, PATCH; CWE-436."""
    answer = wire.one(f"PATCH {begin(wire)}", TUS, f"Content-Type: {kind}", "Upload-Offset: 0", body=b"x")
    assert answer.problem["code"] == "unsupported-media-type"


@pytest.mark.parametrize(
    "value",
    [
        "md5 AAAA",
        "crc32 AAAA",
        "sha1",
        "sha1 ",
        "sha1 AAAA",
        "sha256 " + "A" * 9000,
        "SHA1 x",
        "sha1 \xff",
        "shake_128 AAAA",
        "",
        "sha1  " + "A" * 27 + "=",
    ],
)
def test_checksum_that_is_none(wire: Wire, value: str) -> None:
    """Algorithms that are not offered, and digests of another length: tus 1.0.0, Checksum; CWE-328."""
    at = begin(wire)
    answer = wire.one(f"PATCH {at}", TUS, CHUNK, "Upload-Offset: 0", f"Upload-Checksum: {value}", body=b"x")
    assert answer.problem["code"] == "bad-request"
    assert wire.one(f"HEAD {at}", TUS).headers["upload-offset"] == "0"


@pytest.mark.parametrize(
    "value",
    [
        "filename " + "A" * 9000,
        "a,b" * 3000,
        "filename YQ==,filename YQ==",
        "filename !",
        "\xff YQ==",
        "filename /w==",
        "filename " + "Li4v" * 9,
        "filename AA==",
        "filename DQo=",
        " ,",
        ",,,",
        "a " * 3000,
    ],
)
def test_upload_metadata_bombs(wire: Wire, value: str) -> None:
    """Endless metadata, keys twice, no base64, no UTF-8, and names that climb: tus 1.0.0; CWE-22, CWE-770."""
    answer = wire.one("POST /v1/uploads", TUS, "Upload-Length: 9", f"Upload-Metadata: {value}")
    assert answer.problem["code"] == "bad-request"


@pytest.mark.parametrize("value", ["1", "0", "", "9" * 100])
def test_deferred_length(wire: Wire, value: str) -> None:
    """An upload of unknown length is not offered: tus 1.0.0, Creation; CWE-770."""
    for lines in ([], ["Upload-Length: 9"]):
        answer = wire.one("POST /v1/uploads", TUS, f"Upload-Defer-Length: {value}", *lines)
        assert answer.problem["code"] == "bad-request"


@pytest.mark.parametrize(
    "value",
    [
        "final",
        "final;",
        "final;/etc/passwd",
        "final;http://evil.example/v1/uploads/a",
        "final;" + f"/v1/uploads/{NOBODY} " * 200,
        "partial;x",
        "PARTIAL",
        "",
        "final;/v1/uploads/..",
        "final;\xff",
    ],
)
def test_concatenation_of_what_is_not_there(wire: Wire, value: str) -> None:
    """Parts elsewhere, none and too many: tus 1.0.0, Concatenation; CWE-918, CWE-22."""
    answer = wire.one("POST /v1/uploads", TUS, f"Upload-Concat: {value}")
    assert answer.problem["code"] in ("bad-request", "not-found")


@pytest.mark.parametrize("value", ["GET", "PUT", "OPTIONS", "TRACE", "\xff", "PATCH, DELETE", "a" * 9000, ""])
def test_method_override_of_tus(wire: Wire, value: str) -> None:
    """tus lets POST stand for PATCH, DELETE and HEAD, and for nothing else: tus 1.0.0; CWE-650."""
    at = begin(wire)
    assert wire.one(f"POST {at}", TUS, f"X-HTTP-Method-Override: {value}").problem["code"] == "method-not-allowed"
    assert wire.one(f"GET {at}", TUS, "X-HTTP-Method-Override: DELETE").status == 200


@pytest.mark.parametrize("value", ["0.9.0", "1.0.0, 0.9.0", "2", "\xff", "1.0.0 ; x", ""])
def test_other_versions_of_tus(wire: Wire, value: str) -> None:
    """Tus-Resumable decides what the rest means: tus 1.0.0, Tus-Resumable."""
    answer: Answer = wire.one("POST /v1/uploads", f"Tus-Resumable: {value}", "Upload-Length: 9")
    assert answer.problem["code"] == "precondition-failed"
    assert answer.headers["tus-version"] == "1.0.0"


@pytest.mark.parametrize("name", ["Repr-Digest", "Content-Digest"])
@pytest.mark.parametrize(
    "value",
    [
        "sha-256=:AAAA:",
        "md5=:AAAA:",
        "sha-256",
        "=" * 9000,
        "sha-256=:" + "A" * 9000 + ":",
        "\xff",
        ":" * 9000,
        "sha-256=:!:",
    ],
)
def test_digests_that_are_none(wire: Wire, name: str, value: str) -> None:
    """Weak, malformed and endless digests: RFC 9530, section 5; CWE-328, CWE-1333."""
    assert wire.one("PUT /v1/uploads/a", f"{name}: {value}", body=b"x").problem["code"] == "bad-request"
