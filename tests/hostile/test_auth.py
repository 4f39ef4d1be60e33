"""Attacks on the gate, against the real API process: tricks with the header, keys that are void or guessed, another
tenant's rows, and forged tokens of an OpenID Connect issuer. Each names its source."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import jwt
import pytest
from sqlalchemy import Engine, func, update

from app.domain.identity import KeyOrder, Scope
from app.domain.ids import new_id
from app.identity import api_keys
from app.store import upload_rows
from app.store.tables import api_keys as key_table
from tests.api_process import KEY, NO_TLS, PEPPER, ApiProcess, running_api
from tests.issuer import AUDIENCE, Issuer, new_key, running_issuer
from tests.job_rows_at_hand import add_job

JOBS = "/v1/jobs"
RS256 = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
UUID7 = "01a20000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture(scope="module")
def api(
    issuer: Issuer, database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiProcess]:
    """An API that takes keys and tokens."""
    given = {"LETHE_OIDC_ISSUER": issuer.url, "LETHE_OIDC_AUDIENCE": AUDIENCE, "NO_PROXY": "127.0.0.1"}
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("vault"), **given) as process:
        yield process


@dataclass(frozen=True)
class Attacker:
    """Has every scope in the tenant `mallory`, and nothing elsewhere."""

    url: str
    key: str

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> httpx2.Response:
        sent = {"Authorization": f"Bearer {self.key}", **(headers or {})}
        return httpx2.request(method, f"{self.url}{path}", headers=sent, timeout=60, verify=NO_TLS, **more)


@pytest.fixture
def mallory(api: ApiProcess, database: Engine) -> Attacker:
    return Attacker(api.url, a_key(database, "mallory")[1])


def a_key(database: Engine, tenant: str, *scopes: Scope) -> tuple[str, str]:
    order = KeyOrder(tenant, "test", frozenset(scopes or Scope), None)
    made, text = api_keys.make(database, PEPPER, order, "test")
    return str(made.id), text


def raw(api: ApiProcess, *lines: bytes, path: bytes = b"/v1/jobs", method: bytes = b"GET") -> bytes:
    """The status line that answers these header lines, sent as they stand; empty where the line was cut."""
    head = [method + b" " + path + b" HTTP/1.1", b"Host: lethe", b"Connection: close", *lines, b"", b""]
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as line:
        line.sendall(b"\r\n".join(head))
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # the rest of a request that was refused early
            while chunk := line.recv(65536):
                answer += chunk
    return answer.partition(b"\r\n")[0]


def bearer(api: ApiProcess, token: str, path: str = JOBS) -> httpx2.Response:
    return httpx2.get(f"{api.url}{path}", headers={"Authorization": f"Bearer {token}"}, timeout=60, verify=NO_TLS)


GOOD = b"Authorization: Bearer " + KEY.encode()


# --- the header ---------------------------------------------------------------------------------------------------


def test_two_authorization_headers(api: ApiProcess) -> None:
    """CWE-444: what a proxy in front read from one header, the service must not read from another."""
    assert b" 200 " in raw(api, GOOD)
    assert b" 401 " in raw(api, GOOD, b"Authorization: Bearer nonsense")
    assert b" 401 " in raw(api, b"Authorization: Bearer nonsense", GOOD)
    assert b" 401 " in raw(api, GOOD, GOOD)


def test_two_keys_in_one_header(api: ApiProcess) -> None:
    """RFC 9110, section 5.3: a recipient may join repeated fields with commas."""
    assert b" 401 " in raw(api, GOOD + b", Bearer nonsense")
    assert b" 401 " in raw(api, GOOD + b"," + KEY.encode())


@pytest.mark.parametrize("scheme", [b"bearer", b"BEARER", b"bEaReR"])
def test_the_scheme_in_any_case_is_the_same_scheme(api: ApiProcess, scheme: bytes) -> None:
    """RFC 9110, section 11.1: a filter that looks for `Bearer` alone would be passed by."""
    assert b" 200 " in raw(api, b"authorization: " + scheme + b" " + KEY.encode())


@pytest.mark.parametrize("scheme", [b"Basic", b"Token", b"Digest", b"Bearerx", b"Bearer:", b"ApiKey", b""])
def test_another_scheme(api: ApiProcess, scheme: bytes) -> None:
    """CWE-288: an alternate path to the same secret."""
    assert b" 401 " in raw(api, b"Authorization: " + scheme + b" " + KEY.encode())


def test_basic_credentials_of_the_key(api: ApiProcess) -> None:
    """RFC 7617: the key as a user's name or password is no key."""
    for pair in (f"{KEY}:", f":{KEY}"):
        assert b" 401 " in raw(api, b"Authorization: Basic " + base64.b64encode(pair.encode()))


