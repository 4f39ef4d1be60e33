"""The measurement of speed: a peer counts only where it finds the loop's squares, a figure knows whether its goal is
met, and what is measured by turns is measured equally often."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.speed import fisher
from benchmarks.speed.figures import Figure, by_turns
from benchmarks.speed.subjects import Size

TINY = Size(layers=2, width=32, heads=2, rows=10, tokens=12, batch=4)


@pytest.fixture(scope="module")
def ground() -> fisher.Ground:
    return fisher.Ground(TINY, torch.device("cpu"))


def test_peers_that_run_find_the_squares_of_the_loop_and_so_do_we(ground: fisher.Ground) -> None:
    exact = fisher._scaled(fisher.loop(ground))
    running, why = fisher._fit(ground, exact)
    assert {"loop", "vmap"} <= set(running)
    assert set(running) | set(why) == set(fisher.PEERS)
    assert fisher._error(fisher.ours(ground), exact) < fisher.AGREE


def test_a_peer_with_other_squares_does_not_count(ground: fisher.Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(where: fisher.Ground) -> fisher.Sums:
        first, *rest = fisher.loop(where)
        return [2 * first, *rest]

    monkeypatch.setattr(fisher, "PEERS", {"wrong": wrong})
    running, why = fisher._fit(ground, fisher._scaled(fisher.loop(ground)))
    assert running == {}
    assert "other squares" in why["wrong"]


def test_a_figure_knows_its_goal() -> None:
    assert Figure("x", 1.5, 1.5).met
    assert not Figure("x", 1.6, 1.5).met
    assert Figure("x", 3.0, 3.0, "at least").met
    assert Figure("x", None, 1.0).met is None
    assert Figure("x", 1.0).met is None
    assert Figure("x", 1.6, 1.5, otherwise=(1.9, 2.0)).met
    assert not Figure("x", 1.6, 1.5, otherwise=(2.1, 2.0)).met


def test_by_turns_each_is_run_as_often() -> None:
    calls: Counter[str] = Counter()
    seconds = by_turns({name: (lambda name=name: calls.update([name])) for name in "ab"}, 3)  # type: ignore[misc]
    assert calls == {"a": 4, "b": 4}
    assert set(seconds) == {"a", "b"}
