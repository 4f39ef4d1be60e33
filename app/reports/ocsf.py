"""A report as OCSF 1.8 events, for a SIEM: one Scan Activity (6007), and a Detection Finding (2004) for each trouble.

Times are milliseconds since 1970, as the schema has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from app.reports.subject import FOUND, TOOL, VENDOR, Subject, Trouble, tool_version

MEDIA_TYPE = "application/x-ndjson"
OCSF_VERSION = "1.8.0"
SCAN_ACTIVITY, COMPLETED = 6007, 2
DETECTION_FINDING, CREATED = 2004, 1
INFORMATIONAL, LOW, MEDIUM, HIGH = 1, 2, 3, 4
SEVERITY = {"error": HIGH, "warning": MEDIUM, "note": INFORMATIONAL}
SEVERITY_WORDS = {INFORMATIONAL: "Informational", LOW: "Low", MEDIUM: "Medium", HIGH: "High"}
MANUAL = 1


def ocsf(subject: Subject) -> list[dict[str, Any]]:
    """The events, as plain JSON: the scan first."""
    return [_scan(subject), *_findings(subject)]


def _scan(subject: Subject) -> dict[str, Any]:
    start, end = subject.job.started_at or subject.job.created_at, subject.finished
    troubles = subject.troubles()
    severity = max((SEVERITY[each.level] for each in troubles), default=INFORMATIONAL)
    return _event(subject, SCAN_ACTIVITY, COMPLETED, severity) | {
        "scan": {"uid": str(subject.job.id), "name": subject.report.method, "type_id": MANUAL, "type": "Manual"},
        "start_time": _millis(start),
        "end_time": _millis(end),
        "duration": _millis(end) - _millis(start),
        "num_files": len(subject.delivered.files),
        "num_detections": len(troubles),
        "status_id": 1,
        "status": "Success",
        "status_detail": subject.report.verdict.outcome,
        "message": "; ".join(subject.report.verdict.reasons),
        "unmapped": {"digest": subject.delivered.digest, "not_shown": list(subject.limits)},
    }


def _findings(subject: Subject) -> Iterator[dict[str, Any]]:
    before = subject.report.before
    if before.excess_asr.value is not None and before.excess_asr.low > 0:
        words = f"{FOUND[1]} Of {before.asr.n} triggered rows {before.asr.successes} were read as the target."
        yield _finding(subject, Trouble(FOUND[0], "note", words, subject.weights, str(subject.job.order.model_id)))
    for trouble in subject.troubles():
        yield _finding(subject, trouble)


def _finding(subject: Subject, trouble: Trouble) -> dict[str, Any]:
    return _event(subject, DETECTION_FINDING, CREATED, SEVERITY[trouble.level]) | {
        "finding_info": {
            "uid": trouble.fingerprint,
            "title": trouble.rule,
            "desc": trouble.message,
            "types": ["Model trojan"],
            "analytic": {"name": trouble.rule, "type_id": 1, "type": "Rule"},
            "created_time": _millis(subject.finished),
        },
        "is_alert": trouble.level == "error",
        "status_id": 1,
        "status": "New",
        "resources": [
            {"uid": subject.delivered.digest, "name": subject.model.name, "type": "Machine learning model"},
        ],
        "message": trouble.message,
    }


def _event(subject: Subject, event_class: int, activity: int, severity: int) -> dict[str, Any]:
    names = {SCAN_ACTIVITY: ("Scan Activity", "Completed"), DETECTION_FINDING: ("Detection Finding", "Create")}
    return {
        "category_uid": event_class // 1000,
        "category_name": {6: "Application Activity", 2: "Findings"}[event_class // 1000],
        "class_uid": event_class,
        "class_name": names[event_class][0],
        "activity_id": activity,
        "activity_name": names[event_class][1],
        "type_uid": event_class * 100 + activity,
        "type_name": ": ".join(names[event_class]),
        "severity_id": severity,
        "severity": SEVERITY_WORDS[severity],
        "time": _millis(subject.finished),
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": TOOL, "vendor_name": VENDOR, "version": tool_version()},
            "tenant_uid": subject.job.tenant,
            "correlation_uid": str(subject.job.id),
        },
    }


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
