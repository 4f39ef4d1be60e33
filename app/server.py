"""Starts the API: `python -m app.server --host 127.0.0.1 --port 8420`. The one place where the HTTP server is set up.

h11 reads the requests because it is the strict one; no header of a caller says who or where they are, except of a
proxy that the operator names; nothing is upgraded to another protocol.
"""

from __future__ import annotations

import argparse

import uvicorn

from app.api.connections import within
from app.settings import between_commas, settings

STOP_SECONDS = 3


def main(arguments: list[str] | None = None) -> None:
    """Runs until it is told to stop by SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m app.server", description="The API, over HTTP.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8420)
    where = parser.parse_args(arguments)
    known = settings()
    proxies = between_commas(known.trusted_proxies)
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=where.host,
        port=where.port,
        http=within(known.head_grace_seconds),
        ws="none",
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        server_header=False,
        access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


if __name__ == "__main__":
    main()
