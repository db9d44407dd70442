"""The table of budgets: what every row holds to, and one row more on its way through the house."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from report.formats.made import report

from pytest_mergegate.cli import Parser
from pytest_mergegate.cli.check import add_to
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.values import Value
from pytest_mergegate.gate.budget import Budget
from pytest_mergegate.gate.gatefile import Gate, gate_from
from pytest_mergegate.gate.sections import NonNegative  # noqa: TC001 - pydantic reads it
from pytest_mergegate.gate.spec import GateSpec
from pytest_mergegate.planning.limits import refuse_unplanned
from pytest_mergegate.report import build
from pytest_mergegate.report.formats.html_parts.tables import judged
from pytest_mergegate.report.formats.terminal import Look, summary
from pytest_mergegate.stages.base_answers import BaseAnswers
from pytest_mergegate.verdict.budgets import (
    BUDGETS,
    BudgetKind,
    kind_of,
    limit_on,
    share_within,
)
from pytest_mergegate.verdict.evidence import Case, Evidence, budget_questions, compare, is_open
from pytest_mergegate.verdict.judge import judge

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.gate.options import Stage
    from pytest_mergegate.verdict.evidence import Asked

KINDS = list(BUDGETS.values())
NAMES = ("a", "b")
Mode = Any


def divergence(asked: Asked) -> Evidence | None:
    """The merge's KL from the expert."""
    merge = asked.merge
    if merge is None:
        return None
    compared = merge.expert(asked.expert)
    detail = f"on {compared.inputs} inputs"
    far = Value(number=9.0)
    return Evidence(value=Value(number=compared.kl), basis="merged", detail=detail, base=far)


MAX_KL = BudgetKind(
    name="max_kl",
    quantity="kl",
    about="merge",
    stage="merge",
    find=divergence,
    unplanned="only a merge shows it",
    unit=" nats",
    title="divergence",
    option=("NATS", "largest mean divergence from an expert's answers"),
)


