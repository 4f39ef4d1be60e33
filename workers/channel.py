"""The words between the sandboxed child and its parent: lines of JSON, each at most 64 KiB.

    {"kind": "confined", "missing": {LAYER: REASON}}                  the first line, before it knows the request
    {"kind": "phase", "phase": NAME}                                  on the way
    {"kind": "progress", "progress": SHARE}
    {"kind": "point", "name": FOLDER, "step": STEP}                   a resume point that it has written
    {"kind": "bad-point", "name": FOLDER, "step": STEP}               one of those that it was given is of no use
    {"kind": "metric", "metric": {"step", "phase", "loss", "values": {NAME: number or null}}}
    {"kind": "result", "result": {...}}                               one of these two is the last line
    {"kind": "error", "code": CODE, "message": TEXT, "details": {...}, "findings": [{rule, severity, file, message}]}

The child may be in an attacker's hands, so the parent's ear believes nothing: it takes only these words, only strict
JSON, only a bounded amount, and of errors only those that an upload or its samples can cause.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from app.domain import errors
from app.domain.confinement import LAYERS
from app.domain.errors import ChildMisspoke, LetheError
from app.domain.model import Finding, Severity

LINE_BYTES = 64 * 1024
TEXT_CHARACTERS = 2_000
FINDINGS = 50
_RULE = re.compile(r"[A-Z]{2}-[A-Z0-9-]{1,40}")
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_NUMBER = re.compile(r"\d{1,9}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_SPEAKABLE: tuple[type[LetheError], ...] = (
    errors.ModelRefused,
    errors.BadSamples,
    errors.TooFewSamples,
    errors.BadRecipe,
    errors.BadPolicy,
    errors.TooLarge,
    errors.Diverged,
    errors.StorageFull,
)
ERRORS: Mapping[str, type[LetheError]] = {kind.code: kind for kind in _SPEAKABLE}


@dataclass(frozen=True, slots=True)
class Final:
    """The child's last word: a result, or the error that it names."""

    result: Mapping[str, Any] | None
    error: LetheError | None

    def unwrap(self) -> Mapping[str, Any]:
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class Mouth:
    """The child's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def confined(self, missing: Mapping[str, str]) -> None:
        self._say({"kind": "confined", "missing": missing})

    def phase(self, name: str) -> None:
        self._say({"kind": "phase", "phase": name})

    def progress(self, share: float) -> None:
        self._say({"kind": "progress", "progress": min(max(share, 0.0), 1.0)})

    def metric(self, values: Mapping[str, Any]) -> None:
        """Figures that are not finite go as null: JSON has no word for them."""
        self._say({"kind": "metric", "metric": _finite(values)})

    def point(self, name: str, step: int) -> None:
        self._say({"kind": "point", "name": name, "step": step})

    def bad_point(self, name: str) -> None:
        """The folder of a point is named by its step."""
        self._say({"kind": "bad-point", "name": name, "step": int(name)})

    def result(self, result: Mapping[str, Any]) -> None:
        self._say({"kind": "result", "result": result})

    def error(self, error: LetheError) -> None:
        findings = [_cut(asdict(finding)) for finding in error.details.get("findings", ())[:FINDINGS]]
        details = {name: value for name, value in error.details.items() if name != "findings"}
        word = {"kind": "error", "code": error.code, "message": error.message[:TEXT_CHARACTERS], "findings": findings}
        if len(json.dumps(details, default=str)) < LINE_BYTES // 8:
            word["details"] = json.loads(json.dumps(details, default=str))
        self._say(word)

    def out_of_memory(self) -> None:
        self._say({"kind": "error", "code": errors.ChildOutOfMemory.code, "message": "It used up its memory."})

    def _say(self, word: Mapping[str, Any]) -> None:
        line = json.dumps(word, allow_nan=False).encode() + b"\n"
        if len(line) > LINE_BYTES:
            raise ValueError(f"a message of {len(line)} bytes is over the limit of {LINE_BYTES}")
        while line:
            line = line[os.write(self._fd, line) :]


class Ear:
    """The parent's end: bytes in, checked words out. Raises ChildMisspoke at the first that does not fit."""

    def __init__(self) -> None:
        self.budget = 0
        self._rest = b""
        self._begun = False
        self._over = False

    def hear(self, chunk: bytes) -> Iterator[Mapping[str, Any] | Final]:
        self.budget -= len(chunk)
        if self.budget < 0:
            raise ChildMisspoke("It sent more messages than it may.")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if len(line) > LINE_BYTES:
                raise ChildMisspoke("It sent a line over 64 KiB.")
            if self._over:
                raise ChildMisspoke("It went on after its last word.")
            word = _word(line) if self._begun else _first_word(line)
            self._begun = True
            self._over = isinstance(word, Final)
            yield word
        if len(self._rest) > LINE_BYTES:
            raise ChildMisspoke("It sent a line over 64 KiB.")


