"""Writes the reference pages that are made from the code: python .ci/reference.py.

A test holds the pages against it, so that an option, a key or an exit code cannot be without its
line.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schema_tables import attribute_docstrings, json_default, json_type, one_line, table

from pytest_mergegate import cli
from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.schema import schema
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.merge_methods import METHODS
from pytest_mergegate.planning import forecasts
from pytest_mergegate.report import merge_records, pool_records, types
from pytest_mergegate.report.types import Report
from pytest_mergegate.testing.options import add_options

if TYPE_CHECKING:
    import argparse

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
_MADE = "<!-- Made from the code by `python .ci/reference.py`; do not edit. -->\n\n"
_EXITS = {
    Exit.PASSED: "every gate passed (`report`, `show`, `ask`, `schema`, `cache`, `calibrate`: it "
    "was done; preflight alone: nothing is wrong; `--changed-since`: no gate is concerned; `plan`: "
    "merges were found that are forecast to pass)",
    Exit.NOT_PASSED: "a gate failed or was inconclusive, a test failed, or a report could not be "
    "written",
    Exit.UNREADABLE: "a gate file, an expert, a baseline or a report could not be read, or the run "
    "was interrupted",
    Exit.BAD_OPTIONS: "an option or ini key has a value that cannot be used",
    Exit.NOTHING_GATED: "asked to gate, nothing was gated: no gate file, fewer than "
    "`--require-gates`, or under pytest a gate file without `--mergegate`; "
    "`calibrate`: too little is recorded to say anything; `show`: the report holds no cases",
}
_SECTIONS = {
    "GateSpec": "The file",
    "ExpertSpec": "`experts.NAME`",
    "ProbesSpec": "`probes`",
    "ConflictSpec": "`conflict`",
    "CertificateSpec": "`certificate`",
    "Budget": "`budget`",
    "MergeSpec": "`merge`",
    "MethodSpec": "`merge.methods`, each",
}


class _Recorder:
    """Stands in for pytest's parser, and keeps what it is told."""

    def __init__(self) -> None:
        self.options: dict[str, dict[str, Any]] = {}
        self.ini: dict[str, dict[str, Any]] = {}

    def getgroup(self, *_: str) -> _Recorder:
        return self

    def addoption(self, flag: str, **told: Any) -> None:
        self.options[flag] = told

    def addini(self, name: str, text: str, **told: Any) -> None:
        self.ini[name] = told | {"help": text}


def options() -> str:
    """pytest's options and ini keys."""
    told = _Recorder()
    add_options(told)  # type: ignore[arg-type]
    twins = {flag.removeprefix("--").replace("-", "_"): flag for flag in told.options}
    rows = [
        (
            f"`{flag}{_metavar(option.get('metavar'))}`",
            f"`{name}`" if name in told.ini else "none",
            option["help"],
        )
        for name, flag in twins.items()
        for option in [told.options[flag]]
    ]
    alone = [
        (f"`{name}`", _ini_type(ini.get("type")), _ini_default(ini), ini["help"])
        for name, ini in told.ini.items()
        if name not in twins
    ]
    return "\n".join(
        [
            "# pytest's options",
            f"{_MADE}pytest shows the same under `pytest --help`. Ini keys stand in `pytest.ini`, "
            "under `[tool.pytest]` (with TOML's types) or under `[tool.pytest.ini_options]`. "
            "An option on the command line goes before its ini twin; of two caps the tighter one "
            "holds.",
            "",
            *table(("option", "ini twin", "what"), rows),
            "",
            "## Ini keys without an option",
            "",
            *table(("key", "type", "default", "what"), alone),
            "",
        ]
    )


def commands() -> str:
    """The subcommands of ``mergegate``."""
    parser = Parser(prog="mergegate")
    cli.add_commands(parser)
    (parsers,) = parser._subparsers._group_actions
    about = {choice.dest: choice.help or "" for choice in parsers._choices_actions}
    parts = [
        "# The command mergegate",
        f"{_MADE}`mergegate COMMAND --help` says the same. What codes they end in: "
        "[exit codes](exit-codes.md).",
    ]
    for name, parser in parsers.choices.items():
        parts += ["", f"## mergegate {name}", (parser.description or about[name]), ""]
        rows = [_argument(action) for action in parser._actions if "--help" not in _flags(action)]
        parts += table(("argument", "what"), rows) if rows else ["It takes no arguments."]
    return "\n".join([*parts, ""])


def _section(kind: str) -> str:
    return _SECTIONS[kind].replace(", each", "")


def gate_keys() -> str:
    """Every key of a gate file."""
    found = schema()
    parts = [
        "# Keys of a gate file",
        f"{_MADE}What they mean together is said in [gate files](../gate-file.md); `mergegate "
        "schema` prints the JSON Schema that editors read. A key that is not here is an error.",
    ]
    definitions = {"GateSpec": found, **found["$defs"]}
    assert set(definitions) == set(_SECTIONS)
    for name, title in _SECTIONS.items():
        section = definitions[name]
        required = section.get("required", [])
        rows = [
            (
                f"`{key}`",
                json_type(value, _section),
                json_default(key, value, required),
                _said(value),
            )
            for key, value in section["properties"].items()
            if isinstance(value, dict)
        ]
        parts += ["", f"## {title}", "", *table(("key", "type", "default", "what"), rows)]
        if section.get("additionalProperties"):
            parts += ["", "Beside it, the method's own parameters in mergekit's names."]
    return "\n".join([*parts, ""])


