"""The bare endpoint that the service is held against: FastAPI and nothing else, under the same HTTP server.

python -m benchmarks.load.bare --port 9000
"""

from __future__ import annotations

import argparse

import uvicorn
from fastapi import FastAPI

JOB = {"id": "01a2124f-e47c-7d37-8926-24f53ab4c452", "status": "queued", "progress": 0.0, "version": 1}


def create_app() -> FastAPI:
    app = FastAPI()

    @app.get("/job")
    async def show_job() -> dict[str, str | float]:
        return JOB

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    uvicorn.run(create_app, factory=True, port=port, http="h11", ws="none", access_log=False)
