"""The table of merge methods: true of the installed mergekit, and all that a new method takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from mergekit.merge_methods import registered_methods
from mergekit.merge_methods.base import BasePolicy, MergeMethodSpec, ParameterScope
from pools import read_gate

from pytest_mergegate import assess
from pytest_mergegate.common.errors import GateError
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.gate.merge_methods import METHODS, MethodTraits, traits_of
from pytest_mergegate.merging.gate_methods import plan_methods
from pytest_mergegate.merging.mergekit_process import configuration
from pytest_mergegate.report.recorded import lines_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_mergegate import Report
    from pytest_mergegate.engine.weights.mixing import FactoredTensor
    from pytest_mergegate.merging.method import Method

DECLARED: dict[str, MergeMethodSpec] = {m.spec.name: m.spec for m in registered_methods()}
ROWS = [row for row in METHODS.values() if not row.own]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
class TestMergekitsRows:
    def test_parameters_and_their_defaults(self, row: MethodTraits) -> None:
        declared = {p.name: p for p in DECLARED[row.name].parameters}
        assert {n: declared[n].default for n in row.parameters} == dict(row.parameters)
        scopes = {ParameterScope.INPUT, ParameterScope.NON_BASE}
        assert row.takes_weights == ("weight" in declared and declared["weight"].scope in scopes)
        assert row.share_parameter is None or declared[row.share_parameter].required
        assert not row.trims or declared["density"].default == 1.0

    def test_inputs(self, row: MethodTraits) -> None:
        contract = DECLARED[row.name].contract
        policy = {
            "required": BasePolicy.REQUIRED,
            "expert": BasePolicy.REQUIRED,
            "optional": BasePolicy.OPTIONAL,
            "averaged": BasePolicy.IGNORED,
        }
        assert contract.base is policy[row.base]
        bases = 1 if row.base == "required" else 0
        assert row.fewest == max(contract.min_inputs - bases, contract.min_non_base or 1)
        assert row.most == (contract.max_non_base or contract.max_inputs)


def test_no_method_of_the_installed_mergekit_is_left_out() -> None:
    assert {row.name for row in ROWS} == set(DECLARED)


def test_what_stands_in_merges_any_number() -> None:
    for row in METHODS.values():
        assert row.stand_in is None or traits_of(row.stand_in).most is None


def put_trimmed_mean(
    method: Method, base: FactoredTensor, experts: Mapping[str, FactoredTensor], place: torch.Tensor
) -> None:
    """The mean of the experts without the smallest and the largest of each number's values."""
    own = torch.stack([rows.put(torch.empty(place.shape)) for rows in experts.values()])
    cut = int(method.parameters.get("cut", 1))
    kept = own.sort(dim=0).values[cut : len(own) - cut] if len(own) > 2 * cut else own
    place.copy_(kept.mean(dim=0))


TRIMMED_MEAN = MethodTraits(
    name="trimmed_mean",
    own=True,
    combines="average",
    takes_weights=False,
    arithmetic=f"{__name__}:put_trimmed_mean",
    parameters={"cut": 1},
)


@pytest.fixture
def _trimmed_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, TRIMMED_MEAN.name, TRIMMED_MEAN)


def gate(pool: Path, method: Any, **merge: Any) -> Report:
    settings = {**read_gate(pool), "merge": {"methods": [method], **merge}}
    return assess(settings, root=pool.parent, max_loss=100.0, cache=False)


@pytest.mark.usefixtures("_trimmed_mean")
class TestAMethodOfOurOwn:
    def test_through_a_gate(self, tiny_pool: Path) -> None:
        report = gate(tiny_pool, {"method": "trimmed_mean", "cut": 1})
        assert report.status != "error", report.findings
        (merge,) = report.merges
        assert merge.method == "trimmed_mean cut=1"
        assert merge.parameters == {"cut": 1}
        assert merge.fidelity is not None
        assert merge.fidelity < 1e-5
        assert {f.method for f in report.forecasts} == {merge.method}
        known = tuple(expert.model_copy(update={"loss": 0.0}) for expert in merge.experts)
        scored = merge.model_copy(update={"experts": known})
        (line,) = lines_of(report.model_copy(update={"merges": (scored,)}))
        assert (line.method, line.label) == ("trimmed_mean", merge.method)

    def test_its_arithmetic_makes_the_merge(self, tiny_pool: Path) -> None:
        """Nothing cut, the trimmed mean is the mean."""
        (ours,) = gate(tiny_pool, {"method": "trimmed_mean", "cut": 0}).merges
        (mean,) = gate(tiny_pool, "linear").merges
        (cut,) = gate(tiny_pool, "trimmed_mean").merges
        for own, other, trimmed in zip(ours.experts, mean.experts, cut.experts, strict=True):
            assert own.kl == pytest.approx(other.kl, abs=1e-5)
            assert trimmed.kl != pytest.approx(other.kl, abs=1e-5)

    def test_broken_arithmetic_is_refused(
        self, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.Tensor, "sort", lambda own, dim: torch.sort(2 * own, dim))
        report = gate(tiny_pool, {"method": "trimmed_mean", "cut": 0})
        assert report.status == "error"
        assert "broken merge: its identity" in report.findings[-1].message

    @pytest.mark.parametrize(
        ("method", "merge", "says"),
        [
            pytest.param({"method": "trimmed_mean", "cuts": 1}, {}, "'cut'", id="parameter"),
            pytest.param({"method": "trimmed_mean", "cut": 0.5}, {}, "does not take", id="type"),
            pytest.param("trimmed_man", {}, "mean 'trimmed_mean'", id="name"),
            pytest.param(
                "trimmed_mean", {"route": "official"}, "mergekit has no merge", id="route"
            ),
            pytest.param(
                "trimmed_mean", {"weights": {"a": 1, "b": 1, "c": 2}}, "no weights", id="weights"
            ),
        ],
    )
    def test_errors(self, tiny_pool: Path, method: Any, merge: Any, says: str) -> None:
        report = gate(tiny_pool, method, **merge)
        assert report.status == "error"
        assert says in f"{report.findings[-1].message} {report.findings[-1].fix}"

    def test_mergekit_has_no_configuration_of_it(self, tiny_pool: Path) -> None:
        settings = {**read_gate(tiny_pool), "merge": {"methods": ["trimmed_mean"]}}
        (method,) = plan_methods(gate_from(settings, root=tiny_pool.parent), ("a", "b", "c"))
        with pytest.raises(GateError, match="mergekit has no merge method"):
            configuration(method, {"a": "x"}, "base", "float32")


def test_without_its_row_it_is_no_method(tiny_pool: Path) -> None:
    report = gate(tiny_pool, "trimmed_mean")
    assert report.status == "error"
    assert "there is no merge method" in report.findings[-1].message
