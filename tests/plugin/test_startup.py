"""A project that has the plugin installed pays for it only where it gates."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "torch", "transformers", "peft", "numpy", "scipy", "yaml", "pydantic", "rich", "mergekit",
    "filelock", "safetensors",
}  # fmt: skip
REPORT = f"""
import sys
print("imported:", *sorted({HEAVY!r} & {{name.partition(".")[0] for name in sys.modules}}))
"""


def imported_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after ``code``."""
    output = subprocess.run(
        [sys.executable, "-c", code + REPORT], capture_output=True, text=True, check=True
    ).stdout
    return set(output.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import pytest_mergegate.plugin",
        "from pytest_mergegate import mergeable; mergeable('mergegate.yaml', max_mds=3.0)",
        "import pytest_mergegate; pytest_mergegate.__version__",
    ],
)
def test_what_every_session_imports_is_light(code: str) -> None:
    assert imported_by(code) == set()


def test_collecting_with_the_gates_off_is_light(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    pytester.makefile(".yaml", mergegate="base: base")
    code = "import pytest; assert pytest.main(['--co', '-q']) == 0"
    assert imported_by(code) == set()


def test_the_check_above_can_see_an_import() -> None:
    assert "yaml" in imported_by("import pytest_mergegate.gate.gatefile")
