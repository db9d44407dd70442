"""Every command and every run that writes, with a committed link in its way."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file, save_file
from unit.history.registry.making import made

import pytest_mergegate
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.history.registry.appending import append_lines
from pytest_mergegate.history.registry.reading import read_registry
from pytest_mergegate.pool.adapters import WEIGHTS
from untrusted.checkouts import contents, mergegate
from untrusted.suite import checked

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def repository(untouched: Path) -> Path:
    """The repository of these tests."""
    return untouched


COMMANDS: dict[str, tuple[str, ...]] = {
    **{
        f"report {form}": ("check", ".", "--stage", "preflight", f"--report={form}:LINK")
        for form in ("json", "html", "markdown", "sarif")
    },
    "baseline": ("check", ".", "--stage", "preflight", "--baseline", "LINK", "--update-baseline"),
    "merge": ("check", ".", "--output", "LINK"),
    "registry": ("check", ".", "--stage", "preflight", "--registry", "LINK"),
    "plan as JSON": ("plan", "mergegate.yaml", "--json", "LINK"),
    "plan's files": ("plan", "mergegate.yaml", "--write", "LINK"),
    "init": ("init", "adapters", "--output", "LINK.mergegate.yaml"),
    "init by force": ("init", "adapters", "--output", "LINK.mergegate.yaml", "--force"),
    "study as JSON": ("study", "--paper", "--json", "LINK"),
    "convert": ("convert", "odd", "--output", "LINK"),
    "calibrate": ("calibrate", "own.jsonl", "--json", "LINK"),
}


def spoil(repository: Path) -> Path:
    """An adapter that there is something to convert of."""
    odd = shutil.copytree(repository / "adapters" / "b", repository / "odd")
    tensors = load_file(odd / WEIGHTS)
    save_file({k.replace(".weight", ".x.weight"): v for k, v in tensors.items()}, odd / WEIGHTS)
    return odd


@pytest.mark.parametrize("kind", ["file", "dangling", "folder"])
@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_every_command(
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    kind: str,
) -> None:
    monkeypatch.chdir(repository)
    if "own.jsonl" in arguments:
        append_lines(repository / "own.jsonl", [made(f"a{k}") for k in "bcdefghijk"])
    if "odd" in arguments:
        spoil(repository)
    suffix = ".mergegate.yaml" if any(a.endswith(".mergegate.yaml") for a in arguments) else ""
    if kind == "folder":
        (repository / "out").symlink_to("../secret")
        place = "out/new"
    else:
        target = "secret.txt" if kind == "file" else "new"
        (repository / f"x{suffix}").symlink_to(f"../secret/{target}")
        place = "x"
    code = mergegate(*(argument.replace("LINK", place) for argument in arguments))
    said = "".join(capsys.readouterr())
    assert code in {1, 2, 4}, said
    assert "symlink" in said or "no regular file" in said or "is there already" in said
    assert "Traceback" not in said
    assert "TOP-SECRET" not in said


@pytest.mark.parametrize("name", ["notes.txt", "adapter_model.bin", "adapter_config.json"])
@pytest.mark.parametrize("to_folder", [True, False])
def test_what_is_converted_is_the_adapter_alone(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    name: str, to_folder: bool,
) -> None:  # fmt: skip
    """A link in an adapter's folder would have a file of the machine copied beside the weights."""
    monkeypatch.chdir(repository)
    odd = spoil(repository)
    if name.endswith(".bin"):
        (odd / WEIGHTS).unlink()
    (odd / name).unlink(missing_ok=True)
    (odd / name).symlink_to("../../secret/secret.txt")
    assert mergegate("convert", "odd", *(("--output", "out") if to_folder else ())) == 2
    said = "".join(capsys.readouterr())
    assert f"the symlink odd/{name} leaves the repository" in said
    assert "TOP-SECRET" not in said
    assert not (repository / "out").exists()


@pytest.mark.parametrize("under", ["pytest", "check"])
@pytest.mark.parametrize("target", ["../secret/new", "conftest.py"])
def test_the_registry_is_on_by_default(
    repository: Path,
    pytester: pytest.Pytester,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    under: str,
    target: str,
) -> None:
    """And is refused before a model is loaded, by runs that nobody told of one."""
    monkeypatch.chdir(repository)
    (repository / "mergegate.registry.jsonl").symlink_to(target)
    if under == "check":
        assert mergegate("check", ".") == 4
        said = "".join(capsys.readouterr())
    else:
        (repository / "pytest.ini").write_text("[pytest]\n")
        ran = pytester.runpytest("--mergegate", "--rootdir", str(repository))
        assert ran.ret == 4
        said = str(ran.stderr)
    assert "mergegate.registry.jsonl is a symlink to" in said


@pytest.mark.parametrize("target", ["../secret/new", "../secret/secret.txt", ".git/config"])
def test_the_attributes_of_the_registry(
    repository: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr("pytest_mergegate.history.registry.appending._is_unsettled", lambda _: True)
    (repository / ".gitattributes").symlink_to(target)
    with pytest.raises(GateError, match=r"this was not \(.gitattributes is a symlink") as caught:
        append_lines(repository / "mergegate.registry.jsonl", [made("ab")])
    assert "merge=union" in str(caught.value)
    assert len(read_registry(repository / "mergegate.registry.jsonl").lines) == 1


@pytest.mark.parametrize("target", ["/dev/zero", "../secret/secret.txt", "/proc/self/environ"])
def test_no_registry_is_read_through_a_link(repository: Path, target: str) -> None:
    (repository / "r.jsonl").symlink_to(target)
    with pytest.raises(GateError, match=r"the registry cannot be read .* is a symlink to"):
        read_registry(repository / "r.jsonl")
    report = checked(repository / "mergegate.yaml", registry=repository / "r.jsonl")
    assert report.status == "error"


_BY_ITSELF = {
    # what they write lies in folders of their own making, in the system's temporary folder
    "engine/models/streaming.py", "engine/weights/adapters.py", "cli/run_unpickle.py",
    "pool/padding.py",
    "merging/mergekit_process.py", "merging/by_peft.py",
    "engine/models/render_chats.py",  # which reads its own size
    # beside the place, in a folder by a name that nobody can foresee
    "merging/build.py",
    "common/files/writing.py",
}  # fmt: skip
_WRITING = {
    "write_text", "write_bytes", "symlink_to", "hardlink_to", "mkdir", "makedirs", "mkstemp",
    "NamedTemporaryFile", "copyfile", "copytree", "move", "save_file", "save_pretrained", "tofile",
}  # fmt: skip


def _calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func
            yield getattr(name, "attr", getattr(name, "id", "")), node


def test_one_module_writes() -> None:
    root = Path(pytest_mergegate.__file__).parent
    found = set()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root).as_posix()
        if place in _BY_ITSELF:
            continue
        for name, call in _calls(file):
            modes = [a.value for a in (*call.args, *(k.value for k in call.keywords))
                     if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
            opens = name in {"open", "fdopen"} and any(set(m) & set("wax+") for m in modes)
            if opens or name in _WRITING:
                found.add((place, name))
    assert not found


def test_a_whole_run_leaves_only_what_it_names(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    before = {*contents(repository)}
    assert mergegate("check", ".", "--stage", "preflight", "--report", "json:out/r.json") == 0
    assert {*contents(repository)} - before == {str(repository / "out" / "r.json")}
    data = json.loads((repository / "out" / "r.json").read_text())
    assert data["status"] == "inconclusive"
