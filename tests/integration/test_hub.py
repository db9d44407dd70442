"""Pools from the cache of huggingface_hub, offline, and bases that adapters name."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pools import edit_adapter_config, read_gate, write_gate

from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_CHECK = """
import sys
from pytest_mergegate import assess
report = assess(sys.argv[1], stage=sys.argv[2])
print(report.to_json(None))
"""


def cached(cache: Path, repository: str, folder: Path) -> None:
    """Put ``folder`` into a cache the way huggingface_hub lays it out."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    for directory in (home / "blobs", home / "refs", snapshot):
        directory.mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    for file in folder.iterdir():
        data = file.read_bytes()
        large = file.suffix == ".safetensors"  # git-lfs names by sha256, git by sha1
        digest = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        (home / "blobs" / digest).write_bytes(data)
        (snapshot / file.name).symlink_to(f"../../blobs/{digest}")


@pytest.fixture
def hub(pool_copy: Path, tmp_path: Path) -> Path:
    """A cache with the base and the adapters of a pool, whose gate names them there."""
    cache = tmp_path / "hub"
    cached(cache, "team/base", pool_copy.parent / "base")
    gate = read_gate(pool_copy)
    for name, expert in gate["experts"].items():
        folder = pool_copy.parent / "adapters" / name
        edit_adapter_config(folder, base_model_name_or_path="team/base")
        cached(cache, f"team/{name}", folder)
        expert["path"] = f"team/{name}@{COMMIT}"
    write_gate(pool_copy, gate | {"base": f"team/base@{COMMIT}"})
    return cache


def in_process_of_its_own(gate: Path, cache: Path, stage: str, **env: str) -> dict[str, Any]:
    """The report, from a process that finds its hub cache in ``cache``."""
    run = subprocess.run(
        [sys.executable, "-c", _CHECK, str(gate), stage],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "CI": "", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return report


def codes(report: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in report["findings"]}


def test_a_pool_in_the_cache_gives_the_same_numbers(hub: Path, pool_copy: Path) -> None:
    own = pool_copy.with_name("own.mergegate.yaml")
    local = read_gate(pool_copy)
    for name, expert in local["experts"].items():
        expert["path"] = f"adapters/{name}"
    write_gate(own, local | {"base": "base"})
    here = in_process_of_its_own(own, hub, "conflict")
    there = in_process_of_its_own(pool_copy, hub, "conflict")
    assert there["pairs"] == here["pairs"]
    assert [e["fingerprint"] for e in there["experts"]] == [
        e["fingerprint"] for e in here["experts"]
    ]
    assert [e["ref"] for e in there["experts"]] == [f"team/{n}@{COMMIT}" for n in "abc"]
    assert "MG117" not in codes(there)


@pytest.mark.parametrize(("ci", "warned"), [("true", True), ("", False)])
def test_a_moving_reference_is_a_warning_in_ci(
    hub: Path, pool_copy: Path, ci: str, warned: bool
) -> None:
    gate = read_gate(pool_copy)
    gate["experts"]["b"]["path"] = "team/b@main"
    write_gate(pool_copy, gate)
    report = in_process_of_its_own(pool_copy, hub, "preflight", CI=ci)
    found = [f for f in report["findings"] if f["code"] == "MG117"]
    assert bool(found) is warned
    assert all(f["severity"] == "warning" for f in found)
    assert all(f"team/b@{COMMIT}" in f["fix"] for f in found)


def test_what_the_cache_has_not_is_an_error(hub: Path, pool_copy: Path) -> None:
    gate = read_gate(pool_copy)
    gate["experts"]["b"]["path"] = "team/other"
    write_gate(pool_copy, gate)
    report = in_process_of_its_own(pool_copy, hub, "preflight")
    assert report["status"] == "error"
    assert codes(report) >= {"MG001"}


def test_adapters_name_their_base(hub: Path, pool_copy: Path) -> None:
    gate = read_gate(pool_copy)
    del gate["base"]
    gate["allowed_bases"] = ["team/base"]
    write_gate(pool_copy, gate)
    report = in_process_of_its_own(pool_copy, hub, "preflight")
    assert not [f for f in report["findings"] if f["severity"] == "error"]
    assert report["base"]["ref"] == "team/base"


def name_bases(pool: Path, bases: dict[str, str]) -> None:
    for name, base in bases.items():
        edit_adapter_config(pool.parent / "adapters" / name, base_model_name_or_path=base)
    gate = read_gate(pool)
    del gate["base"]
    write_gate(pool, gate)


def test_adapters_name_a_local_base(pool_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)  # where they name none
    name_bases(pool_copy, dict.fromkeys("abc", "./base"))
    found = run_preflight(load_gate(pool_copy))
    assert found.ok, found.findings


def test_adapters_that_name_different_bases(pool_copy: Path) -> None:
    name_bases(pool_copy, {"a": "base", "b": "./base", "c": "other"})
    check_they_do_not_agree(pool_copy)


def test_an_adapter_that_names_no_base(pool_copy: Path) -> None:
    name_bases(pool_copy, {"a": "base", "b": "base", "c": ""})
    check_they_do_not_agree(pool_copy)


def check_they_do_not_agree(pool_copy: Path) -> None:
    found = run_preflight(load_gate(pool_copy))
    assert not found.ok
    (error,) = [f for f in found.findings if f.code == "MG101"]
    assert "do not agree" in error.message
    assert "write base:" in error.fix
