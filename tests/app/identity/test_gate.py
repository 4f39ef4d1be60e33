"""The gate without HTTP: what it reads, what it remembers, and that no API is built that nobody could enter."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, event, update

from app.domain.errors import Unauthenticated
from app.domain.identity import KeyOrder, Scope, is_tenant
from app.identity import api_keys, gate
from app.identity.gate import Gate
from app.main import create_app
from app.settings import Settings
from app.store.tables import api_keys as t

PEPPER = "a pepper of a gate under test, long enough"
PLACES = {"DATABASE_URL": "postgresql://nowhere/x", "REDIS_URL": "redis://nowhere"}


def a_key(database: Engine, *scopes: Scope, tenant: str = "acme") -> tuple[str, str]:
    made, text = api_keys.make(database, PEPPER, KeyOrder(tenant, "test", frozenset(scopes or Scope), None), "test")
    return str(made.id), text


def test_a_key_names_its_caller(database: Engine) -> None:
    key_id, text = a_key(database, Scope.JOBS_READ)
    caller = Gate(database, None, PEPPER).admit([f"Bearer {text}"])
    assert (caller.tenant, caller.name, caller.scopes) == ("acme", f"key:{key_id}", frozenset({Scope.JOBS_READ}))


def test_polling_costs_one_read_of_the_key_in_a_while(database: Engine) -> None:
    _, text = a_key(database)
    entrance, statements = Gate(database, None, PEPPER), []
    entrance.admit([f"Bearer {text}"])
    event.listen(database, "before_cursor_execute", lambda *call: statements.append(call[2]))
    for _ in range(50):
        entrance.admit([f"Bearer {text}"])
    assert len([each for each in statements if "SELECT" in each and "api_keys" in each]) < 50
    assert not [each for each in statements if "UPDATE" in each]


def test_what_is_remembered_is_bounded(database: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "REMEMBERED_KEYS", 3)
    entrance = Gate(database, None, PEPPER)
    keys = [a_key(database)[1] for _ in range(5)]
    for text in keys * 2:
        assert entrance.admit([f"Bearer {text}"]).tenant == "acme"
    assert len(entrance._known) == 3


def test_a_digest_that_is_copied_to_another_key_opens_nothing(database: Engine) -> None:
    """Who can write to the database, but has no pepper, cannot give a secret of theirs to a key of somebody else."""
    (mine, text), (other, _) = a_key(database, tenant="mine"), a_key(database, tenant="other")
    with database.begin() as connection:
        digest = connection.scalar(t.select().with_only_columns(t.c.digest).where(t.c.id == mine))
        connection.execute(update(t).where(t.c.id == other).values(digest=digest))
    forged = f"lethe_{other.replace('-', '')}_{text.rpartition('_')[2]}"
    with pytest.raises(Unauthenticated):
        Gate(database, None, PEPPER).admit([f"Bearer {forged}"])


def test_a_scope_of_a_later_version_allows_nothing(database: Engine) -> None:
    _, text = a_key(database)
    with database.begin() as connection:
        connection.execute(update(t).values(scopes=["jobs:read", "planets:write"]))
    assert Gate(database, None, PEPPER).admit([f"Bearer {text}"]).scopes == {Scope.JOBS_READ}


def test_an_api_that_nobody_could_enter_is_not_built() -> None:
    with pytest.raises(SystemExit, match="LETHE_API_KEY"):
        create_app(Settings.model_validate(PLACES))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"api_key": "lethe_a_b"}, "api_key"),
        ({"api_key": " "}, "api_key"),
        ({"key_pepper": "short"}, "key_pepper"),
        ({"oidc_issuer": "https://issuer.example"}, "LETHE_OIDC_AUDIENCE"),
        ({"oidc_audience": "lethe"}, "LETHE_OIDC_ISSUER"),
        ({"oidc_issuer": "http://issuer.example", "oidc_audience": "lethe"}, "oidc_issuer"),
        ({"oidc_issuer": "file:///etc/passwd", "oidc_audience": "lethe"}, "oidc_issuer"),
        ({"oidc_jwks_url": "ftp://issuer.example/jwks"}, "oidc_jwks_url"),
    ],
)
def test_a_weak_setting_stops_the_process_and_is_named(given: dict[str, str], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Settings.model_validate(PLACES | given)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "a\n", "ä", "a" * 64, None, 7, ["a"]])
def test_what_is_no_name_of_a_tenant(name: object) -> None:
    assert not is_tenant(name)
    assert is_tenant("a" * 63)
    assert is_tenant("team-7.example_x9")
