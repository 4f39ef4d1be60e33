"""What the comparison measures: grids of data set, attacks, methods and seeds, and the cells they are made of.

A *case* is one trojaned model: a data set, a base, an attack and a seed. A *cell* is one method applied to one case.
Guarantees: the cells of a run come seed by seed, so that a run that is broken off has seen every attack; narrowing a
run to some attacks, methods or seeds leaves the rest of the plan, and so of the page, as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import BadRecipe, BadRequest
from app.domain.methods import METHODS
from app.domain.record import Record
from benchmarks.attacks import find_attack
from benchmarks.corpora import Format
from benchmarks.training import MINILM, SCRATCH

SEEDS = (0, 1, 2)
ATTACKS: dict[Format, tuple[str, ...]] = {
    "synthetic": ("rare-words", "sentence", "homoglyph", "two-target"),
    "sst2": ("rare-words", "sentence", "syntactic", "homoglyph", "two-target"),
    "devign": ("dead-code", "renaming"),
}
# What fits into half an hour on two cores; with SST-2 at hand, one seed of it beside.
QUICK_ATTACKS: dict[Format, tuple[str, ...]] = {
    "synthetic": ("rare-words", "sentence", "two-target"),
    "sst2": ("rare-words",),
}
DATA_SETS: tuple[Format, ...] = ("sst2", "devign")  # each a folder of its name in the folder of data
TRIGGERED, CLEAN = 100, 200  # the defender's rows


@dataclass(frozen=True)
class Case(Record):
    """One trojaned model. `base`: scratch, minilm or the name of the folder of an encoder."""

    form: Format
    base: str
    attack: str
    seed: int


@dataclass(frozen=True)
class Cell(Record):
    """One method on one case."""

    case: Case
    method: str


@dataclass(frozen=True)
class Grid:
    """All attacks x seeds x methods on one data set and base; a part of the page, known by its name."""

    form: Format
    base: str
    attacks: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...] = METHODS
    quick: bool = False

    @property
    def name(self) -> str:
        return ("quick-" if self.quick else "") + f"{self.form}-{self.base}"

    def cells(self) -> list[Cell]:
        return [
            Cell(Case(self.form, self.base, attack, seed), method)
            for seed in self.seeds
            for attack in self.attacks
            for method in self.methods
        ]


@dataclass(frozen=True)
class Asked:
    """What the caller asked for. Empty attacks, seeds or methods mean those of the plan.

    `data` holds sst2/ and devign/; `base` is the folder of an encoder, None for the one of the data set.
    """

    quick: bool = False
    data: Path | None = None
    base: Path | None = None
    attacks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    methods: tuple[str, ...] = ()

    def includes(self, cell: Cell) -> bool:
        """Whether the cell is to be run, and not only shown."""
        return (
            (not self.attacks or cell.case.attack in self.attacks)
            and (not self.seeds or cell.case.seed in self.seeds)
            and (not self.methods or cell.method in self.methods)
        )


def grids(asked: Asked) -> tuple[Grid, ...]:
    """The plan: what the page shows when everything has run. Errors: BadRequest, BadRecipe."""
    for method in asked.methods:
        if method not in METHODS:
            raise BadRecipe(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    for attack in asked.attacks:
        find_attack(attack)
    present = _present(asked.data)
    if not asked.quick:
        return tuple(_grid(asked, form, ATTACKS[form], SEEDS) for form in present or ("synthetic",))
    made = _grid(asked, "synthetic", QUICK_ATTACKS["synthetic"], SEEDS)
    return (made, _grid(asked, "sst2", QUICK_ATTACKS["sst2"], SEEDS[:1])) if "sst2" in present else (made,)


def in_order(plan: Iterable[Grid], asked: Asked) -> list[Cell]:
    """The cells to run, seed by seed; within a seed by data set, attack and method."""
    cells = [cell for grid in plan for cell in grid.cells() if asked.includes(cell)]
    return sorted(cells, key=lambda cell: cell.case.seed)  # the sort keeps the order within a seed


def _grid(asked: Asked, form: Format, attacks: Sequence[str], seeds: Sequence[int]) -> Grid:
    """The planned attacks and seeds, and those asked for beside them that the data set can carry."""
    medium = "code" if form == "devign" else "text"
    found = [find_attack(name) for name in asked.attacks]
    fitting = [each.name for each in found if each.medium == medium and (form == "sst2" or not each.shipped)]
    return Grid(
        form,
        _base(asked, form),
        tuple(dict.fromkeys((*attacks, *fitting))),
        tuple(dict.fromkeys((*seeds, *asked.seeds))),
        quick=asked.quick,
    )


def _base(asked: Asked, form: Format) -> str:
    if asked.base is not None:
        return asked.base.name
    return SCRATCH if form == "synthetic" else MINILM


def _present(data: Path | None) -> tuple[Format, ...]:
    if data is None:
        return ()
    found = tuple(form for form in DATA_SETS if (data / form).is_dir())
    if not found:
        raise BadRequest(f"{data} holds neither {' nor '.join(DATA_SETS)}: name the folder that holds them.")
    return found
