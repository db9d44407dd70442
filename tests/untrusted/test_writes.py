"""Links that a pull request commits where the product writes: nothing is written through them."""

from __future__ import annotations

import ast
import json
import os
import tempfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from unit.registry.making import made

import pytest_mergegate
from pytest_mergegate import workers, writing
from pytest_mergegate.baseline.reading import read_baseline
from pytest_mergegate.baseline.rewriting import update_baseline
from pytest_mergegate.errors import GateError
from pytest_mergegate.registry.appending import append_lines
from pytest_mergegate.registry.reading import read_registry
from pytest_mergegate.report.collected import Collected
from pytest_mergegate.report.files import write_report
from pytest_mergegate.settings import ReportTarget
from pytest_mergegate.writing import Unwritten, make_private_folder, open_to_append, write_file
from untrusted.suite import checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def contents(*folders: Path) -> dict[str, bytes]:
    """Every file in some folders."""
    files = (Path(root, name) for f in folders for root, _, names in os.walk(f) for name in names)
    return {str(file): file.read_bytes() for file in files if file.is_file()}


@pytest.fixture
def repository(gate: Path) -> Iterator[Path]:
    """The repository. What lies outside, and what is not to be overwritten, stays as it is."""
    root = gate.parent
    (root / "conftest.py").write_text("# ours\n")
    (root / ".git" / "config").write_text("# git's\n")
    kept = (root.parent / "secret", root / ".git", root / "adapters")
    before = contents(*kept) | {"conftest": (root / "conftest.py").read_bytes()}
    yield root
    after = contents(*kept) | {"conftest": (root / "conftest.py").read_bytes()}
    assert after == before, "something was written where a link led"
    assert [*contents(root.parent / "secret")] == [str(root.parent / "secret" / "secret.txt")]


def mergegate(*arguments: object) -> int:
    """The installed command; its exit code."""
    (command,) = entry_points(group="console_scripts", name="mergegate")
    try:
        return int(command.load()([*map(str, arguments)]))
    except SystemExit as exit:
        return int(exit.code or 0)


# What leads where


