"""The database that the operator's commands work on: that of DATABASE_URL, else that of the service which runs on
this machine (LETHE_DATA)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from app.domain.errors import OperatorError
from app.settings import StandaloneSettings


def data_folder() -> Path:
    return Path(os.environ.get("LETHE_DATA") or StandaloneSettings.model_fields["data"].default)


def database_url() -> str:
    """Raises OperatorError where there is none."""
    if url := os.environ.get("DATABASE_URL"):
        return url
    data = data_folder()
    try:
        return str(json.loads((data / "service.json").read_text())["database_url"])
    except (OSError, ValueError, KeyError):
        raise OperatorError(f"Set DATABASE_URL, or start the service first: none runs on {data}.") from None
