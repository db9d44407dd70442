"""Every number of the report against a naive computation, on random experts new in every run."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from naive import Naive, Tie, clopper_pearson_upper, partitions, rouge_l, squared_radius
from pools import Adapter, read_gate, read_jsonl, write_gate, write_jsonl, write_pool
from scipy.stats import beta
from transformers import AutoModelForCausalLM

from pytest_mergegate import assess, metrics
from pytest_mergegate.engine.models import language_models as generation
from pytest_mergegate.engine.models import model as engine_model
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.merge import merge
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.report.merge_records import MergedExpertRecord
    from pytest_mergegate.report.types import Report

INPUTS = 6
LEVEL = 1 - 0.1 / 4
"""Of a certificate at 90 %, where any of four methods may be chosen."""
ADAPTERS = {
    "base": Adapter(),  # the name that the weights without any expert go by
    "b": Adapter(
        scale=0.15,
        examples="choices",
        lora={"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    ),
    "c": Adapter(
        lora={
            "target_modules": ["up_proj", "down_proj", "lm_head"],
            "rank_pattern": {"up_proj": 2},
            "alpha_pattern": {"layers.0.mlp.down_proj": 3},
        }
    ),
    "d": Adapter(
        scale=0.1,
        examples="unlabelled",
        lora={"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1]},
    ),
}
METRICS = {"base": "exact_match", "b": "accuracy", "c": "rouge_l"}
READ = {"b": {"length_normalization": "bytes"}, "c": {"stop": ["e", "no", " "]}}
GATE: dict[str, Any] = {
    "budget": {"max_mds": 3, "max_disagreement": 0.5, "max_loss": 50},
    "certificate": {"per_task": INPUTS, "confidence": 0.9},
    "merge": {
        "methods": [
            "linear",
            {"method": "task_arithmetic", "weight": 0.5},
            {"method": "ties", "density": 0.5},
            {"method": "dare_ties", "density": 0.5},
        ]
    },
}
LINEAR, ARITHMETIC = "linear", "task_arithmetic weight=0.5"
TIES, DARE = "ties density=0.5", "dare_ties density=0.5"
EXACT = [LINEAR, ARITHMETIC, TIES]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pool, what the package says of it, and what the slow way does."""

    gate: Path
    report: Report
    naive: Naive
    scales: dict[str, dict[str, float]]
    models: dict[str, Any]
    sums: dict[str, Any]
    """θ_0 + Σ λ_j τ_j for every method."""

    def merged(self, label: str, expert: str) -> MergedExpertRecord:
        """The report on one expert under one merge."""
        merge = next(m for m in self.report.merges if m.method == label)
        return next(e for e in merge.experts if e.name == expert)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Case:
    """A fresh pool; drawn again where an answer hangs on round-off."""
    for attempt in range(10):
        gate = _write(tmp_path_factory.mktemp("pool"), seed + 1000 * attempt)
        try:
            return _case(gate)
        except Tie:
            continue
    pytest.fail("ten pools in a row with a tie: answers are decided by round-off")


def _write(folder: Path, seed: int) -> Path:
    gate = write_pool(folder, seed, ADAPTERS, count=INPUTS, **GATE)
    settings = read_gate(gate)
    for name, metric in METRICS.items():
        settings["experts"][name] |= {"metric": metric, **READ.get(name, {})}
    write_gate(gate, settings)
    naive = Naive(gate)
    for name in METRICS:  # experts that are right on most of their inputs
        rows = read_jsonl(folder / "data" / f"{name}.jsonl")
        for k, row in enumerate(rows[: INPUTS - 2]):
            right = naive.output(naive.experts[name], name, k)
            row["target"] = [row["target"], right] if k % 2 else right
        write_jsonl(folder / "data" / f"{name}.jsonl", rows)
    return gate