_WEIGHTS = {
    "average": "shares of a whole",
    "sum": "how much is added of each",
    "other": "how much each counts",
}

_COUNTS = {1: "one", 2: "two"}


def merge_methods() -> str:
    """Every merge method that gates take, as the table of methods has it."""
    rows = []
    for row in METHODS.values():
        weighted = row.takes_weights or row.share_parameter is not None
        trims = "by magnitude" if row.trims else "nothing"
        ours = "ours" if row.own else "ours, held against mergekit's"
        arithmetic = ours if row.is_scaled_sum or row.arithmetic else "mergekit's"
        cells = (
            f"`{row.name}`",
            _COUNTS.get(row.most, "two or more"),
            _WEIGHTS[row.combines] if weighted else "takes none",
            "at random" if row.draws else trims,
            "known from the weights" if row.scales else "measured on merged tensors",
            "PEFT's" if row.by_peft else arithmetic,
        )
        rows.append(cells)
    head = ("method", "experts", "weights", "leaves out", "effective scale", "arithmetic")
    papers = (
        f"- `{row.name}`: {row.paper}. Parameters: "
        + ", ".join(f"`{name}` ({value:g})" for name, value in row.parameters.items())
        for row in METHODS.values()
        if row.paper
    )
    return "\n".join(
        [
            "# Merge methods",
            f"{_MADE}Names and parameters are mergekit's, except for our own methods; how "
            "a gate lists them is said in [gate files](../gate-file.md). A method that leaves "
            "numbers out does so where a `density` below 1 is given.",
            "",
            *table(head, rows),
            "",
            "Ours, which mergekit does not have:",
            "",
            *papers,
            "",
            "Those that begin with `peft_` are made under `route: peft`, and listed without that "
            "there. A function of your own is a method as well: `package.module:function`.",
            "",
        ]
    )


def report_keys() -> str:
    """Every key of the JSON report."""
    found = Report.model_json_schema()
    parts = [
        "# Keys of the JSON report",
        f"{_MADE}What the numbers mean is said in [the JSON report](../report.md). In Python "
        "these are attributes. Where a number is null, a `..._reason` beside it says why.",
    ]
    told: dict[tuple[str, str], str] = {}
    for module in (types, merge_records, pool_records, forecasts):
        told |= attribute_docstrings(inspect.getsource(module))
    definitions = {"Report": found, **dict(sorted(found["$defs"].items()))}
    for name, section in definitions.items():
        rows = [
            (f"`{key}`", _report_type(value), told.get((name, key), ""))
            for key, value in section["properties"].items()
            if not key.endswith(("_reason", "_standard_error"))
        ]
        about = one_line(section.get("description", ""))
        parts += ["", f"## {name}", about, "", *table(("key", "type", "what"), rows)]
    return "\n".join([*parts, ""])


def _report_type(node: dict[str, Any]) -> str:
    null = any(kind.get("type") == "null" for kind in node.get("anyOf", ()))
    return json_type(node, lambda kind: f"[{kind}](#{kind.lower()})") + " or null" * null


def exit_codes() -> str:
    """The exit codes, which are pytest's."""
    rows = [(f"{int(code)}", _EXITS[code]) for code in Exit]
    return "\n".join(
        [
            "# Exit codes",
            f"{_MADE}They are pytest's, the same for `pytest --mergegate` and `mergegate check`. "
            "`mergegate init` has [its own](../init.md).",
            "",
            *table(("code", "when"), rows),
            "",
            "With several gates the worst decides: 2 before 1 before 0. Code 3 is pytest's, for an "
            "error inside of pytest. Under pytest, ini `mergegate_on_inconclusive = warn` turns an "
            "inconclusive gate into a warning of the run, which may then end in 0.",
            "",
        ]
    )


PAGES = {
    "options.md": options,
    "commands.md": commands,
    "gate-keys.md": gate_keys,
    "merge-methods.md": merge_methods,
    "exit-codes.md": exit_codes,
    "report-keys.md": report_keys,
}


def _metavar(metavar: str | None) -> str:
    return f" {metavar}" if metavar else ""


def _flags(action: argparse.Action) -> list[str]:
    return list(action.option_strings)


def _argument(action: argparse.Action) -> tuple[str, str]:
    takes = action.metavar if action.nargs != 0 else None
    name = ", ".join(_flags(action))
    shown = f"{name} {takes}" if name and takes else name or str(takes)
    repeated = {"*": "...", "+": "..."}.get(str(action.nargs), "")
    what = action.help or {"--verbose": "say more", "--quiet": "say less"}.get(_last(action), "")
    if action.default not in (None, False, [], 0, "", 1) and "default" not in what:
        what = f"{what} (default: {action.default})".strip()
    return f"`{shown}{repeated}`", what


def _last(action: argparse.Action) -> str:
    return (_flags(action) or [""])[-1]


def _ini_type(kind: str | None) -> str:
    return {None: "string", "linelist": "one a line"}.get(kind, str(kind))


def _ini_default(ini: dict[str, Any]) -> str:
    return f"`{ini['default']}`" if "default" in ini else "none"


def _said(value: dict[str, Any]) -> str:
    return str(value.get("description", ""))


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, page in PAGES.items():
        (FOLDER / file).write_text(page(), encoding="utf-8")