@pytest.mark.parametrize("between", [b"\t", b" \t", b"", b"\x0b", b"\xa0", b"\xe2\x80\x83"])
def test_other_white_space_between_scheme_and_key(api: ApiProcess, between: bytes) -> None:
    """CWE-180: two readers that trim differently see two keys."""
    status = raw(api, b"Authorization: Bearer" + between + KEY.encode())
    assert b" 401 " in status or b" 400 " in status


@pytest.mark.parametrize("end", [b" x", b"\xff", "\u017f".encode(), b"%00", b"\x00", b";", b'"'])
def test_bytes_behind_the_key(api: ApiProcess, end: bytes) -> None:
    """CWE-158, CWE-176: what follows a NUL or folds to ASCII is not cut off."""
    status = raw(api, GOOD + end)
    assert b" 401 " in status or b" 400 " in status


def test_a_folded_header(api: ApiProcess) -> None:
    """RFC 9112, section 5.2: the halves of an obsolete line folding are not put together to a key."""
    status = raw(api, b"Authorization: Bearer " + KEY[:10].encode(), b" " + KEY[10:].encode())
    assert b" 401 " in status or b" 400 " in status


def test_a_key_that_is_not_ascii(api: ApiProcess) -> None:
    """CWE-248: comparing text in constant time raises for characters outside ASCII."""
    assert b" 401 " in raw(api, b"Authorization: Bearer lethe_\xc3\xa4\xff_\xf0\x9f\x94\x91")


def test_a_very_long_key(api: ApiProcess) -> None:
    """CWE-400: hashing what a stranger sends, whatever its length."""
    assert b" 401 " in raw(api, b"Authorization: Bearer " + b"a" * 30_000)
    status = raw(api, b"Authorization: Bearer " + b"a" * 200_000)
    assert not status or status.split()[1] in (b"400", b"401", b"431")
    assert b" 200 " in raw(api, GOOD)


@pytest.mark.parametrize("empty", [b"Authorization:", b"Authorization: Bearer", b"Authorization: Bearer ", b"X: y"])
def test_no_key_at_all(api: ApiProcess, empty: bytes) -> None:
    """CWE-306."""
    assert b" 401 " in raw(api, empty)


@pytest.mark.parametrize("name", ["access_token", "api_key", "key", "token", "authorization"])
def test_a_key_in_the_address(api: ApiProcess, name: str) -> None:
    """RFC 6750, section 2.3, and CWE-598: it would be in every log on the way."""
    assert httpx2.get(f"{api.url}{JOBS}", params={name: KEY}, verify=NO_TLS).status_code == 401


@pytest.mark.parametrize(
    "name", ["X-Api-Key", "X-Auth-Token", "Proxy-Authorization", "Cookie", "X-Forwarded-Authorization"]
)
def test_a_key_in_another_header(api: ApiProcess, name: str) -> None:
    """CWE-288."""
    assert httpx2.get(f"{api.url}{JOBS}", headers={name: f"Bearer {KEY}"}, verify=NO_TLS).status_code == 401


