"""Whole gates: against mergekit's own merges, one method more, and the quickstart."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from hidden import QUIET, write_adapter, write_base
from measuring import CORES, Process, alternate, outcome, process, ratio, seconds
from pools import Shape

from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.gate.gatefile import gate_from, load_gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.report.gating import run_gate

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPE = Shape(hidden=1024, key_value=1024, intermediate=4096, layers=24)
"""469 million parameters with the embeddings and the head."""
EXPERTS, WIDTH, ANSWER = 4, 16, 4
INPUTS = 20
"""Of each expert, as many as the disagreement was first validated on."""
TIES = {"method": "ties", "density": 0.5}
QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


def write_pool(root: Path) -> None:
    """A random base in bfloat16 and its adapters."""
    root.mkdir(parents=True, exist_ok=True)
    write_base(root / "base", SHAPE, torch.bfloat16)
    for k in range(EXPERTS):
        write_adapter(root / "base", root / f"e{k}", k, WIDTH)


def gate_of(*methods: Any) -> dict[str, Any]:
    """A gate that goes to the certificate."""
    return {
        "base": "base",
        "dtype": "bfloat16",
        "experts": {
            f"e{k}": {"path": f"e{k}", "examples": f"e{k}/inputs.jsonl"} for k in range(EXPERTS)
        },
        "probes": {"max_answer_tokens": ANSWER},
        "merge": {"methods": list(methods)},
        "certificate": {"per_task": INPUTS},
        "budget": {"max_disagreement": 1.0},
    }


def against_mergekit(root: Path, runs: int) -> None:
    """The whole gate on linear and ties, against mergekit's command line merging the same two, its
    LoRA cache warm, and transformers loading what it wrote."""
    write_pool(root)
    (root / "gate.mergegate.yaml").write_text(yaml.safe_dump(gate_of("linear", TIES)))
    models = [f"{root}/base+{root}/e{k}" for k in range(EXPERTS)]
    linear = {"merge_method": "linear", "models": [_entry(m, 0.25) for m in models]}
    ties = {
        "merge_method": "ties",
        "base_model": f"{root}/base",
        "models": [_entry(m, 1.0, density=0.5) for m in models],
    }
    for name, config in {"linear": linear, "ties": ties}.items():
        (root / f"{name}.yml").write_text(yaml.safe_dump({**config, "dtype": "bfloat16"}))
    _mergekit(root, "linear")  # its LoRA cache is warm from here on
    ours, theirs = alternate(runs, lambda: _gate(root), lambda: _both(root))
    outcome("gate", [run.seconds for run in ours])
    outcome("mergekit, loading", [run.seconds for run in theirs])
    ratio("mergekit / gate", [r.seconds for r in theirs], [r.seconds for r in ours], "at least 4")
    base = sum(f.stat().st_size for f in (root / "base").glob("*.safetensors")) / (1 << 20)
    for name, found in {"gate": ours, "mergekit": theirs}.items():
        peak, anonymous = (max(r.memory[k] for r in found) for k in (0, 1))
        print(
            f"{name}: peak {peak:.0f} MiB, {anonymous:.0f} without mapped files; the base is "
            f"{base:.0f} MiB: {peak / base:.2f} times (target for the gate: at most 2)"
        )


def _entry(model: str, weight: float, **more: float) -> dict[str, Any]:
    return {"model": model, "parameters": {"weight": weight, **more}}


def _gate(root: Path) -> Process:
    command = [sys.executable, "-m", "pytest_mergegate.cli", "check", "gate.mergegate.yaml"]
    return process([*command, "--no-cache"], root, QUIET)


def _mergekit(root: Path, name: str) -> Process:
    shutil.rmtree(root / f"out-{name}", ignore_errors=True)
    script = Path(sys.executable).with_name("mergekit-yaml")
    command = [str(script), f"{name}.yml", f"out-{name}", "--lora-merge-cache", "lora", "--quiet"]
    return process(command, root, QUIET)


def _both(root: Path) -> Process:
    load = "import sys; from transformers import AutoModelForCausalLM as A\n"
    load += "for f in sys.argv[1:]: A.from_pretrained(f)"
    outs = [f"out-{name}" for name in ("linear", "ties")]
    found = [_mergekit(root, "linear"), _mergekit(root, "ties")]
    found.append(process([sys.executable, "-c", load, *outs], root, QUIET))
    memory = tuple(max(run.memory[k] for run in found) for k in (0, 1))
    return Process(sum(run.seconds for run in found), (memory[0], memory[1]))


def one_method_more(root: Path, runs: int) -> None:
    """ties added to a gate on linear whose results are kept, against what it takes at least: its
    merge, and one forward pass over each expert's own inputs."""
    write_pool(root)
    added, least = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            _run(root, cache, "linear")
            report = _run(root, cache, "linear", TIES)
            added.append(report.seconds["merge"])
        least.append(_least(root))
    outcome("one method more", added)
    outcome("merge and forward", least)
    ratio("added / least", added, least, "about 1")