def plain(text: object, limit: int = TEXT_CHARACTERS) -> str:
    """The text without control and direction characters, cut to `limit`: fit for a log, a terminal and a page."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text)[:limit])


def _first_word(line: bytes) -> Mapping[str, Any]:
    match _json(line):
        case {"kind": "confined", "missing": dict(missing)} as word if len(word) == 2 and missing.keys() <= set(
            LAYERS
        ):
            return {"kind": "confined", "missing": {name: plain(reason, 200) for name, reason in missing.items()}}
    raise ChildMisspoke("It did not begin with what confines it.")


def _json(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ChildMisspoke("It sent a line that is not strict JSON.") from None


def _word(line: bytes) -> Mapping[str, Any] | Final:
    word = _json(line)
    match word:
        case {"kind": "phase", "phase": str(name)} if len(word) == 2 and _NAME.fullmatch(name):
            return {"kind": "phase", "phase": name}
        case {"kind": "progress", "progress": int() | float() as share} if len(word) == 2 and 0 <= share <= 1:
            return {"kind": "progress", "progress": float(share)}
        case {"kind": "point" | "bad-point" as kind, "name": str(name), "step": int(step)} if (
            len(word) == 3 and _NUMBER.fullmatch(name) and 0 <= step < 1 << 31
        ):
            return {"kind": kind, "name": name, "step": step}
        case {"kind": "metric", "metric": dict(metric)} if len(word) == 2 and _is_metric(metric):
            return {"kind": "metric", "metric": metric}
        case {"kind": "result", "result": dict(result)} if len(word) == 2:
            return Final(result, None)
        case {"kind": "error", "code": str(code), "message": str(message), **more}:
            return Final(None, _error(code, plain(message), {str(name): value for name, value in more.items()}))
    raise ChildMisspoke("It sent a word that is not in the protocol.")


def _is_metric(metric: Mapping[str, Any]) -> bool:
    """What `StepMetric.from_dict` reads."""
    match metric:
        case {"step": int(step), "phase": str(phase), "loss": loss, "values": dict(values)} if len(metric) == 4:
            named = all(_NAME.fullmatch(name) for name in (phase, *values)) and len(values) <= 64
            return named and 0 <= step < 1 << 31 and all(_is_figure(figure) for figure in (loss, *values.values()))
    return False


def _is_figure(value: Any) -> bool:
    return value is None or type(value) is int or (type(value) is float and math.isfinite(value))


def _error(code: str, message: str, more: Mapping[str, Any]) -> LetheError:
    if code == errors.ChildOutOfMemory.code:
        return errors.ChildOutOfMemory(message)
    kind, details, findings = ERRORS.get(code), more.get("details", {}), more.get("findings", [])
    if kind is None or not isinstance(details, dict) or not isinstance(findings, list):
        raise ChildMisspoke("It named an error that is not in the protocol.")
    known = {"findings": tuple(_finding(item) for item in findings)} if kind is errors.ModelRefused else {}
    return kind(message, **details | known)


def _finding(item: Any) -> Finding:
    match item:
        case {"rule": str(rule), "severity": str(severity), "file": str(file), "message": str(message)} if (
            _RULE.fullmatch(rule) and severity in set(Severity)
        ):
            return Finding(rule, Severity(severity), plain(file, 255), plain(message))
    raise ChildMisspoke("It sent a finding that is not in the protocol.")


def findings_of(items: Sequence[Any]) -> tuple[Finding, ...]:
    """Findings in a result, checked. Raises ChildMisspoke."""
    return tuple(_finding(item) for item in items[:FINDINGS])


def _cut(finding: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value)[: TEXT_CHARACTERS if name == "message" else 255] for name, value in finding.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
