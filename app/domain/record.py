"""Frozen dataclasses as plain JSON and back: how figures travel and are kept.

Guarantees: the JSON holds neither NaN nor infinity; what was written comes back unchanged.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Self

from app.domain.recipe import Policy


class Record:
    """A frozen dataclass that turns into plain JSON and back. Unknown names in the JSON are ignored."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: None in place of NaN and infinity."""
        return {each.name: _encode(getattr(self, each.name)) for each in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        hints = _hints(cls)
        return cls(**{name: _decode(hint, data[name]) for name, hint in hints.items() if name in data})


def _encode(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return value.to_dict()  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    return value


def _decode(hint: Any, value: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(next(a for a in args if a is not types.NoneType), value)
    if origin is tuple:
        return tuple(_decode(args[0], item) for item in value)
    if origin is Mapping or origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {key: _decode(args[1], item) for key, item in value.items()}
    if hint is Policy:
        return Policy.of(value)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint.from_dict(value)  # type: ignore[attr-defined]
    return float(value) if hint is float else value


def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {each.name: hints[each.name] for each in fields(cls)}
