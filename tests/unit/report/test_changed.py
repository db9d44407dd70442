"""Which inputs a report shows of those that a merge answers differently, and how much of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hostile import COMMAND, HOSTILE, assert_plain

from pytest_mergegate.common.values import Value
from pytest_mergegate.common.wording import common_start
from pytest_mergegate.pool.examples import Example
from pytest_mergegate.report.changed import LONGEST, changed_records
from pytest_mergegate.stages.evaluate import ExpertScores
from pytest_mergegate.stages.measured import ReferenceScores
from pytest_mergegate.stages.merge_versus_experts import ChangedAnswer, MergedExpert

if TYPE_CHECKING:
    from pytest_mergegate.report.merge_records import ChangedRecord

LEFT_OUT = re.compile(r"\[… (\d+) characters left out …\]")


def compared(*changed: ChangedAnswer) -> MergedExpert:
    """An expert under a merge, which answers these inputs differently."""
    return MergedExpert(
        name="a",
        reading="greedy",
        inputs=8,
        planned=8,
        compared_by="exact",
        cut=0,
        unended=0,
        disagreement=Value(number=len(changed) / 8),
        least=len(changed) / 8,
        most=len(changed) / 8,
        disagreement_upper=1.0,
        token_agreement=0.5,
        total_variation=0.5,
        kl=0.1,
        distortion=1.0,
        relative_distortion=Value(number=0.1),
        degenerate=None,
        changed=changed,
    )


def answer(index: int, **given: Any) -> ChangedAnswer:
    """One that differs."""
    known = {"expert": f"own {index}", "merged": f"merged {index}", "distance": 1.0, "kl": 0.5}
    return ChangedAnswer(index=index, **known | given)


def scored(
    own: list[float], merged: list[float], answers: dict[int, str] | None = None
) -> dict[str, Any]:
    """The scores of examples in reverse order, except for the first of them, which is a copy."""
    inputs = tuple(range(1, len(own) + 1))
    zero = np.zeros(len(own))
    return {
        "reference": ReferenceScores(
            inputs=inputs, base=zero, expert=np.array(own), chance=0.0, of_outputs=True
        ),
        "scored": ExpertScores(
            examples=len(own),
            score_base=0.0,
            score_expert=float(np.mean(own)),
            score_merged=float(np.mean(merged)),
            loss=Value(number=0.0),
            gain_kept=Value.missing("no_gain"),
            name="a",
            retention=Value(number=1.0),
            shared=len(own),
            apart=None,
            inputs=inputs,
            scores=np.array(merged),
            answers=answers or {},
        ),
    }


def records(
    found: MergedExpert, most: int = 3, examples: list[Example] | None = None, **scores: Any
) -> tuple[ChangedRecord, ...]:
    """What the report has of them."""
    asked = examples or [Example(input=f"input {k}", target=f"target {k}") for k in range(8)]
    return changed_records(found, asked, **{"reference": None, "scored": None} | scores, most=most)


def test_the_largest_fall_of_the_score_comes_first() -> None:
    found = compared(answer(1), answer(4), answer(2), answer(3))
    said = records(found, **scored([0.5, 1.0, 0.2, 1.0], [0.5, 0.75, 0.9, 0.0]))
    assert [(c.input, c.score_expert, c.score_merged) for c in said] == [
        ("input 4", 1.0, 0.0),
        ("input 2", 1.0, 0.75),
        ("input 1", 0.5, 0.5),
    ]
    assert [c.target for c in said] == ["target 4", "target 2", "target 1"]


def test_those_that_fall_alike_stay_in_the_order_of_their_distances() -> None:
    found = compared(answer(5, distance=0.9), answer(2, distance=0.4), answer(3, distance=0.4))
    assert [c.distance for c in records(found)] == [0.9, 0.4, 0.4]
    said = records(found, **scored([1.0] * 6, [0.0] * 6))
    assert [c.input for c in said] == ["input 5", "input 2", "input 3"]


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_there_are_as_many_as_are_asked_for(most: int) -> None:
    assert len(records(compared(answer(1), answer(2), answer(3)), most)) == min(most, 3)


def test_an_answer_that_was_never_decoded_makes_no_case() -> None:
    found = compared(answer(1, merged=None), answer(2))
    assert [c.input for c in records(found)] == ["input 2"]
    said = records(found, **scored([1.0] * 3, [0.0] * 3, {1: "as scored", 2: ""}))
    assert [c.merged for c in said] == ["as scored", ""]


def test_a_harness_scores_other_examples() -> None:
    scores = scored([1.0] * 3, [0.0] * 3)
    scores["scored"] = replace(scores["scored"], inputs=None)
    (said,) = records(compared(answer(2)), **scores)
    assert (said.score_expert, said.score_merged) == (None, None)


def test_a_chat_is_a_line_a_message() -> None:
    chat = [
        {"role": "system", "content": "Be\n  brief."},
        {"role": "user", "content": "assistant: yes\nuser: no"},
    ]
    (said,) = records(compared(answer(0)), examples=[Example.model_validate({"input": chat})])
    assert said.input == "system: Be brief.\nuser: assistant: yes user: no"
    assert said.target is None


def test_references_are_told_apart() -> None:
    asked = [Example(input="in", target=["one\nline more", "another"])]
    (said,) = records(compared(answer(0)), examples=asked)
    assert said.target == "one\nline more\nor: another"


def test_where_answers_part_is_counted_from_the_beginning(seed: int) -> None:
    drawn = Random(seed)
    for _ in range(200):
        one, other = ("".join(drawn.choices("ab", k=drawn.randint(0, 6))) for _ in range(2))
        most = max(k for k in range(7) if one[:k] == other[:k] and k <= min(map(len, (one, other))))
        assert common_start(one, other) == most
        (said,) = records(compared(answer(0, expert=one, merged=other)))
        assert said.parts_at == most


@pytest.mark.parametrize("at", [0, 10, 400, 50_000, 99_000, 99_999])
def test_long_texts_are_cut_around_the_place_where_they_part(at: int) -> None:
    own, other = ("".join(map(chr, range(97, 123))) * 4000)[:100_000], "x"
    merged = own[:at] + "!" + own[at + 1 :]
    asked = Example(input=f"{'i' * 60_000}{'?' * 40_000}", target=own)
    (said,) = records(compared(answer(0, expert=own, merged=merged)), examples=[asked])
    assert said.parts_at == at
    for text, whole in ((said.expert, own), (said.merged, merged), (said.target or "", own)):
        kept = LEFT_OUT.sub("", text).strip()
        assert 300 < len(kept) <= LONGEST
        assert kept in whole
        assert sum(map(int, LEFT_OUT.findall(text))) + len(kept) == len(whole)
    assert "!" in said.merged
    assert common_start(said.expert, said.merged) == said.merged.index("!")
    assert said.input.startswith("iii")
    assert said.input.endswith("???")
    assert LEFT_OUT.findall(said.input) == [str(100_000 - LONGEST)]
    assert other not in said.input


def test_nothing_is_left_out_of_what_is_short() -> None:
    text = "x" * LONGEST
    asked = Example(input=text, target=text)
    (said,) = records(compared(answer(0, expert=text, merged="")), examples=[asked])
    assert {said.input, said.expert, said.target} == {text}


@pytest.mark.parametrize("text", [*HOSTILE.values(), "\0", "\ud800", "::error::x"], ids=ascii)
def test_nothing_in_it_steers_anything(text: str) -> None:
    asked = Example.model_construct(input=f"in {text}", target=text, choices=None)
    (said,) = records(compared(answer(0, expert=f"own {text}", merged=text)), examples=[asked])
    for shown in (said.input, said.expert, said.merged, said.target or ""):
        assert_plain(COMMAND.sub("", shown))
    read = json.loads(said.model_dump_json())
    assert read["input"] == said.input


def test_lines_stay_lines() -> None:
    (said,) = records(compared(answer(0, expert="a\n  b\tc\r\nd", merged="")))
    assert said.expert == "a\n  b c \nd"