def _case(gate: Path) -> Case:
    naive = Naive(gate)
    ties = naive.mergekit("ties", density=0.5, weight=1.0)
    scales = {
        LINEAR: dict.fromkeys(naive.names, 1 / len(naive.names)),
        ARITHMETIC: dict.fromkeys(naive.names, 0.5),
        TIES: dict.fromkeys(naive.names, naive.least_squares_scale(ties)),
    }
    models = {label: naive.merged(scales[label]) for label in (LINEAR, ARITHMETIC)} | {TIES: ties}
    sums = {**models, TIES: naive.merged(scales[TIES])}
    for name in naive.names:  # whether there is a tie anywhere
        naive.differing(naive.base, name)
        for label in EXACT:
            naive.differing(models[label], name)
            naive.differing(sums[label], name)
            naive.forecast(name, scales[label])
    return Case(
        gate=gate, report=assess(gate), naive=naive, scales=scales, models=models, sums=sums
    )


def test_distances(case: Case) -> None:
    _assert_distances(case.report, case.naive.distances())


@pytest.mark.parametrize(
    ("positions", "normalize"),
    [("answer", "none"), ("answer", "base"), ("last", "unit"), ("mean", "unit"), ("mean", "base")],
)
def test_other_readings_of_the_states(case: Case, positions: str, normalize: str) -> None:
    settings = read_gate(case.gate)
    settings["probes"] |= {"positions": positions, "normalize": normalize}
    gate = case.gate.with_name(f"{positions}-{normalize}.mergegate.yaml")
    report = assess(write_gate(gate, settings | {"budget": {"max_mds": 3}}))
    _assert_distances(report, case.naive.distances(positions, normalize))
    reasons = {forecast.disagreement_reason for forecast in report.forecasts}
    assert ("positions_not_answer" in reasons) == (positions != "answer")


def _assert_distances(report: Report, expected: dict[tuple[str, str], tuple[float, float]]) -> None:
    found = {(p.a, p.b): (p.distance, p.distance_squared) for p in report.pairs}
    assert found.keys() == expected.keys()
    for pair, numbers in expected.items():
        assert found[pair] == pytest.approx(numbers, rel=1e-4)


def test_similarity_and_difficulty(case: Case) -> None:
    distances = {pair: unit for pair, (unit, _) in case.naive.distances().items()}
    largest, smallest = max(distances.values()), min(distances.values())
    similarity = {pair: (largest - d) / (largest - smallest) for pair, d in distances.items()}
    for pair in case.report.pairs:
        assert pair.hidden_similarity == pytest.approx(
            similarity[pair.a, pair.b], rel=1e-4, abs=1e-4
        )
    for expert in case.report.experts:
        own = [s for pair, s in similarity.items() if expert.name in pair]
        assert expert.mean_similarity == pytest.approx(np.mean(own), rel=1e-4, abs=1e-4)
        assert expert.mds == pytest.approx(1 / np.mean(own), rel=1e-4)


def test_shift_and_norm(case: Case) -> None:
    for expert in case.report.experts:
        tau = case.naive.task_vectors[expert.name]
        norm = math.sqrt(sum(float((value**2).sum()) for value in tau.values()))
        assert expert.shift == pytest.approx(case.naive.shift(expert.name), rel=1e-4)
        assert expert.norm == pytest.approx(norm, rel=1e-4)


def test_the_base_by_itself(case: Case) -> None:
    for expert in case.report.experts:
        _, least, _ = case.naive.apart(case.naive.base, expert.name)
        assert expert.base_disagreement == pytest.approx(least.mean())


def test_bounds(case: Case) -> None:
    names, bounds = case.naive.names, case.report.bounds
    assert bounds is not None
    squared = case.naive.squared_distances()
    uniform = np.full(len(names), 1 / len(names))
    from_uniform = squared @ uniform - 0.5 * uniform @ squared @ uniform
    base = np.mean([np.mean(np.sum(s**2, axis=1)) for s in case.naive.states(case.naive.base)])
    assert bounds.minimum_distortion == pytest.approx(squared_radius(squared), rel=1e-4)
    assert bounds.diameter == pytest.approx(math.sqrt(squared.max()), rel=1e-4)
    assert bounds.relative_diameter == pytest.approx(math.sqrt(squared.max() / base), rel=1e-4)
    assert bounds.uniform_distortion == pytest.approx(from_uniform.max(), rel=1e-4)
    assert bounds.paper_bound == pytest.approx(32 / 66 * squared.max(), rel=1e-4)
    weights = np.array([bounds.weights[name] for name in names])
    assert weights.sum() == pytest.approx(1)
    assert 0.5 * weights @ squared @ weights == pytest.approx(bounds.minimum_distortion, rel=1e-4)


