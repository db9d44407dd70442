"""Settings of libraries, and modules, in the working directory: nothing reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate

from pytest_mergegate import assess
from pytest_mergegate.engine.running import ray_cluster
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMBA = ".numba_config.yaml"
MODULES = ("numpy", "torch", "yaml", "mergekit", "transformers", "peft", "sitecustomize", "json")
SETTINGS = (
    *(NUMBA, "matplotlibrc", ".env", "setup.cfg", "pyproject.toml", "config.yaml", ".netrc"),
    *("ray.yaml", "default_config.yaml", ".condarc", "pip.conf", "uv.toml", "token", "triton.conf"),
)
_KERNEL = """
def f(x):
    return x + 1
"""
_COMPILE = """
import sys
{first}
from pytest_mergegate.common.compiled import compiled
import numba
sys.path.insert(0, {folder!r})
from kernel import f
{then}
compiled(f)(1)
print([numba.config.CACHE_DIR, numba.config.DISABLE_JIT])
"""


def python(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A new process that works in ``folder``, where nothing is imported from."""
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def poisoned(marker: Path) -> Path:
    """numba's cache of a compiled function, in which every index is a pickle of a stranger."""
    kernel, cache = marker.parent / "code", marker.parent / "cache"
    kernel.mkdir()
    (kernel / "kernel.py").write_text(_KERNEL)
    script = _COMPILE.format(first="", then="", folder=str(kernel))
    done = python(marker.parent, "-c", script, NUMBA_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    indices = list(cache.rglob("*.nbi"))
    assert indices
    for index in indices:
        index.write_bytes(f"cbuiltins\nopen\n(S'{marker}'\nS'w'\ntR.".encode())
    return cache


@pytest.mark.parametrize("first", ["", "import numba"], ids=["by us", "by others before"])
def test_numba_in_the_working_directory(marker: Path, poisoned: Path, first: str) -> None:
    """The file is read at the import, and again before whatever is compiled."""
    (marker.parent / NUMBA).write_text(f"cache_dir: {poisoned}\ndisable_jit: 1\n")
    script = _COMPILE.format(first=first, then="", folder=str(marker.parent / "code"))
    done = python(marker.parent, "-c", script)
    assert done.stdout.split() == ["['',", "0]"], done.stderr


def test_numba_in_a_later_working_directory(marker: Path, poisoned: Path) -> None:
    other = marker.parent / "other"
    other.mkdir()
    (other / NUMBA).write_text(f"cache_dir: {poisoned}\n")
    then = f"import os; os.chdir({str(other)!r})"
    script = _COMPILE.format(first="", then=then, folder=str(marker.parent / "code"))
    assert python(marker.parent, "-c", script).stdout.startswith("['',")


def test_numba_payload_is_live(marker: Path, poisoned: Path) -> None:
    script = _COMPILE.format(first="", then="", folder=str(marker.parent / "code"))
    python(marker.parent, "-c", script, NUMBA_CACHE_DIR=str(poisoned))
    assert marker.exists()
    marker.unlink()


_AUDITED = """
import os, sys
opened = []
def audit(event, arguments):
    if event in ("open", "os.listdir", "os.scandir"):
        opened.append(str(arguments[0]))
sys.addaudithook(audit)
from pytest_mergegate import assess
from pathlib import Path
report = assess(Path({gate!r}), cache=False)
assert report.merges, report.findings
here = Path.cwd()
for name in opened:
    path = (here / name) if "/" not in name else Path(name)
    if path.parent == here and path.exists():
        print(path.name)
"""


def test_no_library_opens_a_file_in_the_working_directory(gate: Path, marker: Path) -> None:
    """Whatever they come to look for: a whole gate, from the files to the scores."""
    work = marker.parent / "work"
    work.mkdir()
    for name in (*SETTINGS, *(f"{module}.py" for module in MODULES)):
        (work / name).write_text(f"open({str(marker)!r}, 'w')\n")
    done = python(work, "-c", _AUDITED.format(gate=str(gate)))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def plant(folder: Path, marker: Path, names: Sequence[str] = MODULES) -> None:
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")


@pytest.mark.parametrize("path", ["", ":", "."])
def test_mergekit_starts_elsewhere(
    gate: Path,
    marker: Path,
    pool_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    """An empty or relative entry of PYTHONPATH is the working directory, also under ``-P``."""
    plant(marker.parent, marker)
    (marker.parent / NUMBA).write_text("cache_dir: here\n")
    monkeypatch.setenv("PYTHONPATH", f"{path}{os.pathsep}")
    from pytest_mergegate.merging import mergekit_process
    from pytest_mergegate.merging.gate_methods import plan_methods

    loaded = load_gate(gate)
    pool, _ = read_pool(loaded)
    assert pool is not None
    method = plan_methods(loaded, pool.names)[0]
    seen: dict[str, Any] = {}
    own = subprocess.run
    monkeypatch.setattr(mergekit_process.subprocess, "run", partial(_run, own, seen))
    mergekit_process.run(method, pool, marker.parent)
    assert seen["out"].stdout.strip() == "[]", seen["out"].stderr


def _run(own: Any, seen: dict[str, Any], command: list[str], **settings: Any) -> Any:
    """The same start, of a script that says what it finds where it works."""
    script = "import json, os, numpy, yaml; print(os.listdir())"
    seen["out"] = own([*command[:2], "-c", script], **settings)
    return seen["out"]


class Ray(ModuleType):
    """Of Ray what connecting takes; it notes where it was started."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.places: list[Path] = []
        self.uv = ""

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: Any) -> None:
        self.places.append(Path.cwd())
        self.uv = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"]
        assert not list(Path.cwd().iterdir())

    def shutdown(self) -> None:
        assert self.places[-1].is_dir()


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.1"])
def test_ray_starts_elsewhere(
    marker: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    """Every worker gets the working directory of ``ray.init`` as the first place of modules."""
    plant(marker.parent, marker)
    ray = Ray()
    monkeypatch.setitem(sys.modules, "ray", ray)
    with ray_cluster.connected(address):
        assert Path.cwd() == marker.parent
    assert ray.places != [marker.parent]
    assert ray.uv == "0"
    assert not ray.places[0].exists()


def test_a_removed_working_directory(gate: Path, marker: Path) -> None:
    """There is nothing to be read from it, and nothing fails for it."""
    gone = marker.parent / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    write_gate(gate, read_gate(gate) | {"merge": {"methods": ["linear"]}})
    assert assess(gate, root=gate.parent).status != "error"
