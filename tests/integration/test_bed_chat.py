"""The bed `chat`: its texts, pools and gates, without the base."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from beds import chat, chat_texts, gating  # noqa: E402

from pytest_mergegate.gate.gatefile import gate_from  # noqa: E402

NAMES = list(chat_texts.TASKS)


def test_every_expert_has_a_family() -> None:
    assert sorted(name for family in chat.FAMILIES.values() for name in family) == sorted(NAMES)
    assert len(chat_texts.TEXT) == 8


def test_pools_are_seeded_and_those_apart_hold_no_rivals() -> None:
    pools = chat.pools(NAMES)
    assert pools == chat.pools(NAMES)
    assert len({tuple(pool) for pool in pools}) == len(pools)
    sizes = Counter(map(len, pools))
    assert sizes == {2: 25, 4: 16, 8: 6}
    apart = [pool for pool in pools if len(pool) > 2 and not chat.rivals_in(pool)]
    assert len(apart) >= 16
    for pair in (["synopsis", "synopsis_twin"], ["depends", "pinned"], ["synopsis", "excerpt"]):
        assert pair in pools


def test_gates_are_what_the_bed_says(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "bed.json").write_text(json.dumps({"gates": chat.GATES}))
    own = gating.own_of(tmp_path)
    spec = gate_from(gating.gate_of(("json", "verb"), "fresh", own=own), root=tmp_path).spec
    assert spec.certificate.per_task == chat_texts.EXAMPLES
    assert spec.probes.answer_limit == 64
    assert [m.method for m in spec.merge.methods][-2:] == ["model_stock", "core_space"]
    assert {n: e.metric for n, e in spec.experts.items()} == {
        "json": "exact_match",
        "verb": "rouge_l",
    }


@pytest.mark.skipif(
    not (chat_texts.WORDNET / "data.verb").exists()
    or not [*chat_texts.data.LISTS.glob("*_i18n_Translation-en*")],
    reason="needs Debian's lists of descriptions and wordnet-base",
)
@pytest.mark.parametrize("name", ["verb", "kind"])
def test_what_is_held_out_is_not_trained_on(name: str) -> None:
    held_out, training = chat_texts.chats(name)
    questions, right = chat_texts.read(held_out)
    assert len(held_out) == 2 * chat_texts.EXAMPLES == len(set(questions))
    assert not {chat.question for chat in training} & {*questions}
    assert all(answer for answers in right for answer in answers)
