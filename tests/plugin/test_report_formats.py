"""JUnit, Markdown and SARIF of real runs."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from plugin.gates import CHEAP

if TYPE_CHECKING:
    from plugin.gates import Gates


def properties(pytester: pytest.Pytester) -> dict[str, dict[str, str]]:
    """Of every test case, those that people read."""
    found: dict[str, dict[str, str]] = {}
    for case in ET.parse(pytester.path / "junit.xml").iter("testcase"):
        own = [(p.get("name", ""), p.get("value", "")) for p in case.iter("property")]
        counts = Counter(name for name, _ in own)
        assert counts["mergegate"] == counts["mergegate.status"] == 1
        found[case.get("name", "")] = dict(own)
    return found


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
@pytest.mark.parametrize("workers", [0, 2])
def test_junit_says_what_was_judged(
    pytester: pytest.Pytester, gates: Gates, family: str, workers: int
) -> None:
    gates.write(budget={CHEAP: 0.0})
    pytester.runpytest(
        "--mergegate", "--junitxml=junit.xml", "-o", f"junit_family={family}", f"-n{workers}"
    )
    found = properties(pytester)
    assert found.keys() == {"a", "b", "c", "pool"}
    for name, own in found.items():
        assert own["mergegate.status"] == "fail"
        assert own[f"mergegate.{CHEAP}.status"] == "fail"
        assert float(own[f"mergegate.{CHEAP}.value"]) > 0
        assert own[f"mergegate.{CHEAP}.limit"] == "0"
        assert own.get("mergegate.expert") == (None if name == "pool" else name)
    worst = found["pool"][f"mergegate.{CHEAP}.expert"]
    assert found[worst][f"mergegate.{CHEAP}.value"] == found["pool"][f"mergegate.{CHEAP}.value"]


def test_junit_tells_apart_what_passed(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.undecided()
    pytester.runpytest("--mergegate", "--junitxml=junit.xml")
    for own in properties(pytester).values():
        assert own["mergegate.status"] == "inconclusive"
        assert own["mergegate.max_mds.value"] == "undefined: needs_three_experts"


def test_junit_of_a_pool_that_cannot_be_read(pytester: pytest.Pytester, gates: Gates) -> None:
    gates.unreadable()
    pytester.runpytest("--mergegate", "--junitxml=junit.xml")
    found = properties(pytester)
    assert {own["mergegate.status"] for own in found.values()} == {"error"}
    assert found["pool"]["mergegate.finding"].startswith("MG001 ")


def test_markdown_and_sarif_name_the_gate_from_the_root(
    pytester: pytest.Pytester, gates: Gates
) -> None:
    gates.failing("sub/mergegate.yaml")
    gates.malformed("broken.mergegate.yaml")
    pytester.runpytest(
        "--mergegate",
        "--continue-on-collection-errors",
        "--mergegate-report=markdown:out.md",
        "--mergegate-report=sarif:out.sarif",
    )
    text = (pytester.path / "out.md").read_text("utf-8")
    assert text.startswith("## ⛔ Merge gates: error")
    assert "### ❌ FAIL `sub/mergegate.yaml`" in text
    (run,) = json.loads((pytester.path / "out.sarif").read_text("utf-8"))["runs"]
    places = [r["locations"][0]["physicalLocation"] for r in run["results"]]
    uris = [place["artifactLocation"]["uri"] for place in places]
    assert set(uris) == {"broken.mergegate.yaml", "sub/mergegate.yaml"}
    assert places[uris.index("broken.mergegate.yaml")]["region"] == {"startLine": 2}
    assert str(pytester.path) not in json.dumps(run)
    assert run["invocations"][0]["executionSuccessful"] is False
