"""Which gates the changes since a commit concern, as git tells it.

Where git cannot tell whether something changed, it counts as changed: a gate that is left out
must be one that would come out as it did before.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pytest_mergegate.common.errors import GateFileError, PoolError, UsageError
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.files.places import place_of
from pytest_mergegate.common.files.reading import read_json_object
from pytest_mergegate.common.files.repository import is_contained, run_git, top_of
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.gate.gatefile import Gate, load_gate
from pytest_mergegate.gate.merge_methods import is_function
from pytest_mergegate.gate.mergekit.gate import usual_examples
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS
from pytest_mergegate.pool.adapters import CONFIG as ADAPTER_CONFIG

_MOST_HOPS = 40
"""As many links as an operating system follows."""
_CLUTTER = frozenset({"__pycache__", ".DS_Store", ".ipynb_checkpoints"})
"""Ignored by git, and read by no gate."""
_PREDICTED = frozenset({"max_loss", "max_loss_increase"})
"""Limits on what recorded merges predict; the registry finds those that are ``auto@RATE``, too."""


class GitError(UsageError):
    """git cannot say what changed."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Files, and folders that stand for all that is in them."""

    paths: frozenset[Path]
    around: frozenset[Path]
    """They and the folders that hold them."""

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Self:
        """With the folders around them, so that a look-up takes no search."""
        found = frozenset(paths)
        return cls(paths=found, around=found.union(*(path.parents for path in found)))

    def meet(self, place: Path) -> bool:
        """Whether any of them is at ``place``, in it, or around it."""
        return place in self.around or not self.paths.isdisjoint(place.parents)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What differs between a commit's merge base with HEAD and the working tree."""

    top: Path
    """The repository."""
    changed: Places
    """Of a submodule the folder."""
    tracked: Places
    """Of these what is committed, now or there: not what an earlier run has left behind."""
    unseen: Places
    """What git ignores, so that nobody can say whether it changed."""

    def concern(
        self,
        gate: Path,
        *,
        registry: Path | None = None,
        caps: Collection[str] = (),
        merged: str | None = None,
    ) -> bool:
        """Whether the verdict on a gate file, under limits that are ``caps`` as well, and on a
        finished merge that is named beside it, may have changed; one that cannot be read must be
        gated to say so."""
        try:
            found = load_gate(gate, merged=merged)
        except GateFileError:
            return True
        # only where nothing that strangers wrote leads out of the repository may it be walked
        if not all(is_contained(path, root=found.root) for path in _experts(found)) or not all(
            is_contained(path, root=found.root, own=False) for path in _named_bases(found)
        ):
            return True
        budget = found.spec.effective_budget
        predicted = budget.automatic or not _PREDICTED.isdisjoint({*budget.limits, *caps})
        if registry is not None and predicted and any(map(self.tracked.meet, _trail(registry))):
            return True
        own, base = [in_document(gate)[0], *_own_files(found)], found.spec.base
        bases = _named_bases(found) if base is None else (place_of(found.root, base),)
        return (
            any(map(self.touch, (*own, *bases)))
            or any(map(self._unseen, own))
            or self._code_touched(found)
        )

    def touch(self, path: Path) -> bool:
        """Whether a file, or anything in a folder, differs."""
        return any(map(self.changed.meet, _trail(path)))

    def _unseen(self, path: Path) -> bool:
        """Whether git knows nothing of a place: ignored, or in no folder of the repository."""
        real = Path(os.path.realpath(path))
        outside = real.exists() and not real.is_relative_to(self.top)
        return outside or any(map(self.unseen.meet, _trail(path)))

    def _code_touched(self, gate: Gate) -> bool:
        """A metric, distance or method of the user's own may import any module, a task of the
        harness read any file; of a module beside the gate file that git ignores nobody can say
        whether it changed."""
        experts = gate.spec.experts.values()
        metrics = {expert.metric for expert in experts}.difference(BUILTIN_METRICS)
        if any(metric.startswith(HARNESS) for metric in metrics):
            return self.touch(gate.root)
        own = metrics | {expert.distance for expert in experts if expert.distance is not None}
        own |= {m.method for m in gate.spec.merge.methods if is_function(m.method)}
        modules = {gate.root / function.partition(":")[0].partition(".")[0] for function in own}
        places = (place for module in modules for place in (module, module.with_suffix(".py")))
        changed = (path.suffix == ".py" for path in self.changed.paths)
        return bool(own) and (any(changed) or any(map(self._unseen, places)))


def changes_since(reference: str, folder: Path) -> Changes:
    """What changed in the repository around ``folder`` since it parted from ``reference``.

    Committed or not; renamed and deleted files count under their old names too. Raises GitError.
    """
    top = repository(folder)
    tracked: set[str] = set()
    for base in _merge_bases(reference, top):
        tracked |= _paths(
            *("diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv"),
            *("--no-relative", "--ignore-submodules=none", base, "--"),
            folder=top,
        )
    # what is not in the index, as when it was removed from it and lies there still
    others = _paths("ls-files", "-z", "--others", "--exclude-standard", folder=top)
    listed = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
    ignored = _paths(*listed, folder=top)
    return Changes(
        top=top,
        changed=Places.of(top / path for path in tracked | others),
        tracked=Places.of(top / path for path in tracked),
        unseen=Places.of(top / path for path in ignored if not _CLUTTER & set(Path(path).parts)),
    )


