"""Heads: what a model ends in, and what the task of an architecture is."""

from collections.abc import Mapping
from typing import Any

from pytest_mergegate.common.plain_text import shown

_HEADS = frozenset(
    (
        *("lm_head", "embed_out", "cls", "vocab_projector", "vocab_transform"),
        *("score", "classifier", "pre_classifier", "classification_head", "sequence_summary"),
        *("qa_outputs", "answer_class", "v_head"),
    )
)
_ENDINGS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "Model": "FEATURE_EXTRACTION",
}


def head_of(parameter: str) -> str | None:
    """The head that a parameter belongs to, such as ``classifier``; None for the backbone's."""
    first = parameter.split(".")[0]
    return first if first in _HEADS else None


def task_of(config: Mapping[str, Any]) -> str | None:
    """PEFT's name of what the architecture in ``config.json`` is made for; None if unclear."""
    name = architecture_of(config)
    if name.endswith("ForConditionalGeneration") and config.get("is_encoder_decoder") is True:
        return "SEQ_2_SEQ_LM"
    return next((task for ending, task in _ENDINGS.items() if name.endswith(ending)), None)


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class in ``config.json``, cut to a readable length; empty where there is none."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return shown(first) if isinstance(first, str) else ""
