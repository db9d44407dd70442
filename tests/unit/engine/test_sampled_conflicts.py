"""Conflicts of some rows: what they say of all rows, and how far it may be off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pytest_mergegate.engine.weights.conflicts import _draw
from pytest_mergegate.stages.conflict import ConflictResult, run_conflict

from .weights import RATIOS, Files

if TYPE_CHECKING:
    from pytest_mergegate.common.values import Value
    from pytest_mergegate.pool.pool import Pool

Q, V, NORM = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.norm.weight"
ROWS = {Q: 400, V: 310}
COLUMNS = 37
VECTOR = 90
NAMES = ("a", "b", "c")
TRIALS = 200
COUNTED = ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio")


def no_library(name: str, parameter: str) -> Any:
    raise AssertionError(f"{parameter} of {name} needs no library")


def conflict_of(pool: Pool) -> ConflictResult:
    return run_conflict(pool, no_library, lambda _: None)


def sampled(files: Files, rows: int = 64, seed: int = 0, **gate: Any) -> Pool:
    return files.pool(conflict={"mode": "sampled", "rows": rows, "seed": seed}, **gate)


def with_seed(pool: Pool, seed: int) -> Pool:
    conflict = pool.spec.conflict.model_copy(update={"seed": seed})
    return replace(pool, spec=pool.spec.model_copy(update={"conflict": conflict}))


class Trials:
    """One pool, exact and sampled with many seeds."""

    def __init__(self, files: Files) -> None:
        pool = sampled(files)
        self.exact = conflict_of(files.pool())
        self.sampled = [conflict_of(with_seed(pool, seed)) for seed in range(TRIALS)]

    def values(self, ratio: str) -> list[tuple[float, list[Value]]]:
        """Of every pair, the number itself and its estimates."""
        return [
            (getattr(pair, ratio).number, [getattr(t.pairs[k], ratio) for t in self.sampled])
            for k, pair in enumerate(self.exact.pairs)
        ]

    def coverage(self, ratio: str) -> list[float]:
        """How often the interval holds the number, by pair."""
        return [
            float(np.mean([low <= number <= high for low, high in map(interval, values)]))
            for number, values in self.values(ratio)
        ]


def interval(value: Value) -> tuple[float, float]:
    assert value.interval is not None
    return value.interval


def lengths(rng: np.random.Generator, rows: int) -> Any:
    """Of rows: the longest is ten times as long as the shortest."""
    return np.exp(0.4 * rng.normal(size=(rows, 1)))


def new_files(folder: Any) -> Files:
    """Always the same: by chance alone, a new pool would miss the mark now and then."""
    files = Files(folder, np.random.default_rng(0))
    files.write_base({**{f"{m}.weight": (r, COLUMNS) for m, r in ROWS.items()}, NORM: (VECTOR,)})
    return files


def write_lora(files: Files) -> None:
    for name in NAMES:
        tensors = {}
        for module, rows in ROWS.items():
            b = files.rng.normal(size=(rows, 3)) * lengths(files.rng, rows)
            tensors[f"{module}.lora_A.weight"] = files.draw((3, COLUMNS))
            tensors[f"{module}.lora_B.weight"] = torch.from_numpy(b).float()
        files.save_adapter(name, tensors, r=3)


def write_full(files: Files) -> None:
    """Task vectors with a part in common, long in the same rows, and zeros."""
    rng = files.rng
    shapes = {module: (rows, COLUMNS) for module, rows in ROWS.items()}
    common = {module: rng.normal(size=shape) for module, shape in shapes.items()}
    size = {module: lengths(rng, rows) for module, rows in ROWS.items()}
    for name in NAMES:
        tensors = load_file(files.file("base"))
        for module, shape in shapes.items():
            own = rng.normal(size=shape) * (rng.random(shape) < 0.8)
            moved = 0.1 * size[module] * (common[module] + own)
            tensors[f"{module}.weight"] += torch.from_numpy(moved).float()
        tensors[NORM] += torch.from_numpy(0.1 * rng.normal(size=VECTOR)).float()
        files.save_checkpoint(name, tensors)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    files = new_files(tmp_path_factory.mktemp("lora"))
    write_lora(files)
    return Trials(files)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    files = new_files(tmp_path_factory.mktemp("full"))
    write_full(files)
    return Trials(files)


@pytest.fixture(params=["lora", "full"])
def trials(request: pytest.FixtureRequest) -> Trials:
    found: Trials = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("ratio", [*COUNTED, "sign_change_ratio_of_base"])
def test_intervals_hold_the_exact_number(trials: Trials, ratio: str) -> None:
    assert min(trials.coverage(ratio)) >= 0.9
    # and are no wider than they need to be
    for number, values in trials.values(ratio):
        widths = [high - low for low, high in map(interval, values)]
        assert 0 < max(widths) < 0.25 * number


@pytest.mark.parametrize("ratio", ["cosine", "cosine_mean"])
def test_intervals_hold_the_exact_cosines_of_checkpoints(full: Trials, ratio: str) -> None:
    assert min(full.coverage(ratio)) >= 0.9


@pytest.mark.parametrize("ratio", COUNTED)
def test_standard_errors_are_the_spread_of_estimates(trials: Trials, ratio: str) -> None:
    for number, values in trials.values(ratio):
        estimates = np.array([value.number for value in values])
        errors = np.array([value.standard_error for value in values])
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(estimates.std(), rel=0.2)
        # right on average, except for what a ratio of estimates is off
        assert abs(estimates.mean() - number) <= 4 * estimates.std() / np.sqrt(TRIALS)


@pytest.mark.parametrize("ratio", ["cosine", "cosine_mean"])
def test_cosines_of_factors_are_exact(lora: Trials, ratio: str) -> None:
    for number, values in lora.values(ratio):
        for value in values:
            assert value.number == pytest.approx(number, rel=1e-9)
            assert value.standard_error == 0
            assert value.interval == (value.number, value.number)


def test_norms_of_factors_are_exact(lora: Trials) -> None:
    for trial in lora.sampled[:3]:
        assert trial.norms == pytest.approx(lora.exact.norms, rel=1e-9)


def test_layers_and_tensors_are_estimated_too(full: Trials) -> None:
    for part, exact in zip(full.sampled[0].tensors, full.exact.tensors, strict=True):
        assert part.name == exact.name
        for ratio, found in part.ratios.items():
            expected = exact.ratios[ratio]
            if part.name == NORM:  # a vector is read whole
                np.testing.assert_array_equal(found, expected)
            else:
                assert np.abs(found - expected).max() < 0.2
                assert (found != expected)[0, 1], ratio


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_matrices_of_few_rows_are_exact(tmp_path: Any, kind: str) -> None:
    files = new_files(tmp_path)
    (write_lora if kind == "lora" else write_full)(files)
    exact, found = conflict_of(files.pool()), conflict_of(sampled(files, rows=400))
    for pair, other in zip(found.pairs, exact.pairs, strict=True):
        for ratio in RATIOS:
            value, number = getattr(pair, ratio), getattr(other, ratio).number
            assert value.number == number
            assert value.standard_error == 0
            assert value.interval == (number, number)
    # 310 of the 400 rows are as many as one of the two has
    part = conflict_of(sampled(files, rows=310))
    for found_part, exact_part in zip(part.tensors, exact.tensors, strict=True):
        same = np.array_equal(
            found_part.ratios["sign_change_ratio"], exact_part.ratios["sign_change_ratio"]
        )
        assert same == (found_part.name != f"{Q}.weight")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_seed_draws_the_same_rows_again(tmp_path: Any, kind: str) -> None:
    files = new_files(tmp_path)
    (write_lora if kind == "lora" else write_full)(files)
    one, again, other = (conflict_of(sampled(files, seed=seed)) for seed in (3, 3, 4))
    assert one.pairs == again.pairs
    for k, pair in enumerate(one.pairs):
        for ratio in COUNTED:
            assert getattr(pair, ratio) != getattr(other.pairs[k], ratio)


def test_matrices_of_one_shape_are_sampled_in_rows_of_their_own(tmp_path: Any) -> None:
    """Errors of equal tensors would add up if the same rows were drawn from all of them."""
    layers = 12
    files = Files(tmp_path, np.random.default_rng(0))
    modules = [f"model.layers.{k}.mlp.up_proj" for k in range(layers)]
    files.write_base({f"{module}.weight": (60, 8) for module in modules})
    for name in "ab":
        a, b = files.draw((2, 8)), files.draw((60, 2))
        factors = {
            f"{m}.lora_{x}.weight": t.clone() for m in modules for x, t in (("A", a), ("B", b))
        }
        files.save_adapter(name, factors, r=2)
    pool = sampled(files, rows=32)
    found = [conflict_of(with_seed(pool, seed)).pairs[0] for seed in range(100)]
    for ratio in COUNTED:
        values = [getattr(pair, ratio) for pair in found]
        error = np.sqrt(np.mean([value.standard_error**2 for value in values]))
        assert error == pytest.approx(np.std([value.number for value in values]), rel=0.3)


def test_an_adapter_beside_checkpoints(tmp_path: Any) -> None:
    files = new_files(tmp_path)
    write_full(files)
    files.write_lora("adapter", {Q: 3})
    exact = conflict_of(files.pool())
    held = []
    for seed in range(20):
        found = conflict_of(sampled(files, seed=seed))
        for pair, other in zip(found.pairs, exact.pairs, strict=True):
            for ratio in (*COUNTED, "cosine"):
                low, high = interval(getattr(pair, ratio))
                held.append(low <= getattr(other, ratio).number <= high)
    assert np.mean(held) > 0.85


def test_what_is_zero_stays_zero(tmp_path: Any) -> None:
    files = new_files(tmp_path)
    write_full(files)
    base = load_file(files.file("base"))
    for name in ("same", "other"):
        files.save_checkpoint(name, base)
    found = conflict_of(sampled(files))
    values = {(pair.a, pair.b): pair for pair in found.pairs}
    assert values["a", "same"].magnitude_change_ratio.number == pytest.approx(1, rel=1e-12)
    assert values["a", "same"].cosine.reason == "zero_task_vectors"
    assert values["a", "same"].cosine_mean.reason == "no_shared_tensors"
    assert values["same", "other"].sign_change_ratio.reason == "zero_task_vectors"


@pytest.mark.parametrize("seed_of_rows", range(3))
def test_trained_tokens_are_not_missed(tmp_path: Any, seed_of_rows: int) -> None:
    """Five rows of thousands: a sample hardly ever holds one, so that all of them are read."""
    files = Files(tmp_path, np.random.default_rng(seed_of_rows))
    files.write_base({"model.embed_tokens.weight": (3000, 8)})
    key = "model.embed_tokens.token_adapter.trainable_tokens_delta"
    for name in "ab":
        files.save_adapter(name, {key: files.draw((5, 8))}, trainable_token_indices=[5, 3, 9, 1, 2])
    (exact,) = conflict_of(files.pool()).pairs
    (pair,) = conflict_of(sampled(files, seed=seed_of_rows)).pairs
    for ratio in (*COUNTED, "cosine"):
        low, high = interval(getattr(pair, ratio))
        assert low - 1e-12 <= getattr(exact, ratio).number <= high + 1e-12


def test_few_long_rows_among_short_ones_are_not_missed(tmp_path: Any) -> None:
    """A trained handful over the noise of an optimizer: the norm tells of rows never drawn."""
    files = Files(tmp_path, np.random.default_rng(0))
    name = "model.embed_tokens.weight"
    files.write_base({name: (20_000, 16)})
    base = load_file(tmp_path / "base" / "model.safetensors")
    for expert in "ab":
        own = base[name] + 1e-5 * files.draw((20_000, 16))
        own[files.rng.permutation(20_000)[:60]] += 1.0
        files.save_checkpoint(expert, {name: own})
    (exact,) = conflict_of(files.pool()).pairs
    (pair,) = conflict_of(sampled(files)).pairs
    for ratio in COUNTED:
        assert getattr(pair, ratio).number == pytest.approx(getattr(exact, ratio).number, rel=1e-9)


# Draws


@pytest.mark.parametrize(("rows", "strata"), [(5, 2), (9, 4), (65, 32), (400, 32), (401, 32)])
def test_two_rows_of_every_stratum(rows: int, strata: int) -> None:
    for seed in range(50):
        drawn, sizes = _draw(rows, strata, (seed, 0))
        assert drawn.shape == (strata, 2)
        assert sizes.sum() == rows
        assert sizes.min() >= 2
        assert np.ptp(sizes) <= 1
        stops = np.cumsum(sizes)
        assert (drawn >= (stops - sizes)[:, np.newaxis]).all()
        assert (drawn < stops[:, np.newaxis]).all()
        assert (drawn[:, 0] != drawn[:, 1]).all()


def test_every_two_rows_are_as_likely() -> None:
    draws = 6000
    drawn = np.stack([_draw(9, 2, (seed, 7))[0] for seed in range(draws)])
    for stratum, members in enumerate((range(4), range(4, 9))):
        first, second = drawn[:, stratum].T
        pairs = [(i, j) for i in members for j in members if i != j]
        counts = np.array([np.sum((first == i) & (second == j)) for i, j in pairs])
        expected = draws / len(pairs)
        assert counts.sum() == draws
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
