"""An answer is read only as far as it takes to score it; no number or text of a report shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from integration.test_early_failures import WEIGHTS, gate_on
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from pytest_mergegate import assess
from pytest_mergegate.engine.models.language_models import GenerativeModel

if TYPE_CHECKING:
    from pathlib import Path

SAME = ("score_base", "score_expert", "score_merged", "loss", "loss_interval", "gain_kept")


def test_reports_are_those_of_whole_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {
        "certificate": {"sequential": False, "per_task": 30, "shown": 12},
        "merge": {"methods": ["linear", {"method": "ties", "density": 0.5}], "weights": WEIGHTS},
    }
    gate = gate_on(tmp_path, {"max_loss": 10}, **more)
    short = assess(gate, cache=False, all_methods=True)
    with monkeypatch.context() as patch:
        patch.setattr(GenerativeModel, "may_become", lambda *_: True)
        whole = assess(gate, cache=False, all_methods=True)
    for one, other in zip(short.merges, whole.merges, strict=True):
        for a, b in zip(one.experts, other.experts, strict=True):
            assert [getattr(a, key) for key in SAME] == [getattr(b, key) for key in SAME]
            assert [json.loads(c.model_dump_json()) for c in a.changed] == [
                json.loads(c.model_dump_json()) for c in b.changed
            ]
    assert any(len(e.changed) == 12 for m in short.merges for e in m.experts)
    read = [sum(t.processed for t in report.tokens.values()) for report in (short, whole)]
    assert read[0] < read[1]


class Spoken:
    """A model of which there is a tokenizer alone, of bytes, as Llama 2 has one."""

    may_become, read = GenerativeModel.may_become, GenerativeModel.read

    def __init__(self) -> None:
        pieces = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
        own = Tokenizer(models.BPE(pieces, [], byte_fallback=True, unk_token="<unk>"))
        own.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=own)


@pytest.mark.parametrize("said", ["é ok".encode(), "😀".encode(), b"p\xdf\xfcv", b"a \xc2"])
def test_what_begins_an_answer_may_become_it(said: bytes) -> None:
    model: Any = Spoken()
    tokens = [byte + 1 for byte in said]
    whole = model.read(tokens)
    assert all(model.may_become(tokens[:n], [whole]) for n in range(len(tokens) + 1))
    if "\N{REPLACEMENT CHARACTER}" not in whole:
        assert not model.may_become([ord("x") + 1, *tokens], [whole])
