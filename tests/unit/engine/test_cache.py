"""The cache serves what was kept or nothing, whatever happens to its folder."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import pytest

from pytest_mergegate.common.plain import dump
from pytest_mergegate.engine.running import cache as cache_module
from pytest_mergegate.engine.running.cache import Cache, pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

KEY = {"kind": "states", "inputs": [1]}
ROWS = {"rows": np.arange(6, dtype=np.float32)}
NOBODY = 65534


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(folder=tmp_path / "cache")


def another(cache: Cache, **changes: Any) -> Cache:
    """The same folder, as another run sees it."""
    return Cache(folder=cache.folder, **changes)


def files(cache: Cache) -> list[Path]:
    assert cache.folder is not None
    return sorted(p for p in cache.folder.rglob("*") if p.is_file() and "locks" not in p.parts)


def numbered(number: int, size: int = 1000) -> dict[str, NDArray[Any]]:
    """An entry's arrays, which differ by number."""
    return {"rows": np.full(size, number, dtype=np.uint8)}


def holds(cache: Cache) -> set[int]:
    """The numbers of the entries that are there, without using any."""
    kept = {int(read["rows"][0]) for file in files(cache) if (read := rows_of(file))}
    assert len(kept) == len(files(cache))
    return kept


def rows_of(file: Path) -> dict[str, NDArray[Any]]:
    from safetensors.numpy import load

    return dict(load(file.read_bytes()))


