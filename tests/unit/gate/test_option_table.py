"""One table of options: an error names the option as it was given, whatever the front door."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pytest_mergegate.cli import Parser, options_of
from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.gate.option_table import OPTIONS, Given, Option, read_options
from pytest_mergegate.gate.options import Options
from pytest_mergegate.verdict.budgets import cap_options


def given(**values: Any) -> Options:
    """The options where the ini file of ``/project`` says ``values``, and nothing else is said."""

    def source(option: Option) -> list[Given]:
        value = values.get(option.key, option.default)
        name = f"ini mergegate_{option.key}"
        return [Given(value, name, Path("/project"), asked=option.key in values)]

    return read_options(source, cap_options())


BAD = {
    "max_mds": float("nan"),
    "max_disagreement": 1.5,
    "stage": "deep",
    "report": ["pdf"],
    "device": "tpu",
    "executor": "slurm",
    "on_inconclusive": "ignore",
}


@pytest.mark.parametrize("key", BAD)
def test_an_error_names_the_option_as_it_was_given(key: str) -> None:
    with pytest.raises(UsageError, match=f"^ini mergegate_{key}\\b"):
        given(**{key: BAD[key]})


@pytest.mark.parametrize("key", sorted(BAD.keys() - {"on_inconclusive"}))
def test_the_command_never_speaks_of_pytest_s(key: str) -> None:
    with pytest.raises(UsageError, match=f"^--{key.replace('_', '-')}\\b") as caught:
        options_of(argparse.Namespace(**{key: BAD[key]}))
    assert "mergegate-" not in str(caught.value)


def test_nothing_said_is_the_default() -> None:
    said = given(no_registry=True)
    for name in (field.name for field in dataclasses.fields(Options)):
        assert getattr(said, name) == getattr(Options(), name), name


def test_the_command_has_the_same_defaults() -> None:
    parser = Parser()
    parser.add_options(option for option in OPTIONS.values() if "command" in option.where)
    assert options_of(parser.parse_args(["--no-registry"])) == Options()


def test_a_limit_of_zero_is_one() -> None:
    assert given(max_mds=0.0).caps == {"max_mds": 0.0}


def test_of_two_caps_the_tighter_holds_and_else_what_comes_first() -> None:
    def source(option: Option) -> list[Given]:
        said = {"max-mds": (3.0, 2.0), "device": ("cpu", "cuda"), "no-registry": (None, True)}
        first, second = said.get(option.name, (None, option.default))
        folder = Path("/project")
        return [Given(first, f"--{option.name}", folder), Given(second, option.key, folder)]

    found = read_options(source, cap_options())
    assert (found.caps, found.device, found.registry) == ({"max_mds": 2.0}, "cpu", None)


def test_an_update_takes_a_baseline() -> None:
    said = "--update-baseline takes a baseline; name it with --baseline PATH"
    with pytest.raises(UsageError, match=said):
        options_of(argparse.Namespace(update_baseline=True))


def test_an_empty_text_is_nothing_said_but_no_size() -> None:
    assert given(stage="", baseline="", cache="") == given()
    assert given(registry="").registry == given().registry
    with pytest.raises(UsageError, match="the size of the cache"):
        given(cache_size="")
