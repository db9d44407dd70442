"""Links that lead out: no command opens or lists what they lead to, whoever comes first."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pools import read_gate, write_gate

from untrusted.suite import CONFIG, WEIGHTS, checked, configure, expert, mergegate, reads, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def untouched(gate: Path) -> Iterator[None]:
    """Nothing in the secret folder, no device and not the root of the file system is read."""
    with reads() as seen:
        yield
    assert not outside(seen, gate)


def outside(seen: list[tuple[str, str]], gate: Path) -> list[str]:
    """What was read through a path in the repository and lies elsewhere."""
    foreign = ("/dev/", "/etc/", "/proc", "/sys", str(gate.parent.parent / "secret"))
    here = [real for path, real in seen if Path(path).absolute().is_relative_to(gate.parent)]
    return [real for real in here if real == "/" or real.startswith(foreign)]


def _replaced(path: Path, target: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


LINKS: dict[str, Callable[[Path], None]] = {
    "configuration to a device": lambda b: _replaced(b / CONFIG, "/dev/zero"),
    "configuration to a secret": lambda b: _replaced(b / CONFIG, "../../../secret/secret.txt"),
    "weights to a device": lambda b: _replaced(b / WEIGHTS, "/dev/zero"),
    "tokenizer to a device": lambda b: _replaced(b / "tokenizer.json", "/dev/zero"),
    "template to a secret": lambda b: _replaced(b / "chat_template.jinja", "/etc/passwd"),
    "expert to the root": lambda b: _replaced(b, "/"),
    "expert to a secret": lambda b: _replaced(b, "../../secret"),
    "expert to the processes": lambda b: _replaced(b, "/proc"),
    "folder in it to the root": lambda b: _replaced(b / "more", "/"),
    "folder deep in it": lambda b: _replaced(b / "x/y/z", "/"),
    "examples to a device": lambda b: _replaced(b.parent.parent / "data/b.jsonl", "/dev/zero"),
    "examples to a secret": lambda b: _replaced(
        b.parent.parent / "data/b.jsonl", "../../secret/secret.txt"
    ),
    "folder of examples to the root": lambda b: _replaced(b.parent.parent / "data", "/"),
}  # fmt: skip

COMMANDS: dict[str, Callable[[Path], int]] = {
    "check": lambda gate: mergegate("check", gate, "--stage", "preflight"),
    "check a folder": lambda gate: mergegate("check", gate.parent, "--stage", "preflight"),
    "plan": lambda gate: mergegate("plan", gate),
    "init": lambda gate: mergegate("init", gate.parent / "adapters", "--output", gate, "--force"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("lead_out", LINKS.values(), ids=LINKS)
def test_no_command_looks_outside(
    gate: Path,
    lead_out: Callable[[Path], None],
    command: Callable[[Path], int],
    untouched: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lead_out(expert(gate))
    assert command(gate) != 0
    out, err = capsys.readouterr()
    # init only looks whether there are examples; what is no file is not there
    assert "leaves the repository" in out + err or "b.jsonl is not there" in out
    assert "TOP-SECRET" not in out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("lead_out", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
def test_pytest_does_not_look_outside(
    gate: Path,
    lead_out: Callable[[Path], None],
    named: bool,
    untouched: None,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lead_out(expert(gate))
    if not named and expert(gate).is_symlink() and expert(gate).resolve() != Path("/"):
        pytest.skip("pytest itself looks for tests behind such links")
    monkeypatch.chdir(gate.parent)
    path = gate if named else gate.parent
    arguments = ("--rootdir", gate.parent, "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    result = pytester.inline_run("--mergegate", path, *arguments)
    assert result.ret == pytest.ExitCode.INTERRUPTED


def _git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("lead_out", LINKS.values(), ids=LINKS)
def test_changes_are_not_looked_for_outside(
    gate: Path, lead_out: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (gate.parent / ".git").rmdir()
    _git(gate.parent, "init", "-q")
    lead_out(expert(gate))
    _git(gate.parent, "add", "-A")
    _git(gate.parent, "commit", "-qm", "all")
    with reads() as seen:
        code = mergegate("check", gate, "--changed-since", "HEAD", "--stage", "preflight")
    assert code == 2, "a gate that cannot be read must say so, whatever has changed"
    assert "leaves the repository" in capsys.readouterr().out
    assert not outside(seen, gate)


@pytest.mark.parametrize("base", ["/", "/proc", "~", "../../secret", "/dev/zero", "x\0y"])
def test_changes_in_a_base_that_an_adapter_names(gate: Path, base: str) -> None:
    (gate.parent / ".git").rmdir()
    _git(gate.parent, "init", "-q")
    settings = read_gate(gate)
    del settings["base"]
    write_gate(gate, settings)
    for name in "abc":
        configure(gate.parent / "adapters" / name, base_model_name_or_path=base)
    _git(gate.parent, "add", "-A")
    _git(gate.parent, "commit", "-qm", "all")
    with reads() as seen:
        mergegate("check", gate, "--changed-since", "HEAD", "--stage", "preflight")
    listed = {real for _, real in seen}
    assert not listed & {"/", "/proc", str(Path.home()), str(gate.parent.parent / "secret")}


# Globs


@pytest.mark.parametrize("pattern", ["adapters/*/*", "adapters/*/**/x", "*/b/*", "adapters/b/*"])
@pytest.mark.parametrize("target", ["/", "../../secret"])
def test_globs_do_not_look_through_links(
    gate: Path, pattern: str, target: str, untouched: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _replaced(expert(gate), target)
    write_gate(gate, read_gate(gate) | {"experts": pattern})
    assert mergegate("check", gate) == 2
    said = capsys.readouterr().out
    assert "mergegate.yaml:" in said
    assert "the symlink adapters/b leaves the repository" in said


def test_a_glob_that_matches_a_link_out(gate: Path, untouched: None) -> None:
    _replaced(expert(gate), "/")
    settings = read_gate(gate) | {"experts": "adapters/*", "examples": "data/{name}.jsonl"}
    assert "leaves the repository" in refused(write_gate(gate, settings), "MG003").message


def test_globs_follow_links_within(gate: Path) -> None:
    (gate.parent / "adapters").rename(gate.parent / "kept")
    (gate.parent / "adapters").symlink_to("kept")
    settings = read_gate(gate) | {"experts": "adapters/*", "examples": "data/{name}.jsonl"}
    assert checked(write_gate(gate, settings), stage="preflight").status == "inconclusive"


# Homes


@pytest.fixture
def home(gate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that holds an adapter, outside of the repository."""
    folder = gate.parent.parent / "secret" / "home"
    shutil.copytree(gate.parent / "adapters" / "a", folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize("name", ["~", "~root", "~nobody"])
def test_a_found_folder_is_no_home(gate: Path, home: Path, name: str, untouched: None) -> None:
    """A glob finds a folder that is called as a shell calls a home."""
    pool = gate.parent / "adapters"
    (pool / "b").rename(pool / name)
    (gate.parent / "data" / "b.jsonl").rename(gate.parent / "data" / f"{name}.jsonl")
    settings = read_gate(gate)
    settings |= {"experts": "[abc~]*", "base": "../base", "examples": "../data/{name}.jsonl"}
    report = checked(write_gate(pool / "mergegate.yaml", settings), stage="preflight")
    assert report.status == "inconclusive", report.findings
    assert {e.name: e.ref for e in report.experts} == {"a": "a", "c": "c", name: f"./{name}"}


def test_a_home_that_the_gate_file_names(gate: Path, home: Path) -> None:
    settings = read_gate(gate)
    settings["experts"]["b"]["path"] = "~"
    report = checked(write_gate(gate, settings), stage="preflight")
    assert "MG106" in {f.code for f in report.findings}, "the home is read: it is a copy of a"


def test_a_home_that_an_adapter_names(
    gate: Path, home: Path, untouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)  # where adapters name no base
    settings = read_gate(gate)
    del settings["base"]
    for name in "abc":
        configure(gate.parent / "adapters" / name, base_model_name_or_path="~")
    assert "there is no directory '~'" in refused(write_gate(gate, settings), "MG001", None).message


def test_init_writes_no_home(gate: Path, home: Path, untouched: None) -> None:
    pool = gate.parent / "adapters"
    (pool / "b").rename(pool / "~")
    (gate.parent / "data" / "b.jsonl").rename(gate.parent / "data" / "~.jsonl")
    gate.unlink()
    output = pool / "mergegate.yaml"
    mergegate("init", pool, "--output", output, "--base", gate.parent / "base")
    assert read_gate(output)["experts"]["~"]["path"] == "./~"
    assert mergegate("check", output, "--stage", "preflight") == 0
