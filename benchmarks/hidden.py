"""The hidden stage: cold, warm, one adapter more, peak memory, loading adapters, a GPU."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from measuring import alternate, outcome, process, ratio, seconds
from pools import LLAMA_2_7B, Shape
from pools import write_adapter as write_factors
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from pytest_mergegate.engine.models.placement import batches, pad
from pytest_mergegate.engine.running.cache import Cache
from pytest_mergegate.engine.running.executors import LocalExecutor
from pytest_mergegate.engine.running.probes import collect_states
from pytest_mergegate.engine.running.workspace import Workspace
from pytest_mergegate.engine.weights.task_vectors import TaskVectors
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_mergegate.pool.pool import Pool

VOCABULARY, WIDTH, RANK = 32000, 128, 16
TASK = 5
"""Probes of each expert."""
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


SMALL = Shape(hidden=512, key_value=512, intermediate=1408, layers=8, vocabulary=VOCABULARY)


def write_base(
    folder: Path, shape: Shape = SMALL, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Path:
    """A random Llama with a tokenizer of one token a word."""
    if folder.exists():
        return folder
    words = {f"w{k}": k for k in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    FastTokenizer(tokenizer_object=tokenizer, pad_token="w0", eos_token="w1").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // 64,
        num_key_value_heads=shape.key_value // 64,
        max_position_embeddings=1024,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.device(device):
        LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def write_adapter(base: Path, folder: Path, seed: int, width: int = WIDTH) -> None:
    """A random LoRA on every linear layer, as PEFT saves it, and inputs of ``width`` tokens."""
    if folder.exists():
        return
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", init_lora_weights=False
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data, std=0.02)
    model.save_pretrained(folder)
    write_inputs(folder, seed, width)


def write_inputs(folder: Path, seed: int, width: int) -> None:
    """64 inputs of random words."""
    random = np.random.default_rng(seed)
    lines = (
        json.dumps({"input": " ".join(f"w{k}" for k in random.integers(2, VOCABULARY, width))})
        for _ in range(64)
    )
    (folder / "inputs.jsonl").write_text("\n".join(lines))


def gate_of(root: Path, count: int, *, dtype: str = "float32", **probes: Any) -> dict[str, Any]:
    """A gate on the first experts of a folder."""
    experts = {f"e{k}": {"path": f"e{k}", "examples": f"e{k}/inputs.jsonl"} for k in range(count)}
    asked = {"per_task": TASK, "positions": "last", **probes}
    budget = {"max_mds": 1e9}
    return {"base": "base", "experts": experts, "probes": asked, "budget": budget, "dtype": dtype}


def pool_of(root: Path, count: int, **probes: Any) -> Pool:
    """The pool of such a gate, its files written where they are not there."""
    write_base(root / "base")
    for k in range(count):
        write_adapter(root / "base", root / f"e{k}", k)
    return read(root, count, **probes)


def read(root: Path, count: int, **probes: Any) -> Pool:
    """The pool of such a gate, whose files are there."""
    pool, errors = read_pool(gate_from(gate_of(root, count, **probes), root=root))
    if pool is None:
        raise SystemExit("\n".join(map(str, errors)))
    return pool


def workspace_of(pool: Pool, folder: Path | None, device: str = "cpu") -> Workspace:
    """A pool with a cache in ``folder``."""
    vectors = TaskVectors(pool)
    cache = Cache(folder=folder)
    return Workspace(pool, device=device, cache=cache, vectors=lambda: vectors)


def collect(workspace: Workspace, folder: Path) -> None:
    """The states of a pool whose model is loaded, with nothing kept before."""
    shutil.rmtree(folder, ignore_errors=True)
    workspace.cache.folder = folder
    workspace.answers.clear()
    collect_states(workspace, LocalExecutor(), lambda _: None)


def bare(workspace: Workspace, times: int) -> None:
    """As many forward passes of the backbone alone, on the same batches."""
    model, rows = workspace.engine.model, []
    for name in workspace.pool.names:
        prompts = workspace.engine.tasks[name].prompts
        rows += [prompts[index] for index in workspace.probes(name)]
    with torch.inference_mode():
        for _ in range(times):
            for batch in batches([len(row) for row in rows], model._batch_tokens):
                ids, mask = pad([rows[k] for k in batch], 0, side="right")
                model.backbone(
                    input_ids=ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    use_cache=False,
                )


def peft_loop(root: Path, count: int) -> Callable[[Workspace], None]:
    """The obvious way: PEFT's set_adapter, and the whole model with its logits."""
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, root / "e0", adapter_name="e0")
    for k in range(1, count):
        model.load_adapter(root / f"e{k}", adapter_name=f"e{k}")

    def loop(workspace: Workspace) -> None:
        rows = [
            workspace.engine.tasks[name].prompts[index]
            for name in workspace.pool.names
            for index in workspace.probes(name)
        ]
        ids, mask = pad(rows, 0, side="right")
        with torch.inference_mode():
            for name in workspace.pool.names:
                model.set_adapter(name)
                model(input_ids=ids, attention_mask=mask, output_hidden_states=True)

    return loop


