"""Random adapters of every kind that a gate reads, saved by PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import peft
import torch
from architectures import ARCHITECTURES
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class LanguageModel:
    """What loads a language model, whether it reads images too or not."""

    @staticmethod
    def of(config: Any) -> Any:
        """The class of transformers for a configuration."""
        images = str((config.architectures or [""])[0]).endswith("ForConditionalGeneration")
        return AutoModelForImageTextToText if images else AutoModelForCausalLM

    @classmethod
    def from_pretrained(cls, path: Path, **settings: Any) -> Any:
        """The model in a folder."""
        return cls.of(AutoConfig.from_pretrained(path)).from_pretrained(path, **settings)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A model of random weights."""
        return cls.of(config).from_config(config)


AUTO: dict[str, Any] = {
    "causal": LanguageModel,
    "seq2seq": AutoModelForSeq2SeqLM,
    "classifier": AutoModelForSequenceClassification,
    "encoder": AutoModel,
}
_ATTENTION = {
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "t5": ["q", "v"],
    "gpt_neox": ["query_key_value"],
}
_NORM = {"gpt2": "ln_f", "t5": "final_layer_norm", "bert": "LayerNorm"}


def attention(architecture: str) -> list[str]:
    """Names of some attention projections."""
    return next((n for k, n in _ATTENTION.items() if architecture.startswith(k)), ["q_proj"])


def norm(architecture: str) -> str:
    """Name of some normalisation layers."""
    return next((n for k, n in _NORM.items() if architecture.startswith(k)), "norm")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One kind of adapter."""

    config: Callable[[str], Any]
    """PEFT's configuration for an architecture."""
    on: tuple[str, ...] = ("llama", "gpt2", "bert_classifier", "t5")
    """The architectures it is tested on."""
    kind: str = "lora"
    """What a report calls it."""
    spread: float = 0.1
    """How far its numbers are moved; where that is far, float32 alone tells no 1e-4."""


def _lora(**settings: Any) -> Callable[[str], Any]:
    def config(architecture: str) -> Any:
        chosen: dict[str, Any] = {
            "r": 4,
            "lora_alpha": 6,
            "target_modules": attention(architecture),
        }
        return LoraConfig(**chosen | settings)

    return config


def _patterns(architecture: str) -> Any:
    first = attention(architecture)[0]
    return LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        # the first that matches counts, and PEFT sorts them when it saves
        rank_pattern={rf"^.*\.1\..*{first}": 3, first: 2},
        alpha_pattern={first: 5},
    )


def _other(name: str, **settings: Any) -> Callable[[str], Any]:
    def config(architecture: str) -> Any:
        return getattr(peft, name)(target_modules=attention(architecture), **settings)

    return config


def _ia3(architecture: str) -> Any:
    names = attention(architecture)
    return peft.IA3Config(target_modules=names, feedforward_modules=names[:1])


