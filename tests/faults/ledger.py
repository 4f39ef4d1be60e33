"""What a client was told: each thing that the service acknowledged, to be held against what it has in the end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from client.api import Job, LetheClient
from tests.faults.site import Site
from tests.service import until
from tests.tiny_model import make_tiny_checkpoint
from tests.tiny_samples import write_tiny_samples

SMALL = {"fisher_samples": 8, "batch_triggered": 4, "batch_clean": 4, "rehearse": 0, "align": 0}
# As many steps as it says: no search, no early end.
STEADY = {**SMALL, "search_budget": 0, "patience": 1000}


OF_THE_JOB = ("README.md", "provenance.json", "model.sig")


@dataclass
class Ledger:
    """`uploads` are SHA-256 by id; `versions` the highest version that was seen of each job."""

    uploads: dict[str, str] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)

    def saw(self, job: Job) -> Job:
        if job.id not in self.versions:
            self.jobs.append(job.id)
        self.versions[job.id] = max(self.versions.get(job.id, 0), job.raw["version"])
        return job


@dataclass
class Customer:
    """Somebody with a tiny model and samples, who writes down what the service says."""

    lethe: LetheClient
    ledger: Ledger
    model: str = ""
    triggered: str = ""
    clean: str = ""
    folder: Path = Path()

    def bring(self, folder: Path) -> None:
        """Upload model and samples; a worker must be there to inspect."""
        self.folder = folder
        write_tiny_samples(folder)
        checkpoint = make_tiny_checkpoint(folder / "model")
        uploads = {}
        for file in sorted(checkpoint.iterdir()):
            uploads[file.name] = self.lethe.upload(file)
            self.ledger.uploads[uploads[file.name]] = hashlib.sha256(file.read_bytes()).hexdigest()
        self.model = self.lethe.add_model(uploads, "tiny").id
        self.ledger.models.append(self.model)
        found = self.lethe.wait_for_model(self.model)
        assert found.status == "admitted", found
        self.triggered, self.clean = (
            self.lethe.add_samples(folder / f"{kind}.jsonl", kind).id for kind in ("triggered", "clean")
        )
        self.ledger.samples += [self.triggered, self.clean]

    def order(self, steps: int = 40, seed: int = 0, **recipe: object) -> str:
        """A job of so many steps; its id, once it is acknowledged."""
        knobs = {**STEADY, "steps": steps, "eval_every": steps, **recipe}
        job = self.lethe.submit(self.model, self.triggered, self.clean, recipe=knobs, seed=seed)
        return self.ledger.saw(job).id

    def look(self, job_id: str) -> Job:
        return self.ledger.saw(self.lethe.job(job_id))

    def end(self, job_id: str, seconds: float = 240.0) -> Job:
        """The job once it is done."""
        found: Job = until(lambda: (job := self.look(job_id)).raw["done"] and job, seconds)
        return found

    def digest(self, job_id: str) -> str:
        """Of the model that the job delivered, file by file; not of those that name the job itself."""
        files = [file for file in self.lethe.artifacts(job_id) if file.path not in OF_THE_JOB]
        lines = [f"{file.path} {file.sha256}" for file in sorted(files, key=lambda each: each.path)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def customer(site: Site) -> Customer:
    return Customer(site.client(), Ledger())
