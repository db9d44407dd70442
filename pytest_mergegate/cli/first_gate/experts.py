"""Which folders below a folder are experts, and why the others that look like one are not."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.places import as_found, is_apart, model_file_in
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.common.files.repository import check_contained, check_way_inside
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.sections import POOL
from pytest_mergegate.pool.adapters import CONFIG, WEIGHTS, read_config
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.tensors import StoredTensors

DEPTH = 4
"""Levels of folders that are looked into."""
_TRAINING = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True, kw_only=True)
class FoundExpert:
    """A folder that can be an expert of the gate."""

    name: str
    path: Path
    is_adapter: bool
    config: Mapping[str, Any]
    """``adapter_config.json``, or ``config.json`` of a full checkpoint; from a stranger."""

    @property
    def base_reference(self) -> str | None:
        """The base that it says it was trained on."""
        key = "base_model_name_or_path" if self.is_adapter else "_name_or_path"
        named = self.config.get(key)
        return named if isinstance(named, str) and named else None


@dataclass(frozen=True, kw_only=True)
class SkippedFolder:
    """A folder that looks like an expert and is none of the gate's."""

    path: Path
    reason: str
    broken: bool = True
    """Whether it was meant to be an expert, as far as one can tell, and cannot be read."""


def relative(path: Path, root: Path) -> str:
    """A path as a gate file in ``root`` writes it."""
    return as_found(os.path.relpath(path.absolute(), root))


def find_experts(folder: Path, *, root: Path) -> tuple[list[FoundExpert], list[SkippedFolder]]:
    """Every expert below ``folder``, and what is left out; ``root`` is where the gate file goes.

    Nothing that looks like an expert is dropped without a reason.
    """
    candidates: list[Path] = []
    left_out: list[SkippedFolder] = []
    for path, reason in _walk(folder, DEPTH, root):
        if reason is not None:
            left_out.append(SkippedFolder(path=path, reason=reason))
        elif _TRAINING.fullmatch(path.name):
            what = f"a training checkpoint of {shown(path.parent.name)}"
            left_out.append(SkippedFolder(path=path, reason=what, broken=False))
        else:
            candidates.append(path)
    experts: list[FoundExpert] = []
    for name, path in zip(_names(candidates, folder), candidates, strict=True):
        try:
            experts.append(_read(path, name, root))
        except (OSError, PoolError) as error:
            left_out.append(SkippedFolder(path=path, reason=_why(error, "it")))
    return experts, left_out


def _walk(folder: Path, depth: int, root: Path) -> Iterator[tuple[Path, str | None]]:
    """Folders that look like experts, in the order of their names; with what is in the way."""
    try:
        with os.scandir(folder) as entries:
            inside = sorted((e for e in entries if _is_folder(e)), key=lambda e: e.name)
    except OSError as error:
        yield folder, _why(error, "the folder")
        return
    for entry in inside:
        path = Path(entry.path)
        if not entry.name.isprintable():  # also what is not UTF-8, and no YAML file can name
            yield path, "its name is not printable text; rename it"
            continue
        try:
            # before anything in there is looked at
            check_way_inside(path, root=root, where=entry.name)
            if not path.exists():
                yield path, "a link that leads nowhere"
                continue
            if model_file_in(path) is not None:
                yield path, None
        except (OSError, PoolError) as error:
            yield path, _why(error, "the folder")
            continue
        if depth > 1 and not entry.is_symlink():
            yield from _walk(path, depth - 1, root)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether to look into it: pytest's own taste, and links that lead nowhere."""
    if entry.name == "site-packages" or is_apart(Path(entry.path)):
        return False
    if entry.is_symlink() and not Path(entry.path).exists():
        return not Path(entry.name).suffix
    return entry.is_dir()


def _names(paths: Sequence[Path], folder: Path) -> list[str]:
    """A name each: the folder's, or, where several are called so, all of the way to it."""
    count = Counter(path.name for path in paths)
    names: list[str] = []
    for path in paths:
        twice = count[path.name] > 1
        name = "-".join(path.relative_to(folder).parts) if twice else path.name
        name = name.replace("::", "--").replace("##", "--").strip() or "expert"
        while name in (POOL, *names):
            name += "_"
        names.append(name)
    return names


def _read(path: Path, name: str, root: Path) -> FoundExpert:
    """Configuration and headers. Raises PoolError and OSError."""
    where = shown(path.name)
    check_contained(path, root=root, expert=None, where=where)
    is_adapter = (path / CONFIG).exists() or not (path / "config.json").exists()
    if is_adapter:
        config = read_config(path, name, where)
        StoredTensors([path / WEIGHTS], expert=name)
    else:
        config = read_json_object(path / "config.json", expert=name, where=f"{where}/config.json")
        read_checkpoint(path, expert=name)
    return FoundExpert(name=name, path=path, is_adapter=is_adapter, config=config)


def _why(error: OSError | PoolError, what: str) -> str:
    if isinstance(error, OSError):
        return f"{what} cannot be read ({error.strerror})"
    return f"{error.what} (fix: {error.fix})" if error.fix else error.what
