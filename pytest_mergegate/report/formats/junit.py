"""Verdicts as properties of a test case: plain strings, which JUnit and xdist take."""

from collections.abc import Iterator

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import distinct, number_text
from pytest_mergegate.report.formats.reading import badness, status_of
from pytest_mergegate.report.types import Report, VerdictRecord


def properties(report: Report, expert: str | None) -> Iterator[tuple[str, str]]:
    """What a consumer of JUnit finds of one expert, or, for None, of the pool.

    Of the pool, every budget has the values of the expert that is worst off.
    """
    own = (expert and status_of(report, expert)) or report.status
    yield "mergegate.status", report.status if report.status == "error" else own
    yield "mergegate.gate_status", report.status
    if expert is not None:
        yield "mergegate.expert", clean(expert)
    concerned = [v for v in report.verdicts if expert in (None, v.expert)]
    for budget in dict.fromkeys(verdict.budget for verdict in concerned):
        worst = max((v for v in concerned if v.budget == budget), key=badness)
        told = {
            "status": worst.status,
            "value": _value(worst),
            "limit": "undefined" if worst.limit is None else f"{worst.limit:g}",
            "method": clean(worst.method or ""),
            "expert": clean(worst.expert or "") if expert is None else "",
        }
        yield from ((f"mergegate.{budget}.{name}", text) for name, text in told.items() if text)
    diagnoses = [found for found in report.diagnoses if expert in (None, found.expert)]
    for found in diagnoses:
        about = "" if expert else f"{clean(found.expert)}: "
        if found.cause:
            yield "mergegate.cause", about + clean(found.cause)
        for cure in found.cures:
            yield "mergegate.cure", about + clean(cure)
    for finding in report.findings:
        if finding.severity == "error" and not diagnoses and expert in (None, finding.expert):
            yield "mergegate.finding", f"{finding.code} {clean(finding.message)}"


def _value(verdict: VerdictRecord) -> str:
    """The number, with the digits it takes to stand on its own side of the limit."""
    if verdict.value_infinite:
        return "infinite"
    if verdict.value is None:
        return f"undefined: {verdict.value_reason or 'no reason was given'}"
    if verdict.limit is None:
        return number_text(verdict.value)
    return distinct(verdict.value, verdict.limit)[0]
