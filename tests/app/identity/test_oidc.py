"""Tokens of an issuer that runs as a real HTTP server: whose keys are fetched, from where, and how often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.domain.errors import DependencyDown, Forbidden, Unauthenticated
from app.domain.identity import Scope
from app.identity import oidc
from app.identity.oidc import TokenReader
from tests.issuer import AUDIENCE, DISCOVERY, Issuer, new_key, running_issuer


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


def reader(issuer: Issuer, jwks_url: str | None = None, tenant_claim: str = "tenant") -> TokenReader:
    return TokenReader(oidc.Issuer(issuer.url, AUDIENCE, jwks_url, tenant_claim))


@pytest.mark.parametrize("kid", ["rsa", "ec"])
def test_a_good_token_names_its_caller(issuer: Issuer, kid: str) -> None:
    caller = reader(issuer).read(issuer.token(kid))
    assert (caller.tenant, caller.name, caller.scopes) == ("acme", "oidc:ada", frozenset({Scope.JOBS_READ}))


def test_scopes_that_are_not_ours_allow_nothing(issuer: Issuer) -> None:
    for claim in ("openid email", "", None, ["jobs:read"], 7, "jobs:readx", "JOBS:READ"):
        assert reader(issuer).read(issuer.token(scope=claim)).scopes == frozenset()


def test_the_claim_of_the_tenant_can_be_another(issuer: Issuer) -> None:
    token = issuer.token(tenant=None, **{"https://lethe.example/team": "blue"})
    assert reader(issuer, tenant_claim="https://lethe.example/team").read(token).tenant == "blue"


@pytest.mark.parametrize("tenant", [None, "", "A team", 7, ["acme"], "../default"])
def test_a_token_without_a_tenant_is_forbidden(issuer: Issuer, tenant: object) -> None:
    with pytest.raises(Forbidden, match="tenant"):
        reader(issuer).read(issuer.token(tenant=tenant))


@pytest.mark.parametrize("subject", [None, "", "a\nb", "x" * 256])
def test_a_subject_that_would_spoil_a_log_is_refused(issuer: Issuer, subject: str | None) -> None:
    with pytest.raises(Unauthenticated):
        reader(issuer).read(issuer.token(sub=subject))


def test_keys_are_fetched_once_for_many_tokens(issuer: Issuer) -> None:
    one = reader(issuer)
    for _ in range(5):
        one.read(issuer.token())
    assert issuer.asked == [DISCOVERY, "/jwks"]


def test_a_named_place_needs_no_discovery(issuer: Issuer) -> None:
    reader(issuer, f"{issuer.url}/jwks").read(issuer.token())
    assert issuer.asked == ["/jwks"]


def test_unknown_kids_do_not_make_us_ask_the_issuer_each_time(issuer: Issuer) -> None:
    one = reader(issuer)
    issuer.keys["strange"] = new_key("rsa")
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            one.read(issuer.token("strange"))
    assert issuer.asked == [DISCOVERY, "/jwks"]


def test_a_key_that_the_issuer_adds_is_found(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    one = reader(issuer)
    one.read(issuer.token())
    issuer.keys["next"] = new_key("rsa")
    issuer.publish()
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0.0)
    assert one.read(issuer.token("next")).tenant == "acme"


def test_a_key_that_the_issuer_withdraws_is_forgotten(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    one, token = reader(issuer), issuer.token()
    one.read(token)
    del issuer.keys["rsa"]
    issuer.publish()
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(oidc, "FRESH_SECONDS", 0.0)
    with pytest.raises(Unauthenticated):
        one.read(token)


def test_an_issuer_that_is_away_is_not_asked_again_at_once(issuer: Issuer) -> None:
    one = reader(issuer)
    issuer.answers = {}
    for _ in range(3):
        with pytest.raises(DependencyDown):
            one.read(issuer.token())
    assert issuer.asked == [DISCOVERY]


def test_an_issuer_that_is_away_does_not_stop_known_keys(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    one = reader(issuer)
    one.read(issuer.token())
    issuer.answers = {}
    monkeypatch.setattr(oidc, "PAUSE_SECONDS", 0.0)
    assert one.read(issuer.token("ec")).tenant == "acme"


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"Location": "/elsewhere"}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"keys": []}'),
        (200, {}, b'{"keys": 7}'),
        (200, {}, b"[" * 200_000),
        (200, {}, b'{"keys": ["' + b"x" * 2_000_000 + b'"]}'),
        (500, {}, b""),
    ],
)
def test_an_answer_that_is_no_set_of_keys_opens_nothing(
    issuer: Issuer, answer: tuple[int, dict[str, str], bytes]
) -> None:
    issuer.answers["/elsewhere"] = issuer.answers["/jwks"]
    issuer.answers["/jwks"] = answer
    with pytest.raises(DependencyDown):
        reader(issuer).read(issuer.token())
    assert "/elsewhere" not in issuer.asked


@pytest.mark.parametrize(
    "document",
    [
        '{"issuer": "https://evil.example", "jwks_uri": "URL/jwks"}',
        '{"issuer": "URL", "jwks_uri": "http://issuer.example/jwks"}',
        '{"issuer": "URL", "jwks_uri": "file:///etc/passwd"}',
        '{"issuer": "URL"}',
    ],
)
def test_a_discovery_that_leads_elsewhere_is_not_followed(issuer: Issuer, document: str) -> None:
    issuer.answers[DISCOVERY] = (200, {}, document.replace("URL", issuer.url).encode())
    with pytest.raises(DependencyDown):
        reader(issuer).read(issuer.token())
    assert "/jwks" not in issuer.asked
