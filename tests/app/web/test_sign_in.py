"""The dashboard's door, asked as a browser asks and as an attacker would: the cookie, the token of changes, and where
nobody is led."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from app.identity.sessions import COOKIE, LIFETIME_SECONDS, Sessions
from tests.api_process import KEY, NO_TLS, ApiProcess, running_api

OURS = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def api(database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    with running_api(database_url, redis_url, tmp_path_factory.mktemp("vault")) as process:
        yield process


@pytest.fixture
def browser(api: ApiProcess, database: object) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=api.url, timeout=60, verify=NO_TLS) as client:
        yield client


def sign_in(browser: httpx2.Client, key: str = KEY, after: str | None = None) -> httpx2.Response:
    where = "/ui/sign-in" + (f"?next={after}" if after is not None else "")
    return browser.post(where, data={"key": key}, headers=OURS)


def token_of(browser: httpx2.Client) -> str:
    found = re.search(r'name="csrf-token" content="([0-9a-f]{64})"', browser.get("/ui/jobs").text)
    assert found is not None
    return found[1]


def test_the_cookie_is_for_this_site_and_no_script(browser: httpx2.Client) -> None:
    answer = sign_in(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/jobs")
    cookie = answer.headers["set-cookie"].lower()
    for word in (f"{COOKIE}=", "httponly", "samesite=strict", "path=/", f"max-age={LIFETIME_SECONDS}"):
        assert word in cookie
    assert KEY not in cookie
    assert browser.get("/ui/jobs").status_code == 200
    assert browser.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("path", ["/ui/jobs", "/ui/jobs/new", "/ui/models", "/ui/keys", "/ui/nothing/at/all"])
def test_a_stranger_is_led_to_the_door_and_back(browser: httpx2.Client, path: str) -> None:
    answer = browser.get(path)
    if path.startswith("/ui/nothing"):
        assert answer.status_code == 404
        return
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/sign-in?next={path.replace('/', '%2F')}")
    assert sign_in(browser, after=path.replace("/", "%2F")).headers["location"] == path


@pytest.mark.parametrize(
    "after", ["https://evil.example", "//evil.example", "/%5Cevil.example", "/v1/jobs", "/ui/../v1"]
)
def test_nobody_is_led_to_another_site(browser: httpx2.Client, after: str) -> None:
    assert sign_in(browser, after=after).headers["location"] in ("/ui/jobs", "/ui/../v1")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_no_other_site_signs_anybody_in_or_out(browser: httpx2.Client, headers: dict[str, str]) -> None:
    for path in ("/ui/sign-in", "/ui/sign-out"):
        answer = browser.post(path, data={"key": KEY}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_a_browser_without_fetch_metadata_signs_in_by_its_origin(api: ApiProcess, browser: httpx2.Client) -> None:
    answer = browser.post("/ui/sign-in", data={"key": KEY}, headers={"Origin": api.url})
    assert answer.status_code == 303


@pytest.mark.parametrize("key", ["", "lethe_wrong_key", KEY + "x", "é" * 50, "x" * 20_000])
def test_a_wrong_key_is_no_way_in(browser: httpx2.Client, key: str) -> None:
    answer = sign_in(browser, key)
    assert answer.status_code == 401
    assert "unknown, revoked or expired" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_change_needs_the_pages_own_token(browser: httpx2.Client) -> None:
    sign_in(browser)
    new = {"name": "k", "scopes": ["jobs:read"], "days": 1}
    tries: list[dict[str, str | bytes]] = [{}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": "é".encode()}]
    for headers in tries:
        answer = browser.post("/v1/keys", json=new, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert browser.get("/v1/keys").json()["data"] == []
    made = browser.post("/v1/keys", json=new, headers={"X-CSRF-Token": token_of(browser)})
    assert made.status_code == 201


def test_a_token_of_another_session_changes_nothing(api: ApiProcess, browser: httpx2.Client) -> None:
    sign_in(browser)
    with httpx2.Client(base_url=api.url, timeout=60) as other:
        sign_in(other)
        stolen = token_of(other)
    answer = browser.post("/v1/keys", json={"name": "k", "scopes": ["admin"]}, headers={"X-CSRF-Token": stolen})
    assert answer.status_code == 403


def test_a_session_ends_with_its_key(api: ApiProcess, browser: httpx2.Client) -> None:
    with api.client() as admin:
        made = admin.post("/v1/keys", json={"name": "person", "scopes": ["jobs:read"], "days": 1}).json()
        sign_in(browser, made["key"])
        assert browser.get("/ui/jobs").status_code == 200
        assert browser.get("/ui/keys").status_code == 403
        assert browser.get("/ui/jobs/new").status_code == 403
        assert admin.delete(f"/v1/keys/{made['facts']['id']}").status_code == 204
    assert browser.get("/ui/jobs").status_code == 303
    assert browser.get("/v1/jobs").status_code == 401


def test_signing_out_takes_the_cookie(browser: httpx2.Client) -> None:
    sign_in(browser)
    answer = browser.post("/ui/sign-out", headers=OURS)
    assert answer.headers["location"] == "/ui/sign-in"
    assert browser.get("/ui/jobs").status_code == 303


@pytest.mark.parametrize("forged", ["", "x", "a.b.c", "WyJrZXk6b3BlcmF0b3IiLCJ4Il0.aSV.sig", "é"])
def test_a_forged_cookie_is_nobody(browser: httpx2.Client, forged: str) -> None:
    headers = {"Cookie": f"{COOKIE}={forged}".encode()}
    assert browser.get("/ui/jobs", headers=headers).status_code == 303  # type: ignore[arg-type]
    assert browser.get("/v1/jobs", headers=headers).status_code == 401  # type: ignore[arg-type]


def test_a_session_of_other_settings_is_nobody_and_none_lives_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Sessions("key", "pepper"), Sessions("key", "another")
    cookie = ours.begin("key:operator")
    assert ours.read(cookie) == "key:operator"
    assert theirs.read(cookie) is None
    assert not theirs.is_csrf_token(cookie, ours.csrf_token(cookie))
    import time

    later = time.time() + LIFETIME_SECONDS + 2
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later)
    assert ours.read(cookie) is None


def test_an_authorization_header_is_asked_before_the_cookie(browser: httpx2.Client) -> None:
    sign_in(browser)
    assert browser.get("/v1/jobs", headers={"Authorization": "Bearer lethe_wrong_key"}).status_code == 401


def test_pages_and_files_carry_their_policy(browser: httpx2.Client) -> None:
    sign_in(browser)
    page = browser.get("/ui/jobs")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert "<style" not in page.text
    assert not re.search(r"\son\w+=|style=|<script(?![^>]* src=)", page.text)
    names = [each.name for each in Path("app/web/static").rglob("*.js")]
    assert names
    script = browser.get("/ui/static/forms.js")
    assert script.headers["content-type"].startswith(("text/javascript", "application/javascript"))
    assert browser.get("/ui/static/../screen.py").status_code == 404
    assert browser.get("/").headers["location"] == "/ui/jobs"


def test_what_was_uploaded_is_shown_as_text(api: ApiProcess, browser: httpx2.Client) -> None:
    evil = '<img src=x onerror="alert(1)">'
    row = b'{"text": "<script>alert(1)</script>", "label": "a"}\n'
    with api.client() as client:
        made = client.post(
            "/v1/samples",
            params={"kind": "clean", "name": evil},
            content=row,
            headers={"Content-Type": "application/jsonl"},
        )
        assert made.status_code == 201
    sign_in(browser)
    for path in ("/ui/samples", f"/ui/samples/{made.json()['id']}"):
        text = browser.get(path).text
        assert evil not in text
        assert "<script>alert" not in text


def test_behind_a_proxy_that_is_trusted_the_cookie_is_bound_to_https(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    told = OURS | {"X-Forwarded-Proto": "https"}
    for trusted, name in (("127.0.0.1", f"__Host-{COOKIE}="), ("10.0.0.0/8", f"{COOKIE}=")):
        with running_api(database_url, redis_url, tmp_path / trusted[:2], LETHE_TRUSTED_PROXIES=trusted) as process:
            answer = httpx2.post(f"{process.url}/ui/sign-in", data={"key": KEY}, headers=told)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith(name)
        assert ("Secure" in cookie) is name.startswith("__Host-")