def test_plan(case: Case) -> None:
    plan, names, squared = case.report.plan, case.naive.names, case.naive.squared_distances()
    assert plan is not None
    radii = [
        (len(groups), max(squared_radius(squared[np.ix_(group, group)]) for group in groups))
        for groups in partitions(list(range(len(names))))
    ]
    assert [point.models for point in plan.curve] == [1, 2, 3, 4]
    for point in plan.curve:
        best = min(radius for models, radius in radii if models <= point.models)
        assert point.distortion == pytest.approx(best, rel=1e-4, abs=1e-9)
        assert sorted(name for group in point.groups for name in group) == sorted(names)
        for group in ([names.index(name) for name in members] for members in point.groups):
            radius = squared_radius(squared[np.ix_(group, group)])
            assert radius <= point.distortion * (1 + 1e-4) + 1e-9


def test_linearity_gap(case: Case) -> None:
    naive, bounds = case.naive, case.report.bounds
    assert bounds is not None
    base, merged = naive.states(naive.base), naive.states(case.models[LINEAR])
    experts = [naive.states(naive.experts[name]) for name in naive.names]
    mixed = [np.mean([states[k] for states in experts], axis=0) for k in range(len(base))]
    gaps = [np.mean(np.sum((m - x) ** 2, axis=1)) for m, x in zip(merged, mixed, strict=True)]
    assert bounds.linearity_gap == pytest.approx(math.sqrt(np.mean(gaps)), rel=1e-4)


def test_conflict_ratios(case: Case) -> None:
    vectors, base = case.naive.task_vectors, case.naive.base.state_dict()
    size = sum(value.numel() for value in base.values())
    for pair in case.report.pairs:
        keys = sorted(vectors[pair.a].keys() | vectors[pair.b].keys())
        parts = [
            [vectors[n].get(k, torch.zeros_like(base[k])) for k in keys] for n in (pair.a, pair.b)
        ]
        a, b = (torch.cat([value.flatten() for value in values]) for values in parts)
        changed, weight = a.sign() != b.sign(), float(a.abs().sum() + b.abs().sum())
        cosines = [
            float((x * y).sum() / (x.norm() * y.norm()))
            for x, y in zip(*parts, strict=True)
            if x.norm() > 0 and y.norm() > 0
        ]
        assert pair.magnitude_change_ratio == pytest.approx(
            float((a - b).abs().sum()) / weight, rel=1e-4
        )
        assert pair.sign_change_ratio == pytest.approx(float(changed.double().mean()), rel=1e-4)
        assert pair.sign_change_ratio_of_base == pytest.approx(int(changed.sum()) / size, rel=1e-4)
        assert pair.conflicting_magnitude_ratio == pytest.approx(
            float((a - b).abs()[changed].sum()) / weight, rel=1e-4
        )
        assert pair.cosine == pytest.approx(
            float(a @ b / (a.norm() * b.norm())), rel=1e-4, abs=1e-6
        )
        if cosines:
            assert pair.cosine_mean == pytest.approx(np.mean(cosines), rel=1e-4, abs=1e-6)
        else:
            assert pair.cosine_mean is None
            assert pair.cosine_mean_reason == "no_shared_tensors"