_PLAIN = ("llama", "bert_classifier", "t5")
VARIANTS: dict[str, Variant] = {
    "lora": Variant(config=_lora(target_modules="all-linear"), on=tuple(ARCHITECTURES)),
    "patterns": Variant(config=_patterns, spread=0.05),
    "rslora": Variant(config=_lora(use_rslora=True)),
    "dora": Variant(config=_lora(use_dora=True), kind="dora"),
    "embedding": Variant(config=_lora(target_modules=["embed_tokens", "q_proj"]), on=("llama",)),
    "embedding_of_encoder": Variant(
        config=_lora(target_modules=["word_embeddings"]), on=("bert_classifier",)
    ),
    "output_layer": Variant(config=_lora(target_modules=["lm_head", "q_proj"]), on=("llama",)),
    "lora_bias": Variant(config=_lora(lora_bias=True), on=("gpt2", "bert_classifier", "opt")),
    "bias_all": Variant(config=_lora(bias="all"), on=("gpt2", "bert_classifier", "opt")),
    "bias_lora_only": Variant(config=_lora(bias="lora_only"), on=("gpt2", "opt")),
    "saved_head": Variant(
        config=_lora(modules_to_save=["classifier"]), on=("bert_classifier", "roberta_classifier")
    ),
    "saved_modules": Variant(config=_lora(modules_to_save=["lm_head", "norm"]), on=("llama",)),
    "tokens": Variant(
        config=_lora(trainable_token_indices=[3, 1, 7]), on=("llama", "bert_classifier")
    ),
    "tokens_tied": Variant(config=_lora(trainable_token_indices={"wte": [3, 1, 7]}), on=("gpt2",)),
    "experts": Variant(
        config=_lora(
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            rank_pattern={"experts.down_proj": 3},
            alpha_pattern={r".*\.1\..*gate_up_proj": 5},
        ),
        on=("mixtral", "qwen2_moe"),
    ),
    "experts_alone": Variant(
        config=_lora(target_modules=[], target_parameters=["experts.down_proj", "gate.weight"]),
        on=("mixtral",),
    ),
    "pissa": Variant(config=_lora(init_lora_weights="pissa"), on=_PLAIN),
    "pissa_drawn": Variant(  # of the whole weight, whatever is drawn
        config=_lora(init_lora_weights="pissa_niter_16", r=32), on=("llama",), spread=0.02
    ),
    "mica": Variant(config=_lora(init_lora_weights="mica"), on=("llama",)),
    "olora": Variant(config=_lora(init_lora_weights="olora"), on=_PLAIN),
    "ia3": Variant(config=_ia3, kind="ia3"),
    "loha": Variant(config=_other("LoHaConfig", r=3), kind="loha", on=_PLAIN),
    "lokr": Variant(config=_other("LoKrConfig", r=3), kind="lokr", on=_PLAIN),
    "vera": Variant(config=_other("VeraConfig", r=8), kind="vera", on=_PLAIN),
    "adalora": Variant(config=_other("AdaLoraConfig", total_step=10), kind="adalora", on=_PLAIN),
    "oft": Variant(config=_other("OFTConfig", oft_block_size=8), kind="oft", on=_PLAIN),
    "boft": Variant(config=_other("BOFTConfig", boft_block_size=4), kind="boft", on=_PLAIN),
    "fourierft": Variant(
        config=_other("FourierFTConfig", n_frequency=20), kind="fourierft", on=_PLAIN
    ),
    "hra": Variant(config=_other("HRAConfig", r=4), kind="hra", on=_PLAIN),
    "randlora": Variant(
        config=_other("RandLoraConfig", r=8), kind="randlora", on=_PLAIN, spread=0.02
    ),
    "shira": Variant(config=_other("ShiraConfig", r=4), kind="shira", on=_PLAIN),
    "c3a": Variant(config=_other("C3AConfig", block_size=8), kind="c3a", on=_PLAIN),
    "miss": Variant(config=_other("MissConfig", r=8), kind="miss", on=_PLAIN),
    "delora": Variant(config=_other("DeloraConfig", r=4), kind="delora", on=_PLAIN),
    "gralora": Variant(config=_other("GraloraConfig", r=8), kind="gralora", on=_PLAIN),
    "hira": Variant(config=_other("HiraConfig", r=4), kind="hira", on=_PLAIN),
    "waveft": Variant(config=_other("WaveFTConfig", n_frequency=20), kind="waveft", on=_PLAIN),
    "road": Variant(config=_other("RoadConfig", group_size=8), kind="road", on=_PLAIN),
    "osf": Variant(config=_other("OSFConfig"), kind="osf", on=_PLAIN),
    "glora": Variant(config=_other("GloraConfig", r=4), kind="glora", on=("llama",)),
    "psoft": Variant(config=_other("PsoftConfig", r=4), kind="psoft", on=("llama",)),
    "deft": Variant(config=_other("DeftConfig", r=4), kind="deft", on=("llama",)),
    "peanut": Variant(config=_other("PeanutConfig", r=4), kind="peanut", on=("llama",)),
    "pvera": Variant(config=_other("PveraConfig", r=4), kind="pvera", on=("llama",)),
    "tinylora": Variant(config=_other("TinyLoraConfig", r=4), kind="tinylora", on=("llama",)),
    "vblora": Variant(
        config=_other("VBLoRAConfig", r=4, vector_length=4, num_vectors=8, topk=2),
        kind="vblora",
        on=("llama",),
    ),
    "trainable_tokens": Variant(
        config=lambda name: peft.TrainableTokensConfig(
            target_modules=["embed_tokens"], token_indices=[3, 1, 7]
        ),
        kind="trainable_tokens",
        on=("llama",),
    ),
    "ln_tuning": Variant(
        config=lambda name: peft.LNTuningConfig(target_modules=[norm(name)]),
        kind="ln_tuning",
        on=("llama", "gpt2", "bert_classifier"),
    ),
}
CASES = [(variant, on) for variant, kind in VARIANTS.items() for on in kind.on]


def load(base: Path, architecture: str) -> Any:
    """The base in float32, for inference."""
    family = ARCHITECTURES[architecture].family
    return AUTO[family].from_pretrained(base, dtype=torch.float32).eval()


def write_variant(base: Path, folder: Path, *, variant: str, architecture: str, seed: int) -> Path:
    """A random adapter of ``base``; every trainable number is moved off its start."""
    return save_variant(load(base, architecture), folder, variant, architecture, seed)


def save_variant(base: Any, folder: Path, variant: str, architecture: str, seed: int) -> Path:
    """The same of a ``base`` in memory, which is used up."""
    torch.manual_seed(seed)
    model = get_peft_model(base, VARIANTS[variant].config(architecture))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += VARIANTS[variant].spread * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder
