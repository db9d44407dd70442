import ast
import subprocess
import sys
from pathlib import Path

import pytest_mergegate.metrics as metrics


def test_every_public_name_exists_and_is_documented():
    documented = 0
    for name, item in vars(metrics).items():
        if callable(item) and getattr(item, "__module__", "").startswith("pytest_mergegate"):
            assert item.__doc__, name
            documented += 1
    assert documented > 50


def test_every_name_is_imported_under_its_own():
    for node in ast.parse(Path(metrics.__file__).read_text("utf-8")).body[1:]:
        assert isinstance(node, ast.ImportFrom)
        assert [alias.asname for alias in node.names] == [alias.name for alias in node.names]


def test_imports_neither_torch_nor_pytest():
    code = (
        "import sys, pytest_mergegate.metrics; "
        "print(sorted({'torch', 'pytest', 'transformers', 'yaml'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