def test_a_key_in_the_body(api: ApiProcess) -> None:
    """RFC 6750, section 2.2: a form could be sent from another site (CWE-352)."""
    assert httpx2.post(f"{api.url}{JOBS}", data={"access_token": KEY}, verify=NO_TLS).status_code == 401


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-User", "X-Tenant"]
)
def test_headers_by_which_proxies_vouch_for_somebody(api: ApiProcess, name: str) -> None:
    """CWE-290: nothing is believed of whom a header says the caller to be."""
    assert httpx2.get(f"{api.url}{JOBS}", headers={name: "127.0.0.1"}, verify=NO_TLS).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        b"//v1/jobs",
        b"/v1//jobs",
        b"/V1/jobs",
        b"/v1/./jobs",
        b"/livez/../v1/jobs",
        b"/v1%2fjobs",
        b"/%761/jobs",
        b"/v1/jobs;x",
        b"/v1/jobs%00",
    ],
)
def test_another_spelling_of_the_address(api: ApiProcess, path: bytes) -> None:
    """CWE-647: the gate and the routes must agree on what is below /v1."""
    status = raw(api, path=path)
    assert b" 401 " in status or b" 404 " in status or b" 400 " in status


def test_no_body_is_read_for_a_stranger(api: ApiProcess) -> None:
    """CWE-400: the refusal comes while the body that was announced is still on its way."""
    head = [b"POST /v1/jobs HTTP/1.1", b"Host: lethe", b"Content-Type: application/json", b"Content-Length: 1000000"]
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as line:
        line.sendall(b"\r\n".join([*head, b"", b"{"]))
        assert b" 401 " in line.recv(65536).partition(b"\r\n")[0]