class BudgetWithKl(Budget):
    """The gate file's limits, and one more."""

    max_kl: NonNegative | None = None


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Two experts under the new budget."""
    monkeypatch.setitem(BUDGETS, "max_kl", MAX_KL)
    experts = {name: f"adapters/{name}" for name in NAMES}
    gate = gate_from({"base": "base", "experts": experts}, root=tmp_path)
    budget = BudgetWithKl(max_kl=0.5)
    return replace(gate, spec=gate.spec.model_copy(update={"budget": budget}))


def case(gate: Gate, *divergences: float) -> Case:
    """A linear merge that far from the experts, whose base is nobody."""
    experts = {
        name: SimpleNamespace(name=name, inputs=64, kl=kl)
        for name, kl in zip(NAMES, divergences, strict=True)
    }
    method = SimpleNamespace(label="linear")
    merge: Any = SimpleNamespace(method=method, expert=experts.__getitem__)
    pool: Any = SimpleNamespace(names=NAMES, labelled=lambda _: False, spec=gate.spec)
    base = {name: BaseAnswers(inputs=64, disagreement=1.0) for name in NAMES}
    return Case(pool=pool, merges=(merge,) if divergences else (), base=base)


class TestOneMore:
    def test_is_judged_method_by_method(self, gate: Gate) -> None:
        found = judge(gate, case(gate, 0.1, 0.75), "merge")
        assert [v.status for v in found.verdicts] == ["pass", "fail"]
        assert (found.status, found.method) == ("fail", "linear")

    def test_passes_nothing_without_a_word_on_the_base(
        self, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def baseless(asked: Asked) -> Evidence | None:
            found = divergence(asked)
            return found and replace(found, base=None)

        monkeypatch.setitem(BUDGETS, "max_kl", replace(MAX_KL, find=baseless))
        found = judge(gate, case(gate, 0.1, 0.75), "merge")
        assert [v.status for v in found.verdicts] == ["inconclusive", "fail"]
        assert "whether the base by itself would pass is not known" in found.verdicts[0].message

    def test_has_its_words_and_its_unit(self, gate: Gate) -> None:
        found = judge(gate, case(gate, 0.1, 0.75), "merge")
        said = "b: kl 0.75 nats over 0.5 nats under linear (on 64 inputs)"
        assert found.verdicts[1].message == said

    def test_asks_for_its_stage(self, gate: Gate) -> None:
        pool = case(gate, 0.1, 0.1).pool
        assert budget_questions(gate.spec, pool).deepest == "merge"
        assert budget_questions(gate.spec, pool).compares_merges
        (verdict, _) = judge(gate, replace(case(gate, 0.1, 0.1), merges=()), "hidden").verdicts
        assert verdict.status == "inconclusive"
        assert "needs stage merge" in verdict.message

    def test_stands_in_reports(self, gate: Gate) -> None:
        found = judge(gate, case(gate, 0.1, 0.75), "merge")
        records = tuple(build.verdict(verdict, gate) for verdict in found.verdicts)
        assert [(r.budget, r.value, r.limit) for r in records] == [
            ("max_kl", 0.1, 0.5),
            ("max_kl", 0.75, 0.5),
        ]
        assert judged(records[1]).name == "divergence"
        shown = report(names=NAMES, failing=(), verdicts=records, status="fail")
        said = summary([shown], Look(verbosity=1, width=120, reasons=True))
        assert records[1].message in said
        assert "kl" in said.split("verdict", maxsplit=1)[0]
        assert "≤ 0.5" in said

    def test_has_an_option(self, gate: Gate) -> None:
        parser = Parser()
        add_to(parser)
        assert parser.parse_args(["--max-kl", "0.5"]).max_kl == 0.5

    def test_is_refused_by_who_cannot_plan_for_it(self, gate: Gate) -> None:
        with pytest.raises(GateError, match="max_kl cannot be planned for: only a merge shows it"):
            refuse_unplanned(gate.spec)


class TestRows:
    def test_are_the_keys_of_the_gate_file(self) -> None:
        assert set(BUDGETS) == set(Budget.model_fields)
        assert {kind.name for kind in KINDS if kind.of_merges} == Budget.OF_MERGES

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_name_what_exists(self, kind: BudgetKind) -> None:
        for finder in (kind.find, kind.forecast):
            if finder is not None:
                found = resolve_name(f"pytest_mergegate.verdict.{finder}")
                assert list(inspect.signature(found).parameters) == ["asked"]

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_automatic_limits_are_those_of_the_gate_file(self, kind: BudgetKind) -> None:
        told = {"experts": {"a": "a", "b": "b"}, "budget": {kind.name: "auto@0.1"}}
        if kind.calibrated is None:
            with pytest.raises(ValueError, match=kind.name):
                GateSpec.model_validate(told)
        else:
            assert GateSpec.model_validate(told).budget.automatic == {kind.name: 0.1}

    def test_one_limits_each_quantity_itself(self) -> None:
        absolute = [kind.quantity for kind in KINDS if not kind.from_baseline]
        assert len(set(absolute)) == len(absolute)
        assert all(BUDGETS[limit_on(q)].quantity == q for q in absolute)

    @pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
    def test_use_up_all_of_a_limit_at_it_and_more_beyond(self, kind: BudgetKind) -> None:
        """As one comparison has it, whichever way the limit looks."""
        assert kind.name.startswith("min_" if kind.at_least else "max_")
        for limit in (0.1, 0.7):
            assert kind.used(kind.best, limit) == 0
            assert kind.used(limit, limit) == 1
            for value in (-0.5, 0.0, 0.3, 0.9, 1.2):
                over = compare(value, limit, at_least=kind.at_least) == "fail"
                assert (kind.used(value, limit) > 1) is over
        assert kind.used(kind.best, kind.best) == 0

    def test_of_another_version_are_called_by_their_names(self) -> None:
        assert kind_of("max_new_thing").words == "new thing"


def test_a_share_within_all_limits() -> None:
    limits = {"max_disagreement": 0.3, "max_loss": 20.0, "max_mds": 1.0}
    assert share_within(limits, 1.0) == 0.2
    assert share_within(limits, 0.5) == 0.1
    assert share_within({"max_mds": 1.0}, 1.0) == math.inf


class TestCompare:
    @pytest.mark.parametrize(
        ("found", "limit", "mode", "status"),
        [
            pytest.param(0.3, 0.3, "point", "pass", id="at the limit"),
            pytest.param(0.30000000000000004, 0.3, "point", "fail", id="one bit over"),
            pytest.param(math.nan, 0.3, "point", "fail", id="NaN"),
            pytest.param(0.1, math.nan, "point", "inconclusive", id="no limit yet"),
            pytest.param(math.inf, 1e300, "point", "fail", id="infinite"),
            pytest.param(Value.missing("lost"), 0.3, "point", "inconclusive", id="missing"),
            pytest.param(Value(number=0.1), 0.3, "bound", "inconclusive", id="no bad end"),
            pytest.param(Value(number=0.1, interval=(0, 0.4)), 0.3, "point", "pass", id="point"),
            pytest.param(Value(number=0.1, interval=(0, 0.4)), 0.3, "bound", "fail", id="bound"),
            pytest.param(
                Value(number=0.1, interval=(0, 0.4)), 0.3, "interval", "inconclusive", id="around"
            ),
            pytest.param(Value(number=0.1, interval=(0, 0.3)), 0.3, "interval", "pass", id="below"),
            pytest.param(
                Value(number=0.5, interval=(0.31, 1)), 0.3, "interval", "fail", id="above"
            ),
        ],
    )
    def test_status(self, found: Any, limit: float, mode: Mode, status: str) -> None:
        assert compare(found, limit, mode) == status

    @pytest.mark.parametrize("mode", ["point", "bound", "interval"])
    @pytest.mark.parametrize("limit", [-0.5, 0.0, 0.7, math.nan])
    @pytest.mark.parametrize("inputs", [None, 29, 30])
    def test_what_must_be_reached_is_the_mirror_of_what_must_not_be_exceeded(
        self, mode: Mode, limit: float, inputs: int | None, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        numbers = [-0.5, 0.0, 0.7, *rng.uniform(-2, 2, 20)]
        values = [Value(number=n) for n in numbers]
        values += [Value(number=n, interval=(n - rng.random(), n + rng.random())) for n in numbers]
        for value in (*values, Value.missing("lost")):
            found = Evidence(value=value, basis="measured", inputs=inputs)
            mirrored = Evidence(value=value.times(-1), basis="measured", inputs=inputs)
            expected = compare(mirrored, -limit, mode)
            assert compare(found, limit, mode, at_least=True) == expected
            assert is_open(value, limit, at_least=True) is is_open(value.times(-1), -limit)

    @pytest.mark.parametrize(
        ("found", "limit", "mode", "status"),
        [
            pytest.param(0.7, 0.7, "point", "pass", id="at the limit"),
            pytest.param(0.6999999999999999, 0.7, "point", "fail", id="one bit below"),
            pytest.param(1.5, 0.7, "point", "pass", id="far above"),
            pytest.param(math.nan, 0.7, "point", "fail", id="NaN"),
            pytest.param(-math.inf, 0.7, "point", "fail", id="infinitely low"),
            pytest.param(0.9, math.nan, "point", "inconclusive", id="no limit yet"),
            pytest.param(Value.missing("lost"), 0.7, "point", "inconclusive", id="missing"),
            pytest.param(Value(number=0.9), 0.7, "bound", "inconclusive", id="no bad end"),
            pytest.param(
                Value(number=0.9, interval=(0.6, 2)), 0.7, "bound", "fail", id="the lower end"
            ),
            pytest.param(
                Value(number=0.9, interval=(0.7, 2)), 0.7, "bound", "pass", id="reaches it"
            ),
        ],
    )
    def test_status_of_what_must_be_reached(
        self, found: Any, limit: float, mode: Mode, status: str
    ) -> None:
        assert compare(found, limit, mode, at_least=True) == status

    def test_what_is_undecided_stays_so(self) -> None:
        found = Evidence(value=Value(number=0.0), basis="predicted", undecided=True)
        assert compare(found, 1.0) == "inconclusive"

    @pytest.mark.parametrize(
        ("value", "limit", "more"),
        [
            pytest.param(Value.missing("lost"), 1.0, False, id="nothing there"),
            pytest.param(Value(number=0.5), 1.0, True, id="too little for an interval"),
            pytest.param(Value(number=0.5, interval=(0.0, 2.0)), 1.0, True, id="around"),
            pytest.param(Value(number=0.5, interval=(0.0, 1.0)), 1.0, False, id="below"),
            pytest.param(Value(number=2.0, interval=(1.0, 3.0)), 1.0, True, id="from the limit"),
            pytest.param(Value(number=0.5), math.nan, False, id="no limit yet"),
        ],
    )
    def test_is_it_open(self, value: Value, limit: float, more: bool) -> None:
        assert is_open(value, limit) is more


@pytest.mark.parametrize(
    ("limits", "labelled", "interval", "upper", "more"),
    [
        ({"max_disagreement": 0.3}, False, (0.2, 0.4), 0.1, True),
        ({"max_disagreement": 0.3}, True, (0.2, 0.3), 0.9, False),
        ({"max_loss": 30.0}, False, (0.1, 0.2), 0.31, True),
        ({"max_loss": 30.0}, False, (0.1, 0.9), 0.3, False),
        ({"max_loss": 30.0}, True, (0.1, 0.2), 0.9, False),
        ({"max_mds": 3.0}, False, (0.0, 1.0), 1.0, False),
    ],
)
def test_sequential_sampling_asks_the_table(
    limits: dict[str, float], labelled: bool, interval: Any, upper: float, more: bool
) -> None:
    spec = GateSpec.model_validate({"experts": {"a": "a", "b": "b"}, "budget": limits})
    pool: Any = SimpleNamespace(names=NAMES, labelled=lambda _: labelled, spec=spec)
    allowed: Stage | None = None
    value = Value(number=sum(interval) / 2, interval=interval)
    assert budget_questions(spec, pool, allowed).disagreement_is_open("a", value, upper) is more