def _file(target: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        (root / "written").symlink_to(target)
        return root / "written"

    return link


def _folder(target: str) -> Callable[[Path], Path]:
    def link(root: Path) -> Path:
        (root / "out").symlink_to(target)
        return root / "out" / "written"

    return link


def _absolute(root: Path) -> Path:
    (root / "written").symlink_to(root.parent / "secret" / "secret.txt")
    return root / "written"


def _chain(root: Path) -> Path:
    (root / "hop").symlink_to("../secret")
    (root / "out").symlink_to("hop")
    return root / "out" / "secret.txt"


def _deep(root: Path) -> Path:
    (root / "out" / "a").mkdir(parents=True)
    (root / "out" / "a" / "b").symlink_to("../../../secret")
    return root / "out" / "a" / "b" / "c" / "written"


def _and_back(root: Path) -> Path:
    (root / "out").symlink_to("../secret")
    return root / "out" / ".." / "secret" / "secret.txt"


def _another_repository(root: Path) -> Path:
    (root.parent / "other" / ".git").mkdir(parents=True)
    (root / "out").symlink_to("../other")
    return root / "out" / "written"


LINKS: dict[str, Callable[[Path], Path]] = {
    "file outside": _file("../secret/secret.txt"),
    "absolute": _absolute,
    "new file outside": _file("../secret/new"),
    "code inside": _file("conftest.py"),
    "settings of git": _file(".git/config"),
    "hook of git": _file(".git/hooks/post-checkout"),
    "expert": _file("adapters/a/adapter_config.json"),
    "device": _file("/dev/null"),
    "circle": _file("written"),
    "folder outside": _folder("../secret"),
    "folder inside": _folder("adapters/a"),
    "folder that is none": _folder("../secret/nowhere"),
    "chain": _chain,
    "deep": _deep,
    "and back": _and_back,
    "another repository": _another_repository,
}


def _report(form: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        write_report(Collected(reports=()), ReportTarget(format=form, path=path))

    return write


def _baseline(path: Path) -> object:
    """Written by a run that found none there, or was not asked to look."""
    found = read_baseline(path.parent.parent / "none.json", path.parent)
    gate = Path.cwd() / "pool" / "mergegate.yaml"
    report = checked(gate, stage="conflict", max_conflicting_magnitude_ratio=1.0)
    moved = type(found)(path=path, root=gate.parent, reports=None)
    return update_baseline(moved, [report.model_copy(update={"gate": "mergegate.yaml"})])


WRITERS: dict[str, Callable[[Path], object]] = {
    "registry": lambda path: append_lines(path, [made("ab")]),
    "json": _report("json"),
    "markdown": _report("markdown"),
    "sarif": _report("sarif"),
    "file": lambda path: write_file(path, "x"),
    "new file": lambda path: write_file(path, "x", new=True),
}


@pytest.mark.parametrize("lead_out", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_link_is_written_through(
    repository: Path, lead_out: Callable[[Path], Path], write: Callable[[Path], object]
) -> None:
    path = lead_out(repository)
    with pytest.raises(GateError) as caught:
        write(path)
    said = str(caught.value)
    assert "is a symlink to" in said
    assert "no link in a repository is followed" in said
    assert "(fix: " in said


@pytest.mark.parametrize("lead_out", [LINKS["new file outside"], LINKS["folder outside"]])
def test_no_baseline_is_read_or_written_through_a_link(
    repository: Path, lead_out: Callable[[Path], Path]
) -> None:
    path = lead_out(repository)
    with pytest.raises(GateError, match=r"the baseline cannot be read .* is a symlink to"):
        read_baseline(path, repository)
    with pytest.raises(GateError, match="is a symlink to"):
        _baseline(path)


def test_a_place_without_links_is_written_to(repository: Path) -> None:
    """The suite refuses for the links, not everything."""
    for name, write in WRITERS.items():
        write(repository / "out" / "more" / name)
        assert (repository / "out" / "more" / name).is_file()
    write_file(repository / "out" / "again", "1")
    write_file(repository / "out" / "again", "2")
    assert (repository / "out" / "again").read_text() == "2"
    assert len([*(repository / "out").iterdir()]) == 2  # nothing is left half written
    with pytest.raises(Unwritten, match="File exists"):
        write_file(repository / "out" / "again", "3", new=True)
    assert (repository / "out" / "again").read_text() == "2"


def test_links_outside_are_the_user_s_own(repository: Path, tmp_path_factory: Any) -> None:
    place = tmp_path_factory.mktemp("place")
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    write_file(place / "link" / "report.json", "x")
    (place / "one.json").symlink_to("real/report.json")
    write_file(place / "one.json", "y")
    assert (place / "real" / "report.json").read_text() == "y"
    assert (place / "one.json").is_symlink()


# Every command


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
    "calibrate": ("calibrate", "own.jsonl", "--json", "LINK"),
}


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
    assert "symlink" in said or "no regular file" in said
    assert "Traceback" not in said
    assert "TOP-SECRET" not in said


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
    monkeypatch.setattr("pytest_mergegate.registry.appending._is_for_git", lambda _: True)
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


# Names that can be foreseen


@pytest.mark.parametrize(
    "name",
    [".mergegate.yaml.part", ".mergegate.yaml", ".mergegate.yaml.PID", "mergegate.yaml.tmp"],
)
def test_no_temporary_file_can_be_foreseen(
    repository: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(repository)
    waiting = repository / name.replace("PID", str(os.getpid()))
    waiting.symlink_to("../secret/secret.txt")
    assert mergegate("init", "adapters", "--force", "--no-check") in {0, 2}
    assert "adapters" in (repository / "mergegate.yaml").read_text()
    assert waiting.is_symlink()


def test_the_temporary_file_is_one_that_nobody_else_has_made(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even were its name foreseen."""
    monkeypatch.setattr(writing.secrets, "token_hex", lambda _: "foreseen")
    (repository / ".foreseen.part").symlink_to("../secret/secret.txt")
    with pytest.raises(Unwritten, match="File exists"):
        write_file(repository / "x", "x")
    assert not (repository / "x").exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "file"])
def test_what_is_swapped_while_it_is_opened(
    repository: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The check before opening holds for what was there then."""
    real, opened = writing._target, os.open

    def swapped(path: Path) -> Path:
        found = real(path)
        if kind == "link":
            found.symlink_to("../secret/secret.txt")
        elif kind == "fifo":
            os.mkfifo(found)
        return found

    def and_after(path: Path, *more: Any, **others: Any) -> int:
        number = opened(path, *more, **others)
        if kind == "file" and Path(path).name == "x":
            Path(path).unlink()
            os.close(opened(path, os.O_CREAT | os.O_WRONLY))
        return number

    monkeypatch.setattr(writing, "_target", swapped)
    monkeypatch.setattr(os, "open", and_after)
    with pytest.raises(Unwritten), open_to_append(repository / "x") as file:
        file.write(b"x")


@pytest.mark.parametrize("kind", ["link", "another's"])
def test_folders_in_shared_places_are_this_user_s(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    place = tmp_path / "shared"
    if kind == "link":
        place.symlink_to("secret")
    else:
        place.mkdir()
        monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(Unwritten, match="it is a link, or belongs to another user"):
        make_private_folder(place)
    monkeypatch.setattr(workers, "_directory", lambda _: place)
    with pytest.raises(Unwritten):
        workers.shared(None, "key", pytest.fail)  # type: ignore[arg-type]
    if kind == "link":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / f"pytest-mergegate-locks-{os.getuid()}").symlink_to("secret")
        with pytest.raises(GateError, match="belongs to another user"):
            append_lines(repository / "r.jsonl", [made("ab")])


def test_a_link_s_name_is_fit_for_a_message(repository: Path) -> None:
    (repository / "out\n::error::x").symlink_to("../secret\x1b[31m")
    with pytest.raises(Unwritten) as caught:
        write_file(repository / "out\n::error::x" / "y", "x")
    assert str(caught.value).isprintable()


def test_what_an_action_tells(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its HTML report goes into the checkout."""
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "mergegate-report.html").write_text("new")
    for name in ("STEP_SUMMARY", "OUTPUT"):
        monkeypatch.setenv(f"GITHUB_{name}", str(reports / name))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(repository))
    (repository / "out").symlink_to("../secret")
    options = ("--exit-code=0", f"--html={repository / 'out' / 'report.html'}")
    assert mergegate("github", reports, *options) == 0
    assert "is a symlink to" in (reports / "STEP_SUMMARY").read_text()
    assert "report-path<<" in (reports / "OUTPUT").read_text()
    assert "report.html" not in (reports / "OUTPUT").read_text()


# All of the package


_BY_ITSELF = {
    # what they write lies in folders of their own making, in the system's temporary folder
    "engine/computed.py", "engine/spilled.py", "merging/mergekit_process.py",
    # beside the place, in a folder by a name that nobody can foresee
    "merging/write.py",
    "writing.py",
}  # fmt: skip
_WRITING = {
    "write_text", "write_bytes", "symlink_to", "hardlink_to", "mkdir", "makedirs", "mkstemp",
    "NamedTemporaryFile", "copyfile", "copytree", "move", "save_file", "save_pretrained", "tofile",
}  # fmt: skip
_ELSEWHERE = {
    # locks in a cache, which no pull request can write to
    ("engine/cache.py", "mkdir"),
}


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
    assert found == _ELSEWHERE


def test_a_whole_run_leaves_only_what_it_names(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    before = {*contents(repository)}
    assert mergegate("check", ".", "--stage", "preflight", "--report", "json:out/r.json") == 0
    assert {*contents(repository)} - before == {str(repository / "out" / "r.json")}
    data = json.loads((repository / "out" / "r.json").read_text())
    assert data["status"] == "inconclusive"


def test_the_links_of_this_file_are_live(repository: Path) -> None:
    """What writes plainly would have followed them."""
    for name in ("new file outside", "folder outside"):
        path = LINKS[name](repository)
        path.write_text("x")
        assert path.resolve().parent.name == "secret"
        path.resolve().unlink()