def cold(root: Path, runs: int) -> None:
    """Eight adapters, 40 probes of 128 tokens, nothing kept."""
    workspace = workspace_of(pool_of(root, 8), root / "cold")
    loop = peft_loop(root, 8)
    collect(workspace, root / "cold")  # whatever happens once
    ours, eight, nine, obvious = alternate(
        runs,
        lambda: seconds(lambda: collect(workspace, root / "cold")),
        lambda: seconds(lambda: bare(workspace, 8)),
        lambda: seconds(lambda: bare(workspace, 9)),
        lambda: seconds(lambda: loop(workspace)),
    )
    named = {"states": ours, "8 forwards": eight, "9 forwards": nine, "PEFT with logits": obvious}
    for name, found in named.items():
        outcome(name, found)
    ratio("states / 8 bare forwards", ours, eight, "at most 1.10")
    ratio("states / 9 bare forwards (the base's is one)", ours, nine, "the same work")
    ratio("PEFT with logits / 8 bare forwards", obvious, eight, "1.95 measured before")
    answering = workspace_of(pool_of(root, 8, positions="answer", max_answer_tokens=16), None)
    collect(answering, root / "cold")
    with_answers = [seconds(lambda: collect(answering, root / "cold")) for _ in range(runs)]
    outcome("along answers of 16", with_answers)


def warm(root: Path, runs: int) -> None:
    """The whole process, with everything kept."""
    pool_of(root, 8)
    text = json.dumps(gate_of(root, 8))
    (root / "mergegate.yaml").write_text(text)
    settings = {**QUIET, "MERGEGATE_CACHE": str(root / "warm")}
    # another plugin of this environment, which takes 0.3 to 0.5 s by itself
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    command = (sys.executable, "-m", "pytest", "--mergegate", *quiet, "mergegate.yaml")
    empty = (sys.executable, "-m", "pytest", "--version")
    process(command, root, settings)
    time.sleep(2.1)  # the hashes of files of this very moment are never remembered
    process(command, root, settings)
    ours, pytest_alone = alternate(
        runs, lambda: process(command, root, settings), lambda: process(empty, root, settings)
    )
    outcome("pytest --mergegate", [p.seconds for p in ours])
    outcome("pytest --version", [p.seconds for p in pytest_alone])
    print(f"target 2.0 s; peak {statistics.median(p.memory[0] for p in ours):.0f} MiB")


def increment(root: Path, runs: int) -> None:
    """One adapter added to a pool of 16, against one adapter's own cost: its forward on all."""
    kept, grown = root / "kept", root / "grown"
    shutil.rmtree(kept, ignore_errors=True)
    before, after = workspace_of(pool_of(root, 16), kept), workspace_of(pool_of(root, 17), None)
    collect_states(before, LocalExecutor(), lambda _: None)
    _ = after.engine.tasks

    def add() -> None:
        shutil.rmtree(grown, ignore_errors=True)
        shutil.copytree(kept, grown)
        after.cache.folder = grown
        after.answers.clear()
        after.__dict__.pop("draws", None)
        added.append(seconds(lambda: collect_states(after, LocalExecutor(), lambda _: None)))

    added: list[float] = []
    _, own = alternate(runs, add, lambda: seconds(lambda: one(after)))
    outcome("one more", added)
    outcome("its own forward", own)
    ratio("one more / its own", added, own, "at most 2.5")


