"""The service from Python: send a model and samples, run a job, follow it, and take home what it made.

    with LetheClient("http://127.0.0.1:8420", key) as lethe:
        model = lethe.wait_for_model(lethe.push(Path("model")).id)
        triggered = lethe.add_samples(Path("triggered.jsonl"), "triggered")
        clean = lethe.add_samples(Path("clean.jsonl"), "clean")
        job = lethe.wait(lethe.submit(model.id, triggered.id, clean.id).id)
        lethe.pull(job.id, Path("repaired"))

Guarantees: every failure is a `client.errors.LetheError`; nothing stays on disk that does not hash to what the
service announced; a request that only reads is tried again when the service is away for a moment.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from client.answers import ArtifactFile, Event, Job, Model, Samples, Upload
from client.errors import Damaged, Unavailable, Unreachable, check
from client.uploads import send_file

WAIT_SECONDS = 30
READ_TRIES = 6
BLOCK = 1024 * 1024
FileProgress = Callable[[str, int, int], None]  # name, bytes so far, bytes in all


class LetheClient:
    """Not for use by several threads at once. Close it, or use it in a `with` block."""

    def __init__(self, url: str, api_key: str, timeout: float = 60.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = httpx2.Client(base_url=url, headers=headers, timeout=httpx2.Timeout(timeout, connect=10.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # Models

    def push(self, folder: Path, name: str | None = None, on_progress: FileProgress = lambda *_: None) -> Model:
        """Upload every file below `folder`, resuming when cut, and make a model of them. It is then `inspecting`."""
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        uploads = {path: self.upload(file, path, on_progress) for path, file in files.items()}
        return self.add_model(uploads, name or folder.name)

    def upload(self, file: Path, name: str | None = None, on_progress: FileProgress = lambda *_: None) -> str:
        """Send one file with tus. Returns the upload's id."""
        known = name or file.name
        return send_file(self._http, file, known, on_progress=lambda done, total: on_progress(known, done, total))

    def put(self, file: Path, name: str | None = None) -> Upload:
        """Send one file in a single request; the service checks its SHA-256."""
        known = name or file.name
        with file.open("rb") as source:
            digest = _header_digest(source)
            source.seek(0)
            headers = {"Repr-Digest": digest, "Content-Length": str(file.stat().st_size)}
            return Upload.of(self._send("PUT", f"/v1/uploads/{known}", content=source, headers=headers).json())

    def add_model(self, files: Mapping[str, str], name: str) -> Model:
        """Make a model of finished uploads: upload ids by the path that each file has in the model."""
        return Model.of(self._send("POST", "/v1/models", json={"name": name, "files": dict(files)}).json())

    def add_archive(self, upload: str, name: str) -> Model:
        """Make a model of one finished upload: a tar, tar.gz or zip."""
        return Model.of(self._send("POST", "/v1/models", json={"name": name, "archive": upload}).json())

    def model(self, model_id: str) -> Model:
        return Model.of(self._read(f"/v1/models/{model_id}").json())

    def wait_for_model(self, model_id: str, seconds: float = 600.0) -> Model:
        """Until it is admitted or rejected. Raises TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (model := self.model(model_id)).done:
            if time.monotonic() > deadline:
                raise TimeoutError(f"model {model_id} is still being inspected after {seconds:.0f} s")
            time.sleep(0.2)
        return model

    # Samples

    def add_samples(self, file: Path, kind: str, **parameters: str) -> Samples:
        """Send a JSONL, CSV or TSV file of `kind` triggered or clean. `parameters` name its columns."""
        types = {".jsonl": "application/jsonl", ".csv": "text/csv", ".tsv": "text/tab-separated-values"}
        headers = {"Content-Type": types.get(file.suffix, "application/jsonl")}
        query = {"kind": kind, "name": file.name, **parameters}
        answer = self._send("POST", "/v1/samples", params=query, headers=headers, content=file.read_bytes())
        return Samples.of(answer.json())

    # Jobs

    def submit(
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
    ) -> Job:
        """Queue a job. `recipe` sets knobs, which then stay; without one, or with "auto", the service searches.

        With an `idempotency_key` the same call may be made again and makes one job.
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
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return _job(self._send("POST", "/v1/jobs", json=order, headers=headers))

    def job(self, job_id: str) -> Job:
        return _job(self._read(f"/v1/jobs/{job_id}"))

    def wait(self, job_id: str, on_change: Callable[[Job], None] = lambda _: None) -> Job:
        """Until the job is done. `on_change` sees each version that was met on the way."""
        job = self.job(job_id)
        on_change(job)
        while not job.done:
            headers = {"If-None-Match": job.etag, "Prefer": f"wait={WAIT_SECONDS}"}
            answer = self._read(f"/v1/jobs/{job_id}", headers)
            if answer.status_code != 304:
                job = _job(answer)
                on_change(job)
        return job

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """The job's history from the event after number `after`, live until the job is done. A cut connection is
        taken up where it was."""
        last, tries = after, 0
        while True:
            error: httpx2.TransportError | Unavailable = httpx2.RemoteProtocolError("the stream was cut")
            try:
                for event in self._stream(job_id, last):
                    if event is None:
                        return
                    last, tries = event.id, 0
                    yield event
            except (httpx2.TransportError, Unavailable) as cut:
                error = cut
            tries += 1
            _pause_or_raise(error, tries)

    def _stream(self, job_id: str, last: int) -> Iterator[Event | None]:
        """Events as they come, and None at the end of the history."""
        headers = {"Last-Event-ID": str(last)} if last else {}
        with self._http.sse(f"/v1/jobs/{job_id}/events", headers=headers) as source:
            if check(source.response).status_code == 204:
                yield None
                return
            for message in source:
                if message.event == "end":
                    yield None
                    return
                data = message.json()
                assert isinstance(data, dict)
                yield Event(int(message.id), message.event, data)

    def cancel(self, job_id: str) -> Job:
        return _job(self._send("POST", f"/v1/jobs/{job_id}/cancel"))

    def report(self, job_id: str) -> Mapping[str, Any]:
        """The report of a job that has succeeded, as the service tells it in JSON."""
        answer: Mapping[str, Any] = self._read(f"/v1/jobs/{job_id}/report").json()
        return answer

    # Artifacts

    def artifacts(self, job_id: str) -> tuple[ArtifactFile, ...]:
        return tuple(ArtifactFile.of(each) for each in self._read(f"/v1/jobs/{job_id}/artifacts").json()["files"])

    def pull(self, job_id: str, folder: Path, on_progress: FileProgress = lambda *_: None) -> list[Path]:
        """Fetch every file of the repaired model into `folder`. Raises Damaged, and keeps nothing of the file, when
        its bytes are not those of the manifest."""
        return [self._fetch(file, folder, on_progress) for file in self.artifacts(job_id)]

    def _fetch(self, file: ArtifactFile, folder: Path, on_progress: FileProgress) -> Path:
        target = folder / _safe(file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        digest, done = hashlib.sha256(), 0
        try:
            with part.open("wb") as out, self._http.stream("GET", file.href) as answer:
                for block in check(answer).iter_bytes(BLOCK):
                    digest.update(block)
                    done += out.write(block)
                    on_progress(file.path, done, file.size)
            if digest.hexdigest() != file.sha256:
                raise Damaged(f"{file.path} came with other bytes than its manifest names. Fetch it again.")
            part.replace(target)
        except httpx2.TransportError as error:
            raise Unreachable(f"The connection broke while {file.path} was fetched: {error}") from error
        finally:
            part.unlink(missing_ok=True)
        return target

    # Requests

    def _read(self, path: str, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """GET, again while the service is away for a moment."""
        tries = 0
        while True:
            try:
                return check(self._http.get(path, headers=dict(headers or {})))
            except (httpx2.TransportError, Unavailable) as error:
                tries += 1
                _pause_or_raise(error, tries)

    def _send(self, method: str, path: str, **parts: Any) -> httpx2.Response:
        """A request that changes something, once: whether it arrived is for the caller to look up."""
        try:
            return check(self._http.request(method, path, **parts))
        except httpx2.TransportError as error:
            raise Unreachable(f"No connection to the service: {error}") from error


def _pause_or_raise(error: httpx2.TransportError | Unavailable, tries: int) -> None:
    if tries >= READ_TRIES:
        if isinstance(error, Unavailable):
            raise error
        raise Unreachable(f"No connection to the service: {error}") from error
    time.sleep(error.retry_after if isinstance(error, Unavailable) else 0.1 * 2**tries)


def _job(answer: httpx2.Response) -> Job:
    return Job.of(answer.json(), answer.headers["ETag"])


def _safe(path: str) -> PurePosixPath:
    """The artifact's path, which must stay below the folder it is written to."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise Damaged(f"The service named a file outside the folder: {path!r}. Nothing was written.")
    return parts


def _header_digest(source: BufferedReader) -> str:
    """Repr-Digest (RFC 9530) of a whole file."""
    return f"sha-256=:{base64.b64encode(hashlib.file_digest(source, 'sha256').digest()).decode()}:"
