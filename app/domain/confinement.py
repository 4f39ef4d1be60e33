"""The layers of the sandbox by name, and what a worker says of them.

A layer is in force, or gone without because the operator named it in LETHE_SANDBOX_WITHOUT, or missing because this
machine does not give it. While one is missing, no untrusted work is done: that is what `lack` explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# In the order in which the child applies them (`workers.confine`).
LAYERS = (
    "dies-with-parent",
    "resource-limits",
    "empty-network",
    "no-capabilities",
    "no-new-privileges",
    "landlock",
    "seccomp",
)
NONE = "none"


@dataclass(frozen=True, slots=True)
class Confinement:
    """`missing` gives the machine's reason for each layer; `fault` why a child cannot even be started or used."""

    without: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def in_force(self) -> tuple[str, ...]:
        return tuple(name for name in LAYERS if name not in self.without and name not in self.missing)

    @property
    def holds(self) -> bool:
        """Whether untrusted work may be done."""
        return not self.missing and not self.fault

    def lack(self) -> str:
        """What keeps the worker from untrusted work and how to mend it; empty where it holds."""
        if self.holds:
            return ""
        if self.fault:
            return f"The sandbox does not work here, so untrusted work is refused: {self.fault}"
        reasons = ", ".join(f"{name} ({reason})" for name, reason in self.missing.items())
        named = ",".join(name for name in LAYERS if name in self.without or name in self.missing)
        return (
            f"The sandbox lacks {reasons}, so untrusted work is refused. Let the machine give it"
            f" (docs/threat-model.md says how), or set LETHE_SANDBOX_WITHOUT={named} to go without."
        )

    def in_words(self) -> str:
        """One line, for people."""
        if not self.holds:
            return f"incomplete: untrusted work waits ({', '.join(self.missing) or self.fault})"
        return f"without {', '.join(self.without)}, as asked" if self.without else "every layer is in force"

    def to_dict(self) -> dict[str, Any]:
        return {
            "in_force": list(self.in_force),
            "without": list(self.without),
            "missing": dict(self.missing),
            "fault": self.fault,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Confinement:
        return cls(tuple(data["without"]), dict(data["missing"]), data["fault"])


def named_layers(text: str) -> frozenset[str]:
    """The layers of a comma-separated list; none for an empty one and for `none`. Raises ValueError."""
    names = {name.strip() for name in text.split(",")} - {"", NONE}
    if unknown := sorted(names - set(LAYERS)):
        raise ValueError(f"no such layer: {', '.join(unknown)}; there are {', '.join(LAYERS)}")
    return frozenset(names)
