"""``mergegate schema``: the JSON Schema of gate files, for editors."""

import argparse
import json
import re
import sys
from typing import Any

from pytest_mergegate.cli import Parser
from pytest_mergegate.common.addresses import REPOSITORY
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.gate.sections import BUILTIN_METRICS
from pytest_mergegate.gate.spec import GateSpec

SCHEMA = f"https://raw.githubusercontent.com/{REPOSITORY}/main/docs/mergegate.schema.json"
_THEORY = re.compile(r" \(THEORY \d+\)")
_METRIC = r"^(%s|lm_eval:\s*\S.*|[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*)$"
_EXPERT_NAME = r"^(?!pool$)(?!.*::)[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*$"


def add_to(_: Parser) -> None:
    """It takes no arguments."""


def run(_: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
    return Exit.PASSED


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of gate files.

    It refuses what loading refuses, except for what lies between keys (``merge.weights`` names
    every expert, a method is listed once) or on the disk.
    """
    found = GateSpec.model_json_schema()
    _tidy(found)
    _sharpen(found)
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, "$id": SCHEMA, "title": "pytest-mergegate gate file"} | found


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
    gate, parts = found["properties"], found["$defs"]
    experts = next(kind for kind in gate["experts"]["anyOf"] if kind["type"] == "object")
    experts |= {"minProperties": 2, "propertyNames": {"pattern": _EXPERT_NAME}}
    next(k for k in gate["examples"]["anyOf"] if k["type"] == "string")["pattern"] = r"\{name\}"
    expert, method = parts["ExpertSpec"], parts["MethodSpec"]
    expert["properties"]["metric"]["pattern"] = _METRIC % "|".join(BUILTIN_METRICS)
    scaled = _has("length_normalization", {"not": {"const": "none"}})
    expert |= {"if": scaled, "then": _has("metric", {"const": "accuracy"})}
    parts["MergeSpec"]["properties"]["methods"]["minItems"] = 1
    method["properties"]["base_model"] = False
    method["additionalProperties"] = {"type": ["number", "boolean"]}
    trusted = _has("trust_remote_code", {"const": True})
    found |= {"if": trusted, "then": _has("base", {"type": "string"})}


def _has(key: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"properties": {key: schema}, "required": [key]}
