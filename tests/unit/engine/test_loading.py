"""Which bases are taken, as what, and which are refused."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from architectures import ARCHITECTURES
from pools import write_tokenizer
from safetensors.torch import load_file, save_file

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.families import load_model, pick_family
from pytest_mergegate.engine.models.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    Tensors = dict[str, Tensor]


def load(folder: Path, *, trust_remote_code: bool = False) -> Any:
    base: Any = SimpleNamespace(path=folder, tokenizer=None, called="the base")
    return load_model(
        base, Placement(device=torch.device("cpu"), trust_remote_code=trust_remote_code)
    )


def with_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


def with_config(folder: Path, **settings: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def plus(**tensors: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda stored: stored | {key.replace("__", "."): t for key, t in tensors.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda stored: {key: t for key, t in stored.items() if part not in key}


def unprefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda stored: {key.removeprefix(prefix): t for key, t in stored.items()}


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        pytest.param("gpt2", unprefixed("transformer."), id="without the prefix"),
        pytest.param("bert_classifier", unprefixed("bert."), id="classifier without the prefix"),
        pytest.param("gpt2", plus(transformer__h__0__attn__bias=torch.ones(1, 1, 4, 4)), id="mask"),
        pytest.param(
            "gpt2", plus(transformer__h__0__attn__masked_bias=torch.tensor(-1e4)), id="masked bias"
        ),
        pytest.param(
            "bert_classifier",
            plus(bert__embeddings__position_ids=torch.arange(64)[None]),
            id="position ids",
        ),
        pytest.param(
            "llama",
            plus(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)),
            id="rotary frequencies",
        ),
        pytest.param("t5", without("lm_head"), id="tied output layer"),
    ],
)
def test_stored_otherwise_but_the_same(
    tmp_path: Path, seed: int, architecture: str, change: Callable[[Tensors], Tensors]
) -> None:
    row = ((4, 9, 2), (7,))
    folder = ARCHITECTURES[architecture].write(tmp_path, seed)
    model = load(folder)
    before = model.states([row], model.known_positions[0])[0]
    after = load(with_tensors(folder, change))
    assert list(after.parameters) == list(model.parameters)
    torch.testing.assert_close(after.states([row], model.known_positions[0])[0], before)


@pytest.mark.parametrize(
    ("architecture", "change", "says"),
    [
        ("bert_classifier", without("classifier"), "no classification head"),
        ("llama_classifier", without("score"), "no classification head"),
        ("bert_classifier", without("layer.1.output"), "missing and would be random"),
        ("llama", without("lm_head"), "missing and would be random"),
        ("t5", without("wo.weight"), "missing and would be random"),
        ("bart", plus(model__odd__weight=torch.ones(3)), "in the file but not in the model"),
        ("bert", plus(encoder__layer__0__output__dense__bias=torch.full((32,), torch.nan)), "NaN"),
    ],
)
def test_incomplete_bases_are_refused(
    tmp_path: Path, seed: int, architecture: str, change: Callable[[Tensors], Tensors], says: str
) -> None:
    folder = with_tensors(ARCHITECTURES[architecture].write(tmp_path, seed), change)
    with pytest.raises(PoolError, match=says):
        load(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"problem_type": "multi_label_classification"},
        {"problem_type": "regression"},
    ],
)
def test_other_kinds_of_labels_are_refused(
    tmp_path: Path, seed: int, settings: dict[str, Any]
) -> None:
    folder = with_config(ARCHITECTURES["bert_classifier"].write(tmp_path, seed), **settings)
    with pytest.raises(PoolError, match="only one label out of several") as caught:
        load(folder)
    assert caught.value.code == "MG002"


def test_regression_by_one_label_is_refused(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    config = transformers.BertConfig(
        vocab_size=size, num_labels=1, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(PoolError, match="1 labels") as caught:
        load(tmp_path)
    assert caught.value.code == "MG002"


def test_a_head_that_is_not_understood_is_refused(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ARCHITECTURES["bert_classifier"].write(tmp_path, seed)
    kind = transformers.BertForSequenceClassification
    forward = kind.forward

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = forward(self, *args, **kwargs)
        out.logits = 2 * out.logits
        return out

    monkeypatch.setattr(kind, "forward", doubled)
    with pytest.raises(PoolError, match="not a projection") as caught:
        load(folder)
    assert caught.value.code == "MG002"


def test_a_model_that_returns_no_states_is_refused(tmp_path: Path) -> None:
    """Llama 4 is its own ``base_model``, which returns logits."""
    config = transformers.Llama4TextConfig(
        vocab_size=write_tokenizer(tmp_path),
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
    )
    transformers.Llama4ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(PoolError, match="Llama4ForCausalLM does not run"):
        load(tmp_path)


def test_a_decoder_without_padding_token_classifies_its_last(tmp_path: Path, seed: int) -> None:
    folder = with_config(ARCHITECTURES["llama_classifier"].write(tmp_path, seed), pad_token_id=None)
    model = load(folder)
    prompts = [(5, 3, 0), (9,), (4, 4, 8, 2, 0, 0)]
    for prompt, answer in zip(prompts, model.decode(prompts, 1), strict=True):
        logits = model.module(input_ids=torch.tensor([prompt])).logits[0]
        assert answer == [int(logits.argmax())]


def test_padding_within_a_prompt(tmp_path: Path, seed: int) -> None:
    """A decoder classifies the last position that holds no padding token."""
    model = load(ARCHITECTURES["gpt2_classifier"].write(tmp_path, seed))
    prompts = [(5, 3, 0), (9, 7), (4, 0, 8, 2, 0, 0)]
    states = model.states([(prompt, ()) for prompt in prompts], "head")
    for prompt, state in zip(prompts, states, strict=True):
        own = model.module(input_ids=torch.tensor([prompt])).logits
        torch.testing.assert_close(model.logits(state), own, rtol=1e-4, atol=1e-5)


def test_an_encoder_decoder_classifies_its_end_of_text(tmp_path: Path, seed: int) -> None:
    settings: dict[str, Any] = {
        "vocab_size": write_tokenizer(tmp_path), "pad_token_id": 0, "eos_token_id": 1,
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "init_std": 0.3, "num_labels": 3,
    }  # fmt: skip
    torch.manual_seed(seed)
    config = transformers.BartConfig(**settings)
    transformers.BartForSequenceClassification(config).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert model.known_positions == ("head",)
    prompts = [(5, 3, 1), (7, 1), (4, 1, 8, 2, 1)]
    for prompt, answer in zip(prompts, model.decode(prompts, 1), strict=True):
        logits = model.module(input_ids=torch.tensor([prompt])).logits[0]
        assert answer == [int(logits.argmax())]
    with pytest.raises(PoolError, match="no end-of-text token") as caught:
        model.decode([(5, 3)], 1)
    assert caught.value.code == "MG203"


def test_remote_code_runs_only_when_asked_for(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = ARCHITECTURES["llama"].write(tmp_path / "base", seed)
    (folder / "modelling.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    classes = {
        "AutoConfig": "modelling.OwnConfig",
        "AutoModelForCausalLM": "modelling.OwnForCausalLM",
    }
    with_config(folder, model_type="own", architectures=["OwnForCausalLM"], auto_map=classes)
    with pytest.raises(PoolError) as caught:
        load(folder)
    assert "trust_remote_code" in (caught.value.fix or "")
    assert type(load(folder, trust_remote_code=True).module).__name__ == "OwnForCausalLM"


def test_an_encoder_decoder_needs_a_start(tmp_path: Path, seed: int) -> None:
    folder = with_config(ARCHITECTURES["t5"].write(tmp_path, seed), decoder_start_token_id=None)
    (folder / "generation_config.json").unlink()
    with pytest.raises(PoolError, match="decoder_start_token_id"):
        load(folder)


@pytest.mark.parametrize(
    ("architecture", "model_type", "kind"),
    [
        ("LlamaForCausalLM", "llama", "causal language model"),
        ("GPT2LMHeadModel", "gpt2", "causal language model"),
        ("Gemma3ForConditionalGeneration", "gemma3_text", "causal language model"),
        (None, "gpt2", "causal language model"),
        ("T5ForConditionalGeneration", "t5", "encoder-decoder"),
        ("MarianMTModel", "marian", "encoder-decoder"),
        (None, "t5", "encoder-decoder"),
        ("BartForSequenceClassification", "bart", "sequence classifier"),
        ("DebertaV2ForSequenceClassification", "deberta-v2", "sequence classifier"),
        ("RobertaModel", "roberta", "model without a head"),
    ],
)
def test_families(architecture: str | None, model_type: str, kind: str) -> None:
    config = transformers.AutoConfig.for_model(model_type)
    config.architectures = architecture and [architecture]
    assert pick_family(config).kind == kind


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("BertForMaskedLM", "bert"),
        ("BertForTokenClassification", "bert"),
        ("T5Model", "t5"),
        ("LlamaForQuestionAnswering", "llama"),
    ],
)
def test_other_architectures_are_refused(architecture: str, model_type: str) -> None:
    config = transformers.AutoConfig.for_model(model_type)
    config.architectures = [architecture]
    with pytest.raises(PoolError, match=architecture) as caught:
        pick_family(config)
    assert caught.value.code == "MG002"


def test_a_tied_layer_cannot_change_alone(tmp_path: Path, seed: int) -> None:
    model = load(ARCHITECTURES["gpt2"].write(tmp_path, seed))
    model.check_parameters(["transformer.wte.weight"])
    with pytest.raises(PoolError, match="tied"):
        model.check_parameters(["lm_head.weight"])
    with pytest.raises(PoolError, match="no parameter"):
        model.check_parameters(["odd.weight"])
