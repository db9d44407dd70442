"""References in a gate file (a directory, ``org/name``, ``org/name@revision``): the directory that
one means, and the model's name in it."""

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from pytest_mergegate.common.errors import PoolError, first_line
from pytest_mergegate.common.files.places import placed
from pytest_mergegate.common.files.repository import check_contained
from pytest_mergegate.common.plain_text import shown

_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)*", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
_CORRECT = "correct the path; it is relative to the gate file"
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.vocab"]
_UNWANTED = [
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"),
    # other checkpoints and formats of the same model
    *("*/*.safetensors", "*/*.json", "*/*.model", "*/*.txt", "consolidated*.safetensors"),
]

_CACHED = re.compile(r"models--(?:.+--)?(?P<name>[^-](?:(?!--).)*)")
_QUANTISED = r"bnb|gptq|awq|hqq|eetq|nf4|int[348]|fp8|[348]-?bits?|w[48]a(?:8|16)|quantized"
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)", re.ASCII)
_LAST_WORD = re.compile(rf"(.+)[-_](?:(?P<kind>{_QUANTISED})|unsloth|dynamic|g32|g64|g128)", re.I)
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Located:
    """Where a model's folder is on this machine, and where it came from."""

    path: Path
    repository: str | None = None
    """``org/name`` on the hub; None for a local folder."""
    revision: str | None = None
    """What the gate file asked for: a branch, a tag or a commit; None for the default branch."""
    commit: str | None = None
    """What it was, 40 hexadecimal digits, as far as known; None for a local folder."""

    @property
    def pinned(self) -> bool:
        """Whether the same reference means the same files tomorrow, or is the user's own folder."""
        return self.repository is None or bool(COMMIT.fullmatch(self.revision or ""))


def locate(
    reference: str,
    *,
    root: Path,
    expert: str | None,
    where: str,
    contained: bool = False,
    own: bool = True,
    allowed: Collection[str] = (),
    with_code: bool = False,
) -> Located:
    """The local directory behind ``reference``; relative paths start at ``root``.

    A reference whose first folder exists beside the gate file is local, never fetched: a
    misspelled path must not become a stranger's repository. ``contained`` is for folders that
    strangers may have written: no symlink in a local one, or on the way to it, may lead out of the
    repository. A reference that is not the user's ``own``, but an adapter's, may not name a place
    out there either, nor a repository that is not among those ``allowed``, letter for letter: any
    other revision may be anybody's proposal. ``with_code`` fetches a model's own Python files, too.
    Raises PoolError, under MG003 for what leads out.
    """
    refused = partial(PoolError, expert=expert, where=where)
    try:
        folder = placed(root, reference) if own else root / reference
        is_folder, is_there = folder.is_dir(), folder.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refused(f"'{shown(reference)}' is no usable path ({reason})", fix=_CORRECT) from None
    if is_folder:
        if contained or not own:
            check_contained(folder, root=root, expert=expert, where=where, own=own)
        return Located(path=folder.resolve())
    if is_there:
        what = f"'{shown(reference)}' is a file, not a directory"
        raise refused(what, fix="give the folder that holds it")
    repository, revision = _checked(reference, root, refused, own=own, allowed=allowed)
    try:
        return _from_hub(repository, revision or None, code=with_code)
    except Exception as error:  # huggingface_hub's errors, and those of its HTTP client
        named = f"{repository}@{revision}" if revision else repository
        raise refused(
            f"{named!r} is neither a directory beside the gate file nor to be had from the "
            f"hub ({first_line(error).partition('. ')[0]})",
            fix="correct the path, or make the repository available (network, HF_TOKEN, cache)",
        ) from None


def _checked(
    reference: str,
    root: Path,
    refused: Callable[..., PoolError],
    *,
    own: bool,
    allowed: Collection[str],
) -> tuple[str, str]:
    """A repository of the hub that may be read, and the revision, empty where none is named."""
    repository, at, revision = reference.partition("@")
    first = reference.split("/")[0]  # not Path's parts, which drop a leading "./"
    if not names_repository(repository) or ".." in reference or _exists(root / first):
        what = f"there is no directory '{shown(reference)}' in {root.name or root}/"
        raise refused(what, fix=_CORRECT)
    if at and not _REVISION.fullmatch(revision):
        what = f"'{shown(revision)}' is no branch, tag or commit"
        raise refused(what, fix="write org/name@revision, best with the commit's 40 digits")
    if not own and reference not in allowed:
        base = shown(reference)
        raise refused(
            f"the gate names no base, and its adapters name '{base}', a repository of the hub that "
            "allowed_bases does not list",
            code="MG101",
            fix=f"write base: {base} in the gate file, or allowed_bases: ['{base}']",
        )
    return repository, revision


def names_repository(reference: str) -> bool:
    """Whether ``reference`` has the form ``org/name``.

    huggingface_hub's own check takes a name without an organisation, too, which here is a path.
    """
    return _REPOSITORY.fullmatch(reference) is not None


def last_part(reference: str) -> str:
    """The model's name in lower case: of a path, a repository or a snapshot in the hub's cache."""
    without_revision = reference if PurePath(reference).is_absolute() else reference.split("@")[0]
    path = PurePath(without_revision.rstrip("/\\").replace("\\", "/"))
    for part in path.parts:
        if (match := _CACHED.fullmatch(part[:_LONGEST_NAME])) is not None:
            return match["name"].lower()
    return path.name.lower()


def cached_repository(path: str) -> str | None:
    """``org/name`` of a path in the hub's cache; None for any other."""
    parts = (part[:_LONGEST_NAME] for part in PurePath(path.replace("\\", "/")).parts)
    found = next((match for part in parts if (match := _SNAPSHOT.fullmatch(part))), None)
    return f"{found[1]}/{found[2]}" if found else None


def unquantised(name: str) -> str | None:
    """``name`` without ``-bnb-4bit``, ``-GPTQ-Int4`` and the like; None if it has no such end."""
    found = False
    while len(name) <= _LONGEST_NAME and (match := _LAST_WORD.fullmatch(name)) is not None:
        name, found = match[1], found or match["kind"] is not None
    return name if found else None


def in_ci() -> bool:
    """Whether this runs in CI, as its services say by the variable ``CI``."""
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")


def _exists(path: Path) -> bool:
    try:
        return path.exists() or path.is_symlink()
    except (OSError, ValueError):
        return True


def _from_hub(repository: str, revision: str | None, *, code: bool) -> Located:
    from huggingface_hub import snapshot_download

    wanted = [*_WANTED, "*.py"] if code else _WANTED
    folder = snapshot_download(
        repository, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED
    )
    path = Path(folder)
    commit = path.name if COMMIT.fullmatch(path.name) else None
    return Located(path=path, repository=repository, revision=revision, commit=commit)
