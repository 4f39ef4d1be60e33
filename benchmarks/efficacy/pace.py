"""How long what is left will take: the mean of what the same kind of work took, else a figure measured beforehand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from benchmarks.corpora import Format
from benchmarks.efficacy.plan import Case, Cell

# Seconds on two cores, for a trojan with its twin and for one cell. The first of its kind replaces them.
BEFOREHAND: dict[Format, tuple[float, float]] = {
    "synthetic": (60.0, 15.0),
    "sst2": (540.0, 240.0),
    "devign": (7200.0, 600.0),
}
Kind = tuple[str, str, str]


class Pace:
    """Keeps the seconds of each kind of work: preparing a case, and each method, per data set and base."""

    def __init__(self) -> None:
        self._seen: defaultdict[Kind, list[float]] = defaultdict(list)

    def saw_case(self, case: Case, seconds: float) -> None:
        self._seen[case.form, case.base, ""].append(seconds)

    def saw(self, cell: Cell, seconds: float) -> None:
        self._seen[cell.case.form, cell.case.base, cell.method].append(seconds)

    def of_case(self, case: Case) -> float:
        """Seconds to make the trojan and its twin and to measure both."""
        return self._mean([(case.form, case.base, "")]) or BEFOREHAND[case.form][0]

    def of(self, cell: Cell) -> float:
        """Seconds of a cell. A method that has not been seen is taken to be like the others."""
        form, base, method = cell.case.form, cell.case.base, cell.method
        alike = [kind for kind in self._seen if kind[:2] == (form, base) and kind[2]]
        return self._mean([(form, base, method)]) or self._mean(alike) or BEFOREHAND[form][1]

    def left(self, cells: Iterable[Cell], ready: Iterable[Case]) -> float:
        """Seconds for all `cells`, of which the cases in `ready` are made."""
        todo = list(cells)
        cases = dict.fromkeys(cell.case for cell in todo)
        return sum(map(self.of, todo)) + sum(self.of_case(case) for case in cases if case not in set(ready))

    def _mean(self, kinds: Iterable[Kind]) -> float:
        """0.0 where nothing was seen."""
        seen = [seconds for kind in kinds for seconds in self._seen.get(kind, [])]
        return sum(seen) / len(seen) if seen else 0.0