def test_a_body_that_cannot_be_read_is_not_parsed_for_a_stranger(api: ApiProcess) -> None:
    """CWE-209: an error of the parser would tell of the route behind the gate."""
    answer = httpx2.post(
        f"{api.url}{JOBS}", content=b"[" * 10_000, headers={"Content-Type": "application/json"}, verify=NO_TLS
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


# --- keys ---------------------------------------------------------------------------------------------------------


def test_keyids_cannot_be_told_apart(api: ApiProcess, database: Engine) -> None:
    """CWE-204, CWE-203: an unknown keyid, a wrong secret, a revoked and an expired key have one answer."""
    known, text = a_key(database, "alice")
    revoked, expired = a_key(database, "alice"), a_key(database, "alice")
    with database.begin() as connection:
        for (key_id, _), column in ((revoked, "revoked_at"), (expired, "expires_at")):
            statement = update(key_table).where(key_table.c.id == key_id)
            connection.execute(statement.values({column: func.clock_timestamp()}))
    assert bearer(api, text).status_code == 200
    wrong = f"lethe_{known.replace('-', '')}_{'0' * 64}"
    unknown = f"lethe_{new_id().hex}_{'0' * 64}"
    answers = [bearer(api, key) for key in (wrong, unknown, revoked[1], expired[1], "lethe_x_y", "lethe_")]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    of_each = {"date", "x-request-id"}
    assert len({str(sorted((k, v) for k, v in each.headers.items() if k not in of_each)) for each in answers}) == 1


def test_a_key_that_was_revoked_while_in_use(api: ApiProcess, database: Engine, mallory: Attacker) -> None:
    """CWE-613: the key of whom was dismissed."""
    key_id, text = a_key(database, "mallory", Scope.JOBS_READ)
    assert bearer(api, text).status_code == 200
    assert mallory.ask("DELETE", f"/v1/keys/{key_id}").status_code == 204
    assert bearer(api, text).status_code == 401


def test_a_secret_under_another_keyid(api: ApiProcess, database: Engine) -> None:
    """CWE-287: half of one key and half of another."""
    (one, first), (two, second) = a_key(database, "alice"), a_key(database, "bob")
    for key_id, text in ((one, second), (two, first)):
        assert bearer(api, f"lethe_{key_id.replace('-', '')}_{text.rpartition('_')[2]}").status_code == 401


@pytest.mark.parametrize(
    "change", [str.upper, str.title, lambda key: key[:-1], lambda key: key + "0", lambda key: key.replace("_", "-")]
)
def test_a_key_that_is_nearly_right(api: ApiProcess, database: Engine, change: Any) -> None:
    """CWE-178, CWE-187: letter case and length count."""
    text = a_key(database, "alice")[1]
    assert bearer(api, text).status_code == 200
    assert bearer(api, change(text)).status_code == 401


@pytest.mark.parametrize("keyid", ["'%20OR%201=1--", "' OR 1=1--", "0' UNION SELECT 1--", "*", "%"])
def test_a_keyid_that_is_sql(api: ApiProcess, keyid: str) -> None:
    """CWE-89."""
    assert bearer(api, f"lethe_{keyid}_{'0' * 64}").status_code == 401


def test_what_the_database_keeps_is_no_key(api: ApiProcess, database: Engine) -> None:
    """CWE-836: a stolen digest must not be good in the place of the secret."""
    key_id, _ = a_key(database, "alice")
    with database.connect() as connection:
        digest = connection.scalar(key_table.select().with_only_columns(key_table.c.digest))
    assert digest is not None
    assert bearer(api, f"lethe_{key_id.replace('-', '')}_{digest.hex()}").status_code == 401


def test_a_key_cannot_give_itself_more(api: ApiProcess, database: Engine) -> None:
    """CWE-269: keys are made by admins alone."""
    everything_else = set(Scope) - {Scope.ADMIN}
    text = a_key(database, "mallory", *everything_else)[1]
    headers = {"Authorization": f"Bearer {text}"}
    answer = httpx2.post(f"{api.url}/v1/keys", json={"name": "x", "scopes": ["admin"]}, headers=headers)
    assert (answer.status_code, answer.json()["scopes"]) == (403, ["admin"])


def test_a_key_is_not_told_in_errors_or_logs(api: ApiProcess) -> None:
    """CWE-532, CWE-209."""
    secret = "lethe_deadbeef_" + "5ec2e7" * 10
    assert secret not in bearer(api, secret).text
    for token in (secret, KEY):
        assert token not in api.log()
    assert PEPPER not in api.log()


# --- another tenant's rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [{"tenant": "alice"}, {"tenant_id": "alice"}, {"owner": "alice"}, {"status": "admitted"}]
)
def test_a_body_cannot_name_the_tenant(mallory: Attacker, database: Engine, body: dict[str, str]) -> None:
    """CWE-915: mass assignment."""
    with database.begin() as connection:
        made = upload_rows.create(connection, "mallory", new_id(), name="a", length=3, ttl=3600.0)
        upload_rows.finish(connection, made.id, "a" * 64, 3600.0)
        job = add_job(connection, "mallory")
    model = {"name": "mine", "archive": str(made.id)}
    order = job.order
    ids = {"model": order.model_id, "triggered": order.triggered_id, "clean": order.clean_id}
    asked = {
        "/v1/models": model,
        "/v1/jobs": {name: str(each) for name, each in ids.items()},
        "/v1/keys": {"name": "x", "scopes": ["admin"]},
    }
    for path, good in asked.items():
        answer = mallory.ask("POST", path, json=good | body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), path


@pytest.mark.parametrize("name", ["tenant", "X-Tenant", "X-Lethe-Tenant", "X-Scope-OrgID"])
def test_neither_the_address_nor_a_header_names_the_tenant(mallory: Attacker, database: Engine, name: str) -> None:
    """CWE-639, CWE-807."""
    with database.begin() as connection:
        job = add_job(connection, "alice")
    for where in ({"params": {name: "alice"}}, {"headers": {name: "alice"}}):
        assert mallory.ask("GET", JOBS, **where).json()["data"] == []
        assert mallory.ask("GET", f"{JOBS}/{job.id}", **where).status_code == 404


