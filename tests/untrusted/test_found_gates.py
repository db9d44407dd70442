"""Gate files that lie among the data of strangers are refused, and none of their code runs."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from pools import read_gate, write_gate

from untrusted.suite import CONFIG, configure, expert, mergegate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLACES = (
    "adapters/b/mergegate.yaml",
    "adapters/b/x.mergegate.yaml",
    "adapters/b/deep/er/mergegate.yaml",
    "data/mergegate.yaml",
    "data/more/x.mergegate.yaml",
    "adapters/x.mergegate.yaml",
    "adapters/new/mergegate.yaml",
)


def hostile(gate: Path, place: str, marker: Path) -> Path:
    """A sound gate file there, whose metric is a stranger's code."""
    path = gate.parent / place
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = read_gate(gate)
    settings["base"] = str(gate.parent / "base")
    for name, said in settings["experts"].items():
        said |= {"path": str(gate.parent / "adapters" / name), "metric": "evil:score"}
        said["examples"] = str(gate.parent / "data" / f"{name}.jsonl")
    code = "def score(outputs, examples): return [1.0] * len(outputs)\n"
    (path.parent / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n{code}")
    return write_gate(path, settings | {"budget": {"max_loss": 99}})


def bare_checkpoint(gate: Path) -> None:
    """Expert b as a full checkpoint."""
    shutil.rmtree(expert(gate))
    shutil.copytree(gate.parent / "base", expert(gate))


def said_why(text: str) -> bool:
    return "the gate file lies in" in text and "move the gate file out of that folder" in text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("where", [".", "parent"])
def test_check(
    gate: Path,
    marker: Path,
    place: str,
    where: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the root of the repository; the folder named is the root, or the stranger's own."""
    path = hostile(gate, place, marker)
    monkeypatch.chdir(gate.parent)
    folder = "." if where == "." else path.parent.relative_to(gate.parent)
    assert mergegate("check", folder, "--stage", "preflight") == 2
    assert said_why(capsys.readouterr().out)


@pytest.mark.parametrize("place", PLACES)
def test_pytest(
    gate: Path,
    marker: Path,
    place: str,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = hostile(gate, place, marker)
    monkeypatch.chdir(gate.parent)
    folder = path.parent.relative_to(gate.parent)
    options = ("--rootdir", gate.parent, "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result = pytester.runpytest_inprocess("--mergegate", folder, *options)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert said_why(result.stdout.str())
    assert not result.parseoutcomes().get("passed")


def test_a_worker_of_xdist(
    gate: Path, marker: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(gate, PLACES[0], marker)
    monkeypatch.chdir(gate.parent)
    options = ("-n1", "-p", "no:cacheprovider", "--rootdir", gate.parent)
    result = pytester.runpytest_subprocess("--mergegate", "adapters", *options)
    assert result.ret != 0
    assert said_why(result.stdout.str())


@pytest.mark.parametrize("experts", ["adapters/*", "adapters/**", "./adapters/[ab]", "*/b"])
def test_a_glob_names_folders_too(
    gate: Path, marker: Path, experts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where there is no model (any more) to know them by."""
    hostile(gate, PLACES[0], marker)
    (expert(gate) / CONFIG).unlink()
    (expert(gate) / "adapter_model.safetensors").unlink()
    write_gate(gate, read_gate(gate) | {"experts": experts, "examples": "data/{name}.jsonl"})
    assert mergegate("check", gate.parent / "adapters", gate.parent) == 2
    assert "where experts lie (mergegate.yaml)" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["dangling", "misspelled", "twice"])
def test_a_gate_file_that_cannot_be_used_still_names_its_folders(
    gate: Path, marker: Path, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile(gate, PLACES[3], marker)
    settings = read_gate(gate)
    if broken == "dangling":
        (gate.parent / "adapters" / "z").symlink_to("nowhere")
        settings |= {"experts": "adapters/*", "examples": "data/{name}.jsonl"}
    if broken == "misspelled":
        settings["budgt"] = {}
    if broken == "twice":
        (gate.parent / "more" / "a").mkdir(parents=True)
        settings |= {"experts": "*/a"}
        settings["examples"] = "data/{name}.jsonl"
        hostile(gate, "more/a/mergegate.yaml", marker)
    write_gate(gate, settings)
    assert mergegate("check", gate.parent, "--stage", "preflight") == 2
    assert said_why(capsys.readouterr().out)


def test_a_checkpoint_is_known_by_its_files(
    gate: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare_checkpoint(gate)
    hostile(gate, "adapters/b/mergegate.yaml", marker)
    gate.unlink()  # so that no gate file names it
    assert mergegate("check", gate.parent) == 2
    told = "adapters/b/, which is read as data: it holds model.safetensors"
    assert told in capsys.readouterr().out


def test_a_refused_gate_file_has_no_say(
    gate: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's names the team's folder as an expert, to have the team's gate refused."""
    team = gate.parent / "gates" / "mergegate.yaml"
    team.parent.mkdir()
    settings = read_gate(gate)
    for said in settings["experts"].values():
        said |= {"path": f"../{said['path']}", "examples": f"../{said['examples']}"}
    write_gate(team, settings | {"base": "../base"})
    gate.unlink()
    evil = hostile_with(team, gate.parent / "adapters" / "b" / "mergegate.yaml", "../../gates")
    assert mergegate("check", gate.parent, "--stage", "preflight") == 2
    out = capsys.readouterr().out
    assert f"ERROR {evil.relative_to(gate.parent.parent)}" in out
    assert f"PREFLIGHT {team.relative_to(gate.parent.parent)}" in out


def hostile_with(gate: Path, path: Path, names: str) -> Path:
    settings = read_gate(gate)
    settings["experts"]["a"]["path"] = names
    return write_gate(path, settings)


@pytest.mark.parametrize(
    ("name", "target"), [("x.mergegate.yaml", "/dev/zero"), ("mergegate.yaml", "/etc/passwd")]
)
def test_a_link_out(gate: Path, name: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    (gate.parent / "notes").mkdir()
    (gate.parent / "notes" / name).symlink_to(target)
    assert mergegate("check", gate.parent, "--stage", "preflight") == 2
    out = capsys.readouterr().out
    assert f"the symlink notes/{name} leaves the repository" in out
    assert "root:" not in out


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "large"])
def test_what_is_no_file(gate: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where it was named: nothing hangs, and no memory is filled."""
    path = gate.parent / "x.mergegate.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    if kind == "device":
        path.symlink_to("/dev/zero")
    if kind == "folder":
        path.mkdir()
        path = gate.parent
    if kind == "large":
        with path.open("wb") as file:
            file.truncate(10 << 30)
    started = time.monotonic()
    assert mergegate("check", path, "--stage", "preflight") == (0 if kind == "folder" else 2)
    assert time.monotonic() - started < 5
    said = {"fifo": "not a regular file", "device": "not a regular file", "large": "512 KiB"}
    assert said.get(kind, "") in capsys.readouterr().out


@pytest.mark.parametrize("start", [".", "data"])
@pytest.mark.parametrize("gates", ["conf", "gates", "zgates", ".gates", "team/gates"])
def test_beside_the_folder_of_the_teams_gates(
    gate: Path,
    marker: Path,
    gates: str,
    start: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever comes first by name, and whether the team's is found as well or not."""
    hostile(gate, "data/x.mergegate.yaml", marker)
    (gate.parent / gates).mkdir(parents=True)
    _moved(gate, f"{gates}/p.mergegate.yaml")
    monkeypatch.chdir(gate.parent / start)
    assert mergegate("check", ".", "--stage", "preflight") == 2
    assert said_why(capsys.readouterr().out)


def test_a_path_that_is_too_long(
    gate: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """git checks out what no absolute path leads to."""
    monkeypatch.chdir(gate.parent)
    folder = os.open("adapters/b", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    mergegate("check", ".", "--stage", "preflight")
    assert "Traceback" not in capsys.readouterr().err


# What stays as it was


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "beside the experts": lambda gate: _moved(gate, "adapters/mergegate.yaml"),
    "two side by side": lambda gate: _moved(gate, "other.mergegate.yaml", keep=True),
    "in a folder of gates": lambda gate: _moved(gate, "gates/mergegate.yaml"),
    "examples beside it": lambda gate: _examples_beside(gate),
    "one model is the repository": lambda gate: _model_at_root(gate),
}


def _moved(gate: Path, place: str, *, keep: bool = False) -> Path:
    path = gate.parent / place
    path.parent.mkdir(exist_ok=True)
    settings = read_gate(gate)
    up = "../" * place.count("/")
    for said in settings["experts"].values():
        said |= {"path": f"{up}{said['path']}", "examples": f"{up}{said['examples']}"}
    settings["base"] = f"{up}base"
    if not keep:
        gate.unlink()
    write_gate(path, settings)
    return gate.parent


def _examples_beside(gate: Path) -> Path:
    settings = read_gate(gate)
    for name, said in settings["experts"].items():
        (gate.parent / said["examples"]).rename(gate.parent / f"{name}.jsonl")
        said["examples"] = f"{name}.jsonl"
    write_gate(gate, settings)
    write_gate(gate.parent / "other.mergegate.yaml", settings)
    return gate.parent


def _model_at_root(gate: Path) -> Path:
    for file in (gate.parent / "base").iterdir():
        shutil.copy(file, gate.parent / file.name)
    for name in "abc":
        configure(gate.parent / "adapters" / name, base_model_name_or_path=str(gate.parent))
    write_gate(gate, read_gate(gate) | {"base": "."})
    return gate.parent


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("inside", [True, False], ids=["from within", "from elsewhere"])
def test_layouts_of_teams(
    gate: Path,
    layout: Callable[[Path], Path],
    inside: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = layout(gate)
    if inside:
        monkeypatch.chdir(folder)
    assert mergegate("check", "." if inside else folder, "--stage", "preflight") == 0, (
        capsys.readouterr()
    )


def test_one_that_is_named_is_run(
    gate: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile(gate, PLACES[0], marker)
    assert mergegate("check", path, "--stage", "preflight") == 0
    assert "nothing wrong" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["path", "examples"])
def test_a_name_that_no_path_can_have(
    gate: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """What one gate file says badly must not end the look at all others."""
    settings = read_gate(gate)
    settings["experts"]["b"][key] = "a\0b"
    (gate.parent / "more").mkdir()
    write_gate(gate.parent / "more" / "mergegate.yaml", settings)
    assert mergegate("check", gate.parent, "--stage", "preflight") == 2
    captured = capsys.readouterr()
    assert "internal error" not in captured.out + captured.err
    assert "nothing wrong" in captured.out
