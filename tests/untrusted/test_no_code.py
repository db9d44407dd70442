"""``--no-code``: whatever in a gate is code of its repository is refused, by every command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate

from pytest_mergegate.cli import main
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.report.gating import run_gate

if TYPE_CHECKING:
    from pathlib import Path

CODE: dict[str, tuple[dict[str, Any], str]] = {
    "metric": ({"metric": "evil:score"}, "metric evil:score is code"),
    "metric of a package": ({"metric": "pack.age.evil:score"}, "metric pack.age.evil:score"),
    "metric of Python's": ({"metric": "os:system"}, "metric os:system"),
    "method": ({"methods": ["evil:merge"]}, "method evil:merge"),
    "method among others": (
        {"methods": ["linear", {"method": "evil:merge", "x": 1}]},
        "method evil:merge",
    ),
    "tasks": ({"lm_eval_tasks": "tasks"}, "lm_eval_tasks: tasks"),
    "base": ({"trust_remote_code": True}, "trust_remote_code"),
}


@pytest.fixture(params=CODE)
def hostile(gate: Path, marker: Path, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A gate that would run code, and what is said of it."""
    changes, says = CODE[request.param]
    for place in (gate.parent, gate.parent / "pack" / "age", gate.parent / "tasks"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    settings = read_gate(gate)
    if "metric" in changes:
        settings["experts"]["b"] |= changes
    elif "methods" in changes:
        settings["merge"] = changes
    else:
        settings |= changes
    return write_gate(gate, settings), says


def test_a_gate(hostile: tuple[Path, str]) -> None:
    path, says = hostile
    report = run_gate(load_gate(path), Options(no_code=True, cache=None))
    assert report.status == "error"
    assert not report.experts
    (found,) = report.findings
    assert says in found.message
    assert "this run allows none" in found.message
    assert "mergegate.yaml:" in found.message
    assert found.fix


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_command(
    hostile: tuple[Path, str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, says = hostile
    assert main([command, str(path), "--no-code", "--no-cache"]) == 2
    out, err = capsys.readouterr()
    said = " ".join((out + err).split())
    assert says in said
    assert "this run allows none" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("hostile", ["metric", "base"], indirect=True)
@pytest.mark.parametrize("how", ["option", "ini"])
def test_pytest(
    hostile: tuple[Path, str], pytester: pytest.Pytester, how: str, marker: Path
) -> None:
    path, says = hostile
    ini = path.parent / "pytest.ini"
    ini.write_text("[pytest]\n" + ("mergegate_no_code = true\n" if how == "ini" else ""))
    option = [] if how == "ini" else ["--mergegate-no-code"]
    done = pytester.runpytest_inprocess(
        *("--mergegate", "--mergegate-no-registry", "-p", "no:cacheprovider", "-c", str(ini)),
        *(*option, str(path)),
    )
    assert done.ret == 2
    said = " ".join(done.stdout.str().split())
    assert says in said
    assert "this run allows none" in said


def test_what_is_no_code_passes_by(gate: Path) -> None:
    """A task of the harness's own is none of the repository's; neither is a built-in metric."""
    settings = read_gate(gate)
    settings["experts"]["a"]["metric"] = "rouge_l"
    settings["experts"]["b"]["metric"] = "lm_eval:arc_easy"
    write_gate(gate, settings)
    report = run_gate(load_gate(gate), Options(no_code=True, stage="preflight", cache=None))
    assert report.status == "inconclusive", report.findings


def test_the_code_is_live(gate: Path, marker: Path) -> None:
    (gate.parent / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    settings = read_gate(gate)
    settings["experts"]["b"]["metric"] = "evil:score"
    write_gate(gate, settings | {"budget": {"max_loss": 50}})
    run_gate(load_gate(gate), Options(cache=None))
    assert marker.exists()
    marker.unlink()