def test_metadata_of_an_upload_does_not_name_the_tenant(mallory: Attacker, database: Engine) -> None:
    """CWE-639: tus metadata is only words."""
    words = f"tenant {base64.b64encode(b'alice').decode()}"
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "3", "Upload-Metadata": words}
    made = mallory.ask("POST", "/v1/uploads", headers=headers)
    assert made.status_code == 201
    with database.connect() as connection:
        found = upload_rows.get(connection, "mallory", made.headers["location"].rpartition("/")[2])
    assert found.tenant == "mallory"


def test_a_guessed_id_answers_a_condition_in_the_same_way(mallory: Attacker, database: Engine) -> None:
    """CWE-203: neither If-None-Match nor Prefer nor Range makes a difference between foreign and absent."""
    with database.begin() as connection:
        job = add_job(connection, "alice")
    conditions = {
        "If-None-Match": "*",
        "Prefer": "wait=1",
        "Range": "bytes=0-0",
        "If-Range": "x",
        "Last-Event-ID": "1",
    }
    for tail in ("", "/events", "/artifacts", "/artifacts/model.safetensors", "/report", "/metrics"):
        foreign = mallory.ask("GET", f"{JOBS}/{job.id}{tail}", headers=conditions)
        absent = mallory.ask("GET", f"{JOBS}/{UUID7}{tail}", headers=conditions)
        assert foreign.status_code == absent.status_code == 404
        assert foreign.text.replace(str(job.id), UUID7) == absent.text


def test_an_expired_upload_of_another_tenant_is_absent(mallory: Attacker, database: Engine) -> None:
    """CWE-203: `410 Gone` would say that it was there."""
    with database.begin() as connection:
        theirs = upload_rows.create(connection, "alice", new_id(), name="a", length=3, ttl=-1.0)
        own = upload_rows.create(connection, "mallory", new_id(), name="a", length=3, ttl=-1.0)
    assert mallory.ask("GET", f"/v1/uploads/{theirs.id}").status_code == 404
    assert mallory.ask("GET", f"/v1/uploads/{own.id}").status_code == 410


def test_an_admin_rules_its_own_tenant_alone(mallory: Attacker, api: ApiProcess, database: Engine) -> None:
    """CWE-639: keys of another tenant cannot be listed, rotated into the attacker's hand, or revoked."""
    key_id, text = a_key(database, "alice")
    assert key_id not in mallory.ask("GET", "/v1/keys").text
    assert mallory.ask("POST", f"/v1/keys/{key_id}/rotate").status_code == 404
    assert mallory.ask("DELETE", f"/v1/keys/{key_id}").status_code == 404
    assert bearer(api, text).status_code == 200


# --- tokens -------------------------------------------------------------------------------------------------------


