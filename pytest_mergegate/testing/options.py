"""pytest's options and ini keys, declared from the one table and read into ``Options``."""

from typing import Any

import pytest

from pytest_mergegate.common.errors import UsageError
from pytest_mergegate.gate.option_table import OPTIONS, Given, Option, read_options
from pytest_mergegate.gate.options import Options
from pytest_mergegate.verdict.budgets import cap_options

_ON = "run the merge gates"
_INI: dict[str, dict[str, Any]] = {
    "text": {},
    "number": {"type": "float"},
    "flag": {"type": "bool"},
    "list": {"type": "linelist"},
}


def add_options(parser: pytest.Parser) -> None:
    """Declare the option group ``mergegate`` and the ini keys."""
    group = parser.getgroup("mergegate", "gates for merges of fine-tuned models")
    told = f"{_ON}: gate files and tests marked mergeable"
    group.addoption("--mergegate", action="store_true", default=None, help=told)
    parser.addini("mergegate", _ON, type="bool", default=False)
    for option in (*cap_options(), *OPTIONS.values()):
        if "pytest" in option.where:
            group.addoption(f"--mergegate-{option.name}", **option.declaration)
        if "ini" in option.where:
            kind = _INI[option.kind]
            default = {} if option.kind == "list" else {"default": option.default}
            parser.addini(_key(option), option.ini_help or option.help, **kind, **default)
    told = "verbosity of the merge gates' summary (default: that of pytest)"
    parser.addini("verbosity_mergegate", told, default="auto")


def enabled(config: pytest.Config) -> bool:
    """Whether the gates run in this session."""
    return bool(config.getoption("mergegate") or config.getini("mergegate"))


def options_of(config: pytest.Config) -> Options:
    """The options of the session. Raises pytest.UsageError."""
    try:
        config.get_verbosity("mergegate")
    except ValueError as error:
        raise pytest.UsageError(f"verbosity_mergegate must be a whole number: {error}") from None
    try:
        return read_options(lambda option: _given(option, config), cap_options())
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def _key(option: Option) -> str:
    return f"mergegate_{option.key}"


def _given(option: Option, config: pytest.Config) -> list[Given]:
    """What the command line says, and then the ini file."""
    found = []
    if "pytest" in option.where:
        value = config.getoption(_key(option))
        value = None if value == "" else value  # an empty variable of a CI, say
        found += [Given(value, f"--mergegate-{option.name}", config.invocation_params.dir)]
    if "ini" in option.where:
        name = f"ini {_key(option)}"
        try:
            value = config.getini(_key(option))
        except (ValueError, TypeError, pytest.UsageError) as error:
            raise UsageError(f"{name} must be a number: {error}") from None
        found += [Given(value, name, config.rootpath, _is_set(_key(option), config))]
    return found


def _is_set(key: str, config: pytest.Config) -> bool:
    """Whether the ini file, or ``-o`` in its place, says something of ``key``."""
    overridden = config.getoption("override_ini") or ()
    return key in config.inicfg or any(one.partition("=")[0] == key for one in overridden)
