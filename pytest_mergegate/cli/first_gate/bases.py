"""Which base the experts were fine-tuned from, and where it is."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_mergegate.cli.first_gate.experts import FoundExpert, relative
from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.common.files.repository import is_contained
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import CONFIG
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.references import Located, last_part, names_repository, unquantised

_FIX = "name it: mergegate init DIR --base PATH"
_MOST = 4


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
            base = _read(path)
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
        return FoundBase(reference=relative(path, root), why="given by --base", read=_read(path))
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
        here = f"; {', '.join(others[:_MOST])} is here and called otherwise" if others else ""
        what = "lies outside of the repository" if _is_folder(reference) else "is not here"
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


def _read(path: Path) -> Base:
    where = shown(path.name)
    return read_base(Located(path=path.resolve()), where, where)


def _is_folder(reference: str) -> bool:
    try:
        return Path(reference).is_dir()
    except (OSError, ValueError):
        return False


def _disagreement(named: Mapping[str, list[str]]) -> GateError:
    said = []
    for reference, names in named.items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        said.append(f"{shown(reference)}: {', '.join(names[:_MOST])}{more}")
    return GateError(
        "the experts do not name one base, and experts of different bases cannot be merged: "
        + "; ".join(said),
        fix="give each base's experts a folder of their own, or, where all these names stand for "
        "the same weights, name it: --base PATH",
    )
