"""What the validation card says of losses: bands, base rates and exact match, against loops."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from unit.history.registry.making import made
from unit.history.study.making import drawn_bed

from pytest_mergegate.history.beds import Bed

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from card.bands import EDGES, band_of, bands_text, deciding_cells, is_within
from card.beds import evidence
from card.exact import exact_text, nearly_right, sameness
from card.losses import Predicted
from card.ranks import base_rates
from card.scores import SCORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from card.beds import Evidence

    from pytest_mergegate.history.registry.lines import RegistryLine, ScoredExpert


@pytest.fixture
def beds(seed: int) -> list[Bed]:
    return [
        drawn_bed("one", letters="abcdefg", seed=seed, groups=4),
        drawn_bed("two", letters="abcde", seed=seed + 1, groups=3),
    ]


def of_lines(lines: Iterable[RegistryLine]) -> Evidence:
    return evidence([Bed(name="x", about={}, lines=tuple(lines))])


def experts_in(beds: Iterable[Bed]) -> Iterator[tuple[ScoredExpert, float]]:
    """Every expert of every line, and what it lost."""
    for bed in beds:
        for line in bed.lines:
            for expert in line.experts:
                assert expert.loss is not None
                yield expert, -expert.loss


def test_every_point_is_in_one_band(beds: list[Bed]) -> None:
    points, total = evidence(beds).every, 0
    for low, high in pairwise(EDGES):
        of = [one for one, lost in experts_in(beds) if low < lost <= high]
        band = band_of(points, low, high)
        alarms = sum(one.scores["disagreement"] > 0.3 for one in of)
        assert (band.points, band.alarms) == (len(of), alarms)
        assert band.label.endswith("collapsed") == (low >= 30)
        total += band.points
    assert total == len(points)


def test_what_is_lost_to_round_off_is_in_no_worse_band() -> None:
    assert is_within(-30.0 - 1e-12, 25, 30)
    assert not is_within(-30.0 - 1e-12, 30, 35)
    assert is_within(0.0, -math.inf, 0)
    assert is_within(2.0, -math.inf, 0)


def test_bands_beside_the_limit_are_told() -> None:
    scores = {"a": {"disagreement": 0.4}, "b": {"disagreement": 0.1}}
    pairs = [(-22, -23), (-26, -28), (-31, -33), (-21, -24), (-32, -35)]
    lines = [
        made("ab", f"m{k}", losses={"a": one, "b": other}, scores=scores)
        for k, (one, other) in enumerate(pairs)
    ]
    assert bands_text(of_lines(lines)) == (
        "Near the limit of 30 %: 50% of the losses of 20 to 25 % and 50% of the losses of 25 to "
        "30 % raise an alarm; of the collapses of 30 to 35 %, 50% raise none."
    )
    assert bands_text(of_lines(lines[:2])) == ""


def test_the_deciding_band_is_counted_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = [-5.0, -50.0, *(-rng.uniform(0, 100, 80)).round(1).tolist()]
    errors = rng.choice([-2.0, -0.5, 0.5, 2.0], len(losses)).tolist()  # on no edge
    of = [
        predicted(loss, rng.uniform(1, 9), error)
        for loss, error in zip(losses, errors, strict=True)
    ]
    inside, outside = [], []
    for one in of:
        (inside if 5 < -one.loss <= 50 else outside).append(one)
    assert outside[0] is of[0]
    assert inside[0] is of[1]
    assert deciding_cells(of) == [*naive_cells(inside), *naive_cells(outside)]
    assert deciding_cells(inside) == [*naive_cells(inside), 0, None, None]
    assert deciding_cells(outside) == []


def naive_cells(of: Sequence[Predicted]) -> list[object]:
    covered, width = 0, 0.0
    for one in of:
        covered += one.low <= one.loss <= one.high
        width += one.high - one.low
    return [len(of), f"{covered / len(of):.1%}", pytest.approx(width / len(of))]


def predicted(loss: float, half: float, error: float) -> Predicted:
    point = loss + error * half
    return Predicted(
        bed="x",
        merge="m",
        method="linear",
        loss=loss,
        point=point,
        low=point - half,
        high=point + half,
        constant=0.0,
        expert_mean=0.0,
    )


def test_the_base_rate_is_that_of_the_points_with_the_score(beds: list[Bed]) -> None:
    found = evidence(beds)
    for score in SCORES:
        told = []
        for chosen in (beds[:1], beds[1:], beds):
            bad = [lost > 30 for one, lost in experts_in(chosen) if score.field in one.scores]
            told.append(f"{sum(bad) / len(bad):.3f}")
        assert base_rates(score, found) == " / ".join(told)


def test_disagreement_is_held_against_the_loss_of_those_that_are_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines, pairs = [], []
    for k in range(40):
        differ, lost = int(rng.integers(1, 65)) / 64, float(rng.integers(0, 101))
        scores = {name: {"disagreement": differ} for name in "abc"}
        line = made("abc", f"m{k}", losses=dict.fromkeys("abc", -lost), scores=scores)
        right, weak, other = line.experts
        weak = weak.model_copy(update={"score_expert": 0.98})
        other = other.model_copy(update={"metric": "rouge_l"})
        lines.append(line.model_copy(update={"experts": (right, weak, other)}))
        pairs.append((100 * differ, lost))
    every = of_lines(lines).every
    found, whole = sameness(nearly_right(every)), sameness(every)
    assert found is not None
    assert whole is not None
    assert (found.points, found.experts, whole.points) == (40, 1, 120)
    assert found.correlation == pytest.approx(naive_correlation(pairs))
    assert found.apart == pytest.approx(sum(abs(a - b) for a, b in pairs) / 40)
    assert "(0.99 and more: 40 of 120 points)" in exact_text(of_lines(lines))


def naive_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    mean_a, mean_b = (sum(pair[k] for pair in pairs) / len(pairs) for k in (0, 1))
    both = sum((a - mean_a) * (b - mean_b) for a, b in pairs)
    each = [sum((pair[k] - m) ** 2 for pair in pairs) for k, m in enumerate((mean_a, mean_b))]
    return both / math.sqrt(each[0] * each[1])


def test_nothing_is_said_of_exact_match_where_nothing_varies() -> None:
    assert exact_text(of_lines([made("ab")])) == ""
    assert sameness(()) is None