def _run(root: Path, cache: Path, *methods: Any) -> Any:
    gate = gate_from(gate_of(*methods), root=root)
    return run_gate(gate, Options(cache=cache))


def _least(root: Path) -> float:
    from pytest_mergegate.engine.running.references import References
    from pytest_mergegate.engine.running.workspace import Workspace
    from pytest_mergegate.engine.weights.task_vectors import TaskVectors
    from pytest_mergegate.merging.gate_methods import plan_methods
    from pytest_mergegate.merging.in_place import merge_parameter
    from pytest_mergegate.pool.pool import read_pool

    gate = gate_from(gate_of(TIES), root=root)
    pool, _ = read_pool(gate)
    assert pool is not None
    workspace = Workspace(
        pool,
        device="cpu",
        cache=Cache(folder=None),
        vectors=lambda: TaskVectors(pool),
    )
    References(workspace).read(gate.spec.certificate.per_task)
    engine, (method,) = workspace.engine, plan_methods(gate, pool.names)
    positions = engine.require_head().answer_positions
    rows = [
        engine.row(task, k, positions)
        for task in engine.tasks.values()
        for k in task.order[: gate.spec.certificate.per_task]
    ]

    def work() -> None:
        for parameter in engine.vectors.parameters():
            merge_parameter(method, engine, parameter)
        engine.model.states(rows, positions)

    return seconds(work)


def ties(_: Path, runs: int) -> None:
    """ties of four experts on one tensor of 4.2 million numbers, against mergekit's."""
    from pytest_mergegate.merging.in_place import by_mergekit, merge_stack
    from pytest_mergegate.merging.method import Method

    torch.manual_seed(0)
    base = torch.randn(1024, 4096) * 0.02
    experts = {name: base + 0.003 * torch.randn(base.shape) for name in "abcd"}
    method = Method(
        label="ties",
        name="ties",
        parameters={"density": 0.5},
        weights=dict.fromkeys(experts, 1.0),
        seed=0,
        takes_base=True,
        takes_weights=True,
    )
    merge_stack(method, base, experts, "compiled")
    ours, theirs = alternate(
        runs,
        lambda: seconds(lambda: merge_stack(method, base, experts, "one")),
        lambda: seconds(lambda: by_mergekit(method, base, experts, "one")),
    )
    outcome("ties", ours)
    outcome("mergekit's", theirs)
    ratio("mergekit's / ours", theirs, ours, "none set")


def quickstart(_: Path, runs: int) -> None:
    """The quickstart's failing gate, all five stages and three methods, nothing kept."""
    assert len(load_gate(QUICKSTART / "collapsing.mergegate.yaml").spec.merge.methods) == 3
    code = "import sys; from pytest_mergegate.cli import main; sys.exit(main(sys.argv[1:]) != 1)"
    command = [sys.executable, "-c", code, "check", "collapsing.mergegate.yaml", "--no-cache"]
    found = [process(command, QUICKSTART, QUIET).seconds for _ in range(runs)]
    outcome("quickstart, cold", found)
    print(f"target: at most 30 s; median {statistics.median(found):.1f} s on {CORES} cores")


CASES = {
    "mergekit": against_mergekit,
    "method": one_method_more,
    "ties": ties,
    "quickstart": quickstart,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "mergegate-gate"
    )
    chosen = parser.parse_args(arguments)
    os.environ |= QUIET
    CASES[chosen.case](chosen.folder, chosen.runs)


if __name__ == "__main__":
    main()
