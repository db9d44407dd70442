"""MG119: a mergekit configuration that averages the base in, as one more model."""

from pytest_mergegate.gate.merge_methods import traits_of
from pytest_mergegate.gate.mergekit.file import MergekitFile, sources
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, warning

_BASE = {"expert": None}


def find(pool: Pool) -> Findings:
    """An average of N experts and the base moves each expert's weights less than it seems."""
    file = pool.mergekit
    if file is None:
        return
    method, experts = file.config["merge_method"], len(pool.experts)
    if traits_of(method).base != "averaged" or not _takes(file):
        return
    yield warning(
        f"{method} averages the base in, as one of {experts + 1} models, not of {experts}",
        "leave base_model and the base's own entry out"
        + (", or give that entry weight 0" if traits_of(method).takes_weights else ""),
    )


def _takes(file: MergekitFile) -> bool:
    entries = [entry for entry in sources(file.config) if entry["model"] == _BASE]
    if not entries:  # mergekit adds it to the models
        return file.config.get("base_model") == _BASE
    shared = file.config.get("parameters") or {}
    weights = [{**shared, **(entry.get("parameters") or {})}.get("weight") for entry in entries]
    return any(weight != 0 for weight in weights)
