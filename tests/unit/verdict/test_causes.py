"""The likely cause: no figure that is printed beside it may refute it."""

from __future__ import annotations

import hashlib
import math
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.verdict import causes
from pytest_mergegate.verdict.evidence import Case
from pytest_mergegate.verdict.judge import Judgement, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

NAMES = ("a", "b", "c", "d")


def hidden_of(gram: Any = None, scales: Mapping[str, float] | None = None) -> Any:
    return SimpleNamespace(
        states=SimpleNamespace(names=NAMES),
        scales={"merge": dict(scales or dict.fromkeys(NAMES, 0.25))},
        grams=dict.fromkeys(NAMES, np.eye(4) if gram is None else np.array(gram, dtype=float)),
    )


def trials_of(rate: Any) -> Any:
    """Trials in which a merge of these weights changes that share of every expert's answers."""

    def trial(scales: Mapping[str, float], of: Sequence[str]) -> Any:
        found = rate(scales)
        return dict.fromkeys(of, None if found is None else SimpleNamespace(rate=found))

    return SimpleNamespace(trial=trial)


def cause(rate: Any, *, allowed: float = 0.3, gram: Any = None, **scales: float) -> str | None:
    """Of expert a, where the merge has these weights (a quarter each)."""
    weights = dict.fromkeys(NAMES, 0.25) | scales
    hidden = hidden_of(gram, weights)
    found = causes._tried_cause(hidden, weights, "a", allowed, trials_of(rate))
    return found and str(found)


def alone(scales: Mapping[str, float]) -> bool:
    return set(scales) == {"a"}


def at_one(scales: Mapping[str, float]) -> bool:
    return scales.get("a") == 1 and len(scales) > 1


class TestItsOwnWeight:
    @pytest.mark.parametrize(
        ("scale", "says"),
        [
            (
                0.25,
                "weight too small at 0.25: even alone, 80% of its answers change; at weight 1, 10% "
                "of its answers",
            ),
            (
                1.3,
                "weight too large at 1.3: even alone, 80% of its answers change; at weight 1, 10% "
                "of its answers",
            ),
        ],
    )
    def test_is_to_blame_where_one_in_its_place_helps(self, scale: float, says: str) -> None:
        assert cause(lambda s: 0.1 if at_one(s) else 0.8, a=scale) == says

    @pytest.mark.parametrize(("scale", "small"), [(0.25, "small"), (1.3, "large")])
    def test_is_not_alone_to_blame_where_it_does_not(self, scale: float, small: str) -> None:
        """As three of four experts of a chat model were said to be diluted."""
        assert cause(lambda s: 1.0 if at_one(s) else 0.8, a=scale) == (
            f"weight too {small} at {scale}, and interference: even alone, 80% of its answers "
            "change; at weight 1 but beside the others, still all its answers"
        )

    def test_better_is_not_good_enough(self) -> None:
        """From all answers to 40 %, where 30 % are allowed."""
        found = cause(lambda s: 0.4 if at_one(s) else 1.0)
        assert (found or "").startswith("weight too small at 0.25, and interference")
        within = cause(lambda s: 0.4 if at_one(s) else 1.0, allowed=0.5) or ""
        assert within.startswith("weight too small at 0.25: ")

    def test_a_fifth_of_the_answers_is_not_little_where_a_twentieth_is_allowed(self) -> None:
        """Who keeps four of five answers alone has too small a weight under a strict limit."""
        found = cause(lambda s: 0.0 if at_one(s) else 0.2, allowed=0.05)
        assert (found or "").startswith("weight too small at 0.25: even alone, 20% of its")


