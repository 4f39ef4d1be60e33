"""A job's report in the form that the caller reads: by Accept, or by the name's ending.

report.json        every figure                 application/json
report.html        for people                   text/html
report.sarif       for code scanning            application/sarif+json
report.cyclonedx   for a bill of materials      application/vnd.cyclonedx+json
report.ocsf        for a SIEM, an event a line  application/x-ndjson
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response

from app.api import conditions
from app.api.access import needs
from app.api.deps import CallerDep, Services, ServicesDep
from app.api.jobs import CACHE
from app.domain.errors import NotAcceptable
from app.domain.identity import Caller, Scope
from app.domain.ids import parse_id
from app.domain.report import SanitizationReport
from app.reports import cyclonedx, ocsf, page, sarif
from app.reports.compare import Comparison, compare
from app.reports.subject import Subject, subject_of
from app.store import job_rows

router = APIRouter(tags=["jobs"], dependencies=[needs(Scope.JOBS_READ)])


class Form(StrEnum):
    JSON = "json"
    HTML = "html"
    SARIF = "sarif"
    CYCLONEDX = "cyclonedx"
    OCSF = "ocsf"


@dataclass(frozen=True, slots=True)
class _Maker:
    media_type: str
    make: Callable[[Subject], str]

    @property
    def offered(self) -> str:
        """Its media type without parameters."""
        return self.media_type.partition(";")[0]


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


FORMS: Mapping[Form, _Maker] = {  # the first that Accept takes is made
    Form.JSON: _Maker("application/json", lambda subject: _compact(subject.report.to_dict())),
    Form.HTML: _Maker(page.MEDIA_TYPE, page.page),
    Form.SARIF: _Maker(sarif.MEDIA_TYPE, lambda subject: _compact(sarif.sarif(subject))),
    Form.CYCLONEDX: _Maker(cyclonedx.MEDIA_TYPE, lambda subject: _compact(cyclonedx.cyclonedx(subject))),
    Form.OCSF: _Maker(
        ocsf.MEDIA_TYPE, lambda subject: "".join(f"{_compact(event)}\n" for event in ocsf.ocsf(subject))
    ),
}
DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {"content": {maker.offered: {} for form, maker in FORMS.items() if form is not Form.JSON}}
}


@router.get("/jobs/{job_id}/report", response_model=SanitizationReport, responses=DESCRIBED)
def show_report(
    job_id: str, caller: CallerDep, services: ServicesDep, accept: Annotated[str | None, Header()] = None
) -> Response:
    """The report of a job that has succeeded, in the form that Accept names; JSON where it names none."""
    for form, maker in FORMS.items():
        if conditions.accepts(accept, maker.offered):
            return _made(form, _subject(services, caller, parse_id(job_id, "job")))
    offered = [maker.offered for maker in FORMS.values()]
    raise NotAcceptable(f"The report is made as {', '.join(offered)}.", offered=offered)


@router.get("/jobs/{job_id}/report.{form}", response_model=SanitizationReport, responses=DESCRIBED)
def show_report_as(job_id: str, form: Form, caller: CallerDep, services: ServicesDep) -> Response:
    """The same by the name's ending, whatever Accept says: for links and for `curl -O`."""
    return _made(form, _subject(services, caller, parse_id(job_id, "job")))


@router.get("/compare", response_model=Comparison)
def compare_jobs(
    a: Annotated[str, Query(description="a job that has succeeded")],
    b: Annotated[str, Query(description="another one")],
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """Two jobs side by side: their figures, the knobs in which they differ, and why they may not compare."""
    one, other = (_subject(services, caller, parse_id(each, "job")) for each in (a, b))
    return Response(_compact(compare(one, other).to_dict()).encode(), headers=CACHE, media_type="application/json")


def _subject(services: Services, caller: Caller, job_id: UUID) -> Subject:
    with services.database.connect() as connection:
        return subject_of(connection, job_rows.get(connection, caller.tenant, job_id))


def _made(form: Form, subject: Subject) -> Response:
    maker = FORMS[form]
    text = maker.make(subject)
    headers = CACHE | {"Vary": "Accept"}
    if form is Form.HTML:
        headers["Content-Security-Policy"] = page.policy_of(text)
    return Response(text.encode(), headers=headers, media_type=maker.media_type)
