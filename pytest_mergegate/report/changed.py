"""The cases behind a score: inputs that a merge answers differently from their expert."""

from collections.abc import Iterator, Sequence

from pytest_mergegate.common.plain_text import quoted_lines
from pytest_mergegate.common.wording import common_start
from pytest_mergegate.pool.examples import Example
from pytest_mergegate.report.merge_records import ChangedRecord
from pytest_mergegate.stages.evaluate import ExpertScores, score_pairs, worst_first
from pytest_mergegate.stages.measured import ReferenceScores
from pytest_mergegate.stages.merge_versus_experts import ChangedAnswer, MergedExpert

LONGEST = 1_000
"""Characters of one text of a case; of a longer one the rest is counted."""
_BEFORE = 300
"""Of them, those before the place where two answers part."""
_LEFT_OUT = "[… {} characters left out …]"


def changed_records(
    compared: MergedExpert,
    examples: Sequence[Example],
    reference: ReferenceScores | None,
    scored: ExpertScores | None,
    most: int,
) -> tuple[ChangedRecord, ...]:
    """At most ``most`` of the inputs that are answered differently: where there are scores, those
    whose score falls most; then by distance, and by divergence.

    An answer of the merge that was never decoded makes no case.
    """
    answers = scored.answers if scored else {}
    scores = {}  # a harness has examples of its own
    if reference is not None and scored is not None and scored.inputs is not None:
        scores = score_pairs(reference, scored.inputs, scored.scores)
    known = [c for c in compared.changed if c.merged is not None or c.index in answers]

    return tuple(
        _record(
            case,
            examples[case.index],
            answers.get(case.index, case.merged or ""),
            scores.get(case.index, (None, None)),
        )
        for case in worst_first(known, scores)[:most]
    )


def _record(
    case: ChangedAnswer,
    example: Example,
    merged: str,
    scores: tuple[float | None, float | None],
) -> ChangedRecord:
    at = common_start(case.expert, merged)
    # of both answers the same part, so that they can be laid beside each other
    start = max(0, at - _BEFORE) if max(len(case.expert), len(merged)) > LONGEST else 0
    target = "\nor: ".join(example.references)
    return ChangedRecord(
        input=_without_middle(_asked(example)),
        expert=_from(case.expert, start),
        merged=_from(merged, start),
        target=_from(target, min(start, max(0, len(target) - LONGEST)))
        if example.references
        else None,
        score_expert=scores[0],
        score_merged=scores[1],
        distance=case.distance,
        parts_at=at,
    )


def _asked(example: Example) -> str:
    """The input; of a chat, a line per message."""
    if isinstance(example.input, str):
        return example.input
    return "\n".join(f"{m.role}: {' '.join(m.content.split())}" for m in example.input)


def _from(text: str, start: int) -> str:
    """``text`` from ``start`` on, as far as there is room."""
    return _cut(text, [(start, start + LONGEST)])


def _without_middle(text: str) -> str:
    """``text``, or its beginning, where the instruction is, and its end, where the question is."""
    half = LONGEST // 2
    if len(text) <= LONGEST:
        return quoted_lines(text)
    return _cut(text, [(0, half), (len(text) - half, len(text))])


def _cut(text: str, kept: Sequence[tuple[int, int]]) -> str:
    """The ``kept`` parts of ``text``, from where to where, and how much there is between them."""

    def parts() -> Iterator[str]:
        done = 0
        for start, end in kept:
            if start > done:
                yield _LEFT_OUT.format(start - done)
            yield text[start:end]
            done = end
        if len(text) > done:
            yield _LEFT_OUT.format(len(text) - done)

    return quoted_lines(" ".join(parts()))
