"""Every architecture against transformers' own forward pass, one input at a time."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, LABELS, POSITIONS
from transformers.integrations import moe

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models import beginnings
from pytest_mergegate.engine.models import language_models as generation
from pytest_mergegate.engine.models import model as engine_model
from pytest_mergegate.engine.models.families import load_model
from pytest_mergegate.engine.models.headed import HeadedModel
from pytest_mergegate.engine.models.passes import Reader
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.engine.models.readings import TokenCounts
from pytest_mergegate.pool.base import read_base

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.models.readings import Row

ROWS: list[Row] = [
    ((5, 9, 3, 12, 7), (4, 6)),
    ((8,), ()),
    ((21, 2, 14), (9, 9, 30, 2)),
    ((6, 6, 11, 28, 17, 4, 19), (25,)),
]
PROMPTS = [prompt for prompt, _ in ROWS]
LONGEST = 12


def load(folder: Path, **settings: Any) -> Any:
    located: Any = SimpleNamespace(path=folder)
    base = read_base(located, "base", "the test")
    return load_model(base, Placement(device=torch.device("cpu"), **settings))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Any:
    return load(ARCHITECTURES[name].write(tmp_path_factory.mktemp(name), seed))


@pytest.fixture(scope="module")
def precise(name: str, tmp_path_factory: pytest.TempPathFactory, seed: int) -> Iterator[Any]:
    """In float64: what then differs is a fault, not round-off that a random model amplifies."""
    folder = ARCHITECTURES[name].write(tmp_path_factory.mktemp(name), seed)
    with pytest.MonkeyPatch.context() as patch:
        # the usual way of running experts takes no float64
        known = moe.ExpertsInterface._global_mapping
        patch.setitem(known, "grouped_mm", moe.batched_mm_experts_forward)
        yield load(folder, dtype=torch.float64)


def expect_same(one: Tensor, other: Tensor) -> None:
    """Some models take their softmax in float32 whatever they are loaded in, and round as that
    does."""
    rounding = 8 * torch.finfo(torch.float32).eps
    assert torch.linalg.norm(one - other) <= rounding * torch.linalg.norm(one)


def expect_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).abs().max()
    assert float(error) <= 1e-4 * float(expected.abs().max())


@torch.no_grad()
def decoder_run(model: Model, prompt: tuple[int, ...], forced: tuple[int, ...]) -> Any:
    """transformers' own forward of a causal model or an encoder-decoder."""
    module: Any = model.module
    if module.config.is_encoder_decoder:
        start = module.config.decoder_start_token_id
        return module(
            input_ids=torch.tensor([prompt]),
            decoder_input_ids=torch.tensor([(start, *forced)]),
            output_hidden_states=True,
        )
    ids = torch.tensor([(*prompt, *forced)])
    return module(input_ids=ids, output_hidden_states=True)


@torch.no_grad()
def own_states(model: Model, row: Row, positions: str) -> Tensor:
    """The states one input at a time, from what transformers returns."""
    (prompt, forced), module = row, model.module
    if module.config.is_encoder_decoder:
        states = decoder_run(model, prompt, forced).decoder_hidden_states[-1][0]
        return {"answer": states, "last": states[:1], "mean": states.mean(0, True)}[positions]
    if positions == "answer":
        return own_hidden(model, (*prompt, *forced))[len(prompt) - 1 :]
    if positions == "head":
        return head_input(model, prompt)
    states = own_hidden(model, prompt)
    return states[-1:] if positions == "last" else states.mean(0, keepdim=True)


def own_hidden(model: Model, tokens: tuple[int, ...]) -> Tensor:
    backbone: Any = model.module.base_model
    states: Tensor = backbone(input_ids=torch.tensor([tokens])).last_hidden_state[0]
    return states


def head_input(model: Model, prompt: tuple[int, ...]) -> Tensor:
    """The state x of which W x + b is what the model says; W has full row rank."""
    layers = {
        "RobertaForSequenceClassification": lambda m: m.classifier.out_proj,
        "LlamaForSequenceClassification": lambda m: m.score,
        "GPT2ForSequenceClassification": lambda m: m.score,
    }
    module = model.module
    layer = layers.get(type(module).__name__, lambda m: m.classifier)(module)
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    module(input_ids=torch.tensor([prompt]))
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])[-1:]


def test_family(name: str, model: Any) -> None:
    kinds = {
        "causal": "causal language model",
        "seq2seq": "encoder-decoder",
        "classifier": "sequence classifier",
        "encoder": "model without a head",
    }
    assert model.kind == kinds[ARCHITECTURES[name].family]


