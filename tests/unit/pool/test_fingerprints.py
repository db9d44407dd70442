"""Hashes are those of the content, whatever a memo, a clock or another process says."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import constants

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.cache_folder import cache_folder
from pytest_mergegate.pool import fingerprints
from pytest_mergegate.pool.fingerprints import MEMO, content_hash, fingerprint

if TYPE_CHECKING:
    from pathlib import Path

LARGE = fingerprints.WORTH_A_MEMO


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, content: bytes, *, settled: bool = True) -> Path:
    """A file worth a memo, by default last written to a while ago."""
    path.write_bytes(content * LARGE)
    if settled:
        age(path)
    return path


def age(path: Path) -> None:
    """Set the time of writing back; that of the last change of status cannot be."""
    old = time.time() - 100
    os.utime(path, (old, old))


@pytest.fixture(autouse=True)
def memo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty memo of one's own, and no wait for the file system's clock."""
    monkeypatch.setenv("MERGEGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "SETTLED", 0.0)
    monkeypatch.setattr(fingerprints, "_in_process", {})
    return tmp_path / "cache" / MEMO


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process would start."""
    monkeypatch.setattr(fingerprints, "_in_process", {})


def test_fingerprint_is_of_names_and_contents(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    found = fingerprint([one, two])
    assert found.startswith("sha256:")
    assert fingerprint([two, one]) == found
    assert fingerprint([one]) != found
    one.write_bytes(b"2")
    two.write_bytes(b"1")
    assert fingerprint([one, two]) != found
    (tmp_path / "copy").mkdir()
    copies = [(tmp_path / "copy" / p.name) for p in (one, two)]
    for copy, original in zip(copies, (one, two), strict=True):
        copy.write_bytes(original.read_bytes())
    assert fingerprint(copies) == fingerprint([one, two])


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="No such file"):
        content_hash(tmp_path / "none")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(PoolError, match="FIFO"):
        fingerprint([tmp_path / "fifo"])


def test_memo_is_used_and_forgets_changes(
    tmp_path: Path, memo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "file", b"a")
    first = content_hash(file)
    assert first == sha256(file)
    (key,) = json.loads(memo.read_text())
    memo.write_text(json.dumps({key: "0" * 64}))
    assert content_hash(file) == first  # remembered by the process
    forget(monkeypatch)
    assert content_hash(file) == "0" * 64
    write(file, b"b")
    assert content_hash(file) == sha256(file)
    (tmp_path / "other").write_bytes(b"c" * LARGE)
    (tmp_path / "other").replace(file)
    assert content_hash(file) == sha256(file)


def test_small_files_are_always_hashed(tmp_path: Path, memo: Path) -> None:
    file = tmp_path / "small"
    file.write_bytes(b"x")
    assert content_hash(file) == sha256(file)
    assert not memo.exists()


def test_recent_files_are_not_remembered(
    tmp_path: Path, memo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written twice within a tick of the clock, two contents have the same times."""
    monkeypatch.setattr(fingerprints, "SETTLED", 2.0)
    file = write(tmp_path / "file", b"a", settled=False)
    times = file.stat()
    assert content_hash(file) == sha256(file)
    assert not memo.exists()
    write(file, b"b", settled=False)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_hash(file) == sha256(file)
    os.utime(file, (time.time() + 1e6,) * 2)  # a clock ahead
    content_hash(file)
    assert not memo.exists()


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"x": 3}', b'{"x": "abc"}'],
    ids=repr,
)
def test_damaged_memo(
    tmp_path: Path, memo: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    memo.parent.mkdir()
    memo.write_bytes(damage)
    file = write(tmp_path / "file", b"a")
    assert content_hash(file) == sha256(file)
    forget(monkeypatch)
    assert list(json.loads(memo.read_text()).values()) == [sha256(file)]


@pytest.mark.parametrize("value", ["", "A" * 64, "0" * 63, "0" * 64 + "\n", 3, None, ["0" * 64]])
def test_malformed_entries_are_not_trusted(
    tmp_path: Path, memo: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    file = write(tmp_path / "file", b"a")
    content_hash(file)
    (key,) = json.loads(memo.read_text())
    memo.write_text(json.dumps({key: value}))
    forget(monkeypatch)
    assert content_hash(file) == sha256(file)


def test_memo_is_bounded(tmp_path: Path, memo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "MOST_ENTRIES", 3)
    files = [write(tmp_path / str(k), bytes([k])) for k in range(5)]
    hashes = [content_hash(file) for file in files]
    assert list(json.loads(memo.read_text()).values()) == hashes[-3:]


@pytest.mark.parametrize("spoil", ["file in the way", "read-only", "folder in the way"])
def test_nowhere_to_write(
    tmp_path: Path, memo: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    if spoil == "file in the way":
        memo.parent.write_text("")
    elif spoil == "folder in the way":
        memo.mkdir(parents=True)
    else:
        memo.parent.mkdir()
        memo.parent.chmod(0o500)

        def refuse(*_: object, **__: object) -> None:  # root may write anywhere
            raise PermissionError

        monkeypatch.setattr("tempfile.mkstemp", refuse)
    file = write(tmp_path / "file", b"a")
    assert content_hash(file) == sha256(file)
    assert [p.name for p in tmp_path.rglob(f"{MEMO}?*") if not p.name.endswith(".lock")] == []


def _hash(path: Path) -> str:
    fingerprints.SETTLED = 0.0
    return content_hash(path)


def test_processes_share_the_memo(tmp_path: Path, memo: Path) -> None:
    files = [write(tmp_path / str(k), bytes([k])) for k in range(12)]
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as processes:
        found = list(processes.map(_hash, files * 2))
    assert found == [sha256(file) for file in files] * 2
    assert set(json.loads(memo.read_text()).values()) == set(found)


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MERGEGATE_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "pytest-mergegate"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_folder() == tmp_path / ".cache" / "pytest-mergegate"


# The cache of huggingface_hub


def snapshot(cache: Path, blob: str) -> Path:
    """A file of a snapshot, linked to a blob named ``blob`` with other content."""
    repository = cache / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / blob).write_text("content")
    folder = repository / "snapshots" / ("c" * 40)
    folder.mkdir(parents=True)
    (folder / "file").symlink_to(f"../../blobs/{blob}")
    return folder / "file"


def test_blob_of_the_hub_cache_is_named_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert content_hash(snapshot(tmp_path / "hub", "a" * 64)) == "a" * 64
    small = snapshot(tmp_path / "hub" / "..", "b" * 40)
    assert content_hash(small) == sha256(small)


def test_blob_elsewhere_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    file = snapshot(tmp_path / "repository", "a" * 64)
    assert content_hash(file) == sha256(file)
