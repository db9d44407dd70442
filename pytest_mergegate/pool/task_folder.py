"""The folder of a team's own tasks of lm-evaluation-harness, which holds code: nothing of it may
lie where strangers put their files."""

import os
from collections.abc import Iterator
from pathlib import Path

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.containment import check_contained
from pytest_mergegate.common.files.places import place_of
from pytest_mergegate.common.plain_text import shown
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
    path = gate.root / named
    if not path.is_dir():
        raise PoolError(
            f"lm_eval_tasks: there is no folder {shown(named)}",
            code=_CODE,
            where=where,
            fix="correct the path; it is relative to the gate file",
        )
    check_contained(path, root=gate.root, expert=None, where=where)
    strangers = list(_of_strangers(gate))
    for folder in (path, *(entry for entry in path.rglob("*") if entry.is_symlink())):
        real = folder.resolve()
        for whose, place in strangers:
            if real.is_relative_to(place) or place.is_relative_to(real):
                raise PoolError(
                    f"lm_eval_tasks: the folder {shown(folder.name)} holds, or lies in, "
                    f"{shown(place.name)}, where {whose} is kept; a task's YAML is run as code, "
                    "and whoever sends an expert could write one",
                    code=_CODE,
                    where=where,
                    fix="move the tasks to a folder of their own, such as tasks/ beside the gate "
                    "file",
                )
    return path.resolve()


def _of_strangers(gate: Gate) -> Iterator[tuple[str, Path]]:
    """Every expert and every file of examples, and the folders that hold them.

    A folder in which the gate file itself lies holds more than experts.
    """
    root = gate.root.resolve()
    for name, expert in gate.spec.experts.items():
        given = {"expert": place_of(gate.root, expert.path)}
        if (examples := gate.spec.examples_of(name)) is not None:
            given["the file of examples of"] = gate.root / examples
        for what, path in given.items():
            if not os.path.exists(path):  # noqa: PTH110 - no error for a name that is too long
                continue
            # of links, the place where they lie counts as well as the one that they lead to
            for place in {path.parent.resolve() / path.name, path.resolve()}:
                yield f"{what} {shown(name)}", place
                if not root.is_relative_to(place.parent):
                    yield f"{what} {shown(name)}", place.parent
