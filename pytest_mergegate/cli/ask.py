"""``mergegate ask``: what base, expert and merges say to an input typed by hand."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len

from pytest_mergegate.cli import Parser, options_of
from pytest_mergegate.cli.output import methods_among
from pytest_mergegate.common.errors import UsageError, did_you_mean
from pytest_mergegate.common.files.documents import in_document
from pytest_mergegate.common.plain_text import clean, say
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.common.wording import shorten
from pytest_mergegate.gate.gatefile import Gate, load_gate, refuse_code
from pytest_mergegate.gate.option_table import OPTIONS
from pytest_mergegate.gate.options import Options
from pytest_mergegate.merging.method import Method
from pytest_mergegate.pool.examples import Example, Message
from pytest_mergegate.report.formats.cases import labelled, page_width
from pytest_mergegate.report.formats.terminal import progress_bar

if TYPE_CHECKING:  # which imports torch
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.stages.context import Context

_STDIN = "-"
_MOST = 1 << 20
"""Characters of an input, as of a line of examples."""
_LABEL = 28
"""Columns of a label, at most."""


def add_to(ask: Parser) -> None:
    """Declare the arguments."""
    ask.add_argument("gate", type=Path, metavar="GATE", help="a gate file")
    ask.add_argument("expert", metavar="EXPERT", help="by its name in the gate file")
    told = f"the input; {_STDIN} reads it from standard input"
    ask.add_argument("text", metavar="TEXT", help=told)
    told = "this merge, by its method (repeatable; default: all of the gate's)"
    ask.add_argument("--method", action="append", default=[], metavar="M", help=told)
    told = "the input is a message of a user's, for the chat template (default: as in the examples)"
    ask.add_argument("--chat", action="store_true", help=told)
    ask.add_options(OPTIONS[name] for name in ("device", "cache", "no-cache", "merged", "no-code"))


def run(chosen: argparse.Namespace) -> int:
    """Print the answers; returns the exit code. Raises UsageError, GateError."""
    if not in_document(chosen.gate)[0].is_file():
        raise UsageError(f"ask: there is no gate file {chosen.gate}")
    text = _text(chosen.text)
    options = options_of(chosen)
    gate = load_gate(chosen.gate, merged=options.merged)
    if options.no_code:
        refuse_code(gate)
    names = gate.spec.experts
    if chosen.expert not in names:
        fix = did_you_mean(chosen.expert, names, "its experts")
        raise UsageError(f"the gate has no expert {chosen.expert!r}", fix=fix)
    with progress_bar() as tell:
        said = list(_answers(gate, replace(options, progress=tell), chosen, text))
    wide = min(max(cell_len(clean(label)) for label, _ in said), _LABEL)
    for label, answer in said:
        say(labelled(f"{shorten(clean(label), wide)}  ", answer, page_width()))
    return Exit.PASSED


def _text(given: str) -> str:
    """What is asked. Raises UsageError."""
    text = given
    if given == _STDIN:
        text = sys.stdin.read(_MOST + 1).removesuffix("\n")
    if not text or len(text) > _MOST:
        raise UsageError(f"TEXT is {'empty' if not text else f'over {_MOST} characters'}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("TEXT is not UTF-8") from None
    return text


def _answers(
    gate: Gate, options: Options, chosen: argparse.Namespace, text: str
) -> Iterator[tuple[str, str]]:
    """Who says what. Raises GateError."""
    # with torch, for which neither help nor a bad option waits
    from pytest_mergegate.engine.running.tasks import typed_prompt

    context, methods = _opened(gate, options)
    asked = methods_among(chosen.method, [method.label for method in methods])
    expert, engine = chosen.expert, context.workspace.engine
    example = _example(text, context.pool.examples.get(expert, ()), chat=chosen.chat)
    stop, most = gate.spec.experts[expert].stop, gate.spec.probes.longest_answer

    def answer(engine: "Engine" = engine) -> str:
        prompt = typed_prompt(example, expert, engine.model, engine.askers.get(expert))
        head = engine.require_head()
        (tokens,) = head.decode([prompt], most, stop)
        cut = "" if head.is_complete(tokens, stop) else f" [… cut after {most} tokens]"
        return f"{head.text(tokens, stop)}{cut}"

    yield "input", text
    context.tell("base", 0.0)
    yield "base", answer()
    context.tell(expert, 0.1)
    with engine.expert(expert):
        yield "expert", answer()
    for done, method in enumerate(m for m in methods if m.label in asked):
        context.tell(f"merge {method.label}", (1 + done) / (1 + len(asked)))
        with _in_place(context, method) as merged:
            yield method.label, answer(merged)


@contextmanager
def _in_place(context: "Context", method: Method) -> Iterator["Engine"]:
    """The merge by ``method``, without what a gate asks of the experts. Raises GateError."""
    from pytest_mergegate.merging.merge import merge

    if context.pool.merged is not None:
        with context.answering(method) as engine:
            yield engine
        return
    engine = context.workspace.engine
    with engine.model.swapped(f"merge:{method.label}", merge(method, engine).weights):
        yield engine


def _opened(gate: Gate, options: Options) -> tuple["Context", Sequence[Method]]:
    """The pool of a gate, and its methods with their weights. Raises GateError."""
    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.history.past import Past
    from pytest_mergegate.merging.gate_methods import plan_methods
    from pytest_mergegate.stages import pipeline
    from pytest_mergegate.stages.context import Clock, Context
    from pytest_mergegate.stages.finished import finished_method
    from pytest_mergegate.stages.hidden import weighted
    from pytest_mergegate.stages.preflight import UnsoundPool, run_preflight
    from pytest_mergegate.verdict.evidence import budget_questions
    from pytest_mergegate.verdict.past_merges import with_known_limits

    preflight = run_preflight(gate)
    if not preflight.ok or preflight.pool is None:
        raise UnsoundPool(preflight.findings)
    pool, cache = preflight.pool, Cache(folder=options.cache)
    gate = with_known_limits(gate, pool, lambda: Past(options.registry, cache).observations)
    decisions = budget_questions(gate.spec, pool)
    context = Context(gate, pool, options, cache, Clock(), lambda: decisions)
    if pool.merged is not None:
        return context, (finished_method(context),)
    methods: Sequence[Method] = plan_methods(gate, pool.names)
    weights = gate.spec.merge.weights
    if weights in ("optimal", "minimax"):  # which are known only from the states
        hidden = pipeline.read_states(context, conflicts=False).hidden
        assert hidden is not None
        methods = weighted(methods, weights, hidden.bounds)
    return context, methods


def _example(text: str, examples: Sequence[Example], *, chat: bool) -> Example:
    """``text`` as an input of the expert's own: where those are chats, or ``chat`` says so, a
    user's message, behind the system's that all of them begin with."""
    chats = [example.input for example in examples if not isinstance(example.input, str)]
    if not chats and not chat:
        return Example(input=text)
    first = {messages[0] for messages in chats}
    system = [message for message in first if message.role == "system" and len(first) == 1]
    return Example(input=(*system, Message(role="user", content=text)))
