"""Reports as SARIF 2.1.0, for code scanning: what is wrong, at its line of the gate file."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from pytest_mergegate.common.addresses import SITE
from pytest_mergegate.common.files.documents import file_name
from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.report.formats.reading import finding_page
from pytest_mergegate.report.types import Collected, FindingRecord, Report, VerdictRecord
from pytest_mergegate.verdict.budgets import kind_of

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
FINGERPRINT = "mergegate/v1"
_Result = dict[str, Any]
_LEVELS = {"fail": "error", "inconclusive": "warning"}
_ABSOLUTE = re.compile(r"(?<![\w.:/~%])(?:[A-Za-z]:[\\/]|/)(?:[^\s/\\:'\"(),]+[\\/])+")


class _Place:
    """The gate file of one report, as another machine can find it."""

    def __init__(self, reports: Collected, report: Report) -> None:
        self._root = reports.root
        name = file_name(reports.name(report).partition("::")[0])
        self._within = not re.match(r"[A-Za-z]:|/|~|(.*/)?\.\.(/|$)", name)
        path = name.replace("\\", "/")
        self._path = path.removeprefix("./") if self._within else path.rpartition("/")[2]

    def location(self, line: int | None) -> dict[str, Any]:
        """The line of the gate file; its name alone where it lies outside of the root."""
        file = {"uri": quote(self._path, safe="/")}
        if self._within:
            file["uriBaseId"] = "%SRCROOT%"
        region = {"region": {"startLine": line}} if line else {}
        return {"physicalLocation": {"artifactLocation": file, **region}}

    def portable(self, message: str) -> str:
        """``message`` without the folders of this machine."""
        shown = clean(message)
        if self._root is not None:
            shown = shown.replace(f"{self._root}/", "").replace(str(self._root), ".")
        return _ABSOLUTE.sub("…/", shown)

    def fingerprint(self, rule: str, expert: str | None, method: str | None) -> dict[str, str]:
        """Of what the problem is, not of its numbers, words or line: it lasts from run to run."""
        identity = json.dumps([self._path, rule, expert, method])
        return {FINGERPRINT: hashlib.sha256(identity.encode()).hexdigest()}


def render(reports: Collected) -> str:
    """One run of one tool, with a result per finding and per verdict that is no pass."""
    results = [result for report in reports.reports for result in _results(reports, report)]
    seen: Counter[str] = Counter()
    for result in results:
        identity = result["partialFingerprints"][FINGERPRINT]
        seen[identity] += 1
        if seen[identity] > 1:  # two of a kind: told apart by their order alone
            result["partialFingerprints"][FINGERPRINT] = f"{identity}:{seen[identity]}"
    rules = list(dict.fromkeys(result["ruleId"] for result in results))
    for result in results:
        result["ruleIndex"] = rules.index(result["ruleId"])
    versions = (report.versions.get("pytest-mergegate") for report in reports.reports)
    version = next(filter(None, versions), None)
    driver = {
        "name": "pytest-mergegate",
        "informationUri": f"{SITE}/",
        **({"version": version} if version else {}),
        "rules": [_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "automationDetails": {"id": "mergegate/"},
        "columnKind": "utf16CodeUnits",
        "invocations": [_invocation(reports)],
        "results": results,
    }
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _rule(rule: str) -> dict[str, Any]:
    kind, _, budget = rule.partition("/")
    if not budget:
        text = f"Finding {rule} of the merge gate"
        return {"id": rule, "shortDescription": {"text": text}, "helpUri": finding_page(rule)}
    text = f"The merge keeps every expert within the {kind} for {kind_of(budget).words}"
    page = f"{SITE}/gate-file/#budgets"
    return {"id": rule, "name": budget, "shortDescription": {"text": text}, "helpUri": page}


def _results(reports: Collected, report: Report) -> Iterator[_Result]:
    place = _Place(reports, report)

    def result(rule: str, level: str, text: str, about: FindingRecord | VerdictRecord) -> _Result:
        method = getattr(about, "method", None)
        return {
            "ruleId": rule,
            "level": level,
            "message": {"text": text},
            "locations": [place.location(about.line)],
            "partialFingerprints": place.fingerprint(rule, about.expert, method),
        }

    for finding in report.findings:
        about = f"{clean(finding.expert)}: " if finding.expert else ""
        fix = f" (fix: {finding.fix})" if finding.fix else ""
        text = about + place.portable(finding.message + fix)
        yield result(finding.code, finding.severity, text, finding)
    for verdict in report.verdicts:
        if verdict.status == "pass":
            continue
        known = {
            "expert": verdict.expert,
            "method": verdict.method,
            "value": "infinite" if verdict.value_infinite else verdict.value,
            "limit": verdict.limit,
            "basis": verdict.basis,
        }
        level, text = _LEVELS[verdict.status], place.portable(verdict.message)
        told = {name: value for name, value in known.items() if value is not None}
        yield result(f"budget/{verdict.budget}", level, text, verdict) | {"properties": told}


def _invocation(reports: Collected) -> dict[str, Any]:
    stopped = [report for report in reports.reports if report.status == "error"]
    told = [
        {
            "level": "error",
            "message": {"text": place.portable(finding.message)},
            "descriptor": {"id": finding.code},
            "locations": [place.location(finding.line)],
        }
        for place, report in ((_Place(reports, report), report) for report in stopped)
        for finding in report.findings
        if finding.severity == "error"
    ]
    if not reports.reports:
        told.append({"level": "error", "message": {"text": "No gate ran."}})
    elif not reports.complete:
        missing = "Not every gate that was asked for has reported."
        told.append({"level": "error", "message": {"text": missing}})
    return {"executionSuccessful": not (told or stopped), "toolExecutionNotifications": told}