def encoded(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], secret: bytes | None = None) -> str:
    """A token put together by hand; with `secret` signed by HMAC-SHA256."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    signature = hmac.digest(secret, signed.encode(), hashlib.sha256) if secret is not None else b""
    return f"{signed}.{encoded(signature)}"


def refuses(api: ApiProcess, token: str) -> bool:
    answer = bearer(api, token)
    return (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_good_token_passes(api: ApiProcess, issuer: Issuer) -> None:
    """What the attacks below differ from."""
    assert bearer(api, issuer.token()).status_code == 200
    assert bearer(api, issuer.token("ec")).status_code == 200
    assert bearer(api, issuer.token(), "/v1/keys").status_code == 403


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature(api: ApiProcess, issuer: Issuer, algorithm: str) -> None:
    """CVE-2015-9235, RFC 8725 section 3.1: `alg` none, in any case."""
    assert refuses(api, forged({"alg": algorithm, "typ": "JWT", "kid": "rsa"}, issuer.claims()))


@pytest.mark.parametrize("algorithm", ["HS256", "RS256"])
def test_the_public_key_as_a_shared_secret(api: ApiProcess, issuer: Issuer, algorithm: str) -> None:
    """CVE-2016-10555, CVE-2022-29217: key confusion. Everybody has the public key."""
    header = {"alg": algorithm, "kid": "rsa"}
    for secret in (issuer.public_pem("rsa"), issuer.answers["/jwks"][2], b"", b"\x00"):
        assert refuses(api, forged(header, issuer.claims(), secret))


def test_a_symmetric_key_among_the_issuers_keys(api: ApiProcess, issuer: Issuer) -> None:
    """RFC 8725, section 3.2: only algorithms that we chose. A published secret is none."""
    secret = b"s" * 32
    issuer.publish({"kty": "oct", "k": encoded(secret), "kid": "shared", "alg": "HS256"})
    assert refuses(api, forged({"alg": "HS256", "kid": "shared"}, issuer.claims(), secret))
    issuer.publish()


def test_an_algorithm_that_is_not_the_keys(api: ApiProcess, issuer: Issuer) -> None:
    """RFC 8725, section 3.1: a key is used with one algorithm."""
    other = jwt.encode(issuer.claims(), issuer.keys["rsa"], "PS256", {"kid": "rsa"})
    assert refuses(api, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"}, {"iss": None}, {"iss": ""}, {"iss": "ISSUER/"}, {"iss": ["ISSUER"]},
        {"aud": "https://another.example"}, {"aud": None}, {"aud": []}, {"aud": AUDIENCE.upper()},
        {"aud": AUDIENCE + "/x"},
        {"exp": 1}, {"exp": None}, {"exp": "never"}, {"exp": -1},
        {"nbf": 4_000_000_000}, {"iat": 4_000_000_000}, {"nbf": "now"},
        {"sub": None}, {"sub": ""}, {"sub": 7}, {"sub": "a\r\nX-Admin: 1"},
    ],
    ids=repr,
)  # fmt: skip
def test_claims_that_are_not_for_us_or_not_for_now(api: ApiProcess, issuer: Issuer, changes: dict[str, Any]) -> None:
    """RFC 7519, section 4.1; RFC 8725, sections 3.8 and 3.9; CVE-2024-53861 (a part of the issuer)."""
    spelled = {name: _named(value, issuer.url) for name, value in changes.items()}
    claims = {name: value for name, value in issuer.claims(**spelled).items() if value is not None}
    signed = f"{encoded({'alg': 'RS256', 'kid': 'rsa'})}.{encoded(claims)}"
    signature = RS256.sign(signed.encode(), issuer.keys["rsa"])
    assert refuses(api, f"{signed}.{encoded(signature)}")


def _named(value: Any, url: str) -> Any:
    return [url] if value == ["ISSUER"] else value.replace("ISSUER", url) if isinstance(value, str) else value


def test_a_token_that_has_just_expired(api: ApiProcess, issuer: Issuer) -> None:
    """CWE-613: beyond the small leeway for clocks."""
    now = int(time.time())
    assert refuses(api, issuer.token(iat=now - 600, exp=now - 60))


@pytest.mark.parametrize("kid", ["unknown", "../../etc/passwd", "rsa' OR '1'='1", "", None, 7, ["rsa"], {"a": 1}])
def test_a_kid_that_names_no_published_key(api: ApiProcess, issuer: Issuer, kid: Any) -> None:
    """RFC 8725, section 3.10: `kid` as a path, as SQL, as another type."""
    assert refuses(api, forged({"alg": "RS256", "kid": kid}, issuer.claims(), b"x"))


def test_a_key_of_the_attacker_under_a_known_kid(api: ApiProcess, issuer: Issuer) -> None:
    """CWE-347."""
    assert refuses(api, jwt.encode(issuer.claims(), new_key("rsa"), "RS256", {"kid": "rsa"}))


def test_keys_that_the_token_brings_along(api: ApiProcess, issuer: Issuer) -> None:
    """CVE-2018-0114, RFC 8725 section 3.10: `jwk`, `jku` and `x5u` are the attacker's words."""
    own = new_key("rsa")
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key()))
    asked = len(issuer.asked)
    for header in ({"jwk": jwk}, {"jku": f"{issuer.url}/evil"}, {"x5u": f"{issuer.url}/evil"}, {"x5c": ["MII"]}):
        assert refuses(api, jwt.encode(issuer.claims(), own, "RS256", {"kid": "rsa", **header}))
    assert "/evil" not in issuer.asked[asked:]


