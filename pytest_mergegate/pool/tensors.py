"""Tensors in safetensors files: headers by name, and numbers on demand, whole or a run at a time.

Read with numpy alone: the safetensors library hands bfloat16 to torch only, and maps a file into
memory, where a file that shrinks ends the process.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import label, open_regular
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.tensor_headers import TensorHeader, read_headers
from pytest_mergegate.pool.tensor_readers import FloatArray, JoinedReader, TensorReader

if TYPE_CHECKING:
    from io import BufferedReader

_RUN, _RUNS = 1024, 64
"""Of a sample: most elements read in one go, and fewest places read from."""
_BLOCK = 1 << 16
"""Elements of a block: a few of them stay in a core's cache."""


class StoredTensors(Mapping[str, TensorHeader]):
    """Names to headers, and the numbers behind them on demand.

    Holds neither numbers nor open files, and may be used from several threads. Raises PoolError
    for a file that is not sound safetensors.
    """

    def __init__(self, files: Sequence[Path], *, expert: str | None = None) -> None:
        self.files = tuple(files)
        self._entries: dict[str, _Entry] = {}
        for path in files:
            file = _File(path=path, expert=expert, state=_state(path))
            for name, header in read_headers(path, expert=expert).items():
                self._entries[name] = _Entry(file=file, name=name, header=header)

    @classmethod
    def joined(cls, parts: Iterable["StoredTensors"]) -> "StoredTensors":
        """The tensors of several, which have no name in common."""
        whole = cls(())
        for part in parts:
            whole.files += part.files
            whole._entries |= part._entries
        return whole

    def __getitem__(self, name: str) -> TensorHeader:
        return self._entries[name].header

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def renamed(self, rename: Callable[[str], str | None]) -> "StoredTensors":
        """The same tensors under other names; without those that ``rename`` gives none."""
        other = StoredTensors(())
        other.files = self.files
        names = ((rename(name), entry) for name, entry in self._entries.items())
        other._entries = {name: entry for name, entry in names if name is not None}
        return other

    def joined_as(
        self, names: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
    ) -> "StoredTensors":
        """The tensors of ``names``, in this order, each one of these or several, one behind the
        other, in a shape that holds as many numbers; of several, all are of one type."""
        other = StoredTensors(())
        other.files = self.files
        for name, (parts, shape) in names.items():
            entries = [self._entries[part] for part in parts]
            first, size = entries[0].header, sum(e.header.stop - e.header.start for e in entries)
            header = first if len(parts) == 1 else replace(first, shape=shape, start=0, stop=size)
            rest = tuple(part for entry in entries[1:] for part in (entry, *entry.rest))
            other._entries[name] = replace(
                entries[0],
                header=header,
                first=entries[0].first or first,
                rest=(*entries[0].rest, *rest),
            )
        return other

    def is_joined(self, name: str) -> bool:
        """Whether a tensor is put together from several of the files'."""
        return bool(self._entries[name].rest)

    def places(self) -> dict[str, tuple[str, int]]:
        """Of each tensor of the files that was joined to others: the tensor that it is in, and how
        many numbers lie before it there."""
        found = {}
        for name, entry in self._entries.items():
            before = 0
            for part in (entry, *entry.rest) if entry.rest else ():
                found[part.name] = name, before
                before += (part.first or part.header).size
        return found

    @property
    def stored_names(self) -> dict[str, str]:
        """The name in its file of every tensor that goes by another."""
        entries = self._entries.items()
        return {name: entry.name for name, entry in entries if name != entry.name}

    def check_unchanged(self, *names: str) -> None:
        """Raises PoolError where a file that holds one of ``names`` (default: any of them) was
        written to since its headers were read."""
        chosen = [self._entries[name] for name in names or self._entries]
        for file in {part.file for entry in chosen for part in (entry, *entry.rest)}:
            if _state(file.path) != file.state:
                raise file.written_to()

    def file_of(self, name: str) -> Path:
        """The file that holds tensor ``name``."""
        return self._entries[name].file.path

    def is_float(self, name: str) -> bool:
        """Whether there is a tensor of this name, and it holds numbers that can be merged."""
        return name in self._entries and self[name].is_float

    def floats(self, name: str) -> FloatArray:
        """Tensor ``name``, in its shape, in float32; float64 beyond its range becomes infinite.

        Raises PoolError for element types other than float64, float32, float16 and bfloat16.
        """
        header = self[name]
        with self.reader(name) as reader:
            return reader.floats(0, header.size).reshape(header.shape)

    def blocks(self, name: str, elements: int = _BLOCK) -> Iterator[FloatArray]:
        """Tensor ``name`` flat, in blocks of ``elements`` except for the last. Raises PoolError as
        ``floats`` does.
        """
        size = self[name].size
        with self.reader(name) as reader:
            for start in range(0, size, elements):
                yield reader.floats(start, min(start + elements, size))

    def sample(self, name: str, elements: int) -> FloatArray:
        """At most ``elements`` numbers of tensor ``name``, flat: the same ones every time.

        Where not all are taken, runs of neighbours are drawn evenly over the tensor, one from each
        of as many equal parts. Raises PoolError as ``floats`` does.
        """
        size = self[name].size
        if size <= elements:
            return self.floats(name).ravel()
        run = max(min(_RUN, elements // _RUNS), 1)
        starts = _spread(size // run, elements // run) * run
        with self.reader(name) as reader:
            return np.concatenate([reader.floats(int(s), int(s) + run) for s in starts])

    @contextmanager
    def reader(self, name: str) -> Iterator["TensorReader"]:
        """Tensor ``name`` in its file, opened for this. Raises PoolError as ``floats`` does."""
        entry = self._entries[name]
        file, header = entry.file, entry.header
        if not header.is_float:
            raise PoolError(
                f"tensor '{shown(entry.name)}' is stored as {header.dtype}, which cannot be "
                "checked or merged",
                expert=file.expert,
                where=label(file.path),
                fix="save it in float32, float16 or bfloat16",
            )
        with ExitStack() as files:
            readers = []
            held: dict[Path, BufferedReader] = {}
            for part in (entry, *entry.rest):
                if (at := part.file.path) not in held:
                    held[at] = files.enter_context(open_regular(at, expert=file.expert))
                    if _state(held[at].fileno()) != part.file.state:
                        raise part.file.written_to()
                own = part.first or part.header
                readers.append(TensorReader(held[at], own, part.file.written_to))
            if entry.rest:
                sizes = [(part.first or part.header).size for part in (entry, *entry.rest)]
                yield JoinedReader(readers, sizes, header, file.written_to, held[file.path])
            else:
                yield readers[0]


@dataclass(frozen=True, kw_only=True)
class _File:
    path: Path
    expert: str | None
    state: tuple[int, int, int] | None
    """When its headers were read."""

    def written_to(self) -> PoolError:
        what = f"{shown(self.path.name)} was written to while it was read"
        fix = "run the gate again when nothing writes to it"
        return PoolError(what, expert=self.expert, where=label(self.path), fix=fix)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    file: _File
    name: str
    """In the file."""
    header: TensorHeader
    first: TensorHeader | None = None
    """Where the file holds it, if ``header`` is that of several tensors together."""
    rest: tuple["_Entry", ...] = ()
    """The others that it is put together from."""


def _state(file: Path | int) -> tuple[int, int, int] | None:
    """What is another as soon as a file is written to, or replaced."""
    try:
        status = os.stat(file)  # noqa: PTH116 - of an open file, too
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` of ``count`` indices, a random one from each of as many equal parts.

    At equal distances they could all fall on the same row of every attention head.
    """
    edges = np.arange(wanted + 1, dtype=np.int64) * count // wanted
    drawn = np.random.default_rng(0).random(wanted)
    return edges[:-1] + (drawn * np.diff(edges)).astype(np.int64)
