"""The log of the worker, as it is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from sqlalchemy import Engine

from tests.conftest import ROOT


def test_each_line_is_one_object_and_holds_no_password(database: Engine, database_url: str, redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis://default:hunter2hunter2@")
    environment = os.environ | {"DATABASE_URL": database_url, "REDIS_URL": url}
    command = [sys.executable, "-m", "celery", "-A", "workers.celery_app", "--quiet", "worker"]
    command += ["--without-gossip", "--without-mingle"]
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "ready" in line or "Cannot connect" in line:
                process.kill()  # told to stop, Celery would say so in a plain line of its own
                break
        said += process.stdout.readlines()
    assert said
    for line in said:
        assert "hunter2" not in line
        assert {"time", "level", "logger", "message"} <= set(json.loads(line)), line
