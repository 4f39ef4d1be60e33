"""What a report is about, and what every form of it says: one job that has delivered, and the figures that decide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib.metadata import version

from sqlalchemy import Connection

from app.domain.job import Job, not_delivered
from app.domain.manifest import Manifest
from app.domain.model import Model, Severity
from app.domain.report import SanitizationReport, StepMetric
from app.domain.verdict import ACCURACY_DROP, EXCESS_ASR, LABEL_FLIPS, Judged, figures
from app.store import event_rows, job_rows, model_rows

TOOL, VENDOR, HOMEPAGE = "Lethe", "Lethe", "https://arxiv.org/abs/2408.12416"
RULES = {
    EXCESS_ASR: ("TROJAN-REMAINS", "The repaired model still answers to the trigger more often than without it."),
    ACCURACY_DROP: ("ACCURACY-LOST", "The repaired model reads clean inputs worse than the model did as uploaded."),
    LABEL_FLIPS: ("TROJAN-MOVED", "Triggered inputs are misread as another class than the trojan's target."),
}
FOUND = ("TROJAN-FOUND", "The model as uploaded answers to the trigger.")
# Words for people of what no figure of a report can show.
NOT_SHOWN = (
    "Whether the model holds other trojans: only the trigger of the samples that were given was measured.",
    "How the model does on inputs unlike the clean samples that were given.",
    "That nobody can train the trojan in again: the relearning check, where it was made, shows one fixed budget.",
)


@dataclass(frozen=True)
class Trouble:
    """One finding of a report: a figure over its limit, or a note of the intake. `level`: error, warning or note."""

    rule: str
    level: str
    message: str
    file: str
    fingerprint: str


@dataclass(frozen=True)
class Subject:
    """`model` is the uploaded one; `delivered` are the repaired model's files."""

    job: Job
    model: Model
    report: SanitizationReport
    delivered: Manifest
    metrics: Sequence[StepMetric] = ()

    @cached_property
    def figures(self) -> tuple[Judged, ...]:
        report = self.report
        return figures(report.policy, report.before, report.after, report.answers)

    @property
    def finished(self) -> datetime:
        return self.job.finished_at or self.job.updated_at

    @property
    def weights(self) -> str:
        """The path of the file that findings point at."""
        paths = [entry.path for entry in self.delivered]
        return next((path for path in paths if path.endswith(".safetensors")), paths[0])

    @property
    def limits(self) -> tuple[str, ...]:
        """What the claim does not carry: of this run, and of any."""
        return (*self.report.limits, *NOT_SHOWN)

    def troubles(self) -> list[Trouble]:
        """What somebody has to look at, the worst first; empty for a model that passed and was taken in clean."""
        found = [*self._over_limits(), *self._of_the_intake()]
        return sorted(found, key=lambda each: ("error", "warning", "note").index(each.level))

    def _over_limits(self) -> Iterable[Trouble]:
        levels = {"fail": "error", "inconclusive": "warning"}
        for figure in self.figures:
            if level := levels.get(figure.outcome):
                yield self._trouble(RULES[figure.code][0], level, f"{figure.words}.", self.weights, figure.name)

    def _of_the_intake(self) -> Iterable[Trouble]:
        for finding in self.model.findings:
            level = "error" if finding.severity is Severity.REFUSAL else "note"
            yield self._trouble(finding.rule, level, finding.message, finding.file, finding.file)

    def _trouble(self, rule: str, level: str, message: str, file: str, about: str) -> Trouble:
        """With a fingerprint that stays while the same rule says the same of the same upload."""
        mark = hashlib.sha256("\n".join((rule, about, self.model.source.digest)).encode()).hexdigest()
        return Trouble(rule, level, message, file, mark)


def subject_of(connection: Connection, job: Job) -> Subject:
    """Everything that a report of the job needs. Raises Conflict where the job has delivered nothing."""
    delivery = job_rows.delivery(connection, job.tenant, job.id)
    if delivery is None:
        raise not_delivered(job, "report")
    model = model_rows.get(connection, job.tenant, job.order.model_id)
    return Subject(job, model, delivery.report, delivery.manifest, event_rows.metrics(connection, job.id))


def tool_version() -> str:
    return version("lethe")
