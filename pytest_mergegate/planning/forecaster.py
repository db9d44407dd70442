"""Puts groups of a pool to the test, without a merge."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from pytest_mergegate.merging.method import Method, is_sum, with_shares
from pytest_mergegate.planning.forecasts import GroupForecast, MergeForecast
from pytest_mergegate.planning.limits import MergeLimits, PoolLimits
from pytest_mergegate.planning.running import Runs
from pytest_mergegate.planning.weights import (
    GroupShares,
    OwnInputRisk,
    Shares,
    distinct,
    group_methods,
)
from pytest_mergegate.stages.context import Context, Results
from pytest_mergegate.stages.forecasts import method_scales
from pytest_mergegate.verdict.budgets import judges_merges

_WORTH_IT = 0.9
"""Other shares are tried where they lower the predicted distortion to this part, or less."""
_HARDLY = 0.15
"""Of a limit."""


class Forecaster:
    """Forecasts of groups of the experts, by name, each made once."""

    def __init__(self, context: Context, results: Results) -> None:
        gate, hidden = context.gate, results.hidden
        assert hidden is not None
        self.shares = GroupShares(hidden, gate.spec.merge.weights)
        self.pool_limits = PoolLimits(gate.spec, hidden, results.conflict)
        self._gate = gate
        self._context = context
        self._merge_limits = MergeLimits(gate.spec)
        self.runs = Runs(context, self._merge_limits)
        self._merging = judges_merges(gate.spec.effective_budget.limits)
        self._risk = OwnInputRisk({name: hidden.grams[name] for name in hidden.states.names})
        self._known: dict[tuple[tuple[str, ...], bool], GroupForecast] = {}
        given = gate.spec.merge.weights
        self._own_kind = given if isinstance(given, str) else "given"

    def risk(self, names: Sequence[str]) -> float:
        """What the shifts of the states say of an average."""
        return self._risk.of(names)

    def passes(self, names: Sequence[str]) -> bool:
        """Whether a group is forecast to pass: by the first merge that does under
        ``select: any``."""
        self._context.tell(f"trying {len(names)} experts", 0.5)
        if any(self.pool_limits.against(names)):
            return False
        if not self._merging:
            return True
        methods = group_methods(self._gate, names)
        enough = all if self._gate.spec.merge.select == "all" else any
        return bool(methods) and any(
            enough(self._merge(m, shares, names, whole=False).status == "pass" for m in methods)
            for shares in self._promising(names)
        )

    def forecast(self, names: Sequence[str], *, own_shares: bool = False) -> GroupForecast:
        """All that can be said of a group under every method, with the gate's ``own_shares`` or
        with all."""
        known = tuple(names), own_shares
        if known not in self._known:
            self._known[known] = self._forecast(*known)
        return self._known[known]

    def _forecast(self, names: tuple[str, ...], own_shares: bool) -> GroupForecast:
        if len(names) == 1:
            return GroupForecast(names=names, merges=())
        self._context.tell(f"forecasting {len(names)} experts", 0.5)
        against, undecided = self.pool_limits.against(names)
        methods = group_methods(self._gate, names) if self._merging else ()
        if self._merging and not methods:
            undecided = (*undecided, "no sum of task vectors stands for any of the methods")
        every = self.shares.of(names)
        merges = [
            self._merge(method, shares, names, whole=True)
            for shares in (every[:1] if own_shares else distinct(every))
            for method in methods
        ]
        return GroupForecast(
            names=names,
            merges=self._best_first(merges),
            shared=against,
            undecided=undecided,
            select=self._gate.spec.merge.select,
            asked=self._merging,
        )

    def confirmed(self, names: Sequence[str]) -> bool:
        """Whether the proposed merge of a group passes once it is made in memory.

        A sum of task vectors was that merge already. Where a merge fails, the next best one is
        made; what became of all of them stands in ``forecast``.
        """
        group = self.forecast(names)
        while group.status == "pass":
            doubtful = next((m for m in group.deciding if m.basis == "surrogate"), None)
            if doubtful is None:
                break
            self._context.tell(f"merging {len(names)} experts", 0.5)
            method = replace(doubtful.method, route="in_place")
            with closing(self.runs.merged(method, group.names)) as running:
                experts = tuple(self._merge_limits.of(*found) for found in running)
            made = replace(doubtful, basis="merged", experts=experts)
            merges = [made if merge is doubtful else merge for merge in group.merges]
            group = replace(group, merges=self._best_first(merges))
            self._known[group.names, False] = group
        return group.status == "pass"

    def _promising(self, names: Sequence[str]) -> Iterator[Shares]:
        """The gate's own shares, and others that the states say are clearly better."""

        def predicted(shares: Shares) -> float:
            return float(self._risk.by_expert(names, shares.shares).max())

        own, *others = self.shares.of(names)
        yield own
        limit = _WORTH_IT * predicted(own)
        for shares in distinct([own, *sorted(others, key=predicted)])[1:]:
            if predicted(shares) <= limit:
                yield shares

    def _merge(
        self, method: Method, shares: Shares, names: Sequence[str], *, whole: bool
    ) -> MergeForecast:
        """One merge; unless the ``whole`` is wanted, no more experts than it takes to fail."""
        if shares.kind not in {"given", "uniform"}:  # which are the method's own
            method = with_shares(method, shares.shares)
        scales = method_scales(method, names, self._context.workspace)
        risk = self._risk.by_expert(names, scales)
        order = [name for _, name in sorted(zip(-risk, names, strict=True))]
        found = []
        with closing(self.runs.of(scales, order, hasty=not whole)) as running:
            for name, differing in running:
                found.append(self._merge_limits.of(name, differing))
                if found[-1].status == "fail" and not whole:
                    break
        return MergeForecast(
            method=method,
            shares=shares,
            basis="exact" if is_sum(method) else "surrogate",
            experts=tuple(sorted(found, key=lambda expert: names.index(expert.name))),
            whole=len(found) == len(names),
        )

    def _best_first(self, merges: Iterable[MergeForecast]) -> tuple[MergeForecast, ...]:
        """A merge that was run itself before one that was not, then the one with most to spare; the
        gate's own shares before others that are hardly better. Where every method has to do, what
        the shares come to under all of them counts first."""
        merges = tuple(merges)
        worst: dict[str, tuple[float, ...]] = {}
        if self._gate.spec.merge.select == "all":
            for merge in merges:
                kind = merge.shares.kind
                worst[kind] = max(worst.get(kind, merge.rank), merge.rank)

        def order(merge: MergeForecast) -> tuple[float, ...]:
            (status, use), kind = merge.rank, merge.shares.kind
            use -= _HARDLY if kind == self._own_kind else 0.0
            return *worst.get(kind, ()), status, float(merge.basis == "surrogate"), use

        return tuple(sorted(merges, key=order))
