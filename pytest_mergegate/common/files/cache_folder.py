"""Where results and content hashes are kept, and where they must not be.

Whoever writes to a cache says what gates will find in it, so a folder that a pull request can
bring along is none.
"""

import os
import unicodedata
from pathlib import Path, PurePath

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.files.repository import run_git, top_of
from pytest_mergegate.common.files.writing import refuse_links
from pytest_mergegate.common.plain_text import shown


def cache_folder() -> Path | None:
    """The user's own cache folder for this package; None where there is no home."""
    try:
        named = os.environ.get("MERGEGATE_CACHE")
        return Path(named).expanduser().absolute() if named else _usual_folder()
    except (RuntimeError, OSError):
        return None


def _usual_folder() -> Path:
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # by the XDG specification, a relative path is to be ignored
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "pytest-mergegate"


def check_cache(folder: Path) -> None:
    """Raise GateError for a cache that a pull request could have written.

    In a repository it must hold no file that git tracks, and git must ignore it. Where git cannot
    be asked, it is refused.
    """
    try:
        refuse_links(folder)
        why = _why_not(Path(os.path.realpath(folder)))
    except (OSError, ValueError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or str(error)
    if why is not None:
        raise GateError(
            f"the cache {shown(str(folder), 300)} is refused, as a pull request could write to it "
            f"({why})",
            fix="name a folder outside of the repository",
        )


def _why_not(folder: Path) -> str | None:
    top = top_of(folder)
    if top is None:
        return None
    place = folder.relative_to(top)
    own = _parts(place)
    listed = run_git(top, "ls-files", "-z", "--cached")
    if listed.returncode != 0:
        said = os.fsdecode(listed.stderr).strip().splitlines() or ["it says nothing"]
        return f"git cannot tell what it tracks there: {shown(said[0])}"
    for name in os.fsdecode(listed.stdout).split("\0"):
        # a file in the folder, or in place of it or of one around it
        meet = zip(_parts(PurePath(name)), own, strict=False)
        if name and all(theirs == ours for theirs, ours in meet):
            return f"git tracks {shown(name)}"
    if folder == Path(os.path.realpath(_usual_folder())):
        return None  # of a home folder under version control, which ignores little
    # asked of a file in it, as a pattern for folders matches no folder that is not there yet
    ignored = run_git(top, "check-ignore", "-q", "--", f"./{place / 'x'}").returncode == 0
    return None if ignored else "it lies in the repository, and git does not ignore it"


def _parts(path: PurePath) -> tuple[str, ...]:
    """Its parts, as a file system that tells no upper from lower case has them."""
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in path.parts)
