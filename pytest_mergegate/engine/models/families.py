"""Which family a base belongs to, by its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.causal import CausalModel
from pytest_mergegate.engine.models.classifier import SequenceClassifier
from pytest_mergegate.engine.models.encoder import HeadlessModel
from pytest_mergegate.engine.models.loading import load_config
from pytest_mergegate.engine.models.seq2seq import EncoderDecoder

if TYPE_CHECKING:
    from pytest_mergegate.engine.models.model import Model
    from pytest_mergegate.engine.models.placement import Placement
    from pytest_mergegate.pool.base import Base

_GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def load_model(base: Base, placement: Placement) -> Model:
    """The base as a model of its family.

    Raises PoolError for an architecture of none, and for a base that does not load.
    """
    config = load_config(base.path, trust_remote_code=placement.trust_remote_code)
    family = pick_family(config)
    return family(base, placement)


def pick_family(config: Any) -> type[Model]:
    """The family of a configuration: by the class that was saved, a causal model by default."""
    name = str((config.architectures or [config.model_type])[0])
    if name.endswith("ForSequenceClassification"):
        return SequenceClassifier
    if name in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values() and config.is_encoder_decoder:
        return EncoderDecoder
    if name.endswith(_GENERATING) or name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return CausalModel
    if name.endswith("Model") and not config.is_encoder_decoder:
        return HeadlessModel
    if name == config.model_type:
        return EncoderDecoder if config.is_encoder_decoder else CausalModel
    raise PoolError(
        f"the base is a {name}; a gate takes causal language models, encoder-decoders, sequence "
        "classifiers and headless encoders",
        code="MG002",
        fix="save the base as one of them, such as AutoModel.from_pretrained(...) without a head",
    )
