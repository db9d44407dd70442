"""Fingerprints of files by content; large files are hashed once, until they change."""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pytest_mergegate.common.errors import GateError, PoolError
from pytest_mergegate.common.files.cache_folder import cache_folder, check_cache
from pytest_mergegate.common.files.reading import open_regular, read_at_most
from pytest_mergegate.common.files.writing import Unwritten, make_folder, write_file

MEMO = "content-hashes.json"
MOST_ENTRIES = 10_000
WORTH_A_MEMO = 1 << 20
"""Bytes below which hashing is cheaper than looking up."""
SETTLED = 2.0
"""Seconds since its last change until a file's times tell one content from the next."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEMO_LIMIT = 32 << 20
_WAIT = 5.0
_QUICK = 1 << 28

_in_process: dict[str, str] = {}


def fingerprint(files: Iterable[Path]) -> str:
    """``sha256:`` over the names and contents of ``files``; independent of their order.

    Raises PoolError for a file that cannot be read.
    """
    named = sorted((path.name, content_hash(path)) for path in files)
    digest = hashlib.sha256()
    for name, content in named:
        digest.update(name.encode(errors="surrogateescape") + b"\0" + bytes.fromhex(content))
    return f"sha256:{digest.hexdigest()}"


def known_fingerprint(files: Iterable[Path]) -> str | None:
    """``fingerprint(files)`` where that takes no reading of gigabytes, else None."""
    chosen = list(files)
    unknown = [(path, path.stat()) for path in chosen if _name_of_blob(path) is None]
    size = sum(s.st_size for path, s in unknown if _recall(_key(path, s)) is None)
    return fingerprint(chosen) if size <= _QUICK else None


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Known without reading for blobs of the Hugging Face cache, which are named by it, and for large
    files that have not changed since they were hashed before, in this process or another.
    Raises PoolError for a file that cannot be read.
    """
    if (known := _name_of_blob(path)) is not None:
        return known
    with open_regular(path, expert=None) as file:
        before = os.fstat(file.fileno())
        if before.st_size < WORTH_A_MEMO:
            return hashlib.file_digest(file, "sha256").hexdigest()
        key = _key(path, before)
        if (known := _recall(key)) is not None:
            return known
        found = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    age = time.time() - max(after.st_mtime, after.st_ctime)
    if _key(path, after) == key and age >= SETTLED:
        _in_process[key] = found
        _note(key, found)
    return found


def _name_of_blob(path: Path) -> str | None:
    """The SHA-256 that a blob in the cache of huggingface_hub is named by."""
    real = Path(os.path.realpath(path))
    if real.parent.name != "blobs" or not _SHA256.fullmatch(real.name) or not path.is_symlink():
        return None
    from huggingface_hub import constants

    # a folder of the same shape in somebody's repository proves nothing
    hub = Path(os.path.realpath(constants.HF_HUB_CACHE))
    return real.name if real.parent.parent.parent == hub and real.is_file() else None


def _key(path: Path, status: os.stat_result) -> str:
    times = f"{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    return f"{times}|{os.path.realpath(path)}"


def _recall(key: str) -> str | None:
    if key not in _in_process and (folder := _memo_folder(cache_folder())) is not None:
        _in_process.update(_read_memo(folder / MEMO))
    return _in_process.get(key)


@cache
def _memo_folder(folder: Path | None) -> Path | None:
    """The cache folder, where no stranger could have written hashes of his choice."""
    if folder is None:
        return None
    try:
        check_cache(folder)
    except GateError:
        return None
    return folder


def _read_memo(memo: Path) -> dict[str, str]:
    """The sound entries of the memo; none of one that is missing or damaged."""
    try:
        with open_regular(memo, expert=None) as file:
            entries = json.loads(read_at_most(file, _MEMO_LIMIT))
    except (PoolError, OSError, ValueError, RecursionError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {k: v for k, v in entries.items() if isinstance(v, str) and _SHA256.fullmatch(v)}


def _note(key: str, found: str) -> None:
    """Add an entry to the memo; without a place to write, the file is hashed again next time."""
    from filelock import FileLock, Timeout

    folder = _memo_folder(cache_folder())
    if folder is None:
        return
    with contextlib.suppress(OSError, Unwritten, Timeout, NotImplementedError):
        make_folder(folder, mode=0o700)
        with FileLock(folder / f"{MEMO}.lock", timeout=_WAIT):
            entries = _read_memo(folder / MEMO)
            entries.pop(key, None)
            kept = list(entries.items())[-(MOST_ENTRIES - 1) :]
            write_file(folder / MEMO, json.dumps(dict([*kept, (key, found)])), mode=0o600)
