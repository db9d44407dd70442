"""Results kept on disk under what they depend on: shared by runs, workers and jobs, never stale.

An entry is a safetensors file that carries its own name and a checksum over every byte. The name,
not the key: a key holds whole inputs, which may be too long for a header, or private. It is written
under a temporary name and renamed, so that a reader sees all of it or nothing; one that is not what
was written is thrown away, told of, and computed again.
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from pytest_mergegate.common.files.writing import PARTIAL, Unwritten, make_folder, write_file
from pytest_mergegate.common.plain import dump, load
from pytest_mergegate.gate.options import Options

Arrays = Mapping[str, NDArray[Any]]
Key = Mapping[str, Any]

T = TypeVar("T")
FORMAT = "entries-2"
"""The folder of the entries, beside whatever else the cache folder holds."""
DEFAULT_LIMIT = Options.cache_size
_SUFFIX = ".safetensors"
_ABANDONED = 3600.0
"""Seconds after which a temporary file belongs to a process that was killed."""
_ROOM = 0.9
"""Share of the limit that is left filled, so that not every entry evicts another."""
_UNSEEN = 0.05
"""Share of the limit that a process may write before it looks again at what is there."""
_BLANK = b"0" * 64
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')
_LARGEST_HEADER = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a cache holds."""

    folder: Path
    entries: int
    size: int
    """Bytes."""
    limit: int


