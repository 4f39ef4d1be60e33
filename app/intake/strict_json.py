"""JSON without ambiguity: UTF-8, no key twice, no NaN, no endless digits, no lone surrogates, bounded size.

Two readers that disagree on such a file would see two models; here it is no model at all.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from app.domain.errors import ModelRefused
from app.intake.rules import refusal, shown

MIB = 1024 * 1024
DIGITS = 40  # the longest number, in characters
DEPTH = 64  # deeper than any file of a checkpoint, and far from what stops Python
VALUES = 4_000_000  # an empty list takes two bytes of a file and eighty of memory
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(file: Path, name: str, limit: int) -> dict[str, Any]:
    """The JSON object in `file`; `name` is what the caller calls it. Raises ModelRefused (JS-*)."""
    size = file.stat().st_size
    if size > limit:
        raise refusal("JS-SIZE", name, f"it has {size:,} bytes, and at most {limit:,} are read.")
    return parse_object(file.read_bytes(), name)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """As `read_object`, on bytes."""
    try:
        text = data.decode("utf-8")
        if sum(map(text.count, ",[{")) > VALUES:
            raise refusal("JS-SIZE", name, f"it has over {VALUES:,} values.")
        found = json.loads(
            text,
            object_pairs_hook=lambda pairs: _unique(pairs, name),
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_bounded_float,
        )
        if isinstance(found, dict):
            _refuse_depth(found)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # finds lone surrogates wherever they stand
    except ModelRefused:
        raise
    except (ValueError, RecursionError) as error:
        raise refusal("JS-SYNTAX", name, f"it is not strict JSON ({shown(error)}). Write it again.") from None
    if not isinstance(found, dict):
        raise refusal("JS-SYNTAX", name, "it must be a JSON object.")
    return found


def _unique(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise refusal("JS-DUPLICATE", name, f"it names the key {shown(twice)!r} twice in one object.")
    return found


def _refuse_depth(found: Any) -> None:
    """Level by level: what is nested too deep would break whoever walks it, or prints it in a message."""
    level = [found]
    for _ in range(DEPTH):
        children = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for each in children for child in each if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {DEPTH}")


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _bounded_int(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError("a number is too long")
    return int(digits)


def _bounded_float(digits: str) -> float:
    if len(digits) > DIGITS:
        raise ValueError("a number is too long")
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("a number is out of range")
    return value