@pytest.mark.parametrize("label", EXACT)
def test_forecast(case: Case, label: str) -> None:
    for name in case.naive.names:
        found = next(
            f
            for f in case.report.forecasts
            if (f.method, f.expert, f.kind) == (label, name, "states")
        )
        if case.naive.by_choices(name) and found.disagreement is None:
            assert found.disagreement_reason == "choices_share_first_token"
            continue
        differing, divergence = case.naive.forecast(name, case.scales[label])
        if case.naive.by_rouge(name):
            assert found.disagreement_reason == "states_give_no_text"
        else:
            assert found.disagreement == pytest.approx(differing / INPUTS)
            assert found.disagreement_upper == pytest.approx(
                clopper_pearson_upper(differing, INPUTS, LEVEL)
            )
        assert found.kl == pytest.approx(divergence, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("label", EXACT)
def test_surrogate(case: Case, label: str) -> None:
    """One forward of the factored sum, and no merge: what a gate that stops here is told."""
    report = assess(case.gate, stage="hidden")
    assert not report.merges
    for name in case.naive.names:
        found = next(
            f
            for f in report.forecasts
            if (f.method, f.expert, f.kind) == (label, name, "surrogate")
        )
        apart = case.naive.apart(case.sums[label], name)
        assert found.exact == (label != TIES)
        assert found.inputs == INPUTS
        assert found.compared_by == ("rouge_l" if case.naive.by_rouge(name) else "exact")
        assert found.disagreement == pytest.approx(apart[0].mean())
        assert found.disagreement_upper == pytest.approx(_bounds(case.naive, name, apart)[2])
        divergence = case.naive.divergence(case.sums[label], name)
        assert found.kl == pytest.approx(divergence, rel=1e-4, abs=1e-7)


def _bounds(naive: Naive, name: str, apart: np.ndarray) -> tuple[float, float, float]:
    """Both ends of the interval of a disagreement, and the bound on it."""
    _, least, most = apart
    if naive.by_rouge(name):
        ends = (metrics.mean_interval(of, confidence=LEVEL) for of in (least, most))
        (low, _), (_, high) = ends
        return low, high, metrics.mean_bound(most, confidence=LEVEL)
    few, many = int(least.sum()), int(most.sum())
    return (
        0 if few == 0 else float(beta.ppf((1 - LEVEL) / 2, few, INPUTS - few + 1)),
        1 if many == INPUTS else float(beta.ppf((1 + LEVEL) / 2, many + 1, INPUTS - many)),
        clopper_pearson_upper(many, INPUTS, LEVEL),
    )


@pytest.mark.parametrize("label", EXACT)
def test_merge(case: Case, label: str) -> None:
    naive, model = case.naive, case.models[label]
    for name in naive.names:
        found = case.merged(label, name)
        apart = naive.apart(model, name)
        distortion, own = naive.distortion(model, name)
        low, high, upper = _bounds(naive, name, apart)
        assert found.inputs == INPUTS
        assert found.disagreement == pytest.approx(apart[0].mean())
        assert found.disagreement_interval == pytest.approx([low, high])
        assert found.cut == (apart[1] < apart[2]).sum()
        assert found.disagreement_upper == pytest.approx(upper)
        assert found.kl == pytest.approx(naive.divergence(model, name), rel=1e-4, abs=1e-7)
        if naive.by_choices(name):  # no text
            assert (found.token_agreement, found.total_variation) == (None, None)
        else:
            agreement, variation = naive.tokens(model, name)
            assert found.token_agreement == pytest.approx(agreement, abs=1e-6)
            assert found.total_variation == pytest.approx(variation, rel=1e-4, abs=1e-6)
            if not naive.by_rouge(name):  # greedy answers are equal where all their tokens agree
                assert (agreement == 1) == (found.disagreement == 0)
        assert found.distortion == pytest.approx(distortion, rel=1e-4)
        assert found.relative_distortion == pytest.approx(math.sqrt(distortion / own), rel=1e-4)


@pytest.mark.parametrize("label", EXACT)
def test_scores_and_loss(case: Case, label: str) -> None:
    naive = case.naive
    for name, metric in METRICS.items():
        targets = [_references(row) for row in naive.rows[name]]
        scores = [
            np.array([_score(metric, naive.output(m, name, k), t) for k, t in enumerate(targets)])
            for m in (naive.base, naive.experts[name], case.models[label])
        ]
        base, own, merged = (float(s.mean()) for s in scores)
        found = case.merged(label, name)
        assert (found.score_base, found.score_expert) == pytest.approx((base, own))
        assert found.score_merged == pytest.approx(merged)
        if own == 0:
            assert (found.loss, found.loss_reason) == (None, "expert_score_zero")
            continue
        labels = [label for several in targets for label in several]
        chance = max(map(labels.count, labels)) / INPUTS if metric == "accuracy" else 0
        assert found.loss == pytest.approx((merged / own - 1) * 100)
        assert found.loss_interval == pytest.approx(
            metrics.merging_loss_interval(
                scores[2],
                scores[1],
                confidence=LEVEL,
                binary=metric != "rouge_l",
            )
        )
        # so few examples show of no expert that it adds anything
        adds = scores[1].sum() > scores[0].sum() + 1e-9
        assert found.gain_kept is None
        assert found.gain_kept_reason == f"expert_{'gain_unclear' if adds else 'gains_nothing'}"
        if own > chance:
            assert found.retention == pytest.approx((merged - chance) / (own - chance))


def _references(row: dict[str, Any]) -> list[str]:
    target: str | list[str] = row["target"]
    return [target] if isinstance(target, str) else sorted(set(target))


@pytest.mark.parametrize("label", EXACT)
def test_cases(case: Case, label: str) -> None:
    """What each of two models says, and which inputs it is worst for."""
    naive = case.naive
    for name in naive.names:
        metric, rows = METRICS.get(name), naive.rows[name]
        models = (naive.experts[name], case.models[label])
        said = [[naive.output(model, name, k) for k in range(INPUTS)] for model in models]
        targets = [_references(row) if metric else [] for row in rows]
        scores = [
            [
                _score(metric, text, right) if metric else 0.0
                for text, right in zip(texts, targets, strict=True)
            ]
            for texts in said
        ]
        seen, kl = naive.apart(models[1], name)[0], naive.divergences(models[1], name)
        worst = sorted(
            np.flatnonzero(seen).tolist(),
            key=lambda k: (round(scores[1][k] - scores[0][k], 9), -seen[k], -kl[k]),
        )
        found = case.merged(label, name).changed
        assert [c.input for c in found] == [rows[k]["input"] for k in worst[:3]]
        for record, k in zip(found, worst, strict=False):
            assert (record.expert, record.merged) == (said[0][k], said[1][k])
            shown = (record.target or "").split("\n")
            assert sorted(line.removeprefix("or: ") for line in shown) == (targets[k] or [""])
            assert record.distance == pytest.approx(seen[k])
            own, other, at = said[0][k], said[1][k], record.parts_at
            assert own[:at] == other[:at]
            assert own[at : at + 1] != other[at : at + 1] or at == len(own) == len(other)
            if metric:
                assert record.score_expert == pytest.approx(scores[0][k])
                assert record.score_merged == pytest.approx(scores[1][k])
            else:
                assert (record.score_expert, record.score_merged) == (None, None)


def _score(metric: str, output: str, references: list[str]) -> float:
    if metric == "rouge_l":
        return max(rouge_l(output, reference) for reference in references)
    return float(output in references)


@pytest.mark.parametrize("label", EXACT)
def test_certified_loss(case: Case, label: str) -> None:
    certified = {
        p.expert: p.loss
        for p in case.report.predictions
        if (p.method, p.source) == (label, "certificate")
    }
    for name in case.naive.names:
        found = case.merged(label, name)
        score = found.score_expert if name in METRICS else 1.0
        if score:
            upper = found.disagreement_upper
            assert certified[name] == pytest.approx(-100 * min(1, upper / score))
        else:
            assert certified[name] is None


def test_slerp(case: Case, tmp_path: Path) -> None:
    settings = read_gate(case.gate)
    experts = {name: settings["experts"][name] for name in ("base", "c")}
    merging = {"methods": ["slerp"], "weights": {"base": 0.7, "c": 0.3}}
    budget = {"max_disagreement": 0.5}
    gate = write_gate(
        case.gate.with_name("pair.mergegate.yaml"),
        settings | {"experts": experts, "merge": merging, "budget": budget},
    )
    report, naive = assess(gate), Naive(gate)
    model = naive.mergekit("slerp", with_base=False, t=0.3)
    for found in report.merges[0].experts:
        distortion, _ = naive.distortion(model, found.name)
        assert found.distortion == pytest.approx(distortion, rel=1e-4)
        assert found.kl == pytest.approx(naive.divergence(model, found.name), rel=1e-4, abs=1e-7)


def _numbers(report: Report) -> dict[str, Any]:
    """Everything measured, by the names of experts instead of by their places."""
    data = report.model_dump()
    pairs = {frozenset((p.pop("a"), p.pop("b"))): p for p in data["pairs"]}
    merges = {m["method"]: {e.pop("name"): e for e in m["experts"]} for m in data["merges"]}
    return {
        "pairs": pairs,
        "bounds": data["bounds"],
        "merges": merges,
        "experts": {e.pop("name"): e for e in data["experts"]},
        "forecasts": {(f.pop("method"), f.pop("expert")): f for f in data["forecasts"]},
        "curve": [point["distortion"] for point in data["plan"]["curve"]],
        "verdicts": {
            (v["budget"], v["expert"]): (v["value"], v["status"]) for v in data["verdicts"]
        },
    }


def _assert_close(found: Any, expected: Any, where: str = "report") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _assert_close(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for k, (one, other) in enumerate(zip(found, expected, strict=True)):
            _assert_close(one, other, f"{where}[{k}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6), where
    else:
        assert found == expected, where


def test_again_is_the_same(case: Case) -> None:
    again = assess(case.gate)
    assert _numbers(again) == _numbers(case.report)


@pytest.mark.parametrize("tokens", [1, 10**6], ids=["one by one", "all at once"])
def test_batches_change_nothing(case: Case, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_model, "batch_tokens", lambda _: tokens)
    monkeypatch.setattr(generation, "_KEY_VALUE_BYTES", 1)
    _assert_close(_numbers(assess(case.gate)), _numbers(case.report))


def test_sharded_base_is_the_same(case: Case) -> None:
    base, shards = case.gate.parent / "base", case.gate.parent / "shards" / "base"
    shutil.copytree(base, shards, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    gate = case.gate.with_name("shards.mergegate.yaml")
    report = assess(write_gate(gate, read_gate(case.gate) | {"base": "shards/base"}))
    # not to the last bit: where weights lie in a file decides how a product is cut up
    _assert_close(_numbers(report), _numbers(case.report))


def test_order_changes_nothing(case: Case) -> None:
    settings = read_gate(case.gate)
    settings["experts"] = dict(reversed(settings["experts"].items()))
    gate = write_gate(case.gate.with_name("reversed.mergegate.yaml"), settings)
    found, expected = _numbers(assess(gate)), _numbers(case.report)
    assert found["merges"].keys() == expected["merges"].keys() >= {DARE}
    for expert in (*found["experts"].values(), *expected["experts"].values()):
        del expert["mds_interval"]  # probes are resampled in another order
    _assert_close(found, expected)


def test_base_is_left_as_it_was(case: Case) -> None:
    gate = load_gate(case.gate)
    pool, _ = read_pool(gate)
    assert pool is not None
    engine = Engine(pool, "cpu")
    before = {name: p.detach().clone() for name, p in engine.model.parameters.items()}
    weights = merge(plan_methods(gate, pool.names)[0], engine).weights
    with engine.expert("c"):
        changed = [n for n, p in engine.model.parameters.items() if not torch.equal(p, before[n])]
        assert sorted(changed) == engine.vectors.parameters("c")
        assert torch.equal(engine.model.base_weight(changed[0]), before[changed[0]])
    with pytest.raises(RuntimeError), engine.model.swapped("merge", weights):
        raise RuntimeError
    assert engine.model.loaded == "base"
    for name, parameter in engine.model.parameters.items():
        assert torch.equal(parameter, before[name]), name
