"""A short slice of the faults, and one broken build that must be found; `make faults` runs all of them in full."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.of_jobs import claimers_race
from tests.faults.of_servers import postgres_away
from tests.faults.of_uploads import api_killed
from tests.faults.outcome import Outcome
from tests.faults.site import SHORT


@pytest.mark.parametrize(
    "fault",
    [
        lambda: claimers_race(60, SHORT),
        lambda: postgres_away(1, SHORT, away_seconds=1.0, jobs_each=1),
        lambda: api_killed(2, SHORT),
    ],
    ids=["claimers", "PostgreSQL", "API killed"],
)
def test_a_fault_is_survived(fault: Callable[[], Outcome]) -> None:
    outcome = fault()
    assert (outcome.lost, outcome.survived) == ([], outcome.tries)


def test_a_build_that_acknowledges_what_it_has_not_written_is_found() -> None:
    assert not api_killed(4, SHORT, build="acknowledge-first").passed
