"""The JSON Schema says of a gate file what loading it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pools import write_gate

from pytest_mergegate.cli import main
from pytest_mergegate.cli.schema import SCHEMA, schema
from pytest_mergegate.common.errors import GateFileError
from pytest_mergegate.gate.gatefile import load_gate

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
VALIDATOR = Draft202012Validator(schema())
PAIR: dict[str, Any] = {"experts": {"a": "a", "b": {"path": "b"}}}

GOOD: dict[str, dict[str, Any]] = {
    "bare paths": {},
    "a hub reference": {"base": "org/name@main"},
    "bare methods": {"merge": {"methods": ["linear", "ties"]}},
    "parameters": {"merge": {"methods": [{"method": "ties", "density": 0.5, "normalize": False}]}},
    "weights": {"merge": {"weights": {"a": 0.5, "b": 1}}},
    "every budget": {
        "budget": {
            "max_mds": 3,
            "max_disagreement": 0.3,
            "max_loss": 10,
            "max_magnitude_change_ratio": 1,
            "max_sign_change_ratio": 0,
            "max_conflicting_magnitude_ratio": 0.5,
        }
    },
    "a mode": {"conflict": "sampled"},
    "a mode in full": {"conflict": {"mode": "sampled", "rows": 8, "seed": 1}},
    "accuracy by length": {
        "experts": {
            "a": "a",
            "b": {"path": "b", "metric": "accuracy", "length_normalization": "bytes"},
        }
    },
    "a task": {"experts": {"a": "a", "b": {"path": "b", "metric": "lm_eval:task"}}},
    "a function": {"experts": {"a": "a", "b": {"path": "b", "metric": "pack.mod:fun"}}},
    "a pattern": {"examples": "data/{name}.jsonl"},
    "code": {"base": "base", "trust_remote_code": True},
    "ignored": {"ignore": {"MG101": "a renamed copy"}},
    "odd names": {"experts": {"on": "a", "naïve 日本": "b"}},
    "nothing said": {"base": None, "examples": None, "probes": {"positions": None}},
}
BAD: dict[str, dict[str, Any]] = {
    "a typo": {"budgt": {}},
    "a typo within": {"budget": {"max_los": 1}},
    "a typo in an expert": {"experts": {"a": "a", "b": {"path": "b", "example": "c"}}},
    "a typo in probes": {"probes": {"pertask": 5}},
    "one expert": {"experts": {"a": "a"}},
    "no path": {"experts": {"a": "a", "b": {}}},
    "no experts": {"experts": None},
    "the name of the pool": {"experts": {"pool": "a", "b": "b"}},
    "two colons": {"experts": {"a::b": "a", "b": "b"}},
    "an empty name": {"experts": {"": "a", "b": "b"}},
    "a share over 1": {"budget": {"max_disagreement": 30}},
    "a negative loss": {"budget": {"max_loss": -10}},
    "text for a number": {"budget": {"max_mds": "3"}},
    "a truth value for a number": {"budget": {"max_mds": True}},
    "no probes": {"probes": {"per_task": 0}},
    "an odd number of rows": {"conflict": {"mode": "sampled", "rows": 7}},
    "an unknown mode": {"conflict": "approximate"},
    "certainty": {"certificate": {"confidence": 1}},
    "no methods": {"merge": {"methods": []}},
    "a method without a name": {"merge": {"methods": [{"density": 0.5}]}},
    "text for a parameter": {"merge": {"methods": [{"method": "ties", "density": "half"}]}},
    "a base for a method": {"merge": {"methods": [{"method": "linear", "base_model": 1}]}},
    "unknown weights": {"merge": {"weights": "best"}},
    "an unknown selection": {"merge": {"select": "most"}},
    "an unknown metric": {"experts": {"a": "a", "b": {"path": "b", "metric": "bleu score"}}},
    "length without choices": {
        "experts": {"a": "a", "b": {"path": "b", "length_normalization": "bytes"}}
    },
    "no placeholder": {"examples": "data/a.jsonl"},
    "a base that an adapter names, and its code": {"trust_remote_code": True},
    "ignored without a reason": {"ignore": {"MG101": ""}},
    "a perfect score and more": {"experts": {"a": "a", "b": {"path": "b", "score": 1.5}}},
    "an unknown precision": {"dtype": "int8"},
}


def loads(gate: dict[str, Any], folder: Path) -> bool:
    try:
        load_gate(write_gate(folder / "mergegate.yaml", gate))
    except GateFileError:
        return False
    return True


def test_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("name", GOOD)
def test_takes_what_loads(name: str, tmp_path: Path) -> None:
    gate = PAIR | GOOD[name]
    assert loads(gate, tmp_path)
    assert [error.message for error in VALIDATOR.iter_errors(gate)] == []


@pytest.mark.parametrize("name", BAD)
def test_refuses_what_does_not_load(name: str, tmp_path: Path) -> None:
    gate = PAIR | BAD[name]
    assert not loads(gate, tmp_path)
    assert not VALIDATOR.is_valid(gate)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*mergegate.yaml")), ids=str)
def test_takes_the_examples(path: Path) -> None:
    gate = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [error.message for error in VALIDATOR.iter_errors(gate)] == []


def properties(node: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, inner in node.get("properties", {}).items():
            yield f"{at}.{name}", inner
        for name, inner in node.items():
            if name not in {"if", "then"}:
                yield from properties(inner, f"{at}.{name}")


def test_says_what_every_key_means() -> None:
    said = dict(properties(schema()))
    assert len(said) > 30
    silent = {at.rpartition(".")[2] for at, node in said.items() if node and not described(node)}
    # the first of the three ratios speaks for all
    assert silent == {"max_sign_change_ratio", "max_conflicting_magnitude_ratio"}
    assert "THEORY" not in json.dumps(schema())


def described(node: dict[str, Any]) -> bool:
    return bool(node.get("description"))


def test_the_published_file_is_the_command_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    published = ROOT / "docs" / SCHEMA.rpartition("/")[2]
    assert published.read_text(encoding="utf-8") == capsys.readouterr().out, (
        "mergegate schema > docs/mergegate.schema.json"
    )
    assert schema()["$id"] == SCHEMA
