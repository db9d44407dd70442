"""The conflict stage beside what people would run instead, and beside what the machine could do.

    python benchmarks/conflict.py lora         8 LoRAs in the shapes of Mistral 7B; a torch loop
    python benchmarks/conflict.py scaling      2 to 64 of them
    python benchmarks/conflict.py checkpoints  4 whole checkpoints; MergeLens (--mergelens PATH)
    python benchmarks/conflict.py stream       2 whole checkpoints; cat
    python benchmarks/conflict.py gpu          8 LoRAs on every layer of Mistral 7B

Both sides take turns (--runs), with files in the page cache; printed are medians and ranges. A
floor is what must be moved and computed at least, at the best rates that all cores of this machine
show for a copy, a product of matrices and SHA-256. --folder keeps the pools and uses them again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import combinations, pairwise
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from measuring import Machine, Process, alternate, cat, outcome, process, ratio, seconds
from pools import (
    MISTRAL_7B,
    RANK,
    SCALE,
    checkpoints_of,
    elements,
    files_of,
    loras_of,
    read,
    stored_bytes,
)
from safetensors.torch import load_file

from pytest_mergegate.engine.weights.delta_rows import delta_rows
from pytest_mergegate.engine.weights.kernels import add_pairs
from pytest_mergegate.engine.weights.tensor_sums import factor_dots
from pytest_mergegate.stages.conflict import run_conflict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.pool.pool import Pool

LINEAR = tuple(MISTRAL_7B.linear)
ATTENTION = tuple(module for module in LINEAR if module.startswith("self_attn."))
COMPARING = 7
"""Operations on an element of a pair: the difference, its size, the product of two signs, its
comparison with zero, and three sums."""
RATIOS = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio", "cosine")


def lora(chosen: argparse.Namespace) -> None:
    """8 adapters: the stage against a loop over pairs in torch; both read the files."""
    machine, pool = Machine.measured(), loras_of(chosen.folder, ATTENTION, 1, 8)
    stage(pool)  # compiles, or loads what was compiled
    ours, theirs = alternate(
        chosen.runs, lambda: seconds(lambda: stage(pool)), lambda: seconds(lambda: loop(pool))
    )
    print(f"8 LoRAs of rank {RANK} on q, k, v and o_proj of 1 layer, {elements(pool):.3g} elements")
    outcome("the stage", ours, floor(pool, machine))
    outcome("torch loop", theirs)
    ratio("torch loop / the stage", theirs, ours, "at least 30")
    check_ratios(pool)
    whole = loras_of(chosen.folder, LINEAR, chosen.layers, 8)
    (more,) = alternate(chosen.runs, lambda: seconds(lambda: stage(whole)))
    print(f"on every linear module, layers: {chosen.layers}, {elements(whole):.3g} elements")
    outcome("the stage", more, floor(whole, machine))
    scaled = statistics.median(theirs) * elements(whole) / elements(pool)
    print(f"torch loop {scaled:.0f} s: not run, but the time above scaled by elements")


def loop(pool: Pool) -> dict[tuple[str, str], dict[str, float]]:
    """The ratios of every pair as one would write them down: in float32, pair by pair."""
    files = {expert.name: load_file(expert.tensors.files[0]) for expert in pool.experts}
    sums = {pair: np.zeros(9) for pair in combinations(files, 2)}
    modules = {key.rpartition(".lora_")[0] for file in files.values() for key in file}
    for a in (f"{module}.lora_A.weight" for module in sorted(modules)):
        b = a.replace("lora_A", "lora_B")
        deltas = {n: SCALE * (file[b].float() @ file[a].float()) for n, file in files.items()}
        for i, j in sums:
            sums[i, j] += compare(deltas[i], deltas[j])
    return {pair: ratios_of(found) for pair, found in sums.items()}


def compare(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """The sums behind the ratios, of one module."""
    difference = (a - b).abs()
    changed = torch.sign(a) != torch.sign(b)
    sums = [difference.sum(), changed.sum(), difference[changed].sum(), a.flatten() @ b.flatten()]
    sums += [a.abs().sum(), b.abs().sum(), a.norm() ** 2, b.norm() ** 2]
    return [*map(float, sums), a.numel()]


def ratios_of(sums: Iterable[float]) -> dict[str, float]:
    """From what ``compare`` gave."""
    difference, changed, conflicting, dot, size_a, size_b, square_a, square_b, positions = sums
    size, norms = size_a + size_b, (square_a * square_b) ** 0.5
    found = (difference / size, changed / positions, conflicting / size, dot / norms)
    return dict(zip(RATIOS, found, strict=True))


def check_ratios(pool: Pool) -> None:
    """Both sides of ``lora`` have to give the same."""
    expected = loop(pool)
    apart = max(
        abs(getattr(pair, name).number - expected[pair.a, pair.b][name])
        for pair in stage(pool).pairs
        for name in RATIOS
    )
    print(f"their ratios differ by {apart:.1e} at most")
    if not apart < 1e-4:
        raise SystemExit("that is too much")


def scaling(chosen: argparse.Namespace) -> None:
    """2 to 64 adapters: how time grows with their number."""
    machine, times = Machine.measured(), {}
    print("N; stage: s on q, k, v and o_proj of 1 layer, times its floor;")
    print("pair: ns on one core per element of a pair, in add_pairs;")
    print("cosines: s alone on all linear modules of 1 layer, times their floor, s to read before")
    print(f"{'N':>3} {'stage':>9} {'floor':>6} {'pair':>7} {'cosines':>9} {'floor':>6} {'read':>7}")
    for count in (2, 4, 8, 16, 32, 64):
        pool, linear = (loras_of(chosen.folder, of, 1, count) for of in (ATTENTION, LINEAR))
        stage(pool)
        stages, pairs, dots = alternate(
            chosen.runs,
            partial(seconds, partial(stage, pool)),
            partial(pair_element, count),
            partial(cosines, linear),
        )
        times[count], pair = statistics.median(stages), statistics.median(pairs) * 1e9
        computed, reading = map(statistics.median, zip(*dots, strict=True))
        above = times[count] / sum(floor(pool, machine).values())
        sides = sum(sum(linear.base.tensors[name].shape) for name in linear.experts[0].changes)
        least = sides * (count * RANK) ** 2 / 2 / machine.multiplied  # half of a Gram is enough
        print(f"{count:3} {times[count]:9.3f} {above:6.1f} {pair:7.3f}", end=" ")
        print(f"{computed:9.3f} {computed / least:6.1f} {reading:7.3f}")
    grown = {b: log2(times[b] / times[a]) for a, b in pairwise(times)}
    print("the stage grows with this power of N:", end=" ")
    print(", ".join(f"{power:.2f} to {count}" for count, power in grown.items()), "(target 2)")
    print("target for the cosines of 64: less than 1 s")


def pair_element(count: int) -> float:
    """Seconds on one core to compare one element of one pair, among as many adapters."""
    deltas = np.random.default_rng(0).standard_normal((count, 1 << 14))
    sums, pairs = np.zeros((4, count, count)), count * (count - 1) // 2
    rounds = max((1 << 25) // (deltas.shape[1] * pairs), 1)
    spent = seconds(lambda: [add_pairs(deltas, sums, False) for _ in range(rounds)])
    return spent / (rounds * pairs * deltas.shape[1])


def cosines(pool: Pool) -> tuple[float, float]:
    """Seconds for the inner products of all pairs, and for reading the factors before that."""
    dots, start = 0.0, time.perf_counter()
    for parameter in pool.experts[0].changes:
        factors: list[Any] = [
            delta_rows(expert.changes[parameter], expert.tensors, pool.base, no_dense)
            for expert in pool.experts
        ]
        dots += seconds(partial(factor_dots, factors))
    return dots, time.perf_counter() - start - dots


def checkpoints(chosen: argparse.Namespace) -> None:
    """4 checkpoints: `mergegate check --stage conflict` against `mergelens compare`."""
    machine, root = Machine.measured(), checkpoints_of(chosen.folder, chosen.layers)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        first = check(root, place, anew=True, NUMBA_CACHE_DIR=str(place / "numba"))
        print(f"first run after installation, with nothing compiled: {first.seconds:.1f} s")
        sides = {
            "hashing": partial(check, root, place, anew=True),
            "hashed before": partial(check, root, place),
        }
        if chosen.mergelens:
            sides["MergeLens"] = partial(mergelens, chosen.mergelens, root, place)
        sides["hashed before"]()  # compiles what was not compiled yet
        pool = read(root, 4)
        ran = alternate(chosen.runs, *sides.values(), files=files_of(pool))
        found = dict(zip(sides, ran, strict=True))
        if chosen.mergelens:
            check_signs(place)
    hashing = {"SHA-256": stored_bytes(pool, base=False) / machine.hashed}
    floors = {"hashing": floor(pool, machine) | hashing, "hashed before": floor(pool, machine)}
    times = {name: [run.seconds for run in runs] for name, runs in found.items()}
    for name, runs in found.items():
        outcome(name, times[name], floors.get(name))
        for part in runs[0].parts:
            print(f"  {part} {statistics.median(run.parts[part] for run in runs):.3f} s", end="")
        peak, own = map(statistics.median, zip(*(run.memory for run in runs), strict=True))
        print(f"  peak of resident memory {peak:.0f} MiB, {own:.0f} MiB without mapped files")
        if chosen.mergelens and name != "MergeLens":
            ratio(f"  MergeLens / {name}", times["MergeLens"], times[name], "at least 20")


def check(root: Path, place: Path, *, anew: bool = False, **settings: str) -> Process:
    """`mergegate check` as a process, with content hashes remembered or forgotten."""
    if anew:
        shutil.rmtree(place / "cache", ignore_errors=True)
    command = [sys.executable, "-m", "pytest_mergegate.cli", "check", "--stage", "conflict"]
    command += ["--report", f"json:{place}/ours.json", "mergegate.yaml"]
    ran = process(command, root, {"MERGEGATE_CACHE": str(place / "cache"), **settings})
    return replace(ran, parts=json.loads((place / "ours.json").read_text())["seconds"])


def mergelens(program: Path, root: Path, place: Path) -> Process:
    """The nearest that MergeLens computes: sign changes of all pairs, cosines with the base."""
    command = [str(program), "compare", "e0", "e1", "e2", "e3", "--base", "base", "--no-strategy"]
    command += ["-m", "cosine_similarity", "-m", "sign_disagreement_rate"]
    return process([*command, "-j", str(place / "theirs.json")], root, {})


def check_signs(place: Path) -> None:
    """MergeLens' sign disagreement is the mean of our sign change ratio over the pairs."""
    ours, theirs = (json.loads((place / f).read_text()) for f in ("ours.json", "theirs.json"))
    mine = statistics.mean(pair["sign_change_ratio"] for pair in ours["pairs"])
    tensors = theirs["candidate_set_metrics"]
    weights = [tensor["parameter_count"] for tensor in tensors]
    other = np.average([tensor["sign_disagreement_rate"] for tensor in tensors], weights=weights)
    print(f"sign changes: {mine:.6f} of the parameters of a pair, MergeLens says {other:.6f}")
    if not abs(mine - other) < 1e-4:
        raise SystemExit("that is too far apart")