def one(workspace: Workspace) -> None:
    """The newest expert put in place, on all probes."""
    with workspace.engine.expert(workspace.pool.names[-1]):
        bare(workspace, 1)


def memory(root: Path, runs: int) -> None:
    """Peak of a process that gates 4, 16, 64 adapters, one probe each, conflicts sampled."""
    for count in (4, 16, 64):
        pool_of(root, count)
        gate = root / f"m{count}.mergegate.yaml"
        gate.write_text(json.dumps({**gate_of(root, count, per_task=1), "conflict": "sampled"}))
        command = (sys.executable, "-m", "pytest_mergegate.cli", "check", "-q", gate.name)
        found = process((*command, "--no-cache"), root, QUIET)
        peak, anonymous = found.memory
        print(f"{count:3} adapters: peak {peak:.0f} MiB, {anonymous:.0f} without mapped files")


def loading(root: Path, runs: int) -> None:
    """64 adapters put in place, one after the other, against PEFT's loader."""
    from peft import PeftModel

    workspace = workspace_of(pool_of(root, 64), None)
    names = workspace.pool.names
    base = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)

    def swap() -> float:
        return seconds(lambda: [_enter(workspace, name) for name in names]) / len(names)

    def peft() -> float:
        def load() -> None:
            model = PeftModel.from_pretrained(base, root / "e0", adapter_name="e0")
            for name in names[1:8]:
                model.load_adapter(root / name, adapter_name=name)
            model.unload()

        return seconds(load) / 8

    swap()
    ours, theirs = alternate(runs, swap, peft)
    outcome("swapped in and out", ours)
    outcome("PEFT's loader", theirs)
    ratio("PEFT / ours", theirs, ours, "at most 0.05 s each")


def _enter(workspace: Workspace, name: str) -> None:
    with workspace.engine.expert(name):
        pass


def gpu(root: Path, runs: int, shape: Shape = LLAMA_2_7B) -> None:
    """Eight adapters, 40 probes of 256 tokens, bfloat16, against the matrix products at least."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = root / f"gpu-{shape.hidden}-{shape.layers}"
    write_base(where / "base", shape, torch.bfloat16, device)
    for k in range(8):
        if not (folder := where / f"e{k}").exists():
            write_factors(folder, shape, shape.linear, RANK, k)
            write_inputs(folder, k, 256)
    pool = read(where, 8, dtype="bfloat16")
    workspace = workspace_of(pool, where / "cold", device)
    collect(workspace, where / "cold")  # whatever happens once
    model = workspace.engine.model
    ours, nine = alternate(
        runs,
        lambda: synchronised(model.device, lambda: collect(workspace, where / "cold")),
        lambda: synchronised(model.device, lambda: bare(workspace, 9)),
    )
    tokens = 9 * 8 * TASK * 256
    weights = shape.layers * sum(rows * columns for rows, columns in shape.linear.values())
    floor = 2 * tokens * weights / products(model.device)
    outcome("states", ours, {"products": floor})
    outcome("9 forwards", nine, {"products": floor})
    print("target: within 1.5 times the floor")


def synchronised(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the device is done with it."""

    def whole() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return seconds(whole)


def products(device: torch.device) -> float:
    """Operations in a second in products of bfloat16 matrices, at best."""
    size = 8192 if device.type == "cuda" else 1024
    one = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    synchronised(device, lambda: one @ one)
    return 2 * size**3 / min(synchronised(device, lambda: one @ one) for _ in range(10))


CASES = {f.__name__: f for f in (cold, warm, increment, memory, loading, gpu)}


def main() -> None:
    """Run one case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "mergegate-hidden"
    )
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    CASES[chosen.case](chosen.folder, chosen.runs)


if __name__ == "__main__":
    main()
