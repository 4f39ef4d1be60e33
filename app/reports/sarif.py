"""A report as SARIF 2.1.0 (OASIS, 2020), for code scanning: one result for each figure that is not within its limit.

A figure that passes makes no result, as viewers show every result as an alert; the run's properties hold them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from app.reports.subject import FOUND, HOMEPAGE, RULES, TOOL, Subject, Trouble, tool_version

MEDIA_TYPE = "application/sarif+json"
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(subject: Subject) -> dict[str, Any]:
    """The log, as plain JSON. Results have partial fingerprints that stay from run to run of the same upload."""
    troubles = subject.troubles()
    rules = _rules(troubles)
    run = {
        "tool": {
            "driver": {
                "name": TOOL,
                "version": tool_version(),
                "informationUri": HOMEPAGE,
                "rules": list(rules.values()),
            }
        },
        "automationDetails": {"id": f"lethe/{subject.model.name}/{subject.job.id}", "guid": str(subject.job.id)},
        "invocations": [
            {
                "executionSuccessful": True,
                "startTimeUtc": _time(subject.job.started_at or subject.job.created_at),
                "endTimeUtc": _time(subject.finished),
            }
        ],
        "artifacts": [
            {"location": {"uri": entry.path}, "length": entry.size, "hashes": {"sha-256": entry.sha256}}
            for entry in subject.delivered
        ],
        "results": [_result(each, list(rules)) for each in troubles],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdict": subject.report.verdict.outcome,
            "reasons": list(subject.report.verdict.reasons),
            "digest": subject.delivered.digest,
            "notShown": list(subject.limits),
        },
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rules(troubles: Iterable[Trouble]) -> dict[str, dict[str, Any]]:
    """Ours, and those of the intake that spoke, by id."""
    words = dict((*RULES.values(), FOUND))
    words |= {each.rule: "A rule of the intake." for each in troubles if each.rule not in words}
    return {
        rule: {
            "id": rule,
            "shortDescription": {"text": text},
            "properties": {"tags": ["security", "machine-learning"], "security-severity": "8.0"},
        }
        for rule, text in words.items()
    }


def _result(trouble: Trouble, rules: list[str]) -> dict[str, Any]:
    return {
        "ruleId": trouble.rule,
        "ruleIndex": rules.index(trouble.rule),
        "kind": "review" if trouble.level == "warning" else "fail",
        "level": trouble.level,
        "message": {"text": trouble.message},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": trouble.file}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"lethe/v1": trouble.fingerprint},
    }


def _time(moment: Any) -> str:
    return str(moment.isoformat().replace("+00:00", "Z"))
