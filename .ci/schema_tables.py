"""Python's docstrings and JSON Schema as tables in Markdown, for reference.py."""

from __future__ import annotations

import ast
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def attribute_docstrings(source: str) -> dict[tuple[str, str], str]:
    """The strings below attributes, by class and name: pydantic reads them only where asked to."""
    told = {}
    for part in ast.parse(source).body:
        if isinstance(part, ast.ClassDef):
            for node, after in itertools.pairwise(part.body):
                match node, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=key)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        told[part.name, key] = one_line(text)
    return told


def one_line(text: str) -> str:
    """A docstring in one line, with the backquotes of Markdown."""
    return " ".join(text.replace("``", "`").split())


def json_default(key: str, value: dict[str, Any], required: list[str]) -> str:
    """A key's default, as a gate file would have it."""
    if key in required:
        return "required"
    default = value.get("default")
    if default is None or isinstance(default, dict):
        return ""
    return f"`{_plain(default)}`" if default != [] else ""


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_plain(inner) for inner in value) + "]"
    return str(value["method"]) if isinstance(value, dict) else str(value)


def json_type(node: dict[str, Any], name_of: Callable[[str], str]) -> str:
    """A type in words; ``name_of`` says how a part that has a table of its own is called."""
    if either := node.get("anyOf") or node.get("oneOf"):
        kinds = [json_type(kind, name_of) for kind in either if kind.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in node:
        return name_of(node["$ref"].rpartition("/")[2])
    if "const" in node or "type" not in node:
        return f"`{node['const']}`" if "const" in node else "anything"
    if "enum" in node:
        return ", ".join(f"`{choice}`" for choice in node["enum"])
    if "prefixItems" in node:
        return "pair of " + json_type(node["prefixItems"][0], name_of)
    if node["type"] == "array":
        return f"list of {json_type(node['items'], name_of)}"
    if node["type"] == "object":
        inner = node["additionalProperties"]
        return "mapping" if inner is True else f"mapping of {json_type(inner, name_of)}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {node[name]:g}" for name, sign in signs.items() if name in node]
    word = {"boolean": "true or false", "integer": "whole number"}.get(node["type"], node["type"])
    return ", ".join([word, *limits])
