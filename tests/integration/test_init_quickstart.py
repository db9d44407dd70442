"""``mergegate init`` on the quickstart's really trained adapters gives a gate that runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_mergegate import assess
from pytest_mergegate.gate.gatefile import load_gate

pytestmark = pytest.mark.slow

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
COMPATIBLE = ("rotate_upper", "cut_upper", "number_dot", "first_last")
_RUN = """
import sys
from pytest_mergegate.cli import main
code = main(["init", *sys.argv[1:]])
print("HEAVY", sorted({"torch", "transformers", "peft", "mergekit", "scipy"} & set(sys.modules)))
sys.exit(code)
"""


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """The adapters, the base and the data, without the gate files."""
    for name in ("adapters", "base", "data"):
        shutil.copytree(QUICKSTART / name, tmp_path / name)
    return tmp_path


def init(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_adapters_without_torch(quickstart: Path) -> None:
    done = init(quickstart / "adapters")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HEAVY []" in done.stdout
    assert "checked: preflight finds nothing wrong" in done.stdout
    spec = load_gate(quickstart / "mergegate.yaml").spec
    assert set(spec.experts) == {path.name for path in (quickstart / "adapters").iterdir()}
    assert spec.base == "base"
    assert spec.probes.max_answer_tokens == 16  # the longest answer has 13 tokens
    report = assess(quickstart / "mergegate.yaml", stage="conflict")
    assert report.status == "inconclusive"  # no verdict without the merge, and nothing in the way
    assert not [finding for finding in report.findings if finding.severity == "error"]


def test_a_compatible_few_run_to_the_end(quickstart: Path) -> None:
    for adapter in (quickstart / "adapters").iterdir():
        if adapter.name not in COMPATIBLE:
            shutil.rmtree(adapter)
    assert init(quickstart / "adapters").returncode == 0
    gate = quickstart / "mergegate.yaml"
    hidden = assess(gate, stage="hidden")
    assert {verdict.basis for verdict in hidden.verdicts if verdict.status != "inconclusive"} == {
        "predicted"
    }
    report = assess(gate)
    assert report.status == "pass"
    assert {(v.budget, v.basis) for v in report.verdicts} == {
        ("max_disagreement", "merged"),
        ("max_loss", "measured"),
    }
    assert {verdict.expert for verdict in report.verdicts} == set(COMPATIBLE)


def test_the_command_it_prints_works(quickstart: Path) -> None:
    done = init(quickstart / "adapters")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    command = line.removeprefix("next: mergegate ").split()
    run = subprocess.run(
        [sys.executable, "-m", "pytest_mergegate.cli", *command, "--stage", "preflight"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "10 experts, nothing wrong" in run.stdout


def test_the_page_shows_what_it_says(quickstart: Path) -> None:
    done = init(quickstart / "adapters", "--no-check")
    said = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    page = (QUICKSTART.parents[1] / "docs" / "init.md").read_text(encoding="utf-8")
    missing = [line for line in said if line not in page and not line.startswith("or: ")]
    assert len(said) == 5
    assert missing == []
