"""The conflict stage on random files against dense task vectors in float64, pair by pair."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.weights import conflicts, delta_rows, tensor_sums
from pytest_mergegate.stages.conflict import ConflictResult, run_conflict

from .weights import DTYPES, RATIOS, Files, Naive, naive_conflicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_mergegate.pool.pool import Pool

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
dtypes = st.sampled_from([*DTYPES, None])
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"


def no_library(name: str, parameter: str) -> Any:
    raise AssertionError(f"{parameter} of {name} needs no library")


def conflict_of(pool: Pool) -> ConflictResult:
    return run_conflict(pool, no_library, lambda _: None)


def shapes_of(rng: np.random.Generator, layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Parameters of a small Llama of random widths."""
    width, inner, vocabulary = (int(size) for size in rng.integers(1, 25, size=3))
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(layers):
        found |= {
            f"model.layers.{layer}.self_attn.q_proj.weight": (width, width),
            f"model.layers.{layer}.mlp.up_proj.weight": (inner, width),
            f"model.layers.{layer}.mlp.down_proj.weight": (width, inner),
            f"model.layers.{layer}.input_layernorm.weight": (width,),
        }
    return found | {"lm_head.weight": (vocabulary, width)}


def add_lora(files: Files, name: str, dtype: str) -> None:
    """Some modules, any ranks, zeros inside, and now and then a factor that is zero."""
    rng = files.rng
    found = [p.removesuffix(".weight") for p in files.shapes if p.endswith("_proj.weight")]
    chosen = [module for module in found if rng.random() < 0.6] or found[:1]
    ranks = {module: int(rng.integers(1, 12)) for module in chosen}
    config = {
        "lora_alpha": float(rng.choice([rng.uniform(0.1, 64), 16])),
        "alpha_pattern": {m: float(rng.uniform(1, 9)) for m in chosen if rng.random() < 0.2},
        "use_rslora": bool(rng.random() < 0.5),
    }
    files.write_lora(name, ranks, dtype, rng.random() * 0.5, **config)
    empty = rng.random() < 0.15
    tensors = load_file(files.file(name))
    for key in tensors:
        if empty or rng.random() < 0.1:
            tensors[key] = tensors[key] * (0 if "lora_B" in key else 1)
    save_file(tensors, files.file(name))


def add_checkpoint(files: Files, name: str, dtype: str) -> None:
    """Some tensors unchanged, in one file or two."""
    rng = files.rng
    unchanged = float(rng.choice([0.0, 0.3, 1.0], p=[0.4, 0.4, 0.2]))
    files.write_checkpoint(name, dtype, unchanged, shards=int(rng.integers(1, 3)))


def check(folder: Path, pool: Pool) -> None:
    """All numbers, of every pair, in every layer and tensor, and in both orders."""
    result, expected = conflict_of(pool), naive_conflicts(folder, pool.names)
    check_pairs(result, expected)
    for parts, known in ((result.layers, expected.layers), (result.tensors, expected.tensors)):
        assert {part.name for part in parts} == set(known)
        assert len(parts) == len(known)
        for part in parts:
            assert set(part.ratios) == set(RATIOS) - {"sign_change_ratio_of_base", "cosine_mean"}
            for ratio, found in part.ratios.items():
                numbers = np.full(found.shape, np.nan)
                for (a, b), pair in known[part.name].items():
                    i, j = pool.names.index(a), pool.names.index(b)
                    numbers[i, j] = numbers[j, i] = pair[ratio]
                apart = ~np.eye(len(found), dtype=bool)
                assert_close(found[apart], numbers[apart], f"{ratio} in {part.name}")


