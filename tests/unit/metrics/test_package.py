import subprocess
import sys

import pytest_mergegate.metrics as metrics


def test_every_public_name_exists_and_is_documented():
    for name in metrics.__all__:
        item = getattr(metrics, name)
        if callable(item) and getattr(item, "__module__", "").startswith("pytest_mergegate"):
            assert item.__doc__, name


def test_names_are_sorted_and_unique():
    assert sorted(set(metrics.__all__)) == metrics.__all__


def test_imports_neither_torch_nor_pytest():
    code = (
        "import sys, pytest_mergegate.metrics; "
        "print(sorted({'torch', 'pytest', 'transformers', 'yaml'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