def test_states_are_those_of_transformers(model: Any) -> None:
    for positions in model.known_positions:
        for row, found in zip(ROWS, model.states(ROWS, positions), strict=True):
            expect_close(found, own_states(model, row, positions))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_streamed_is_the_same(name: str, dtype: torch.dtype, tmp_path: Path, seed: int) -> None:
    folder = ARCHITECTURES[name].write(tmp_path / name, seed)
    whole, streamed = (load(folder, dtype=dtype, residence=r) for r in ("whole", "streamed"))
    assert streamed.is_streamed
    for parameter, own in whole.parameters.items():
        assert torch.equal(streamed.loaded_weight(parameter), own)
    for positions in whole.known_positions:
        both = (model.states(ROWS, positions) for model in (whole, streamed))
        for one, other in zip(*both, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    if isinstance(whole, HeadedModel):
        assert streamed.decode(PROMPTS, LONGEST) == whole.decode(PROMPTS, LONGEST)
        state = torch.randn(2, whole.states(ROWS, whole.answer_positions)[0].shape[-1])
        assert torch.equal(whole.logits(state), streamed.logits(state))


def test_batches_change_nothing(model: Any, precise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for positions in model.known_positions:
        together = precise.states(ROWS, positions)
        alone = [precise.states([row], positions)[0] for row in ROWS]
        backwards = precise.states(ROWS[::-1], positions)[::-1]
        for one, two, three in zip(together, alone, backwards, strict=True):
            expect_same(one, two)
            expect_same(one, three)
    if isinstance(model, HeadedModel):
        together = model.decode(PROMPTS, LONGEST)
        monkeypatch.setattr(engine_model, "batch_tokens", lambda _: 1)
        monkeypatch.setattr(generation, "_KEY_VALUE_BYTES", 1)
        assert model.decode(PROMPTS, LONGEST) == together


def test_logits_are_those_of_transformers(name: str, model: Any) -> None:
    if not isinstance(model, HeadedModel):
        pytest.skip("no head")
    for row, state in zip(ROWS, model.states(ROWS, model.answer_positions), strict=True):
        if ARCHITECTURES[name].family == "classifier":
            with torch.no_grad():
                own = model.module(input_ids=torch.tensor([row[0]])).logits
        else:
            own = decoder_run(model, *row).logits[0][-len(state) :]
        expect_close(model.logits(state), own)


def test_greedy_answers_are_the_argmax(name: str, model: Any) -> None:
    if not isinstance(model, HeadedModel):
        pytest.skip("no head")
    answers = model.decode(PROMPTS, LONGEST)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        if ARCHITECTURES[name].family == "classifier":
            logits = model.module(input_ids=torch.tensor([prompt])).logits[0]
            assert answer == [int(logits.argmax())]
            assert model.text(answer) == LABELS[answer[0]]
        else:
            assert answer == naive_answer(model, prompt)


def naive_answer(model: Model, prompt: tuple[int, ...], stop: Sequence[str] = ()) -> list[int]:
    """Everything run again for every token; no token is forced or forbidden."""
    answer: list[int] = []
    while len(answer) < LONGEST and 1 not in answer:
        if any(s in model.tokenizer.decode(answer, skip_special_tokens=True) for s in stop):
            break
        answer.append(int(decoder_run(model, prompt, tuple(answer)).logits[0, -1].argmax()))
    return answer


def test_stop_strings_are_those_of_a_loop(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if model.reading != "greedy":
        pytest.skip("no text")
    whole = [model.read(answer) for answer in model.decode(PROMPTS, LONGEST)]
    text = max(whole, key=len)
    first = model.read(PROMPTS[0])[-1] + whole[0][:1]  # where the prompt ends and the answer begins
    for stop in ([text[1:3] or "ab"], [text[-1:] or "a", "zz"], [first]):
        answers = model.decode(PROMPTS, LONGEST, stop)
        assert answers == [naive_answer(model, prompt, stop) for prompt in PROMPTS]
        for answer, long in zip(answers, whole, strict=True):
            cut = min((long.find(s) for s in stop if s in long), default=None)
            assert model.text(answer, stop) == long[:cut].strip()
            assert model.is_complete(answer, stop) == (1 in answer or cut is not None)
        with monkeypatch.context() as patch:
            patch.setattr(engine_model, "batch_tokens", lambda _: 1)
            patch.setattr(generation, "_KEY_VALUE_BYTES", 1)
            assert model.decode(PROMPTS, LONGEST, stop) == answers


@pytest.mark.parametrize("stop", [(), ("e", "zz")], ids=["", "stop"])
def test_answers_with_a_draft_are_those_without(
    model: Any, stop: tuple[str, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the draft: right, wrong from some token on, too long, too short, or nonsense."""
    if not getattr(model, "can_verify", False):
        pytest.skip("drafts are of no use to it")
    rng = np.random.default_rng(seed)
    answers = model.decode(PROMPTS, LONGEST, stop)
    drafts: list[tuple[int, ...]] = [tuple(answer) for answer in answers]
    drafts += [_altered(rng, answer) for answer in answers for _ in range(6)]
    drafts += [tuple(answer[: rng.integers(1, LONGEST)]) for answer in answers]
    drafts += [tuple(rng.integers(2, 30, rng.integers(1, LONGEST)).tolist()) for _ in answers]
    of = [k % len(PROMPTS) for k in range(len(PROMPTS))]
    of += [k for k in range(len(PROMPTS)) for _ in range(6)] + 2 * [*range(len(PROMPTS))]
    of += range(len(PROMPTS))
    drafts += [() for _ in PROMPTS]  # which leaves the model to itself
    prompts = [PROMPTS[k] for k in of]
    for tokens in (1 << 20, 1, 60):  # all together, one by one, and some
        monkeypatch.setattr(engine_model, "batch_tokens", lambda _, tokens=tokens: tokens)
        found = model.answer(prompts, drafts, LONGEST, stop)
        assert [one.answer for one in found] == [answers[k] for k in of]
        along = [
            tuple(answers[k]) if list(draft) == answers[k][: len(draft)] else draft
            for k, draft in zip(of, drafts, strict=True)
        ]
        rows = [(p, d[:-1]) for p, d in zip(prompts, along, strict=True)]
        for one, states in zip(found, model.states(rows, "answer"), strict=True):
            expect_close(one.states, states)


@pytest.mark.parametrize("stop", [(), ("e", "zz")], ids=["", "stop"])
def test_an_answer_is_left_where_it_can_no_longer_be_right(
    model: Any, stop: tuple[str, ...], seed: int
) -> None:
    if not getattr(model, "can_verify", False):
        pytest.skip("its answers are read to the end")
    rng = np.random.default_rng(seed)
    prompts = [tuple(rng.integers(2, 30, rng.integers(1, 9)).tolist()) for _ in range(12)]
    answers = model.decode(prompts, LONGEST, stop)
    texts = [model.text(answer, stop) for answer in answers]
    near = [t for t in texts for _ in range(3)]
    near[1::3] = [t[: rng.integers(len(t) + 1)] + "?" for t in texts]  # parts from it somewhere
    near[2::3] = [t[: rng.integers(len(t) + 1)] for t in texts]  # ends before it does
    of = [k for k in range(12) for _ in range(3)]
    for wanted in ([(t,) for t in near], [("?", f" {t}\n") for t in near]):
        asked = [prompts[k] for k in of]
        drafts = [tuple(answers[int(k)]) if k % 2 else () for k in of]
        found = model.answer(asked, drafts, LONGEST, stop, wanted)
        for one, k, right in zip(found, of, wanted, strict=True):
            is_right = texts[k] in [text.strip() for text in right]
            assert one.answer == answers[k][: len(one.answer)]
            assert one.whole or not is_right
            assert not one.whole or one.answer == answers[k]
        assert all(one.whole for one in model.answer(asked, drafts, LONGEST, stop))


def test_what_prompts_begin_with_is_read_once(
    precise: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not getattr(precise, "can_verify", False):
        pytest.skip("it keeps no keys and values")
    rng = np.random.default_rng(seed)
    begins = [tuple(rng.integers(2, 30, 9).tolist()) for _ in range(3)]
    ends = [tuple(rng.integers(2, 30, rng.integers(1, 6)).tolist()) for _ in range(40)]
    prompts = [(*begins[k % 3], *end) for k, end in enumerate(ends)] + list(PROMPTS)
    alone = [precise.states([(prompt, ())], "answer")[0] for prompt in prompts]
    answers = [precise.decode([prompt], LONGEST)[0] for prompt in prompts]
    monkeypatch.setattr(beginnings, "_LEAST_SAVED", 20)
    precise.counts = TokenCounts()
    rows = [(prompt, ()) for prompt in prompts]
    for one, own in zip(precise.states(rows, "answer"), alone, strict=True):
        expect_same(own, one)
    assert precise.counts.reused >= 9 * 40
    assert precise.counts.processed <= sum(map(len, prompts)) - 8 * 37
    found = precise.answer(prompts, [()] * len(prompts), LONGEST)
    assert [one.answer for one in found] == answers
    drafts = [_altered(rng, answer)[: len(answer)] for answer in answers]
    found = precise.answer(prompts, drafts, LONGEST)
    assert [one.answer for one in found] == answers


def test_what_prompts_begin_with_counts_as_often_as_it_is_held(
    model: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long beginning stands in memory once for every row of a pass, however short the rest."""
    if not getattr(model, "can_verify", False):
        pytest.skip("it keeps no keys and values")
    rng = np.random.default_rng(seed)
    begins = tuple(rng.integers(2, 30, 40).tolist())
    prompts = [(*begins, k, k + 1) for k in range(2, 28)]
    sizes: list[int] = []
    run = Reader.run

    def noted(reader: Reader, cache: Any, **inputs: Any) -> Tensor:
        sizes.append(inputs["attention_mask"].numel())
        return run(reader, cache, **inputs)

    monkeypatch.setattr(Reader, "run", noted)
    monkeypatch.setattr(engine_model, "batch_tokens", lambda _: 200)
    monkeypatch.setattr(generation, "_KEY_VALUE_BYTES", 1)
    model.counts = TokenCounts()
    model.states([(prompt, ()) for prompt in prompts], "answer")
    assert model.counts.reused == 40 * len(prompts)
    assert max(sizes) <= 200


def test_drafts_of_answers_that_fill_all_positions(model: Any, seed: int) -> None:
    """Some have no room left while others go on beside them."""
    if not getattr(model, "can_verify", False):
        pytest.skip("drafts are of no use to it")
    rng = np.random.default_rng(seed)
    prompts = [tuple(rng.integers(2, 30, 2 + 3 * k).tolist()) for k in range(12)]
    answers = model.decode(prompts, POSITIONS)
    drafts = [_altered(rng, answer)[: len(answer)] for answer in answers]
    found = model.answer(prompts, drafts, POSITIONS)
    assert [one.answer for one in found] == answers


def _altered(rng: np.random.Generator, answer: list[int]) -> tuple[int, ...]:
    """Another token somewhere, and whatever behind it."""
    place = int(rng.integers(len(answer)))
    other = (answer[place] - 2 + int(rng.integers(1, 20))) % 28 + 2
    return (*answer[:place], other, *rng.integers(2, 30, rng.integers(0, 5)).tolist())


def test_stop_strings_end_decoding_early(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if model.reading != "greedy":
        pytest.skip("no text")
    answer = model.decode(PROMPTS[:1], LONGEST)[0]
    if model.read(answer)[:1] in ("", " "):
        pytest.skip("an answer without letters")
    lengths = []
    generate = type(model)._generate

    def noted(*asked: Any) -> Tensor:
        found = generate(*asked)
        lengths.append(found.shape[1])
        return found

    monkeypatch.setattr(type(model), "_generate", noted)
    model.decode(PROMPTS[:1], LONGEST, [model.read(answer)[0]])
    assert lengths == [next(k for k in range(1, LONGEST) if model.read(answer[:k]))]


def test_head_parameters_are_the_head(name: str, model: Any) -> None:
    if not isinstance(model, HeadedModel):
        pytest.skip("no head")
    named = model.head_parameters
    assert model.parameters[named["weight"]] is model.projection.weight
    assert ("bias" in named) == (getattr(model.projection, "bias", None) is not None)
    tied = {"gpt2": "transformer.wte.weight", "t5": "shared.weight", "bart": "model.shared.weight"}
    assert named["weight"] == tied.get(name, named["weight"])


def test_answers_vary(name: str, model: Any, tmp_path: Path, seed: int) -> None:
    """One random model may be constant by chance; three of them are not."""
    if model.reading == "greedy":
        prompts = [(k, 31 - k, (7 * k) % 29 + 2) for k in range(2, 30)]
        others = (load(ARCHITECTURES[name].write(tmp_path / str(k), seed + k)) for k in range(1, 3))
        answers = (each.decode(prompts, 3) for each in chain((model,), others))
        assert any(len(set(map(tuple, found))) > 1 for found in answers)


def test_all_positions_can_be_used(name: str, model: Any) -> None:
    if name.startswith("t5"):
        assert model.fits(10**6, 10**6)
        return
    generative = ARCHITECTURES[name].family == "causal"
    assert model.positions == POSITIONS
    assert model.fits(POSITIONS - generative, 1)
    assert not model.fits(POSITIONS + 1 - generative, 1)
    full = tuple(k % 29 + 2 for k in range(POSITIONS))
    for positions in model.known_positions:
        model.states([(full, ())], positions)


def test_positions_of_another_family_are_refused(model: Any) -> None:
    assert model.resolve_positions(None) == model.known_positions[0]
    for positions in {"answer", "last", "mean", "head"} - set(model.known_positions):
        with pytest.raises(PoolError, match=positions) as caught:
            model.resolve_positions(positions)
        assert caught.value.code == "MG203"
        assert caught.value.fix is not None
        assert all(known in caught.value.fix for known in model.known_positions)