class TestTheOthers:
    def test_one_of_them_is_to_blame_where_without_it_all_is_well(self) -> None:
        assert cause(lambda s: 1.0 if {"a", "c"} <= set(s) else 0.0) == (
            "interference with c: alone at its weight of 0.25, none of its answers change; with c, "
            "100%; without c, 0%"
        )

    def test_is_not_alone_to_blame_where_without_it_nothing_is_better(self) -> None:
        """Either of two breaks it."""
        found = cause(lambda s: 1.0 if "a" in s and {"b", "c"} & set(s) else 0.0)
        assert found == (
            "interference with b and others: alone at its weight of 0.25, none of its answers "
            "change; with b, 100%; without b, still 100%"
        )

    def test_none_by_itself(self) -> None:
        assert cause(lambda s: 0.9 if len(s) > 2 else 0.1) == (
            "interference of several experts: alone at its weight of 0.25, 10% of its answers "
            "change; with b, 10%; without b, still 90%"
        )

    def test_one_beside_others(self) -> None:
        """With two of them it is well, with all three it is not."""
        assert cause(lambda s: 0.9 if len(s) > 3 else 0.1) == (
            "interference with b, beside others: alone at its weight of 0.25, 10% of its answers "
            "change; with b, 10%; without b, 10%"
        )

    def test_that_push_the_same_way_double_it(self) -> None:
        """All task vectors are one: at full weight the inputs go four times as far."""
        gram = np.ones((4, 4))
        full = dict.fromkeys(NAMES, 1.0)
        assert cause(lambda s: 0.0 if sum(s.values()) <= 1 else 1.0, gram=gram, **full) == (
            "others push the same way: its inputs go 4 times as far as its own task vector takes "
            "them; with all weights divided by that, none of its answers change"
        )
        found = cause(lambda s: 0.0 if len(s) == 1 else 1.0, gram=gram, **full)
        assert (found or "").startswith("interference with b and others")

    def test_nobody_where_the_probes_do_not_show_it(self) -> None:
        assert cause(lambda s: 0.2 if len(s) == 4 else 0.9) == (
            "not seen on the probes: there, 20% of its answers change"
        )

    def test_what_cannot_be_read_is_not_guessed(self) -> None:
        assert cause(lambda s: None) is None

    def test_a_large_weight_pulls_by_its_square(self) -> None:
        """Of 0.5² · 4 and 0.9² · 2, the second is more."""
        hidden = hidden_of(np.diag([1.0, 4.0, 2.0, 0.0]))
        pulls = causes.pulls(hidden, {"a": 1.0, "b": 0.5, "c": 0.9, "d": 1.0}, "a")
        assert pulls == pytest.approx({"b": 1.0, "c": 1.62, "d": 0.0})


@pytest.mark.parametrize("allowed", [0.05, 0.3, 0.6])
def test_no_figure_refutes_its_cause(allowed: float, seed: int) -> None:
    """In worlds without rhyme or reason, where every merge changes what it likes."""
    rng = np.random.default_rng(seed)
    seen = set()
    for world in range(600):
        weights = dict(zip(NAMES, rng.choice([0.25, 0.5, 1.0, 1.3], 4).tolist(), strict=True))
        level = float(rng.uniform(0, 1))

        def rate(scales: Mapping[str, float], world: int = world, level: float = level) -> float:
            if dict(scales) == {"a": 1.0}:
                return 0.0  # the expert itself
            said = f"{seed} {world} {sorted(scales.items())}"
            drawn = hashlib.sha256(said.encode()).digest()[0] / 255
            return round(5 * drawn**level) / 5

        gram = (lambda m: m @ m.T)(rng.normal(size=(4, 4)) + rng.choice([0, 2]))
        found = cause(rate, allowed=allowed, gram=gram, **weights)
        assert found is not None
        kind, figures = found.split(": ", 1)
        for words, number in (("none of its", "0% of its"), ("all its", "100% of its")):
            figures = figures.replace(words, number)
        shares = [int(told) / 100 for told in re.findall(r"(\d+)%", figures)]
        own = {"a": weights["a"]}
        seen.add(re.sub(r"with [bcd]|at [\d.]+", "X", kind))
        if kind == "not seen on the probes":
            assert shares == [pytest.approx(rate(weights))]
            assert rate(weights) <= allowed
            continue
        assert rate(weights) > allowed
        if kind.startswith("weight too "):
            moved = rate(weights | {"a": 1.0})
            assert shares == [pytest.approx(rate(own)), pytest.approx(moved)]
            assert rate(own) > allowed
            assert (moved <= allowed) == ("interference" not in kind)
            assert ("small" in kind) == (weights["a"] < 1)
            continue
        assert rate(own) <= allowed
        if kind == "others push the same way":
            assert shares[0] <= allowed
            continue
        name = re.search(r"with ([bcd]), \d", figures).group(1)  # type: ignore[union-attr]
        pair = rate(own | {name: weights[name]})
        without = rate({n: w for n, w in weights.items() if n != name})
        assert shares == [pytest.approx(share) for share in (rate(own), pair, without)]
        assert (
            kind
            == {
                (True, True): f"interference with {name}",
                (True, False): f"interference with {name} and others",
                (False, True): f"interference with {name}, beside others",
                (False, False): "interference of several experts",
            }[pair > allowed, without <= allowed]
        )
        assert ("still" in figures) == (without > allowed)
    assert len(seen) >= 7, seen


