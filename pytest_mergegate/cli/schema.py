"""``mergegate schema``: the JSON Schema of gate files, for editors."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.statuses import Exit

if TYPE_CHECKING:
    import argparse

    from pytest_mergegate.cli.parser import Commands

_THEORY = re.compile(r" \(THEORY \d+\)")
_METRIC = r"^(%s|lm_eval:\s*\S.*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
_EXPERT_NAME = r"^(?!pool$)(?!.*::)[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$"


def add_to(commands: Commands) -> None:
    """Declare the command."""
    text = "print the JSON Schema of gate files"
    description = (
        "Print the JSON Schema of gate files, for editors: mergegate schema > schema.json, and in "
        "the gate file the comment yaml-language-server: $schema=schema.json"
    )
    commands.add_parser("schema", help=text, description=description).set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
    return Exit.PASSED


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of gate files.

    It refuses what loading refuses, but for what lies between keys (``merge.weights`` names every
    expert, a method is listed once) or on the disk.
    """
    from pytest_mergegate.cli.first_gate.text import SCHEMA
    from pytest_mergegate.gate.spec import GateSpec

    found = GateSpec.model_json_schema()
    _tidy(found)
    _sharpen(found)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA,
        "title": "pytest-mergegate gate file",
    }
    return head | found


def _tidy(node: Any) -> None:
    """Descriptions as editors show them, and none of pydantic's titles: they repeat the keys."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        if isinstance(said := node.get("description"), str):
            plain = _THEORY.sub("", said.replace("``", "`"))
            node["description"] = " ".join(plain.split())
        for inner in node.values():
            _tidy(inner)
    elif isinstance(node, list):
        for inner in node:
            _tidy(inner)


def _sharpen(found: dict[str, Any]) -> None:
    """What validators in Python check, and pydantic cannot say."""
    from pytest_mergegate.gate.sections import BUILTIN_METRICS

    gate, parts = found["properties"], found["$defs"]
    experts = next(kind for kind in gate["experts"]["anyOf"] if kind["type"] == "object")
    experts |= {"minProperties": 2, "propertyNames": {"pattern": _EXPERT_NAME}}
    _only_string(gate["examples"])["pattern"] = r"\{name\}"
    expert, method = parts["ExpertSpec"], parts["MethodSpec"]
    expert["properties"]["metric"]["pattern"] = _METRIC % "|".join(BUILTIN_METRICS)
    scaled = {"not": {"const": "none"}}
    expert["if"] = {
        "properties": {"length_normalization": scaled},
        "required": ["length_normalization"],
    }
    expert["then"] = {"properties": {"metric": {"const": "accuracy"}}, "required": ["metric"]}
    parts["MergeSpec"]["properties"]["methods"]["minItems"] = 1
    method["properties"]["base_model"] = False
    method["additionalProperties"] = {"type": ["number", "boolean"]}
    found["if"] = {
        "properties": {"trust_remote_code": {"const": True}},
        "required": ["trust_remote_code"],
    }
    found["then"] = {"properties": {"base": {"type": "string"}}, "required": ["base"]}


def _only_string(node: dict[str, Any]) -> dict[str, Any]:
    return next(kind for kind in node["anyOf"] if kind["type"] == "string")