def test_an_extension_that_is_not_understood(api: ApiProcess, issuer: Issuer) -> None:
    """RFC 7515, section 4.1.11: a critical header that the reader does not know makes the token void."""
    assert refuses(api, issuer.token(headers={"crit": ["lethe-only"], "lethe-only": True}))


def test_a_signature_with_a_bit_changed_or_of_zeros(api: ApiProcess, issuer: Issuer) -> None:
    """CVE-2022-21449: an ECDSA signature of zeros; and CWE-347."""
    for kid, size in (("ec", 64), ("rsa", 256)):
        head, body, signature = issuer.token(kid).split(".")
        data = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        for bad in (bytes(size), bytes([data[0] ^ 1]) + data[1:], data[:-1], b""):
            assert refuses(api, f"{head}.{body}.{encoded(bad)}")


def test_claims_changed_under_a_good_signature(api: ApiProcess, issuer: Issuer) -> None:
    """CWE-345."""
    head, _, signature = issuer.token().split(".")
    assert refuses(api, f"{head}.{encoded(issuer.claims(scope='admin'))}.{signature}")


@pytest.mark.parametrize(
    "token", ["a.b.c", "..", "eyJ.eyJ.", "a.b.c.d", "a.b.c.d.e", "e30.e30.e30", "W10.W10.W10", "bnVsbA.bnVsbA."]
)
def test_what_only_looks_like_a_token(api: ApiProcess, token: str) -> None:
    """CWE-20, CWE-755: no parser's error comes out as a fault of ours."""
    assert refuses(api, token)


def test_a_token_that_nests_deeply(api: ApiProcess, issuer: Issuer) -> None:
    """CWE-674: recursion in a parser of what a stranger sends."""
    deep = b'{"alg":' + b"[" * 2800
    assert refuses(api, f"{encoded(deep)}.{encoded(b'{}')}.x")


def test_a_token_whose_claims_come_twice(api: ApiProcess, issuer: Issuer) -> None:
    """RFC 8725, section 3: the signature covers what was signed, so a repeated name cannot be slipped in."""
    head, body, signature = issuer.token().split(".")
    claims = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    twice = claims[:-1] + b',"tenant":"default","scope":"admin"}'
    assert refuses(api, f"{head}.{encoded(twice)}.{signature}")


def test_a_tenant_of_a_token_is_that_of_no_key(api: ApiProcess, issuer: Issuer, database: Engine) -> None:
    """CWE-639: the claim alone says whose rows are seen."""
    with database.begin() as connection:
        job = add_job(connection, "alice")
    assert bearer(api, issuer.token(tenant="alice"), f"{JOBS}/{job.id}").status_code == 200
    assert bearer(api, issuer.token(tenant="acme"), f"{JOBS}/{job.id}").status_code == 404
    assert bearer(api, issuer.token(tenant=None), f"{JOBS}/{job.id}").status_code == 403


def test_an_issuer_that_is_away_opens_nothing(
    database_url: str, redis_url: str, tmp_path: Any, issuer: Issuer
) -> None:
    """CWE-636: failing open. Keys of ours go on."""
    away = {"LETHE_OIDC_ISSUER": "http://127.0.0.1:9", "LETHE_OIDC_AUDIENCE": AUDIENCE}
    with running_api(database_url, redis_url, tmp_path, **away) as api:
        answer = bearer(api, issuer.token(iss="http://127.0.0.1:9"))
        assert (answer.status_code, answer.json()["code"]) == (503, "dependency-down")
        assert int(answer.headers["retry-after"]) > 0
        assert bearer(api, KEY).status_code == 200


def test_tokens_where_no_issuer_is_trusted(database_url: str, redis_url: str, tmp_path: Any, issuer: Issuer) -> None:
    """CWE-1188: nothing is trusted by default."""
    with running_api(database_url, redis_url, tmp_path) as api:
        assert refuses(api, issuer.token())