class TestLookUps:
    def test_nothing_is_there_at_first(self, cache: Cache) -> None:
        assert cache.find(KEY) is None
        assert (cache.hits, cache.misses, cache.problems) == (0, 1, [])

    def test_what_was_kept_is_found(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        later = another(cache)
        found = later.find(KEY)
        assert found is not None
        np.testing.assert_array_equal(found["rows"], ROWS["rows"])
        assert later.find(KEY | {"inputs": [2]}) is None
        assert (later.hits, later.misses, later.problems) == (1, 1, [])

    def test_a_second_look_is_not_counted(self, cache: Cache) -> None:
        assert cache.peek(KEY) is None
        cache.keep(KEY, ROWS)
        assert cache.peek(KEY) is not None
        assert (cache.hits, cache.misses) == (0, 0)

    def test_plain_data_is_computed_once(self, cache: Cache) -> None:
        computed: list[int] = []

        def compute() -> Any:
            computed.append(1)
            return {"reading": "greedy", "order": [2, 0, 1], "none": None}

        assert (
            cache.kept(object, KEY, compute)
            == another(cache).kept(object, KEY, compute)
            == compute()
        )
        assert len(computed) == 2  # one by the cache, one by the line above

    def test_an_entry_made_elsewhere(self, cache: Cache) -> None:
        cache.keep_packed(KEY, pack(KEY, ROWS))
        assert cache.find(KEY) is not None

    def test_the_latest_is_kept(self, cache: Cache) -> None:
        cache.keep(KEY, dump(str, "old"))
        cache.keep(KEY, dump(str, "new"))
        assert cache.kept(object, KEY, pytest.fail) == "new"
        assert len(files(cache)) == 1

    def test_without_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        cache = Cache(folder=None)
        cache.keep(KEY, ROWS)
        with cache.lock(KEY):
            assert cache.find(KEY) is None
        assert cache.kept(object, KEY, lambda: 1) == 1
        assert (cache.hits, cache.misses, cache.problems) == (0, 2, [])
        assert list(tmp_path.iterdir()) == []

    def test_entries_are_for_the_user_s_eyes(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        assert [file.stat().st_mode & 0o077 for file in files(cache)] == [0]


class TestDamage:
    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            (lambda file: file[:-1] + bytes([file[-1] ^ 1]), "its checksum does not fit"),
            (lambda file: file[:-1], "its checksum does not fit"),
            (lambda file: file[:20], "it is cut short"),
            (lambda file: b"", "it is cut short"),
            (lambda file: bytes(len(file)), "it has no checksum"),
            (lambda file: file + b"\0", "its checksum does not fit"),
            (lambda file: pack({"kind": "other"}, ROWS), "it belongs to another key"),
        ],
        ids=["a bit", "cut", "cut in the header", "empty", "zeros", "longer", "another's"],
    )
    def test_is_told_of_removed_and_a_miss(
        self, cache: Cache, spoil: Callable[[bytes], bytes], problem: str
    ) -> None:
        cache.keep(KEY, ROWS)
        (file,) = files(cache)
        file.write_bytes(spoil(file.read_bytes()))
        assert cache.find(KEY) is None
        assert cache.problems == [f"a cache entry was thrown away, {problem}: {file}"]
        assert (cache.hits, cache.misses) == (0, 1)
        assert not file.exists()
        cache.keep(KEY, ROWS)
        assert cache.find(KEY) is not None
        assert len(cache.problems) == 1

    def test_is_told_of_once_per_kind(self, cache: Cache) -> None:
        keys = [KEY | {"inputs": [k]} for k in range(6)]
        for key in keys:
            cache.keep(key, ROWS)
        for k, file in enumerate(files(cache)):
            file.write_bytes(b"" if k % 2 else file.read_bytes() + b"\0")
        assert [cache.find(key) for key in keys] == [None] * 6
        assert len(cache.problems) == 2
        assert files(cache) == []

    def test_a_folder_in_an_entry_s_place(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        (file,) = files(cache)
        file.unlink()
        file.mkdir()
        assert cache.kept(object, KEY, lambda: 1) == 1
        assert [problem.partition(" (")[0] for problem in cache.problems] == [
            "the cache cannot be read",
            "the cache cannot be written to",
        ]
        assert files(cache) == []

    def test_a_loop_of_links_in_an_entry_s_place(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        (file,) = files(cache)
        file.unlink()
        file.symlink_to(file)
        assert cache.kept(object, KEY, lambda: 1) == 1
        assert cache.kept(object, KEY, pytest.fail) == 1  # replaced by what was computed


class TestFullDisk:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
    def test_when_writing(self, cache: Cache, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        real = os.fdopen

        def fail(*_: Any) -> Any:
            raise OSError(number, os.strerror(number))

        class Full:
            def __init__(self, *args: Any) -> None:
                self.file = real(*args)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                self.file.close()

            write = fail

        with monkeypatch.context() as patch:
            patch.setattr(cache_module.os, "fdopen", Full)
            assert cache.kept(object, KEY, lambda: 1) == 1
            assert cache.kept(object, KEY | {"inputs": [2]}, lambda: 2) == 2
        (problem,) = cache.problems
        assert problem.startswith(f"the cache cannot be written to ({os.strerror(number)}): ")
        assert files(cache) == []
        assert cache.kept(object, KEY, lambda: 3) == 3
        assert another(cache).kept(object, KEY, pytest.fail) == 3

    @pytest.mark.parametrize("what", ["mkdir", "replace"])
    def test_when_naming(self, cache: Cache, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise OSError(errno.ENOSPC, "full")

        with monkeypatch.context() as patch:
            patch.setattr(Path, what, fail)
            cache.keep(KEY, ROWS)
        assert len(cache.problems) == 1
        assert not cache.folder or not cache.folder.exists() or files(cache) == []

    def test_an_interrupt_leaves_nothing(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", interrupt)
            with pytest.raises(KeyboardInterrupt):
                cache.keep(KEY, ROWS)
        assert files(cache) == []

    @pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
    def test_a_real_one(self, tmp_path: Path) -> None:
        """Files may not grow beyond 4 kB: the kernel cuts the write in the middle."""
        done = in_process_of_its_own(
            """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            small = {"rows": np.zeros(100, dtype=np.uint8)}
            cache.keep({"k": 1}, small)
            cache.keep({"k": 2}, {"rows": np.zeros(100_000, dtype=np.uint8)})
            assert cache.find({"k": 1}) is not None
            assert cache.find({"k": 2}) is None
            assert len(cache.problems) == 1, cache.problems
            assert "cannot be written to" in cache.problems[0]
            """,
            tmp_path,
        )
        assert done == ""
        assert [file.suffix for file in files(Cache(folder=tmp_path))] == [".safetensors"]


class TestFolders:
    def test_a_file_for_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("mine", encoding="utf-8")
        cache = Cache(folder=tmp_path / "cache")
        with cache.lock(KEY):
            assert cache.kept(object, KEY, lambda: 1) == 1
        assert [problem.partition(" (")[0] for problem in cache.problems] == [
            "the cache cannot be locked",
            "the cache cannot be read",
            "the cache cannot be written to",
        ]
        assert (tmp_path / "cache").read_text("utf-8") == "mine"
        with pytest.raises(OSError, match="cache"):
            cache.usage()
        with pytest.raises(OSError, match="cache"):
            cache.clear()

    def test_a_folder_that_is_not_there_is_empty(self, cache: Cache) -> None:
        assert (cache.usage().entries, cache.clear().size) == (0, 0)
        assert cache.folder is not None
        assert not cache.folder.exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
    def test_a_read_only_folder(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        folder = cache.folder
        assert folder is not None
        done = in_process_of_its_own(
            """
            with cache.lock({"k": 1}):
                assert cache.kept(object, {"k": 1}, lambda: 1) == 1
            assert cache.find({"kind": "states", "inputs": [1]}) is not None
            kinds = [problem.partition(" (")[0] for problem in cache.problems]
            assert kinds == ["the cache cannot be locked", "the cache cannot be written to"], kinds
            """,
            folder,
            mode=0o555,
        )
        assert done == ""
        assert len(files(cache)) == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
    def test_a_folder_that_cannot_be_looked_into(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        folder = cache.folder
        assert folder is not None
        done = in_process_of_its_own(
            """
            assert cache.kept(object, {"kind": "states", "inputs": [1]}, lambda: 1) == 1
            for look in (cache.usage, cache.clear):
                try:
                    look()
                except PermissionError:
                    continue
                raise AssertionError("it said that nothing was there")
            """,
            folder,
            mode=0o000,
        )
        assert done == ""
        assert len(files(cache)) == 1


class TestRoom:
    def test_the_least_recently_used_go_first(self, cache: Cache) -> None:
        small = another(cache, limit=20_000)
        for k in range(12):
            small.keep({"k": k}, numbered(k))
            age(small, {"k": k}, 1000 - k)
        assert small.find({"k": 0}) is not None  # the oldest, and now the latest used
        for k in range(12, 24):
            small.keep({"k": k}, numbered(k))
        kept = holds(small)
        assert kept >= {0, 23, 22}
        assert 1 not in kept
        assert kept - {0} == set(range(min(kept - {0}), 24))

    def test_what_is_read_counts_as_used_on_a_mount_without_such_times(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.keep(KEY, ROWS)
        age(cache, KEY, 1000)
        (file,) = files(cache)
        written = file.stat().st_mtime
        real = Path.read_bytes

        def read(path: Path) -> bytes:
            try:
                return real(path)
            finally:
                age(cache, KEY, 1000)

        monkeypatch.setattr(Path, "read_bytes", read)
        assert cache.find(KEY) is not None
        assert time.time() - file.stat().st_atime < 100
        assert file.stat().st_mtime == pytest.approx(written, abs=100)

    @pytest.mark.parametrize("size", [10, 1000, 9000])
    def test_the_limit_holds(self, cache: Cache, size: int) -> None:
        small = another(cache, limit=50_000)
        for k in range(120):
            small.keep({"k": k}, numbered(k, size))
            assert small.find({"k": k}) is not None
            assert small.usage().size <= small.limit
        assert small.usage().size > small.limit / 2
        assert small.problems == []

    def test_a_cache_that_is_over_its_limit_shrinks(self, cache: Cache) -> None:
        for k in range(50):
            cache.keep({"k": k}, numbered(k))
        small = another(cache, limit=20_000)
        small.keep({"k": 50}, numbered(50))
        assert small.usage().size <= small.limit
        assert small.find({"k": 50}) is not None

    def test_what_is_larger_than_the_cache_evicts_nothing(self, cache: Cache) -> None:
        small = another(cache, limit=20_000)
        for k in range(5):
            small.keep({"k": k}, numbered(k))
        small.keep({"k": 5}, numbered(5, 30_000))
        assert holds(small) == set(range(5))
        (problem,) = small.problems
        assert problem.startswith("the cache is too small for a result of 30")

    def test_an_entry_evicted_while_it_is_read(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.keep(KEY, ROWS)
        real = Path.read_bytes

        def read(path: Path) -> bytes:
            file = real(path)
            path.unlink()
            return file

        monkeypatch.setattr(Path, "read_bytes", read)
        assert cache.find(KEY) is not None
        assert cache.find(KEY) is None
        assert cache.problems == []

    def test_an_entry_evicted_while_others_are_counted(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for k in range(5):
            cache.keep({"k": k}, numbered(k))
        real = Path.stat
        gone = files(cache)[2]

        def stat(path: Path, **how: Any) -> os.stat_result:
            if path == gone:
                raise FileNotFoundError(path)
            return real(path, **how)

        monkeypatch.setattr(Path, "stat", stat)
        assert cache.usage().entries == 4

    def test_clear_empties_it(self, cache: Cache) -> None:
        for k in range(5):
            cache.keep({"k": k}, numbered(k))
        (files(cache)[0].parent / "x.part").write_bytes(b"half")
        before = cache.usage()
        assert before.entries == 5
        assert before.size > 5000
        assert cache.clear() == before
        assert files(cache) == []
        assert cache.usage().entries == 0

    def test_clear_leaves_what_is_not_its_own(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        assert cache.folder is not None
        mine = cache.folder / "content-hashes.json"
        mine.write_text("{}", encoding="utf-8")
        cache.clear()
        assert files(cache) == [mine]

    def test_what_killed_processes_left_is_swept(self, cache: Cache) -> None:
        cache.keep(KEY, ROWS)
        folder = files(cache)[0].parent
        old, new = folder / "old.part", folder / "new.part"
        for half in (old, new):
            half.write_bytes(b"half")
        os.utime(old, (time.time() - 4000,) * 2)
        another(cache).keep({"k": 1}, ROWS)
        assert not old.exists()
        assert new.exists()
        assert another(cache).usage().entries == 2


class TestProcesses:
    def test_many_that_write_and_read_the_same(self, cache: Cache, seed: int) -> None:
        assert cache.folder is not None
        context = multiprocessing.get_context("spawn")
        with context.Pool(4) as pool:
            told = pool.starmap(
                _use, [(cache.folder, seed + k, 20_000 if k % 2 else 1 << 20) for k in range(4)]
            )
        assert told == [[]] * 4
        assert not [file for file in files(cache) if file.suffix == ".part"]

    def test_one_at_a_time_computes(self, cache: Cache, tmp_path: Path) -> None:
        assert cache.folder is not None
        context = multiprocessing.get_context("spawn")
        with context.Pool(4) as pool:
            found = pool.starmap(_compute_once, [(cache.folder, tmp_path / "log")] * 4)
        assert len(set(found)) == 1
        assert (tmp_path / "log").read_text("utf-8").splitlines() == ["start", "end"]

    def test_a_lock_s_end_frees_it(self, cache: Cache) -> None:
        with pytest.raises(ValueError, match="mine"), cache.lock(KEY):
            raise ValueError("mine")
        with cache.lock(KEY):
            assert cache.problems == []

    @pytest.mark.parametrize(
        "error", [NotImplementedError("no flock here"), OSError(errno.ENOLCK, "no locks")]
    )
    def test_where_locks_do_not_work(
        self, cache: Cache, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def acquire(*_: Any, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
        entered = 0
        for _ in range(2):
            with cache.lock(KEY):
                entered += 1
        assert entered == 2
        (problem,) = cache.problems
        assert problem.startswith("the cache cannot be locked (")

    def test_errors_inside_are_not_taken_for_the_lock_s(self, cache: Cache) -> None:
        with pytest.raises(OSError, match="mine"), cache.lock(KEY):
            raise OSError("mine")
        assert cache.problems == []


def age(cache: Cache, key: dict[str, Any], seconds: float) -> None:
    """Make an entry older."""
    path = cache._path(key)
    assert path is not None
    os.utime(path, (time.time() - seconds,) * 2)


def _use(folder: Path, seed: int, limit: int) -> list[str]:
    rng = random.Random(seed)
    cache = Cache(folder=folder, limit=limit)
    for _ in range(400):
        number = rng.randrange(12)
        key = {"k": number}
        found = cache.find(key)
        if found is not None:
            assert found["rows"].tolist() == [number] * 3000, "served another's"
        elif rng.random() < 0.8:
            cache.keep(key, numbered(number, 3000))
        if rng.random() < 0.02:
            cache.keep(key, numbered(number, 3000))
    assert cache.hits > 0
    return cache.problems


def _compute_once(folder: Path, log: Path) -> float:
    cache = Cache(folder=folder)
    with cache.lock(KEY):
        found = cache.peek(KEY)
        if found is None:
            with log.open("a", encoding="utf-8") as file:
                file.write("start\n")
                file.flush()
                time.sleep(0.5)
                found = {"rows": np.array([random.random()])}
                cache.keep(KEY, found)
                file.write("end\n")
    return float(found["rows"][0])


PROLOGUE = """
import os, sys
from pathlib import Path
import filelock
import numpy as np
import safetensors.numpy
from pytest_mergegate.common.plain import dump
from pytest_mergegate.engine.running.cache import Cache

dump(object, None)  # which imports what another user may not read
if os.getuid() == 0 and {drop}:  # nothing is forbidden to root
    os.setgid({nobody})
    os.setuid({nobody})
cache = Cache(folder=Path({folder!r}))
"""


def in_process_of_its_own(code: str, folder: Path, mode: int | None = None) -> str:
    """What a fresh interpreter complains of; with a mode of the folder, as a user it binds."""
    prologue = PROLOGUE.format(drop=mode is not None, nobody=NOBODY, folder=str(folder))
    with _opened_to_all(folder, mode):
        done = subprocess.run(
            [sys.executable, "-c", prologue + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stderr if done.returncode else ""


@contextlib.contextmanager
def _opened_to_all(folder: Path, mode: int | None) -> Iterator[None]:
    """Where a mode is given, the folder has it, and its way and its entries are open to all."""
    if mode is None:
        yield
        return
    inside = list(folder.rglob("*"))
    above = [path for path in folder.parents if path.stat().st_mode & 0o005 != 0o005]
    before = {path: path.stat().st_mode for path in (*inside, *above, folder)}
    try:
        for path in above:
            path.chmod(path.stat().st_mode | 0o005)
        for path in inside:
            path.chmod(0o555 if path.is_dir() else 0o444)
        folder.chmod(mode)
        yield
    finally:
        for path in (folder, *above, *inside):
            path.chmod(before[path])
