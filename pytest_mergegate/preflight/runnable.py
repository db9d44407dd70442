"""Whether the stages that a gate's budgets ask for can run at all: seen from files, before any
model is loaded."""

from pytest_mergegate.common.findings import Finding
from pytest_mergegate.metrics.pairwise import RATIOS
from pytest_mergegate.pool.examples import named
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import chat_template
from pytest_mergegate.preflight.told import Findings, grouped

UNDECIDABLE = "MG207"
"""A budget that no run decides."""
_OF_WEIGHTS = frozenset(f"max_{ratio}" for ratio in RATIOS)
"""Budgets that need no input."""
_FEWEST = 3
"""Experts from which on there is an MDS."""


def unrunnable(pool: Pool) -> Findings:
    """What keeps the gate from its verdicts, however deep it may go."""
    limits = pool.spec.effective_budget.limits
    if not set(limits) - _OF_WEIGHTS:
        return
    for name in pool.names:
        if pool.examples.get(name) is None:
            yield no_examples(name, pool)
    yield from grouped(pool, _chats(pool))
    if (count := len(pool.names)) < _FEWEST:
        told = [name for name in ("max_mds", "max_mds_increase") if name in limits]
        for name in told:
            message = f"{name} is never decided: MDS is relative to the pool, and takes three "
            message += f"experts; here are {count}"
            fix = f"remove {name} from the budget; max_disagreement is decided for any pool"
            yield Finding(code=UNDECIDABLE, severity="warning", message=message, fix=fix)


def no_examples(name: str, pool: Pool) -> Finding:
    """An expert without inputs, and where to say which they are."""
    advice = f"give experts.{name}.examples a JSONL file of inputs"
    if pool.mergekit is not None:
        advice = (
            f"write data/{name}.jsonl or examples/{name}.jsonl beside the configuration, or "
            "examples.jsonl in the expert's folder, or say where with "
            "mergegate: {examples: ...}"
        )
    message = "the expert has no examples, and its states cannot be compared without inputs"
    return Finding(code="MG202", severity="error", message=message, fix=advice, expert=name)


def _chats(pool: Pool) -> Findings:
    """Examples that are chats, where nothing says how one is read."""
    merged = pool.merged
    for expert in pool.experts:
        examples = pool.examples.get(expert.name, ())
        chats = (k for k, example in enumerate(examples) if not isinstance(example.input, str))
        if (first := next(chats, None)) is None:
            continue
        chat = named(pool.numbers(expert.name), first)
        # beside a finished merge each is asked through what its own folder has
        own = merged is not None and chat_template(expert.path)
        if not own and not chat_template(pool.base.path):
            yield _no_template(chat, "the base", expert.name)
        if merged is not None and not chat_template(merged.tokenizer):
            yield _no_template(chat, "the finished merge", expert.name)


def _no_template(chat: str, whose: str, expert: str) -> Finding:
    message = f"{chat} is a chat, and {whose}'s tokenizer has no chat template"
    fix = "write the inputs as plain strings, or save the template with the tokenizer"
    return Finding(code="MG203", severity="error", message=message, fix=fix, expert=expert)