def stream(chosen: argparse.Namespace) -> None:
    """2 checkpoints: the stage against reading the same files with cat."""
    machine, pool = Machine.measured(), read(checkpoints_of(chosen.folder, chosen.layers), 2)
    stage(pool)  # compiles, or loads what was compiled
    files = files_of(pool)
    sides = (partial(seconds, partial(stage, pool)), partial(seconds, partial(cat, files)))
    ours, theirs = alternate(chosen.runs, *sides, files=files)
    print(f"base and 2 checkpoints, {stored_bytes(pool) / 1e9:.2f} GB")
    outcome("the stage", ours, floor(pool, machine))
    outcome("cat to /dev/null", theirs)
    ratio("the stage / cat", ours, theirs, "at most 3")


def gpu(chosen: argparse.Namespace) -> None:
    """8 adapters on every layer of Mistral 7B, on a GPU."""
    if not torch.cuda.is_available():
        print("no GPU here")
        return
    pool = loras_of(chosen.folder, LINEAR, MISTRAL_7B.layers, 8)
    stage(pool, "cuda")  # starts the device
    (ours,) = alternate(chosen.runs, lambda: seconds(lambda: stage(pool, "cuda")))
    print(torch.cuda.get_device_name())
    outcome("the stage", ours)


def stage(pool: Pool, device: str = "cpu") -> Any:
    """The conflict stage, exact."""
    return run_conflict(pool, no_dense, lambda fraction: None, device)


