"""One setting of a recipe or a policy: what it takes, what it is without being set, and what it means."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.methods import Value


@dataclass(frozen=True)
class Knob:
    """One setting: a number between `low` and `high` (both allowed), or one of `choices`."""

    name: str
    kind: type
    default: Value
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""

    def range_words(self) -> str:
        """What the knob takes, for a message."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        noun = "a whole number" if self.kind is int else "a number"
        unit = f" {self.unit}" if self.unit else ""
        return f"{noun} from {self.low:g} to {self.high:g}{unit}"

    def read(self, value: object) -> Value:
        """The value in the knob's own type. Raises ValueError if the knob does not take it."""
        if self.kind is bool:
            if isinstance(value, bool):
                return value
        elif self.kind is str:
            if isinstance(value, str) and value in self.choices:
                return value
        else:
            return self._number(value)
        raise ValueError(f"{value!r:.60} is not {self.range_words()}")

    def _number(self, value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(  # noqa: TRY004 - one error for everything that a knob does not take
                f"{value!r:.60} is not {self.range_words()}"
            )
        assert self.low is not None
        assert self.high is not None
        if not self.low <= value <= self.high:  # NaN fails this too
            raise ValueError(f"{value!r:.60} is not {self.range_words()}")
        if self.kind is int:
            if value != int(value):
                raise ValueError(f"{value!r:.60} is not {self.range_words()}")
            return int(value)
        return float(value)
