"""The life of a job as a graph, and its progress."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.identity import DEFAULT_TENANT
from app.domain.ids import new_id
from app.domain.job import ALLOWED_MOVES, TERMINAL, Job, JobOrder, JobStatus, Phase
from app.domain.progress import STRETCHES, estimated_finish, share_done

START = datetime(2026, 1, 1, tzinfo=UTC)


def reachable(start: JobStatus) -> set[JobStatus]:
    seen, todo = set(), [start]
    while todo:
        seen.add(status := todo.pop())
        todo += [to for to in ALLOWED_MOVES[status] if to not in seen]
    return seen


def test_every_status_has_its_moves_and_can_be_reached() -> None:
    assert set(ALLOWED_MOVES) == set(JobStatus) == reachable(JobStatus.QUEUED)


def test_every_status_leads_to_an_end() -> None:
    for status in JobStatus:
        assert reachable(status) & TERMINAL


def test_a_result_is_final_and_other_ends_may_only_be_tried_again() -> None:
    assert not ALLOWED_MOVES[JobStatus.SUCCEEDED]
    for status in TERMINAL - {JobStatus.SUCCEEDED}:
        assert ALLOWED_MOVES[status] == {JobStatus.QUEUED}


def test_a_cancel_is_never_overtaken() -> None:
    assert ALLOWED_MOVES[JobStatus.CANCELLING] == {JobStatus.CANCELLED}


def test_phases_share_the_run_without_a_gap() -> None:
    ends = [0.0] + [STRETCHES[phase][1] for phase in Phase]
    assert [STRETCHES[phase][0] for phase in Phase] == ends[:-1]
    assert ends[-1] == 1.0


@given(st.sampled_from(Phase), st.floats(-1, 2), st.floats(-1, 2))
def test_progress_grows_within_a_phase(phase: Phase, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0.0 <= share_done(phase, low) <= share_done(phase, high) <= 1.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, START + timedelta(seconds=40)),
        ({"progress": 0.0}, None),
        ({"started_at": None}, None),
        ({"status": JobStatus.SUCCEEDED}, None),
    ],
)
def test_estimated_finish(changes: dict[str, object], expected: datetime | None) -> None:
    order = JobOrder(new_id(), new_id(), new_id(), None, "lya", {}, {}, 0, {})
    job = Job(
        id=new_id(), tenant=DEFAULT_TENANT, order=order,
        status=JobStatus.RUNNING, phase=Phase.ASCENT, progress=0.25, version=1, token=1,
        attempts=1, verdict=None, failure=None, created_at=START, updated_at=START + timedelta(seconds=10),
        started_at=START, finished_at=None,
    )  # fmt: skip
    assert estimated_finish(replace(job, **changes)) == expected  # type: ignore[arg-type]
