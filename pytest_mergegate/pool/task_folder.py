"""The folder of a team's own tasks of lm-evaluation-harness, which holds code: nothing of it may
lie where strangers put their files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.containment import check_contained
from pytest_mergegate.common.plain_text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.gate.gatefile import Gate

_CODE = "MG301"


def task_folder(gate: Gate) -> Path | None:
    """The folder ``lm_eval_tasks``; None where the gate has none.

    Raises PoolError where it is no folder, where it is, holds or lies in one that holds experts or
    examples, and where a link in it leads out of the repository or to such a folder.
    """
    named = gate.spec.lm_eval_tasks
    if named is None:
        return None
    where = gate.where("lm_eval_tasks")
    path = gate.root / Path(named)
    if not path.is_dir():
        raise PoolError(
            f"lm_eval_tasks: there is no folder {shown(named)}",
            code=_CODE,
            where=where,
            fix="correct the path; it is relative to the gate file",
        )
    check_contained(path, root=gate.root, expert=None, where=where)
    folders = [path, *(entry for entry in path.rglob("*") if entry.is_symlink())]
    for folder in folders:
        _check_apart(folder, gate, where)
    return path.resolve()


def _check_apart(folder: Path, gate: Gate, where: str) -> None:
    real = folder.resolve()
    for whose, place in _of_strangers(gate):
        if real.is_relative_to(place) or place.is_relative_to(real):
            raise PoolError(
                f"lm_eval_tasks: the folder {shown(folder.name)} holds, or lies in, "
                f"{shown(place.name)}, where {whose} is kept; a task's YAML is run as code, and "
                "whoever sends an expert could write one",
                code=_CODE,
                where=where,
                fix="move the tasks to a folder of their own, such as tasks/ beside the gate file",
            )


def _of_strangers(gate: Gate) -> Iterator[tuple[str, Path]]:
    """Every expert and every file of examples, and the folders that hold them.

    A folder in which the gate file itself lies holds more than experts.
    """
    root = gate.root.resolve()
    for name, expert in gate.spec.experts.items():
        given = {"expert": expert.path, "the file of examples of": gate.spec.examples_of(name)}
        for what, named in given.items():
            # of links, the place where they lie counts as well as the one that they lead to
            path = gate.root / Path(named or ".").expanduser()
            if named is None or not path.exists():
                continue
            for place in {path.parent.resolve() / path.name, path.resolve()}:
                yield f"{what} {shown(name)}", place
                if not root.is_relative_to(place.parent):
                    yield f"{what} {shown(name)}", place.parent
