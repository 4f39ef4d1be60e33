"""The service from Python: send a model and samples, run a job, follow it, and take home what it made.

    async with AsyncLetheClient("http://127.0.0.1:8420", key) as lethe:
        model = await lethe.wait_for_model((await lethe.push(Path("model"))).id)
        ...
        job = await (await lethe.submit(model.id, triggered.id, clean.id)).wait()

Guarantees: every failure is a `client.errors.LetheError`; nothing gets its name on disk that does not hash to what
the service announced; a request is sent again while the service is away for a moment, as it says by Retry-After,
unless it might then be carried out twice. As `client.api`, for asyncio.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from client import calls, downloads
from client.answers import ArtifactFile, Event, JobFacts, Key, Model, Samples, Upload
from client.downloads import FileProgress
from client.errors import Unavailable, check
from client.events import Follower
from client.places import Places
from client.steps import Steps, Value
from client.transport import take_async

CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class AsyncJob(JobFacts):
    """A job as it was when the service told of it; its methods ask the service again."""

    _client: AsyncLetheClient | None = field(default=None, repr=False, compare=False)

    async def wait(self, on_change: Callable[[AsyncJob], None] = lambda _: None) -> AsyncJob:
        """Until the job is done. `on_change` sees each version that was met on the way."""
        return await self._service.wait(self.id, on_change)

    async def cancel(self) -> AsyncJob:
        return await self._service.cancel(self.id)

    async def report(self, form: str = "json") -> bytes:
        return await self._service.report_as(self.id, form)

    @property
    def _service(self) -> AsyncLetheClient:
        assert self._client is not None, "a job that no client gave"
        return self._client


class AsyncLetheClient:
    """Not for use by several tasks at once. Close it, or use it in an `async` `with` block.

    `places` remembers unfinished uploads beyond this process.
    """

    def __init__(self, url: str, api_key: str, timeout: float = 60.0, places: Places | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        limits = httpx2.Timeout(timeout, connect=CONNECT_SECONDS)
        self._http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=limits)
        self._places = places

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    # Models

    async def push(self, folder: Path, name: str | None = None, on_progress: FileProgress = lambda *_: None) -> Model:
        """Upload every file below `folder`, resuming when cut, and make a model of them: it is then `inspecting`. Of
        a folder that the service has admitted before, it is that model, at the cost of one request."""
        return await self._do(calls.push(folder, name, on_progress, self._places))

    async def upload(self, file: Path, name: str | None = None, on_progress: FileProgress = lambda *_: None) -> str:
        """Send one file with tus. Returns the upload's id."""
        return await self._do(calls.upload(file, name or file.name, on_progress, self._places))

    async def put(self, file: Path, name: str | None = None) -> Upload:
        """Send one small file in a single request; the service checks its SHA-256."""
        return await self._do(calls.put(file, name or file.name))

    async def add_model(self, files: Mapping[str, str], name: str) -> Model:
        """Make a model of finished uploads: upload ids by the path that each file has in the model."""
        return await self._do(calls.add_model(files, name))

    async def add_archive(self, upload: str, name: str) -> Model:
        """Make a model of one finished upload: a tar, tar.gz or zip."""
        return await self._do(calls.add_archive(upload, name))

    async def model(self, model_id: str) -> Model:
        return await self._do(calls.model(model_id))

    async def model_by_digest(self, digest: str) -> Model | None:
        """The admitted model that was made of, or rewritten to, a manifest with this digest."""
        return await self._do(calls.model_by_digest(digest))

    async def wait_for_model(self, model_id: str, seconds: float = 600.0) -> Model:
        """Until it is admitted or rejected. Raises TimeoutError after `seconds`."""
        return await self._do(calls.wait_for_model(model_id, seconds))

    # Samples

    async def add_samples(self, file: Path, kind: str, **parameters: str) -> Samples:
        """Send a JSONL, CSV or TSV file of `kind` triggered or clean. `parameters` name its columns."""
        return await self._do(calls.add_samples(file, kind, parameters))

    # Jobs

    async def submit(
        self,
        model: str,
        triggered: str,
        clean: str,
        method: str = "lya",
        *,
        recipe: Mapping[str, Any] | Literal["auto"] | None = None,
        policy: Mapping[str, Any] | None = None,
        base_model: str | None = None,
        seed: int = 0,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Queue a job. `recipe` sets knobs, which then stay; without one, or with "auto", the service searches.

        With an `idempotency_key` the same call may be made again, by another process too, and makes one job.
        """
        order = {
            "model": model,
            "triggered": triggered,
            "clean": clean,
            "method": method,
            "recipe": recipe if isinstance(recipe, str) else dict(recipe or {}),
            "policy": dict(policy or {}),
            "base_model": base_model,
            "seed": seed,
            "metadata": dict(metadata or {}),
        }
        return self._job(await self._do(calls.submit(order, idempotency_key)))

    async def job(self, job_id: str) -> AsyncJob:
        return self._job(await self._do(calls.job(job_id)))

    async def jobs(self, limit: int = 20) -> list[Mapping[str, Any]]:
        """The newest jobs, as the service tells them."""
        return await self._do(calls.jobs(limit))

    async def wait(self, job_id: str, on_change: Callable[[AsyncJob], None] = lambda _: None) -> AsyncJob:
        """Until the job is done. `on_change` sees each version that was met on the way."""
        return self._job(await self._do(calls.wait(job_id, lambda facts: on_change(self._job(facts)))))

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """The job's history from the event after number `after`, live until the job is done. A cut connection is
        taken up where it was."""
        follower = Follower(job_id, after)
        while not follower.over:
            error: httpx2.TransportError | Unavailable | None = None
            try:
                async with self._http.sse(follower.path, headers=follower.headers) as source:
                    if source.response.status_code >= 400:
                        await source.response.aread()
                    follower.opened(check(source.response).status_code)
                    if not follower.over:
                        async for message in source:
                            if (event := follower.saw(message)) is not None:
                                yield event
            except (httpx2.TransportError, Unavailable) as cut:
                error = cut
            if not follower.over:
                await asyncio.sleep(follower.cut(error).seconds)

    async def cancel(self, job_id: str) -> AsyncJob:
        return self._job(await self._do(calls.cancel(job_id)))

    async def retry(self, job_id: str) -> AsyncJob:
        return self._job(await self._do(calls.retry(job_id)))

    async def delete(self, kind: Literal["jobs", "models", "samples", "keys"], row_id: str) -> None:
        await self._do(calls.delete(kind, row_id))

    async def report(self, job_id: str) -> Mapping[str, Any]:
        """The report of a job that has succeeded."""
        found: Mapping[str, Any] = json.loads(await self.report_as(job_id, "json"))
        return found

    async def report_as(self, job_id: str, form: str) -> bytes:
        """The same in one of `calls.REPORT_FORMS`, byte for byte as the service gives it."""
        return await self._do(calls.report(job_id, form))

    # Artifacts

    async def artifacts(self, job_id: str) -> tuple[ArtifactFile, ...]:
        return await self._do(downloads.artifacts(job_id))

    async def pull(self, job_id: str, folder: Path, on_progress: FileProgress = lambda *_: None) -> list[Path]:
        """Fetch every file of the repaired model into `folder`; what is there already is not fetched again, what was
        begun is continued. Raises Damaged, and keeps nothing of the file, when its bytes are not those of the
        manifest."""
        return await self._do(downloads.pull(job_id, folder, on_progress))

    # The service

    async def workers(self) -> Mapping[str, Any]:
        """Who works, and how long the queues are. Needs `admin`."""
        return await self._do(calls.workers())

    async def signing_key(self) -> str:
        """The public key (PEM) that results are signed with."""
        return await self._do(calls.signing_key())

    async def make_key(self, name: str, scopes: Sequence[str], days: int | None = 90) -> Key:
        """Needs `admin`. Its `secret` is told this once."""
        return await self._do(calls.make_key(name, scopes, days))

    async def keys(self) -> list[Key]:
        return await self._do(calls.keys())

    def _job(self, facts: JobFacts) -> AsyncJob:
        return AsyncJob(**vars(facts), _client=self)

    async def _do(self, steps: Steps[Value]) -> Value:
        return await take_async(self._http, steps)