def check_pairs(result: ConflictResult, expected: Naive) -> None:
    assert [(pair.a, pair.b) for pair in result.pairs] == list(expected.pairs)
    for ratio in RATIOS:
        values = [getattr(pair, ratio) for pair in result.pairs]
        numbers = [math.nan if value.number is None else value.number for value in values]
        assert_close(numbers, [pair[ratio] for pair in expected.pairs.values()], ratio)
        reason = "no_shared_tensors" if ratio == "cosine_mean" else "zero_task_vectors"
        assert {value.reason for value in values} <= {None, reason}
        assert {(value.interval, value.standard_error) for value in values} == {(None, None)}
    assert list(result.norms) == list(expected.norms)
    assert_close(list(result.norms.values()), list(expected.norms.values()), "norms")


def assert_close(found: Any, expected: Any, what: str) -> None:
    """Much nearer than float32 would be."""
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True, err_msg=what)


@given(
    generators,
    st.integers(2, 16),
    dtypes,
    st.sampled_from(["lora", "full", "mixed"]),
    st.booleans(),
)
@settings(max_examples=50, deadline=None, database=None)
def test_random_pools(
    rng: np.random.Generator, experts: int, dtype: str | None, kind: str, in_small_pieces: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        files = Files(Path(folder), rng)
        files.write_base(shapes_of(rng), dtype or str(rng.choice(list(DTYPES))))
        for k in range(experts):
            own = dtype or str(rng.choice(list(DTYPES)))
            lora = kind == "lora" or (kind == "mixed" and rng.random() < 0.5)
            (add_lora if lora else add_checkpoint)(files, f"e{k}", own)
        if in_small_pieces:
            cut_small(patch, rng)
        check(Path(folder), files.pool())


def cut_small(patch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Several runs to a piece and several pieces to a tensor, though all are tiny."""
    for name in ("_TILE", "_TILES", "_CHUNK"):
        patch.setattr(tensor_sums, name, int(rng.integers(1, 400)))
    for module in (tensor_sums, delta_rows):
        patch.setattr(module, "_BLOCK", int(rng.integers(1, 400)))
    # of more ranks, inner products are added up like all else
    patch.setattr(tensor_sums, "MOST_RANKS", int(rng.integers(1, 100)))


@pytest.mark.parametrize("own", DTYPES)
@pytest.mark.parametrize("base", DTYPES)
def test_checkpoints_in_the_bases_type_and_in_others(
    tmp_path: Path, seed: int, base: str, own: str
) -> None:
    files = Files(tmp_path, np.random.default_rng(seed))
    files.write_base({f"{Q}.weight": (5, 7), "model.norm.weight": (7,)}, base)
    for name in "abc":
        files.write_checkpoint(name, own)
    check(tmp_path, files.pool())


@pytest.mark.parametrize("kind", ["lora", "BF16", "F32"])
def test_tensors_of_several_pieces(tmp_path: Path, seed: int, kind: str) -> None:
    """As large as it takes without cutting them smaller; rows that no power of two divides."""
    files = Files(tmp_path, np.random.default_rng(seed))
    shapes = {
        f"{Q}.weight": (1501, 701),
        "model.norm.weight": (70_001,),
        f"{V}.weight": (3, 40_009),
    }
    files.write_base(shapes, "F32" if kind == "lora" else kind)
    for name in ("a", "b", "c", "d", "e", "f", "g", "h")[: 8 if kind == "lora" else 5]:
        if kind == "lora":
            files.write_lora(name, {Q: 3, V: 2}, zeros=0.2)
        else:
            files.write_checkpoint(name, kind)
    check_pairs(conflict_of(files.pool()), naive_conflicts(tmp_path, files.names))


def write_every_kind(folder: Path, rng: np.random.Generator) -> Files:
    files = Files(folder, rng)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (19, 8),
        f"{Q}.weight": (14, 8),
        f"{Q}.bias": (14,),
        "model.norm.weight": (8,),
        "lm_head.weight": (19, 8),
    }
    files.write_base(shapes)
    draw = files.draw
    tokens = {"model.embed_tokens.token_adapter.trainable_tokens_delta": draw((4, 8))}
    embedding = {
        "model.embed_tokens.lora_embedding_A": draw((3, 19), zeros=0.3),
        "model.embed_tokens.lora_embedding_B": draw((8, 3)),
    }
    saved = {"lm_head.weight": draw((19, 8)), "model.norm.weight": draw((8,))}
    lengths = {f"{Q}.lora_magnitude_vector": draw((14,)).abs()}

    def add(name: str, tensors: dict[str, torch.Tensor], **config: Any) -> None:
        pair = {f"{Q}.lora_A.weight": draw((3, 8)), f"{Q}.lora_B.weight": draw((14, 3))}
        files.save_adapter(name, pair | tensors, r=3, **config)

    add("embedding", embedding)
    add("tokens", tokens, trainable_token_indices=[7, 2, 18, 0])
    add("bias", {f"{Q}.lora_B.bias": draw((14,))}, lora_bias=True)
    add("saved", saved, modules_to_save=["lm_head", "norm"])
    add("dora", lengths, use_dora=True)
    files.write_checkpoint("full")
    return files


def write_transposed(folder: Path, rng: np.random.Generator) -> Files:
    """Weights stored as inputs by outputs."""
    files = Files(folder, rng, architectures=["GPT2LMHeadModel"], model_type="gpt2")
    wide, square = "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"
    files.write_base({f"{wide}.weight": (8, 24), f"{square}.weight": (8, 8)})
    for name in ("plain", "other", "dora"):
        tensors = {}
        for module, outputs in ((wide, 24), (square, 8)):
            tensors[f"{module}.lora_A.weight"] = files.draw((2, 8), zeros=0.2)
            tensors[f"{module}.lora_B.weight"] = files.draw((outputs, 2), zeros=0.2)
            if name == "dora":
                tensors[f"{module}.lora_magnitude_vector"] = files.draw((outputs,)).abs()
        files.save_adapter(name, tensors, r=2, use_dora=name == "dora")
    files.write_checkpoint("full")
    return files


def write_bfloat16(folder: Path, rng: np.random.Generator) -> Files:
    """Checkpoints, and their base, as most are."""
    files = Files(folder, rng)
    files.write_base({f"{Q}.weight": (11, 13), "model.norm.weight": (7,)}, "BF16")
    for name in "abc":
        files.write_checkpoint(name, "BF16")
    return files


@pytest.mark.parametrize("write_files", [write_every_kind, write_transposed, write_bfloat16])
def test_every_kind_of_change_cut_anywhere(
    tmp_path: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    write_files: Callable[[Path, np.random.Generator], Files],
) -> None:
    files = write_files(tmp_path, np.random.default_rng(seed))
    pool, expected = files.pool(), naive_conflicts(tmp_path, files.names)
    check(tmp_path, pool)
    for size in range(1, 45):
        monkeypatch.setattr(tensor_sums, "_TILE", size)
        monkeypatch.setattr(tensor_sums, "_CHUNK", (size % 3 + 1) * size * len(files.names))
        monkeypatch.setattr(delta_rows, "_BLOCK", size)
        check_pairs(conflict_of(pool), expected)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), ()])
def test_parameters_of_no_elements_or_no_dimensions(
    tmp_path: Path, seed: int, shape: tuple[int, ...]
) -> None:
    files = Files(tmp_path, np.random.default_rng(seed))
    files.write_base({"model.layers.0.odd.weight": shape, f"{Q}.weight": (4, 5)})
    for name in "abc":
        files.write_checkpoint(name)
    check(tmp_path, files.pool())


def test_layers_are_in_their_order(tmp_path: Path, seed: int) -> None:
    files = Files(tmp_path, np.random.default_rng(seed))
    files.write_base(shapes_of(files.rng, layers=12))
    for name in "ab":
        files.write_checkpoint(name)
    found = [layer.name for layer in conflict_of(files.pool()).layers]
    inside = [name for name in found if name.startswith("model.layers.")]
    assert inside == [f"model.layers.{k}" for k in range(12)]
    assert set(found) - set(inside) == {"model.embed_tokens", "lm_head"}


# Pools with one right answer


@pytest.fixture
def files(tmp_path: Path, seed: int) -> Files:
    """A base of two matrices and a vector."""
    files = Files(tmp_path, np.random.default_rng(seed))
    files.write_base({f"{Q}.weight": (13, 11), f"{V}.weight": (9, 11), "model.norm.weight": (11,)})
    return files


def write(files: Files, kind: str, name: str, *, of_base: bool = False) -> None:
    """A random expert, or one that changes nothing."""
    if kind == "lora":
        files.write_lora(name, {Q: 3, V: 2})
        tensors = load_file(files.file(name))
        if of_base:
            save_file(
                {k: t * (0 if "lora_B" in k else 1) for k, t in tensors.items()}, files.file(name)
            )
    elif of_base:
        files.save_checkpoint(name, load_file(files.file("base")))
    else:
        files.write_checkpoint(name)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_identical_experts(files: Files, kind: str) -> None:
    write(files, kind, "a")
    tensors = load_file(files.file("a"))
    if kind == "lora":
        files.save_adapter(
            "b",
            {k.removeprefix("base_model.model."): t for k, t in tensors.items()},
            rank_pattern={Q: 3, V: 2},
        )
    else:
        files.save_checkpoint("b", tensors)
    result = conflict_of(files.pool())
    (pair,) = result.pairs
    for ratio in ("magnitude_change_ratio", "sign_change_ratio", "conflicting_magnitude_ratio"):
        assert getattr(pair, ratio).number == 0, ratio
    assert pair.sign_change_ratio_of_base.number == 0
    assert pair.cosine.number == pytest.approx(1, abs=1e-15)
    assert pair.cosine_mean.number == pytest.approx(1, abs=1e-15)
    assert result.norms["a"] == result.norms["b"] > 0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_an_expert_that_changes_nothing_beside_others(files: Files, kind: str) -> None:
    write(files, kind, "zero", of_base=True)
    for name in "ab":
        write(files, kind, name)
    result = conflict_of(files.pool())
    assert result.norms["zero"] == 0
    assert min(result.norms["a"], result.norms["b"]) > 0
    share = naive_conflicts(files.folder, files.names)
    for pair in result.pairs[:2]:
        assert pair.a == "zero"
        assert pair.magnitude_change_ratio.number == pytest.approx(1, rel=1e-12)
        assert pair.conflicting_magnitude_ratio.number == pytest.approx(1, rel=1e-12)
        non_zeros = share.pairs["zero", pair.b]["sign_change_ratio"]
        assert pair.sign_change_ratio.number == pytest.approx(non_zeros, rel=1e-12)
        assert 0 < non_zeros <= 1
        assert (pair.cosine.number, pair.cosine.reason) == (None, "zero_task_vectors")
        assert (pair.cosine_mean.number, pair.cosine_mean.reason) == (None, "no_shared_tensors")
    assert result.pairs[2].cosine.number is not None


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_experts_that_change_nothing(files: Files, kind: str) -> None:
    for name in "ab":
        write(files, kind, name, of_base=True)
    write(files, kind, "c")
    result = conflict_of(files.pool())
    pair = result.pairs[0]
    for ratio in RATIOS:
        reason = "no_shared_tensors" if ratio == "cosine_mean" else "zero_task_vectors"
        assert (getattr(pair, ratio).number, getattr(pair, ratio).reason) == (None, reason)
    alone = conflict_of(files.pool(["a", "b"]))
    assert alone.norms == {"a": 0, "b": 0}
    assert alone.pairs[0] == pair
    for part in (*alone.layers, *alone.tensors):
        assert all(np.isnan(ratio[0, 1]) for ratio in part.ratios.values())


def test_experts_on_different_modules(files: Files) -> None:
    files.write_lora("a", {Q: 2}, zeros=0.4)
    files.write_lora("b", {V: 3}, zeros=0.4)
    (pair,) = conflict_of(files.pool()).pairs
    assert pair.magnitude_change_ratio.number == pytest.approx(1, rel=1e-12)
    assert pair.conflicting_magnitude_ratio.number == pytest.approx(1, rel=1e-12)
    non_zeros = 0
    for name, module in (("a", Q), ("b", V)):
        tensors = load_file(files.file(name))
        a, b = (tensors[f"base_model.model.{module}.lora_{x}.weight"].double() for x in "AB")
        non_zeros += int(torch.count_nonzero(b @ a))
    assert pair.sign_change_ratio.number == pytest.approx(non_zeros / (13 * 11 + 9 * 11), rel=1e-12)
    assert pair.cosine.number == 0
    assert (pair.cosine_mean.number, pair.cosine_mean.reason) == (None, "no_shared_tensors")


# Files that are not what they were, or should be


def save_changed(
    files: Files, name: str, key_ending: str, where: tuple[int, ...], bad: float
) -> None:
    tensors = load_file(files.file(name))
    (key,) = [key for key in tensors if key.endswith(key_ending)]
    tensors[key][where] = bad
    save_file(tensors, files.file(name))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["lora", "F32", "BF16"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_number_that_is_not_finite_is_refused(
    tmp_path: Path, seed: int, kind: str, bad: float
) -> None:
    """Whoever else leaves the parameter alone, and wherever in it the number is."""
    rng = np.random.default_rng(seed)
    files = Files(tmp_path, rng)
    dtype = "F32" if kind == "lora" else kind
    files.write_base({f"{Q}.weight": (63, 71), f"{V}.weight": (9, 71)}, dtype)
    files.write_lora("other", {V: 1})
    for name in "abc":
        if kind == "lora":
            files.write_lora(name, {Q: 3, V: 2})
        else:
            files.write_checkpoint(name, dtype)
    place = (int(rng.integers(63)), int(rng.integers(3 if kind == "lora" else 71)))
    ending = "q_proj.lora_B.weight" if kind == "lora" else "q_proj.weight"
    save_changed(files, "b", ending, place, bad)
    for names in (["other", "a", "b", "c"], ["b", "other"]):
        with pytest.raises(PoolError, match=f"'{Q}.weight' is not finite") as caught:
            conflict_of(files.pool(names))
        assert (caught.value.code, caught.value.expert) == ("MG105", "b")
        assert caught.value.fix


@pytest.mark.parametrize("kind", ["lora", "full", "base"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_file_that_became_shorter_is_refused(files: Files, kind: str, dtype: str) -> None:
    files.write_base(files.shapes, dtype)
    for name in "ab":
        if kind == "lora":
            files.write_lora(name, {Q: 3, V: 2}, dtype)
        else:
            files.write_checkpoint(name, dtype)
    pool = files.pool()
    for cut in (1, 100):
        file = files.file("base" if kind == "base" else "b")
        file.write_bytes(file.read_bytes()[:-cut])
        with pytest.raises(PoolError, match="was written to") as caught:
            conflict_of(pool)
        assert caught.value.expert == (None if kind == "base" else "b")
        assert caught.value.fix


def test_a_file_that_is_gone_is_refused(files: Files) -> None:
    for name in "ab":
        files.write_checkpoint(name)
    pool = files.pool()
    files.file("a").unlink()
    with pytest.raises(PoolError) as caught:
        conflict_of(pool)
    assert caught.value.expert == "a"


def test_experts_of_two_shapes_are_refused(files: Files) -> None:
    files.write_checkpoint("a")
    tensors = load_file(files.file("base"))
    tensors[f"{Q}.weight"] = files.draw((11, 13))
    files.save_checkpoint("b", tensors)
    with pytest.raises(PoolError, match=r"is \(11, 13\), that of 'a' \(13, 11\)") as caught:
        conflict_of(files.pool())
    assert (caught.value.code, caught.value.expert) == ("MG104", "b")


# Threads and order


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[Files]:
    """Tensors of several pieces even without cutting; adapters and checkpoints."""
    files = Files(tmp_path_factory.mktemp("large"), np.random.default_rng(seed))
    files.write_base({f"{Q}.weight": (1700, 500), f"{V}.weight": (40, 500)}, "BF16")
    for k in range(12):
        files.write_lora(f"lora{k}", {Q: 3, V: 2} if k % 2 else {Q: 2}, zeros=0.1)
    for k in range(3):
        files.write_checkpoint(f"full{k}", "BF16")
    return files


def numbers(result: ConflictResult) -> list[Any]:
    parts = [(p.name, {k: r.tobytes() for k, r in p.ratios.items()}) for p in result.tensors]
    layers = [(p.name, {k: r.tobytes() for k, r in p.ratios.items()}) for p in result.layers]
    return [result.pairs, result.norms, parts, layers]


@pytest.mark.parametrize("kind", ["lora", "full", ""])
@pytest.mark.parametrize("mode", ["exact", "sampled"])
def test_threads_change_no_number(
    large: Files, monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    names = [name for name in large.names if name.startswith(kind)]
    pool = large.pool(names, conflict={"mode": mode, "rows": 8})
    if kind != "lora":
        monkeypatch.setattr(tensor_sums, "_CHUNK", 1 << 18)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        found.append(numbers(conflict_of(pool)))
    assert found[0] == found[1] == found[2]


@given(generators, st.integers(2, 6))
@settings(max_examples=10, deadline=None, database=None)
def test_the_order_of_experts_changes_no_number(rng: np.random.Generator, experts: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), rng)
        files.write_base(shapes_of(rng))
        for k in range(experts):
            (add_lora if rng.random() < 0.5 else add_checkpoint)(files, f"e{k}", "F32")
        order = rng.permutation(files.names).tolist()
        first, second = conflict_of(files.pool()), conflict_of(files.pool(order))
    swapped = {frozenset((pair.a, pair.b)): pair for pair in second.pairs}
    for pair in first.pairs:
        other = swapped[frozenset((pair.a, pair.b))]
        for ratio in RATIOS:
            number, reason = getattr(pair, ratio).number, getattr(pair, ratio).reason
            assert getattr(other, ratio).reason == reason
            if number is not None:
                assert getattr(other, ratio).number == pytest.approx(number, rel=1e-12, abs=1e-14)
    assert {n: second.norms[n] for n in files.names} == pytest.approx(first.norms, rel=1e-12)
    places = [order.index(name) for name in files.names]
    for one, two in zip(first.tensors, second.tensors, strict=True):
        for ratio, found in one.ratios.items():
            np.testing.assert_allclose(
                two.ratios[ratio][np.ix_(places, places)], found, rtol=1e-12, atol=1e-14
            )


def test_progress_goes_up_to_one(files: Files) -> None:
    for name in "ab":
        files.write_checkpoint(name)
    told: list[float] = []
    run_conflict(files.pool(), no_library, told.append)
    assert told == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_stops_at_once(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    files = Files(tmp_path, np.random.default_rng(seed))
    files.write_base({f"model.layers.{k}.mlp.up_proj.weight": (4, 5) for k in range(60)})
    for name in "ab":
        files.write_checkpoint(name)
    pool = files.pool()
    begun: list[float] = []
    prepared: list[str] = []

    class Slow(conflicts.TensorSums):
        def __init__(self, parameter: str, *rest: Any) -> None:
            prepared.append(parameter)
            super().__init__(parameter, *rest)

        def over(self, pieces: Any) -> Any:
            begun.append(time.monotonic())
            time.sleep(0.05)
            return super().over(pieces)

    interrupted: list[float] = []

    def interrupt(_: float) -> None:
        interrupted.append(time.monotonic())
        raise KeyboardInterrupt

    monkeypatch.setattr(conflicts, "TensorSums", Slow)
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    with pytest.raises(KeyboardInterrupt):
        run_conflict(pool, no_library, interrupt)
    stopped = time.monotonic()
    assert len(interrupted) == 1
    assert stopped - interrupted[0] < 1
    count, told = len(begun), len(prepared)
    # each thread may have begun one more before it heard
    assert sum(start > interrupted[0] for start in begun) <= threads
    assert count < 30
    time.sleep(0.2)
    assert (len(begun), len(prepared)) == (count, told)
