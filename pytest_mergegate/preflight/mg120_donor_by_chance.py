"""MG120: a mergekit configuration whose configuration and tokenizer donor is left to chance."""

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, warning


def find(pool: Pool) -> Findings:
    """Adapters of one base all lead back to it; checkpoints bring files of their own."""
    file = pool.mergekit
    if file is None or file.config.get("base_model") is not None:
        return
    if len(pool.experts) < 2 or all(expert.is_adapter for expert in pool.experts):
        return
    yield warning(
        "there is no base_model: from which model mergekit copies configuration and "
        "tokenizer changes from run to run",
        "start mergekit with PYTHONHASHSEED=0, or write the merge with mergegate check "
        "--output, which takes the base's",
    )
