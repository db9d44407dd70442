"""Gating a pool of chat experts, against the script that somebody writes who has no gate.

    bash examples/chat/run            # makes the base
    python benchmarks/chat.py [--chats 40] [--runs 1]

Four experts of ``examples/chat`` under linear, task_arithmetic and ties, 40 chats each. The script
(``chat_script.py``) merges with mergekit's command line, has PEFT's models and the merges answer
with transformers, and scores. It is held against three gates of ``mergegate check``, nothing kept:

- ``fixed`` looks at all inputs under all methods, as the script does. Both must find the same:
  their scores and the shares of answers that differ are compared, and the answers that both show.
- ``user`` has a budget that one of the methods holds, and ends there.
- ``failing`` has one that no method holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from hidden import QUIET
from measuring import CORES, outcome, ratio

HERE = Path(__file__).parent
POOL = HERE.parent / "examples" / "chat"
METRICS = {"synopsis": "rouge_l", "define": "rouge_l", "section": None, "json": None}
METHODS = [
    "linear",
    {"method": "task_arithmetic", "weight": 0.6},
    {"method": "ties", "density": 0.5},
]
LABELS = ("linear", "task_arithmetic", "ties")


Run = tuple[float, dict[str, Any]]
"""Seconds, and what was found."""
CASES: dict[str, dict[str, Any]] = {
    "fixed": {
        "certificate": {"sequential": False},
        "budget": {"max_disagreement": 1.0, "max_loss": 100},
        "select": "all",
    },
    "user": {"budget": {"max_loss": 60}, "select": "any"},
    "failing": {"budget": {"max_disagreement": 0.05, "max_loss": 1}, "select": "any"},
}


def write_gate(folder: Path, chats: int, tokens: int, case: str) -> Path:
    """What the script does, as a gate: all answers compared exactly."""
    folder.mkdir(parents=True, exist_ok=True)
    experts = {}
    for name, metric in METRICS.items():
        lines = (POOL / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{name}.jsonl").write_text("\n".join(lines[:chats]) + "\n", encoding="utf-8")
        experts[name] = {
            "path": str(POOL / "adapters" / name),
            "examples": f"{name}.jsonl",
            "compare": "exact",
            **({"metric": metric} if metric else {}),
        }
    gate = {
        "base": str(POOL / "base"),
        "experts": experts,
        "probes": {"max_answer_tokens": tokens},
        "certificate": {"per_task": chats, **CASES[case].get("certificate", {})},
        "budget": CASES[case]["budget"],
        "merge": {"methods": METHODS, "select": CASES[case]["select"]},
    }
    file = folder / f"{case}.mergegate.yaml"
    file.write_text(yaml.safe_dump(gate), encoding="utf-8")
    return file


def run_gate(folder: Path, chats: int, tokens: int, case: str) -> tuple[float, dict[str, Any]]:
    """Seconds of the gate, and its report."""
    file, report = write_gate(folder, chats, tokens, case), folder / f"{case}.json"
    command = [sys.executable, "-m", "pytest_mergegate.cli", "check", str(file), "--no-cache"]
    start = time.perf_counter()
    run([*command, "--no-registry", "--report", f"json:{report}"], accepted=(0, 1))
    return time.perf_counter() - start, json.loads(report.read_text(encoding="utf-8"))


def run_script(folder: Path, chats: int, tokens: int) -> tuple[float, dict[str, Any]]:
    """Seconds of the script, and what it prints."""
    shutil.rmtree(folder, ignore_errors=True)
    options = [str(folder), "--chats", str(chats), "--tokens", str(tokens)]
    start = time.perf_counter()
    said = run([sys.executable, str(HERE / "chat_script.py"), *options])
    return time.perf_counter() - start, json.loads(said.splitlines()[-1])


def run(command: list[str], accepted: tuple[int, ...] = (0,)) -> str:
    found = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **QUIET})
    if found.returncode not in accepted:
        raise SystemExit(f"{found.stdout[-2000:]}\n{found.stderr[-4000:]}")
    return found.stdout


def differences(report: dict[str, Any], script: dict[str, Any]) -> list[str]:
    """What gate and script do not agree on."""
    found = []
    for label, merge in zip(LABELS, report["merges"], strict=True):
        for expert in merge["experts"]:
            name = expert["name"]
            table = script["table"]
            pairs = {
                "base's score": (expert["score_base"], table["base"][name]["score"]),
                "expert's score": (expert["score_expert"], table["expert"][name]["score"]),
                "merge's score": (expert["score_merged"], table[label][name]["score"]),
                "share that differs": (expert["disagreement"], table[label][name]["differs"]),
            }
            found += [
                f"{label}, {name}: {what} is {ours:.4f} to the gate, {theirs:.4f} to the script"
                for what, (ours, theirs) in pairs.items()
                if abs(ours - theirs) > 1e-9
            ]
            said = set(zip(*(script["answers"][k][name] for k in ("expert", label)), strict=True))
            found += [
                f"{label}, {name}: only the gate has {case['merged']!r}"
                for case in expert["changed"]
                if (case["expert"], case["merged"]) not in said
            ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chats", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--runs", type=int, default=1)
    folder = Path(tempfile.gettempdir()) / "mergegate-chat"
    parser.add_argument("--folder", type=Path, default=folder)
    chosen = parser.parse_args()
    scripts: list[Run] = []
    gates: dict[str, list[Run]] = {case: [] for case in CASES}
    for _ in range(chosen.runs):
        scripts.append(run_script(chosen.folder / "script", chosen.chats, chosen.tokens))
        for case, found in gates.items():
            found.append(run_gate(chosen.folder / "gate", chosen.chats, chosen.tokens, case))
    print(
        f"{CORES} cores; {len(METRICS)} experts, {len(METHODS)} methods, {chosen.chats} chats each"
    )
    said, theirs = scripts[-1][1], [seconds for seconds, _ in scripts]
    outcome("script", theirs)
    print("script's parts:", {part: round(s) for part, s in said["seconds"].items()})
    print(f"script: {said['tokens']:,} tokens of prompts and answers, padding included")
    for case, found in gates.items():
        tell(case, theirs, [seconds for seconds, _ in found], found[-1][1], said["tokens"])
    wrong = differences(gates["fixed"][-1][1], said)
    print("\n".join(wrong) or "the same scores, disagreements and answers")


def tell(
    case: str, script: list[float], gate: list[float], report: dict[str, Any], tokens: int
) -> None:
    """What one gate took, beside the script."""
    outcome(f"gate, {case}", gate)
    ratio(f"script / gate, {case}", script, gate, "none set")
    print(f"{report['status']}, stages:", {k: round(s) for k, s in report["seconds"].items()})
    processed, reused = (
        sum(run[kind] for run in report["tokens"].values()) for kind in ("processed", "reused")
    )
    print(f"{processed:,} tokens ({processed / tokens:.2f} of the script's), {reused:,} reused")


if __name__ == "__main__":
    main()
