"""The first stage as a whole: cheap, without torch, and readable for many experts."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.pool.references import last_part, unquantised
from pytest_mergegate.preflight.told import error, grouped, listed, warning

if TYPE_CHECKING:
    from .files import Files

SCRIPT = """
import sys
from pathlib import Path
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.stages.preflight import run_preflight
gate = gate_from({"base": "base", "experts": "[abc]"}, root=Path(sys.argv[1]))
assert run_preflight(gate).findings == ()
print(sorted({"torch", "transformers", "peft", "mergekit", "pytest"} & set(sys.modules)))
"""


def test_imports_nothing_heavy(files: Files) -> None:
    for name in "abc":
        files.write_tokenizer(files.folder / name)
    command = [sys.executable, "-c", SCRIPT, str(files.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize(
    ("count", "total", "told"),
    [
        (1, 64, "e0"),
        (3, 3, "e0, e1, e2"),
        (5, 64, "e0, e1, e2, e3, e4"),
        (6, 64, "e0, e1, e2, e3 and 2 more"),
        (64, 64, "all 64 experts"),
        (64, None, "e0, e1, e2, e3 and 60 more"),
    ],
)
def test_names_in_a_row(count: int, total: int | None, told: str) -> None:
    assert listed([f"e{k}" for k in range(count)], total) == told


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("mistral-7b-v0.2-gptq", "mistral-7b-v0.2"),
        ("llama-3.2-1b-instruct-unsloth-bnb-4bit", "llama-3.2-1b-instruct"),
        ("qwen2.5-7b-instruct-gptq-int4", "qwen2.5-7b-instruct"),
        ("llama-3.1-8b-fp8-dynamic", "llama-3.1-8b"),
        ("model-4-bit", "model"),
        ("model-8bit", "model"),
        ("model_w4a16-g128", "model"),
        ("mistral-7b", None),
        ("unsloth", None),
        ("4bit", None),
        ("-" * 199 + "x", None),
        ("-4bit" * 1000, None),
    ],
)
def test_quantised_names(name: str, full: str | None) -> None:
    assert unquantised(name) == full


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("org/Name", "name"),
        ("org/name@main", "name"),
        ("./models/name/", "name"),
        ("C:\\models\\name", "name"),
        ("/home/u@host/name", "name"),
        ("/hub/models--org--a-name-1b/snapshots/0123", "a-name-1b"),
        ("/hub/models--gpt2/snapshots/0123", "gpt2"),
        ("", ""),
        ("/", ""),
        ("models--" * 1000, None),
    ],
)
def test_last_part_of_a_name(reference: str, name: str | None) -> None:
    assert name is None or last_part(reference) == name


def test_an_unusable_expression_stops_no_other_rule(files: Files) -> None:
    """An expression that cannot be matched is one finding among the others."""
    files.edit_config("a", target_modules="(")
    files.edit_config("b", task_type="SEQ_CLS")
    assert sorted(f.code for f in files.findings()) == ["MG001", "MG101"]


def test_what_several_experts_share_is_told_once_and_errors_first() -> None:
    pool: Any = SimpleNamespace(experts=range(6))
    found = [
        warning("late", "wait", "a"),
        error("torn", "mend", "b"),
        warning("late", "wait", "c"),
        warning("late", "hurry", "c"),
    ]
    told = [(f.severity, f.expert, f.message, f.fix) for f in grouped(pool, iter(found))]
    assert told == [
        ("error", "b", "torn", "mend"),
        ("warning", None, "a, c: late", "wait"),
        ("warning", "c", "late", "hurry"),
    ]
    (everybody,) = grouped(pool, (warning("late", "wait", name) for name in "abcdef"))
    assert everybody.message == "all 6 experts: late"