def no_dense(*_: str) -> Any:
    """Instead of task vectors from a library: these pools need none."""
    raise AssertionError


def floor(pool: Pool, machine: Machine) -> dict[str, float]:
    """Seconds to move every file's bytes once, and for every operation on numbers."""
    count, lora = len(pool.experts), pool.experts[0].is_adapter
    # of each expert the product or the difference, and the sum of sizes; of each pair the dot too
    alone, pair = (RANK + 2, COMPARING) if lora else (4, COMPARING + 1)
    operations = elements(pool) * (count * alone + count * (count - 1) // 2 * pair)
    moved = stored_bytes(pool, base=not lora)
    return {"operations": operations / machine.multiplied, "bytes": moved / machine.copied}


def main() -> None:
    """Run the case that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = parser.add_subparsers(dest="case", required=True)
    for case, layers in ((lora, 1), (scaling, 1), (checkpoints, 24), (stream, 24), (gpu, 32)):
        command = cases.add_parser(case.__name__, help=case.__doc__)
        command.set_defaults(run=case, layers=layers)
        command.add_argument("--runs", type=int, default=5)
        command.add_argument("--folder", type=Path, help="keep the pools there")
        if case not in (scaling, gpu):
            command.add_argument("--layers", type=int, default=layers)
        if case is checkpoints:
            command.add_argument("--mergelens", type=Path, help="its command, in its own venv")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        chosen.folder = (chosen.folder or Path(temporary)).resolve()
        chosen.run(chosen)


if __name__ == "__main__":
    main()
