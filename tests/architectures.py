"""Tiny random checkpoints of every architecture that a gate is tested on.

Nothing is trained. Every weight is drawn anew, biases and norms too: what is all zeros or all
ones would hide a part that was left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers as hf
from pools import EOS, LETTERS, PAD, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Family = Literal["causal", "seq2seq", "classifier", "encoder"]
LABELS = ("ant", "bee", "cat", "dog")
POSITIONS = 64
"""Tokens that each model reads, where it has a limit."""
_TOKENS = {"vocab_size": len((PAD, EOS, *LETTERS)), "pad_token_id": 0, "eos_token_id": 1}
_SPREAD = 0.3


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One kind of model, and how to write a tiny one."""

    family: Family
    make: Callable[[], Any]
    """The model, with whatever weights."""

    def write(self, folder: Path, seed: int) -> Path:
        """A random checkpoint with its tokenizer; returns ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_tokenizer(folder)
        torch.manual_seed(seed)
        model = self.make()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim == 1 and "norm" in name.lower() and name.endswith("weight"):
                tensor.data = 1 + 0.2 * torch.randn_like(tensor)
            elif name == "final_logits_bias" or name.endswith("bias"):
                tensor.data = 0.1 * torch.randn_like(tensor)
        model.save_pretrained(folder)
        return folder


def _model(kind: str, config: str, /, **settings: Any) -> Any:
    return getattr(hf, kind)(getattr(hf, config)(**_TOKENS | settings))


_DECODER: dict[str, Any] = {
    "bos_token_id": None,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": _SPREAD,
}
_GROUPED = _DECODER | {"num_key_value_heads": 2}
_HEADED = _GROUPED | {"head_dim": 8}
_GEMMA3 = _HEADED | {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention"] * 2}
_GPT2: dict[str, Any] = {
    "bos_token_id": 1,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "initializer_range": _SPREAD,
}
_OPT: dict[str, Any] = {
    "bos_token_id": 1,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "init_std": _SPREAD,
}
_T5: dict[str, Any] = {
    "decoder_start_token_id": 0,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "initializer_factor": 2.0,
}
_BART: dict[str, Any] = {
    "bos_token_id": 1,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": 1,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": POSITIONS,
    "init_std": _SPREAD,
}
_LABELS: dict[str, Any] = {
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: k for k, label in enumerate(LABELS)},
}
_DISTILBERT: dict[str, Any] = {
    "dim": 32,
    "hidden_dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.6,
}


_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_GEMMA3_IMAGES: dict[str, Any] = {
    "text_config": _TOKENS | _GEMMA3,
    "vision_config": _VISION,
    "mm_tokens_per_image": 1,
    "image_token_index": 3,
    "boi_token_index": 4,
    "eoi_token_index": 5,
}
_LLAVA: dict[str, Any] = {
    "text_config": {"model_type": "llama", **_TOKENS, **_GROUPED},
    "vision_config": {"model_type": "clip_vision_model", **_VISION, "projection_dim": 16},
    "image_token_index": 3,
    "image_seq_length": 4,
    "vision_feature_layer": -1,
}
_EXPERTS: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "decoder_sparse_step": 1,
}


def _with_images(kind: str, config: str, **settings: Any) -> Any:
    """A model that reads images, too; the tokens are its text part's."""
    return getattr(hf, kind)(getattr(hf, config)(**settings))


def _of(family: Family, kind: str, config: str, settings: dict[str, Any]) -> Architecture:
    return Architecture(family=family, make=partial(_model, kind, config, **settings))


# RoBERTa's first position comes after the padding token's
_ENCODER = _DECODER | {"initializer_range": 0.6}
_ROBERTA = _ENCODER | _LABELS | {"max_position_embeddings": POSITIONS + 1}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _of("causal", "LlamaForCausalLM", "LlamaConfig", _GROUPED),
    "mistral": _of("causal", "MistralForCausalLM", "MistralConfig", _GROUPED),
    "qwen2": _of("causal", "Qwen2ForCausalLM", "Qwen2Config", _GROUPED),
    "qwen3": _of("causal", "Qwen3ForCausalLM", "Qwen3Config", _HEADED),
    "gemma": _of("causal", "GemmaForCausalLM", "GemmaConfig", _HEADED),
    "gemma2": _of("causal", "Gemma2ForCausalLM", "Gemma2Config", _HEADED),
    "gemma3": _of("causal", "Gemma3ForCausalLM", "Gemma3TextConfig", _GEMMA3),
    "gemma3_images": Architecture(
        family="causal",
        make=partial(
            _with_images, "Gemma3ForConditionalGeneration", "Gemma3Config", **_GEMMA3_IMAGES
        ),
    ),
    "llava": Architecture(
        family="causal",
        make=partial(_with_images, "LlavaForConditionalGeneration", "LlavaConfig", **_LLAVA),
    ),
    "mixtral": _of("causal", "MixtralForCausalLM", "MixtralConfig", _GROUPED | _EXPERTS),
    "qwen2_moe": _of("causal", "Qwen2MoeForCausalLM", "Qwen2MoeConfig", _GROUPED | _EXPERTS),
    "gpt2": _of("causal", "GPT2LMHeadModel", "GPT2Config", _GPT2),
    "opt": _of("causal", "OPTForCausalLM", "OPTConfig", _OPT),
    "opt_projected": _of(
        "causal", "OPTForCausalLM", "OPTConfig", _OPT | {"word_embed_proj_dim": 16}
    ),
    "phi": _of("causal", "PhiForCausalLM", "PhiConfig", _DECODER),
    "gpt_neox": _of("causal", "GPTNeoXForCausalLM", "GPTNeoXConfig", _DECODER),
    "t5": _of("seq2seq", "T5ForConditionalGeneration", "T5Config", _T5),
    "t5_gated": _of(
        "seq2seq",
        "T5ForConditionalGeneration",
        "T5Config",
        _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": _of("seq2seq", "BartForConditionalGeneration", "BartConfig", _BART),
    "bert_classifier": _of(
        "classifier", "BertForSequenceClassification", "BertConfig", _ENCODER | _LABELS
    ),
    "roberta_classifier": _of(
        "classifier", "RobertaForSequenceClassification", "RobertaConfig", _ROBERTA
    ),
    "distilbert_classifier": _of(
        "classifier",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _DISTILBERT | _LABELS,
    ),
    "llama_classifier": _of(
        "classifier", "LlamaForSequenceClassification", "LlamaConfig", _GROUPED | _LABELS
    ),
    "gpt2_classifier": _of(
        "classifier", "GPT2ForSequenceClassification", "GPT2Config", _GPT2 | _LABELS
    ),
    "bert": _of("encoder", "BertModel", "BertConfig", _ENCODER),
}
