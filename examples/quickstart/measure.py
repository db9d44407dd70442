"""Merge the quickstart's pools the naive way and print what every expert loses.

This is the plain computation a gate replaces: build the merged weights, let the model answer
every example, count. It shares no code with the plugin, so the two can be held against each
other.

Usage: ``python measure.py [GATE_FILE ...] [--without EXPERT]``, both gate files by default.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import load_file
from train import answers
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
Weights = dict[str, torch.Tensor]


def task_vector(folder: Path) -> Weights:
    """What an adapter adds to each weight of the base: scale * B @ A."""
    config = json.loads((folder / "adapter_config.json").read_text())
    factors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    return {
        key.removeprefix("base_model.model.").replace("lora_A.", ""): scale
        * factors[key.replace("lora_A", "lora_B")]
        @ factors[key]
        for key in factors
        if "lora_A" in key
    }


def merge(base: Weights, vectors: list[Weights], method: str, settings: dict[str, Any]) -> Weights:
    """The merged weights of the modules the adapters touch."""
    merged = {}
    for key in vectors[0]:
        deltas = [vector[key] for vector in vectors]
        if method == "linear":
            merged[key] = base[key] + sum(deltas) / len(deltas)
        elif method == "task_arithmetic":
            merged[key] = base[key] + settings["weight"] * sum(deltas)
        else:
            models = [base[key], *(base[key] + delta for delta in deltas)]
            each = {"weight": 1.0, **settings}
            merged[key] = merge_tensors(models, method, parameters=each, base_index=0)
    return merged


def measure(gate_file: Path, without: str | None) -> None:
    gate = yaml.safe_load(gate_file.read_text())
    root = gate_file.parent
    model: Any = AutoModelForCausalLM.from_pretrained(root / gate["base"])
    tokenizer = AutoTokenizer.from_pretrained(root / gate["base"])
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    experts = {name: e for name, e in gate["experts"].items() if name != without}

    def ask(weights: Weights, name: str) -> list[str]:
        model.load_state_dict({**base, **weights})
        return answers(model, tokenizer, [row["input"] for row in rows[name]])

    def right(given: list[str], name: str) -> float:
        pairs = zip(given, rows[name], strict=True)
        return sum(answer == row["target"] for answer, row in pairs) / len(given)

    vectors = {name: task_vector(root / e["path"]) for name, e in experts.items()}
    rows: dict[str, list[dict[str, str]]] = {
        name: [json.loads(line) for line in (root / e["examples"]).read_text().splitlines()]
        for name, e in experts.items()
    }
    own = {
        name: ask({key: base[key] + delta for key, delta in vector.items()}, name)
        for name, vector in vectors.items()
    }
    unaided = {name: right(ask({}, name), name) for name in experts}

    print(f"\n{gate_file.name}" + (f" without {without}" if without else "") + "\n")
    print("| method | expert | its score | base | merged | loss | disagreement |")
    print("|---|---|---|---|---|---|---|")
    for entry in gate["merge"]["methods"]:
        settings = {} if isinstance(entry, str) else dict(entry)
        method = entry if isinstance(entry, str) else settings.pop("method")
        merged = merge(base, list(vectors.values()), method, settings)
        label = " ".join([method, *(f"{key} {value}" for key, value in settings.items())])
        for name in experts:
            before, given = right(own[name], name), ask(merged, name)
            after = right(given, name)
            differ = sum(a != b for a, b in zip(given, own[name], strict=True)) / len(given)
            print(
                f"| {label} | {name} | {before:.2f} | {unaided[name]:.2f} "
                f"| {after:.2f} | {100 * (before - after) / before:.0f} % | {differ:.2f} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    both = [HERE / f"{pool}.mergegate.yaml" for pool in ("compatible", "collapsing")]
    parser.add_argument("gates", nargs="*", type=Path, default=both, metavar="GATE_FILE")
    parser.add_argument("--without", metavar="EXPERT", help="leave this expert out of the pool")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for gate_file in options.gates:
        measure(gate_file, options.without)


if __name__ == "__main__":
    main()
