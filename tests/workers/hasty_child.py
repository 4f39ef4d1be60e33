"""A child that speaks before it is confined: started in place of `workers.child`."""

from __future__ import annotations

import json
import os
import sys


def main(channel: int) -> None:
    line = json.loads(sys.stdin.buffer.readline())["readable"][0]
    os.write(channel, line.encode() + b"\n")
    sys.stdin.buffer.readline()
