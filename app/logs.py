"""The log of every process of ours: one line for each record, and each line one JSON object in plain ASCII.

    {"time": RFC 3339, "level", "logger", "message", "request_id"?, "exception"?, ...fields}

Guarantees: no name that a caller chose can end a line, colour a terminal or turn its direction, since every such
character is escaped; keys, tokens, passwords and the secrets that the process itself was given are blotted out of
every text, also out of traces. A record adds fields with `extra={"fields": {...}}`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

BLOT = "***"
# Set for the time of a request, in its task and in the threads that work for it.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(lethe_[A-Za-z0-9]+)_[A-Za-z0-9._~+/=-]{6,}"), rf"\1_{BLOT}"),
    (re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*|whsec_[\w+/=-]+"), BLOT),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), rf"\1 {BLOT}"),
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s:/@]*):[^\s/]*@"), rf"\1:{BLOT}@"),
    (
        re.compile(
            r"(?i)((?:password|passwd|secret|pepper|authorization|api[_-]?key)['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&}]+"
        ),
        rf"\1{BLOT}",
    ),
)
# What each of these patterns begins with: a line without any of it has no secret of that kind.
_HINTS = (
    "\\", "lethe_", "eyj", "whsec_", "bearer", "basic", "://", "passw", "secret", "pepper", "authoriz", "apikey",
    "api_key", "api-key",
)  # fmt: skip
_SHORTEST = 6  # a shorter secret would blot out ordinary words


class Line(logging.Formatter):
    """`secrets` are what this process was given, to be blotted out wherever they stand."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        self._known = sorted({each for each in secrets if len(each) >= _SHORTEST}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = getattr(record, "fields", None)
        line: dict[str, Any] = dict(fields) if isinstance(fields, Mapping) else {}
        line |= {"time": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        ordered = {name: line[name] for name in ("time", "level", "logger", "message")} | line
        plain = json.dumps(ordered, default=str)
        if self._is_suspect(plain):
            plain = json.dumps(self._blotted(ordered), default=str)
        return plain.replace("\x7f", "\\u007f")

    def _is_suspect(self, line: str) -> bool:
        """Whether there could be a secret in it, escaped or not: then each value is looked at by itself."""
        lower = line.lower()
        return any(hint in lower for hint in _HINTS) or any(each in line for each in self._known)

    def _blotted(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): self._blotted(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._blotted(each) for each in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        text = str(value)
        for secret in self._known:
            text = text.replace(secret, BLOT)
        return redact(text)


def redact(text: str) -> str:
    """The text without what looks like a key, a token or a password."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def configure(secrets: Iterable[str] = ()) -> None:
    """Make this the log of the process: on standard error, and in the place of what others have set up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Line(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "celery", "celery.task", "kombu"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    access = logging.getLogger("uvicorn.access")  # a request has its one line from `app.api.request_log`
    access.handlers.clear()
    access.propagate = False
    logging.captureWarnings(True)
    sys.excepthook = lambda *error: root.critical("the process ends by an error", exc_info=error)
    threading.excepthook = lambda told: root.error("a thread ends by an error", exc_info=told.exc_value)
