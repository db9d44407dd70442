"""The groups of a plan, gated for real: what they came to beside what was forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.plain_text import clean
from pytest_mergegate.common.wording import number_text
from pytest_mergegate.planning.weights import proposed_gate
from pytest_mergegate.report.gating import run_gate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_mergegate.gate.gatefile import Gate
    from pytest_mergegate.gate.options import Options
    from pytest_mergegate.planning.forecasts import GroupForecast
    from pytest_mergegate.report.types import MergedExpertRecord, Report


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One group and the report of its gate."""

    group: GroupForecast
    report: Report

    @property
    def status(self) -> str:
        """The gate's."""
        return self.report.status

    @property
    def lines(self) -> Iterator[str]:
        """The verdict, then forecast and merge of every expert."""
        names = ", ".join(map(clean, self.group.names))
        best = self.group.best
        under = f" under {clean(best.method.label)}" if best is not None else ""
        yield f"verified {names}: {self.status}{under}"
        for finding in self.report.findings:
            if finding.severity == "error":
                yield f"  {finding.code}: {clean(finding.message)}"
        for found in self._merged:
            yield f"  {self._line(found)}"

    @property
    def plain(self) -> dict[str, Any]:
        """For the JSON file."""
        forecast = self._forecast
        return {
            "experts": list(self.group.names),
            "status": self.status,
            "merged": [
                {
                    "expert": found.name,
                    "forecast_disagreement": forecast.get(found.name),
                    "disagreement": found.disagreement,
                    "disagreement_upper": found.disagreement_upper,
                    "loss": found.loss,
                }
                for found in self._merged
            ],
        }

    @property
    def _merged(self) -> tuple[MergedExpertRecord, ...]:
        best = self.group.best
        label = best.method.label if best is not None else None
        merges = self.report.merges
        return next((m.experts for m in merges if m.method == label), ())

    @property
    def _forecast(self) -> dict[str, float | None]:
        best = self.group.best
        return {e.name: e.disagreement.number for e in best.experts} if best else {}

    def _line(self, found: MergedExpertRecord) -> str:
        expected = self._forecast.get(found.name)
        said = "none" if expected is None else number_text(expected)
        loss = f", loss {number_text(0.0 - found.loss)} %" if found.loss is not None else ""
        return (
            f"{clean(found.name)}: disagreement {number_text(found.disagreement)} "
            f"(at most {number_text(found.disagreement_upper)}), forecast {said}{loss}"
        )


def verify(gate: Gate, groups: Iterable[GroupForecast], options: Options) -> tuple[Verified, ...]:
    """Run the gate of every group of two or more that is forecast to pass."""
    return tuple(
        Verified(group=group, report=run_gate(proposed_gate(gate, group), options))
        for group in groups
        if len(group.names) > 1 and group.status == "pass"
    )