def repository(folder: Path) -> Path:
    """The top of the repository around ``folder``. Raises GitError."""
    top = top_of(folder)
    if top is None:
        raise GitError(
            f"--changed-since: {shown(str(folder), 300)} is not a git repository, nor in one",
            fix="run it in a git repository",
        )
    return top


def _merge_bases(reference: str, top: Path) -> list[str]:
    shallow = _git("rev-parse", "--is-shallow-repository", folder=top).strip() == "true"
    fetch = "fetch the whole history (actions/checkout: fetch-depth: 0)"
    try:
        wanted = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
        commit = _git(*wanted, folder=top).strip()
    except GitError:
        raise GitError(
            f"--changed-since: there is no commit {reference!r} in {top.name}/",
            fix=fetch if shallow else "name a branch, a tag or a commit that was fetched",
        ) from None
    try:
        return _git("merge-base", "--all", commit, "HEAD", folder=top).split()
    except GitError:
        why = "this clone is shallow" if shallow else "they share no history"
        raise GitError(
            f"--changed-since: {reference} and HEAD have no merge base here: {why}",
            fix=fetch if shallow else "name a commit from which HEAD descends",
        ) from None


def _paths(*arguments: str, folder: Path) -> set[str]:
    return {path.rstrip("/") for path in _git(*arguments, folder=folder).split("\0") if path}


def _git(*arguments: str, folder: Path) -> str:
    """What git says. Raises GitError."""
    try:
        done = run_git(folder, *arguments)
    except OSError as error:
        raise GitError(
            f"--changed-since: git cannot be run ({error.strerror})", fix="install git"
        ) from None
    if done.returncode != 0:
        lines = os.fsdecode(done.stderr).strip().splitlines() or ["it says nothing"]
        raise GitError(
            f"--changed-since: git {arguments[0]} failed in {folder}: {shown(lines[0])}",
            fix="run it in a git repository that git trusts",
        )
    return os.fsdecode(done.stdout)


def _experts(gate: Gate) -> list[Path]:
    """The experts and their examples, which must lie in the repository, or come from the hub; and a
    finished merge."""
    files = (gate.spec.examples_of(name) for name in gate.spec.experts)
    return [
        *(place_of(gate.root, expert.path) for expert in gate.spec.experts.values()),
        *([place_of(gate.root, gate.spec.merged)] if gate.spec.merged is not None else []),
        *(gate.root / file for file in files if file is not None),
    ]


def _own_files(gate: Gate) -> Iterator[Path]:
    """What must lie in the repository as well, or be looked for there."""
    yield from _experts(gate)
    if gate.spec.lm_eval_tasks is not None:
        yield place_of(gate.root, gate.spec.lm_eval_tasks)
    if gate.experts_pattern is not None:  # a folder that is gone is in no list of experts
        yield place_of(gate.root, _fixed_part(gate.experts_pattern))
    if gate.mergekit is not None:  # where examples are found that no file names
        for name, expert in gate.spec.experts.items():
            yield from (place_of(gate.root, p) for p in usual_examples(name, expert.path))


def _named_bases(gate: Gate) -> Iterator[Path]:
    """Where the adapters' bases lie, where the gate names none; theirs to name, so never a home."""
    for name, expert in gate.spec.experts.items() if gate.spec.base is None else ():
        try:
            path = place_of(gate.root, expert.path) / ADAPTER_CONFIG
            config = read_json_object(path, expert=name)
        except PoolError:
            continue  # the gate will say what is wrong, once it is gated
        if isinstance(base := config.get("base_model_name_or_path"), str) and "\0" not in base:
            yield gate.root / base


def _fixed_part(pattern: str) -> str:
    """The folders of a glob before its first wildcard."""
    parts = Path(pattern).parts
    wild = next((k for k, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return str(Path(*parts[:wild]))


def _trail(path: Path) -> Iterator[Path]:
    """All places that decide what is at ``path``: itself, links on the way and what they lead to,
    and, of a folder, links within it."""
    seen: set[Path] = set()
    waiting = [(path.absolute(), 0)]
    while waiting:
        place, hops = waiting.pop()
        if place in seen or hops > _MOST_HOPS:
            continue
        seen.add(place)
        for part in (place, *place.parents):
            if os.path.islink(part):  # noqa: PTH114 - no error for a name that is too long
                link = Path(os.path.realpath(part.parent)) / part.name
                seen.add(link)
                target = link.parent / link.readlink() / place.relative_to(part)
                waiting.append((Path(os.path.normpath(target)), hops + 1))
        real = Path(os.path.realpath(place))
        waiting.append((real, hops + 1))
        if place == real and os.path.isdir(place):  # noqa: PTH112 - likewise
            for root, folders, files in os.walk(place):
                inside = (Path(root, name) for name in (*folders, *files))
                waiting += [(path, hops + 1) for path in inside if path.is_symlink()]
    yield from seen
