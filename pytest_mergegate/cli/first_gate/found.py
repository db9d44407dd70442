"""What a folder holds: experts, what looks like one and is none, and the base of all."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.common.files.places import as_found, is_apart, model_file_in
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.common.files.repository import check_contained, check_way_inside, is_contained
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.sections import POOL
from pytest_mergegate.pool.adapters import CONFIG, WEIGHTS, read_config
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.references import Located, last_part, names_repository, unquantised
from pytest_mergegate.pool.tensors import StoredTensors

DEPTH = 4
"""Levels of folders that are looked into."""
_TRAINING = re.compile(r"checkpoint-\d+")
_FIX = "name it: mergegate init DIR --base PATH"
_NAMED = 4


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
        config = read_config(path, name, where, where)
        StoredTensors([path / WEIGHTS], expert=name)
    else:
        config = read_json_object(path / "config.json", expert=name, where=f"{where}/config.json")
        read_checkpoint(path, expert=name)
    return FoundExpert(name=name, path=path, is_adapter=is_adapter, config=config)


def _why(error: OSError | PoolError, what: str) -> str:
    if isinstance(error, OSError):
        return f"{what} cannot be read ({error.strerror})"
    return f"{error.what} (fix: {error.fix})" if error.fix else error.what


@dataclass(frozen=True, kw_only=True)
class FoundBase:
    """The base that the gate names."""

    reference: str
    """As the gate file says it."""
    why: str
    """How it was found."""
    read: Base | None = None
    """None for one on the hub."""


def find_base(
    experts: Sequence[FoundExpert], *, folder: Path, root: Path, given: str | None
) -> FoundBase:
    """The one that all experts name, here or on the hub, or ``given``.

    Raises GateError where they do not agree, or the base is not to be found.
    """
    if given is not None:
        return _given(given, root)
    named = _named(experts)
    references = list(named)
    wanted: set[str | None] = {last_part(reference) for reference in references}
    if len(wanted) > 1:
        raise _disagreement(named)
    wanted |= {unquantised(last_part(reference)) for reference in references}
    others: list[str] = []
    for path in _candidates(references, experts, folder=folder, root=root):
        try:
            base = _read_base(path)
        except (OSError, PoolError):
            base = None
        if base is not None and wanted & base.names:
            why = f"what the experts name ({shown(references[0], 60)})"
            return FoundBase(reference=relative(path, root), why=why, read=base)
        if base is not None and not wanted and path.name.lower() == "base":
            why = "the folder of that name; no expert names one"
            return FoundBase(reference=relative(path, root), why=why, read=base)
        others.append(relative(path, root))
    if not references:
        what = "none of the experts names its base, and there is no folder base/"
        raise GateError(what, fix=_FIX)
    if len(references) > 1:
        raise _disagreement(named)
    return _from_hub(references[0], experts, others, root)


def _named(experts: Sequence[FoundExpert]) -> dict[str, list[str]]:
    """The experts by what each says its base is; adapters know best, if there are any."""
    found: dict[str, list[str]] = {}
    for expert in [e for e in experts if e.is_adapter] or experts:
        reference = expert.base_reference
        # a checkpoint that was saved again names itself
        itself = not expert.is_adapter and last_part(reference or "") == expert.path.name.lower()
        if reference is not None and not itself:
            found.setdefault(reference, []).append(expert.name)
    return found


def _given(given: str, root: Path) -> FoundBase:
    path = Path(given).expanduser()
    if path.is_dir():
        return FoundBase(
            reference=relative(path, root), why="given by --base", read=_read_base(path)
        )
    if not names_repository(given.partition("@")[0]):
        raise GateError(
            f"--base: there is no folder {shown(given)}",
            fix="give a folder that save_pretrained wrote, or org/name on the hub",
        )
    return FoundBase(reference=given, why="given by --base")


def _from_hub(
    reference: str, experts: Sequence[FoundExpert], others: Sequence[str], root: Path
) -> FoundBase:
    first = root / reference.split("/")[0]
    if not names_repository(reference) or os.path.lexists(first):
        here = f"; {', '.join(others[:_NAMED])} is here and called otherwise" if others else ""
        what = "lies outside of the repository" if _is_there(reference) else "is not here"
        raise GateError(
            f"the base that the experts name, '{shown(reference)}', {what}{here}", fix=_FIX
        )
    named_at = [e.config.get("revision") for e in experts if e.is_adapter]
    revision = named_at[0] if named_at and all(r == named_at[0] for r in named_at) else None
    if isinstance(revision, str) and re.fullmatch(r"[\w./-]+", revision, re.ASCII):
        reference = f"{reference}@{revision}"
    why = "a repository on the hub: what the experts name, and no folder here is called so"
    return FoundBase(reference=reference, why=why)


def _candidates(
    references: Sequence[str], experts: Sequence[FoundExpert], *, folder: Path, root: Path
) -> Iterator[Path]:
    """Folders of checkpoints that may be the base, the likeliest first, each once.

    What an adapter names must not lead out of the repository: such a base has to be given.
    """
    places = (root, folder, folder.parent)
    paths = [place / reference for reference in references for place in (*places, Path.cwd())]
    names = dict.fromkeys((*map(last_part, references), "base"))
    paths += [place / name for name in names for place in places]
    paths += [expert.path for expert in experts if not expert.is_adapter]
    around = folder if (folder / ".git").exists() else folder.parent
    seen: set[Path] = set()
    for path in paths:
        try:
            real = path.resolve()
            if real in seen or not (real / "config.json").is_file() or (real / CONFIG).exists():
                continue
        except (OSError, RuntimeError, ValueError):
            continue
        seen.add(real)
        if any(is_contained(path, root=place, own=False) for place in (root, around)):
            yield real


def _read_base(path: Path) -> Base:
    where = shown(path.name)
    return read_base(Located(path=path.resolve()), where, where)


def _is_there(reference: str) -> bool:
    try:
        return Path(reference).is_dir()
    except (OSError, ValueError):
        return False


def _disagreement(named: Mapping[str, list[str]]) -> GateError:
    said = []
    for reference, names in named.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        said.append(f"{shown(reference)}: {', '.join(names[:_NAMED])}{more}")
    return GateError(
        "the experts do not name one base, and experts of different bases cannot be merged: "
        + "; ".join(said),
        fix="give each base's experts a folder of their own, or, where all these names stand for "
        "the same weights, name it: --base PATH",
    )
