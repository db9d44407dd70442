"""Preflight by itself: without torch, for a pre-commit hook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pools import edit_adapter_config, read_gate, write_gate

from pytest_mergegate.cli import main

ROOT = Path(__file__).parents[2]
_RUN = """
import sys
from pytest_mergegate.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "peft", "mergekit", "scipy"} & set(sys.modules)
print("HEAVY", sorted(heavy))
sys.exit(code)
"""
_PYTEST = """
import sys, pytest
code = pytest.main(sys.argv[1:])
print("HEAVY", sorted({"torch", "transformers", "peft", "mergekit"} & set(sys.modules)))
sys.exit(code)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check(*arguments: object, stage: str = "preflight") -> int:
    """The command in this process, where what it imports does not matter."""
    return main(["check", "--stage", stage, *map(str, arguments)])


def test_nothing_wrong_is_0_and_needs_no_torch(tiny_pool: Path, tmp_path: Path) -> None:
    done = run(
        _RUN,
        "check",
        "--stage",
        "preflight",
        tiny_pool,
        "--report",
        f"json:{tmp_path / 'report.json'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "HEAVY []" in done.stdout
    assert "3 experts, nothing wrong; not judged: max_disagreement" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    # what was not judged has not passed
    assert report["status"] == "inconclusive"
    assert {v["status"] for v in report["verdicts"]} == {"inconclusive"}


def test_warnings_are_shown(pool_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gate(pool_copy, read_gate(pool_copy) | {"merge": {"methods": ["ties"]}})
    assert check(pool_copy) == 0
    assert "MG118 ties" in capsys.readouterr().out


def test_something_wrong_is_2(pool_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_adapter_config(pool_copy.parent / "adapters" / "b", task_type="SEQ_CLS")
    assert check(pool_copy) == 2
    said = capsys.readouterr()
    assert "MG101 b" in said.out
    assert "Traceback" not in said.out + said.err


def test_one_of_two_gates_wrong(pool_copy: Path, tiny_pool: Path) -> None:
    edit_adapter_config(pool_copy.parent / "adapters" / "b", task_type="SEQ_CLS")
    assert check(tiny_pool, pool_copy) == 2
    assert check(pool_copy, tiny_pool) == 2


def test_deeper_stages_stay_inconclusive(tiny_pool: Path) -> None:
    assert check(tiny_pool, stage="conflict") == 1


@pytest.mark.parametrize(("setting", "code"), [("fail", 1), ("warn", 0)])
def test_under_pytest_the_contract_holds(
    tiny_pool: Path, tmp_path: Path, setting: str, code: int
) -> None:
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmergegate_on_inconclusive = {setting}\n")
    arguments = ("--mergegate", "--mergegate-stage", "preflight", "-p", "no:cacheprovider")
    done = run(_PYTEST, *arguments, "-c", tmp_path / "pytest.ini", tiny_pool)
    assert done.returncode == code, done.stdout
    assert "HEAVY []" in done.stdout


def test_the_hook_that_is_shipped_runs(tiny_pool: Path) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    (hook,) = (hook for hook in hooks if hook["id"] == "mergegate-preflight")
    program, *arguments = [*hook["entry"].split(), *hook["args"]]
    assert program == "mergegate"
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *arguments],
        cwd=tiny_pool.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
