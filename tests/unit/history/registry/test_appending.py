"""Lines are added once, and git merges those of two branches."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.history.registry import appending
from pytest_mergegate.history.registry.appending import append_lines
from pytest_mergegate.history.registry.reading import read_registry

from .making import made

ONE, TWO, THREE = made("ab"), made("cd"), made("ef")


def ids(path: Path) -> list[str]:
    found = read_registry(path)
    assert not found.problems
    return [line.id for line in found.lines]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With one commit on the branch main."""
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    return tmp_path


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "more")


def test_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "registry.jsonl"
    assert append_lines(path, []) == 0
    assert not path.exists()
    assert append_lines(path, [ONE, TWO, ONE]) == 2
    before = path.read_bytes()
    assert append_lines(path, [TWO, made("ab", created="2030-01-01T00:00:00+00:00")]) == 0
    assert path.read_bytes() == before
    assert append_lines(path, [THREE]) == 1
    assert path.read_bytes().startswith(before)
    assert ids(path) == [ONE.id, TWO.id, THREE.id]


def test_a_line_that_was_cut_short_stays_and_takes_no_other_along(tmp_path: Path) -> None:
    path = tmp_path / "registry.jsonl"
    cut = TWO.to_json()[:100]
    path.write_text(f"{ONE.to_json()}\n{cut}", "utf-8")
    assert append_lines(path, [TWO]) == 1
    assert path.read_text("utf-8") == f"{ONE.to_json()}\n{cut}\n{TWO.to_json()}\n"
    found = read_registry(path)
    assert [line.id for line in found.lines] == [ONE.id, TWO.id]
    assert [(p.line, p.kind) for p in found.problems] == [(2, "truncated")]


def test_an_edited_line_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "registry.jsonl"
    path.write_text(ONE.to_json().replace('"loss":0.0', '"loss":-1.0', 1) + "\n", "utf-8")
    assert append_lines(path, [ONE]) == 1
    assert [line.id for line in read_registry(path).lines] == [ONE.id]


def test_threads_and_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "registry.jsonl"
    lines = [made(f"{a}{b}") for a in "abcdef" for b in "ghijkl"]
    own = [
        threading.Thread(target=append_lines, args=(path, lines[k : k + 12]))
        for k in range(0, 30, 6)
    ]
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from unit.history.registry.making import made\n"
        "from pytest_mergegate.history.registry.appending import append_lines\n"
        "for a in 'abcdef':\n"
        "    append_lines(Path(sys.argv[1]), [made(a + b) for b in 'ghijkl'])\n"
    )
    tests = str(Path(__file__).parents[3])
    other = subprocess.Popen([sys.executable, "-c", script, str(path), tests])
    for thread in own:
        thread.start()
    for thread in own:
        thread.join()
    assert other.wait(60) == 0
    assert sorted(ids(path)) == sorted(line.id for line in lines)


def test_what_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "registry.jsonl"):
        with pytest.raises(GateError, match="registry") as caught:
            append_lines(path, [ONE])
        assert "\n" not in str(caught.value)


def test_a_full_disk(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(GateError, match=r"not written .*File too large"):
            append_lines(tmp_path / "registry.jsonl", [ONE])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_who_holds_it_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.jsonl"
    monkeypatch.setattr(appending, "PATIENCE", 0.1)
    started, done = threading.Event(), threading.Event()

    def hold() -> None:
        with appending.FileLock(appending._lock(path)):
            started.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    started.wait(10)
    with pytest.raises(GateError, match="another process has held it"):
        append_lines(path, [ONE])
    done.set()
    holder.join()


class TestGit:
    @pytest.mark.parametrize("side", ["both", "one", "from nothing"])
    def test_branches_merge_without_conflict(self, repository: Path, side: str) -> None:
        path = repository / "mergegate.registry.jsonl"
        if side != "from nothing":
            append_lines(path, [ONE])
            commit(repository)
        git(repository, "checkout", "-q", "-b", "other")
        append_lines(path, [TWO, made("shared")])
        commit(repository)
        git(repository, "checkout", "-q", "main")
        if side != "one":
            append_lines(path, [THREE, made("shared")])
            commit(repository)
        git(repository, "merge", "-q", "--no-edit", "other")
        expected = {TWO.id, made("shared").id}
        expected |= {THREE.id} if side != "one" else set()
        expected |= {ONE.id} if side != "from nothing" else set()
        found = read_registry(path)
        assert {line.id for line in found.lines} == expected
        assert {problem.kind for problem in found.problems} <= {"duplicate"}
        attributes = (repository / ".gitattributes").read_text("utf-8")
        assert attributes == "mergegate.registry.jsonl merge=union\n"

    def test_a_cut_line_on_one_side_is_merged_too(self, repository: Path) -> None:
        path = repository / "mergegate.registry.jsonl"
        append_lines(path, [ONE])
        commit(repository)
        git(repository, "checkout", "-q", "-b", "other")
        with path.open("a") as file:
            file.write(TWO.to_json()[:80])
        commit(repository)
        git(repository, "checkout", "-q", "main")
        append_lines(path, [THREE])
        commit(repository)
        git(repository, "merge", "-q", "--no-edit", "other")
        found = read_registry(path)
        assert ONE.id in {line.id for line in found.lines}
        assert "truncated" in {problem.kind for problem in found.problems}

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("*.png binary", "*.png binary\nmergegate.registry.jsonl merge=union\n"),
            ("*.jsonl merge=union\n", None),
            ("/mergegate.registry.jsonl\tmerge=ours", None),
            ('"mergegate.registry.jsonl" text merge=binary\n', None),
            ("*.jsonl text\n", "*.jsonl text\nmergegate.registry.jsonl merge=union\n"),
            ("\xff\n", "\xff\nmergegate.registry.jsonl merge=union\n"),
        ],
    )
    def test_attributes_that_are_there(
        self, repository: Path, before: str, after: str | None
    ) -> None:
        attributes = repository / ".gitattributes"
        attributes.write_bytes(before.encode("latin-1"))
        append_lines(repository / "mergegate.registry.jsonl", [ONE])
        assert attributes.read_bytes().decode("latin-1") == (after or before)

    @pytest.mark.parametrize("name", ["a b.jsonl", "mergegate.registry.jsonl", "[x]*.jsonl"])
    def test_git_knows_the_file_by_any_name(self, repository: Path, name: str) -> None:
        append_lines(repository / "sub" / name, [ONE])
        said = git(repository, "check-attr", "merge", "--", f"sub/{name}")
        assert said.strip().endswith("merge: union")

    def test_none_where_git_does_not_look_after_the_file(self, repository: Path) -> None:
        (repository / ".gitignore").write_text("mergegate.registry.jsonl\n", "utf-8")
        append_lines(repository / "mergegate.registry.jsonl", [ONE])
        assert not (repository / ".gitattributes").exists()

    def test_none_without_git(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        append_lines(tmp_path / "one.jsonl", [ONE])
        monkeypatch.setenv("PATH", "")
        append_lines(tmp_path / "two.jsonl", [ONE])
        assert not (tmp_path / ".gitattributes").exists()

    def test_attributes_that_cannot_be_written_are_told(self, repository: Path) -> None:
        (repository / ".gitattributes").mkdir()
        path = repository / "mergegate.registry.jsonl"
        with pytest.raises(GateError, match=r"was written, but .* merge=union"):
            append_lines(path, [ONE])
        assert ids(path) == [ONE.id]
