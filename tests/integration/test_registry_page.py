"""The made part of docs/registry.md, on drawn beds, against loops that do it the long way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from unit.history.study.making import METHODS, drawn_bed

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from card import registry  # noqa: E402
from card.beds import Evidence, evidence  # noqa: E402
from card.losses import WAYS, Predictions, methods_out, summary  # noqa: E402
from card.made import END, START  # noqa: E402

from pytest_mergegate.history.calibration.fit import calibrate  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from card.losses import Split


@pytest.fixture(scope="module")
def drawn() -> Evidence:
    beds = [drawn_bed("one", letters="abcdefg", seed=1), drawn_bed("two", letters="abcdef", seed=2)]
    return evidence(beds)


def test_methods_left_out_one_by_one(drawn: Evidence) -> None:
    found = list(registry.worths(methods_out(drawn), "disagreement"))
    assert [bed for bed, _ in found] == ["one"] * len(METHODS) + ["two"] * len(METHODS)
    names = [name.split()[0] for name in METHODS]
    for (bed, worth), name in zip(found, names * 2, strict=True):
        of = drawn.observed[bed]
        fitted = calibrate([one for one in of if one.method != name], "disagreement", 0.9)
        covered, width, error = 0, 0.0, 0.0
        test = [one for one in of if one.method == name]
        for one in test:
            said = fitted.predict(one.label, one.expert, one.scores["disagreement"])
            if said.low - 0.001 <= one.loss <= said.high + 0.001:
                covered += 1
            width += said.high - said.low
            error += abs(said.loss - one.loss)
        assert worth.losses == len(test)
        assert worth.coverage == pytest.approx(covered / len(test))
        assert worth.width == pytest.approx(width / len(test))
        assert worth.error == pytest.approx(error / len(test))


@pytest.mark.parametrize("split", WAYS.values(), ids=WAYS)
def test_every_loss_is_held_out_once(drawn: Evidence, split: Callable[[Evidence], Split]) -> None:
    held = [id(one) for _, test in split(drawn) for one in test]
    every = [id(one) for of in drawn.observed.values() for one in of]
    assert sorted(held) == sorted(every)


def test_parts_weigh_as_many_losses_as_they_have(drawn: Evidence) -> None:
    parts = [worth for _, worth in registry.worths(methods_out(drawn), "disagreement")]
    counts = [part.losses for part in parts]
    together = summary(Predictions(drawn).of("methods", "disagreement"))
    assert together.losses == sum(counts)
    for key in ("coverage", "width", "error"):
        of = [getattr(part, key) for part in parts]
        assert getattr(together, key) == pytest.approx(np.average(of, weights=counts))


def test_small_registries_are_whole_merges_and_the_same_again(
    drawn: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "DRAWS", 30)
    draws = list(registry.small_registries(drawn))
    sizes = []
    for train, test in draws:
        assert len({one.bed for one in [*train, *test]}) == 1
        drawn_merges = {one.merge for one in train}
        assert not drawn_merges & {one.merge for one in test}
        assert len(train) + len(test) == len(drawn.observed[test[0].bed])
        sizes.append(len(drawn_merges))
    assert (min(sizes), max(sizes)) == (registry.FEWEST, registry.MOST)
    assert len(draws) == 60
    again = list(registry.small_registries(drawn))
    assert again == draws
    assert draws[0] != draws[1]


def test_the_text_says_what_was_found(drawn: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DRAWS", 5)
    page = registry.with_worth(
        f"before\n{START}\n1785 losses\n{END}\nafter\n", drawn, Predictions(drawn)
    )
    assert page.startswith(f"before\n{START}\n")
    assert page.endswith(f"\n{END}\nafter\n")
    assert "1785" not in page
    assert "nan" not in page
    rows = [line for line in page.splitlines() if line.startswith(("| pools", "| experts"))]
    assert len(rows) == 4
    small = [w for _, w in registry.worths(registry.small_registries(drawn), "disagreement")]
    widths = [np.mean([w.width for w in of]) for of in (small[:5], small[5:])]
    told = " ".join(page.split())
    assert f"are {widths[0]:.0f} and {widths[1]:.0f} points wide on average (one and two)" in told
    pools = len({one.pool for of in drawn.observed.values() for one in of})
    assert f"{len(drawn.every)} losses of {pools} pools and 13 experts" in told