@dataclass(kw_only=True)
class Cache:
    """Entries in ``folder``, the least recently used evicted beyond ``limit`` bytes.

    Without a folder nothing is kept, and every look-up is a miss.
    """

    folder: Path | None
    limit: int = DEFAULT_LIMIT
    """Bytes."""
    hits: int = 0
    misses: int = 0
    problems: list[str] = field(default_factory=list)
    """Why something could not be read, kept or locked, one of each kind; it was computed anew."""
    _unseen: int | None = None
    """Bytes written since the whole was last looked at; None before the first time."""

    def find(self, key: Key) -> dict[str, NDArray[Any]] | None:
        """The arrays kept under ``key``; None where there are none, or no sound ones."""
        found = self.peek(key)
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def peek(self, key: Key) -> dict[str, NDArray[Any]] | None:
        """``find`` without counting: a second look, after waiting for a lock."""
        path = self._path(key)
        if path is None:
            return None
        try:
            arrays = unpack(key, path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(f"the cache cannot be read ({error.strerror}): {path.parent}")
            return None
        except Corrupt as problem:
            self._tell(f"a cache entry was thrown away, {problem}: {path}")
            _remove(path)
            return None
        with contextlib.suppress(OSError):  # the time of last use, whatever the mount does
            os.utime(path, (time.time(), path.stat().st_mtime))
        return arrays

    def keep(self, key: Key, arrays: Arrays) -> None:
        """Keep ``arrays`` under ``key``; on a full or read-only disk, go on without."""
        if self.folder is not None:
            self.keep_packed(key, pack(key, arrays))

    def keep_packed(self, key: Key, file: bytes) -> None:
        """Keep an entry that ``pack`` made, here or on another machine."""
        path = self._path(key)
        if path is None:
            return
        if len(file) > self.limit * _ROOM:  # it would drive out all others, and then itself
            self._tell(f"the cache is too small for a result of {len(file)} bytes: {self.folder}")
            return
        try:
            make_folder(path.parent, mode=0o700)
            write_file(path, file, mode=0o600)
        except Unwritten as error:
            self._tell(f"the cache cannot be written to ({error.why}): {path.parent}")
            return
        self._make_room(len(file))

    def kept(self, kind: Any, key: Key, compute: Callable[[], T], *, counted: bool = True) -> T:
        """What is kept under ``key``, of the type ``kind`` (of ``object``, whatever the module json
        makes of it); computed and kept where it is not there. Not ``counted`` as a hit or a miss
        where no model is behind it."""
        found = self.find(key) if counted else self.peek(key)
        if found is not None:
            known: T = load(kind, found)
            return known
        computed = compute()
        self.keep(key, dump(kind, computed))
        return computed

    @contextlib.contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """Let no other process compute what ``key`` names; one lock at a time.

        Advisory: where locks do not work, two processes may do the same work, and both be right.
        """
        from filelock import FileLock

        if self.folder is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                locks = self.folder / "locks"
                make_folder(locks, mode=0o700)
                stack.enter_context(FileLock(locks / digest(key)[:3]))
            except (OSError, NotImplementedError, Unwritten) as error:
                why = error.why if isinstance(error, Unwritten) else error
                self._tell(f"the cache cannot be locked ({why}): {self.folder}")
            yield

    def usage(self) -> Usage:
        """What is there. Raises OSError where it cannot be looked at."""
        assert self.folder is not None
        sizes = [size for _, size, _ in self._entries()]
        return Usage(folder=self.folder, entries=len(sizes), size=sum(sizes), limit=self.limit)

    def clear(self) -> Usage:
        """Remove every entry, and return what was there. Raises OSError."""
        before = self.usage()
        for path, _, _ in self._entries():
            path.unlink(missing_ok=True)
        self._sweep(abandoned=0.0)
        return before

    def _path(self, key: Key) -> Path | None:
        if self.folder is None:
            return None
        name = digest(key)
        return self.folder / FORMAT / name[:2] / f"{name}{_SUFFIX}"

    def _entries(self) -> list[tuple[Path, int, float]]:
        """Path, bytes and time of last use of every entry."""
        found = []
        for path in self._files(_SUFFIX):
            with contextlib.suppress(FileNotFoundError):  # evicted by another process
                status = path.stat()
                found.append((path, status.st_size, max(status.st_atime, status.st_mtime)))
        return found

    def _files(self, suffix: str) -> list[Path]:
        """Raises OSError for a folder that cannot be looked into, which ``glob`` finds empty."""
        assert self.folder is not None
        try:
            shelves = list((self.folder / FORMAT).iterdir())
        except FileNotFoundError:
            return []
        return [path for shelf in shelves for path in shelf.glob(f"*{suffix}")]

    def _make_room(self, written: int) -> None:
        """Evict once what was written since the last look may have filled the cache."""
        if self._unseen is not None and self._unseen + written <= self.limit * _UNSEEN:
            self._unseen += written
            return
        self._unseen = 0
        with contextlib.suppress(OSError):
            entries = sorted(self._entries(), key=lambda entry: entry[2])
            total = sum(size for _, size, _ in entries)
            if total > self.limit * (1 - _UNSEEN):
                for path, size, _ in entries:
                    if total <= self.limit * _ROOM:
                        break
                    _remove(path)
                    total -= size
            self._sweep(abandoned=_ABANDONED)

    def _sweep(self, *, abandoned: float) -> None:
        """Remove what killed processes left half written."""
        for path in self._files(PARTIAL):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= abandoned:
                    path.unlink()

    def _tell(self, problem: str) -> None:
        kind = problem.partition(":")[0]
        if not any(known.startswith(kind) for known in self.problems):
            self.problems.append(problem)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


class Corrupt(Exception):
    """An entry that is not what was written under its key."""


def key_text(key: Key) -> str:
    """``key`` in its one spelling."""
    return json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(key: Key) -> str:
    """The name of an entry, in hexadecimal."""
    return hashlib.sha256(key_text(key).encode()).hexdigest()


def pack(key: Key, arrays: Arrays) -> bytes:
    """The file of an entry."""
    metadata = {"checksum": _BLANK.decode(), "name": digest(key)}
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    blank = safetensors.numpy.save(rows, metadata)
    found = _CHECKSUM.search(blank, 0, 8 + _header_size(blank))
    assert found is not None
    return _with_checksum(blank, found, hashlib.sha256(blank).hexdigest().encode())


def unpack(key: Key, file: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an entry. Raises Corrupt unless it is ``pack(key, ...)`` to the last bit."""
    if len(file) < 8 or not _header_size(file) <= min(len(file) - 8, _LARGEST_HEADER):
        raise Corrupt("it is cut short")
    found = _CHECKSUM.search(file, 0, 8 + _header_size(file))
    if found is None:
        raise Corrupt("it has no checksum")
    if hashlib.sha256(_with_checksum(file, found, _BLANK)).hexdigest().encode() != found[1]:
        raise Corrupt("its checksum does not fit")
    try:
        name = json.loads(file[8 : 8 + _header_size(file)])["__metadata__"]["name"]
    except (ValueError, LookupError, TypeError, RecursionError):  # written, but not by this module
        name = None
    if name != digest(key):
        raise Corrupt("it belongs to another key")
    try:
        return dict(safetensors.numpy.load(file))
    except (SafetensorError, ValueError, KeyError) as error:  # likewise
        raise Corrupt(f"it is no safetensors file, {error}") from None


def _header_size(file: bytes) -> int:
    return int.from_bytes(file[:8], "little")


def _with_checksum(file: bytes, found: re.Match[bytes], checksum: bytes) -> bytes:
    return file[: found.start(1)] + checksum + file[found.end(1) :]
