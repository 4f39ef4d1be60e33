"""The layers by name: what is asked for, what is lacking, and what the operator is told."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from app.domain.confinement import LAYERS, Confinement, named_layers
from app.settings import Settings
from tests.conftest import ROOT

SERVERS = {"DATABASE_URL": "postgresql://x", "REDIS_URL": "redis://x"}


def test_layers_are_named_in_a_list() -> None:
    assert named_layers("none") == named_layers("") == frozenset()
    assert named_layers(" landlock, seccomp,") == {"landlock", "seccomp"}


def test_a_layer_that_does_not_exist_stops_the_start() -> None:
    with pytest.raises(ValidationError, match="no such layer: firewall; there are dies-with-parent"):
        Settings.model_validate(SERVERS | {"sandbox_without": "landlock,firewall"})
    assert Settings.model_validate(SERVERS).sandbox_gone_without == frozenset()
    named = Settings.model_validate(SERVERS | {"sandbox_without": "landlock"})
    assert named.sandbox_gone_without == {"landlock"}


def test_what_is_missing_is_told_with_the_way_out() -> None:
    whole = Confinement()
    assert (whole.holds, whole.in_force, whole.lack()) == (True, LAYERS, "")
    less = Confinement(("landlock",), {"empty-network": "Operation not permitted"})
    assert not less.holds
    assert "landlock" not in less.in_force
    assert "empty-network (Operation not permitted)" in less.lack()
    assert "LETHE_SANDBOX_WITHOUT=empty-network,landlock " in less.lack()
    assert "empty-network" in less.in_words()
    broken = Confinement(fault="It did not start.")
    assert not broken.holds
    assert "It did not start." in broken.lack()
    assert Confinement(("landlock",)).in_words() == "without landlock, as asked"


def test_the_page_on_threats_has_a_line_for_each_layer() -> None:
    part = (ROOT / "docs/threat-model.md").read_text().split("## The sandbox, layer by layer")[1]
    assert tuple(re.findall(r"^\| `([a-z-]+)` \|", part, re.MULTILINE)) == LAYERS
    compose = (ROOT / "docker-compose.yml").read_text()
    (named,) = re.findall(r"LETHE_SANDBOX_WITHOUT:-([a-z,-]+)}", compose)
    assert named_layers(named) == {"empty-network"}


def test_it_survives_the_way_through_json() -> None:
    for found in (Confinement(), Confinement(("seccomp",), {"landlock": "why"}, "fault")):
        assert Confinement.from_dict(found.to_dict()) == found