def predicted(gram: Any, scale: float = 0.25) -> str | None:
    """Where no merge was tried."""
    found = causes._predicted_cause(hidden_of(gram), dict.fromkeys(NAMES, scale), "a")
    return found and str(found)


class TestStatesAlone:
    def test_own_weight_too_small(self) -> None:
        """(1 − ¼)²·1 of dilution against 3·(¼)²·1 of interference."""
        assert predicted(np.eye(4)) == (
            "weight too small at 0.25: 75% of the predicted distortion comes of it"
        )

    def test_own_weight_too_large(self) -> None:
        """(2 − 1)² of its own, and no other: a weight of 2 dilutes nothing."""
        found = predicted(np.diag([1.0, 0.01, 0, 0]), scale=2.0) or ""
        assert found.startswith("weight too large at 2: 96% of")

    def test_others_pull_too_much(self) -> None:
        """At full weight nothing is diluted; c moves these inputs the most."""
        found = predicted(np.diag([1, 0.1, 5, 0.2]), scale=1.0) or ""
        assert found.startswith("interference with c, beside others: the other task vectors")
        assert "(100%" in found

    def test_what_twins_make_up_for_is_no_cause(self) -> None:
        """Four copies of one task vector, a quarter each, are that task vector."""
        assert predicted(np.ones((4, 4))) is None

    def test_nothing_moves(self) -> None:
        assert predicted(np.zeros((4, 4))) is None


@pytest.mark.parametrize(
    ("budget", "begins"),
    [
        ({}, "weight too small at 0.25: "),
        ({"max_disagreement": 0.6}, "not seen"),
        ({"max_loss": 5}, "weight too small at 0.25, and interference"),
        ({"min_gain_kept": 0.7}, "weight too small at 0.25: "),
        ({"min_gain_kept": 0.95}, "weight too small at 0.25, and interference"),
        ({"max_mds": 3}, "weight too small at 0.25: "),
    ],
)
def test_what_is_allowed_is_what_the_gate_allows(
    tmp_path: Path, budget: dict[str, float], begins: str
) -> None:
    """Half of the answers go, and a tenth of them with the expert's weight at one."""
    gate = gate_from(
        {"base": "b", "experts": {n: f"x/{n}" for n in NAMES}, "budget": budget}, root=tmp_path
    )
    pool: Any = SimpleNamespace(names=NAMES, spec=gate.spec)
    verdict = Verdict(
        budget="max_disagreement",
        limit=math.nan,
        value=Value(number=0.5),
        expert="a",
        method="merge",
        status="fail",
        basis="merged",
        message="",
    )
    judgement = Judgement(verdicts=(verdict,), status="fail", method="merge")
    trials = trials_of(lambda s: 0.1 if at_one(s) else 0.5)
    found = causes.likely_cause(Case(pool=pool), hidden_of(), judgement, verdict, trials)
    assert str(found).startswith(begins)
