"""Gates that may run no code of the repository: what in them would be some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import GateError, GateFileError
from pytest_mergegate.gate.sections import BUILTIN_METRICS, HARNESS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.gate.gatefile import Gate


def refuse_code(gate: Gate) -> None:
    """Raise GateFileError with every key by which ``gate`` would run code of its repository."""
    if found := list(_code_of(gate)):
        raise GateFileError(found)


def _code_of(gate: Gate) -> Iterator[GateError]:
    spec = gate.spec
    for name, expert in spec.experts.items():
        if expert.metric not in BUILTIN_METRICS and not expert.metric.startswith(HARNESS):
            fix = f"use {', '.join(BUILTIN_METRICS)}"
            yield _refused(gate, f"metric {expert.metric}", fix, "experts", name, "metric")
    for index, method in enumerate(spec.merge.methods):
        if ":" in method.method:
            fix = "use a method of mergekit's"
            yield _refused(gate, f"method {method.method}", fix, "merge", "methods", index)
    if spec.lm_eval_tasks is not None:
        fix = "leave it out, and use tasks that the harness brings"
        yield _refused(gate, f"a task in lm_eval_tasks: {spec.lm_eval_tasks}", fix, "lm_eval_tasks")
    if spec.trust_remote_code:
        fix = "use a base of an architecture that transformers knows"
        yield _refused(gate, "the base, with trust_remote_code", fix, "trust_remote_code")


def _refused(gate: Gate, what: str, fix: str, *at: str | int) -> GateError:
    return GateError(
        f"{what} is code of the repository, and this run allows none",
        where=gate.where(*at),
        fix=f"{fix}, or leave out the option no-code (ini mergegate_no_code)",
    )
