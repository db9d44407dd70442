"""The families of models, and to which of them a base belongs by its configuration."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as _CAUSAL,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as _IMAGE_TEXT,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as _ENCODER_DECODERS,
)

from pytest_mergegate.engine.models.causal import CausalModel
from pytest_mergegate.engine.models.encoder_decoder import EncoderDecoder
from pytest_mergegate.engine.models.headed import SequenceClassifier
from pytest_mergegate.engine.models.loading import load_config, unsupported
from pytest_mergegate.engine.models.model import Model
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.engine.models.readings import Reading, Row
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.base import Base


class ImageTextModel(CausalModel):
    """A language model that reads images, too; here it reads text."""

    auto_class = AutoModelForImageTextToText


class HeadlessModel(Model):
    """A backbone by itself."""

    kind = "model without a head"
    auto_class = AutoModel
    reading: ClassVar[Reading] = "none"
    known_positions: tuple[Positions, ...] = ("mean", "last")
    answer_positions: ClassVar[None] = None

    def _read(self, rows: Sequence[Row], positions: Positions) -> list[Tensor]:
        return self._read_prompts([prompt for prompt, _ in rows], positions)


_GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_FAMILIES: tuple[tuple[type[Model], Callable[[str, Any], bool]], ...] = (
    (SequenceClassifier, lambda name, _: name.endswith("ForSequenceClassification")),
    (
        EncoderDecoder,
        lambda name, config: (
            config.is_encoder_decoder and name in {*_ENCODER_DECODERS.values(), config.model_type}
        ),
    ),
    (
        ImageTextModel,
        lambda name, config: (
            not config.is_encoder_decoder and name in {*_IMAGE_TEXT.values()} - {*_CAUSAL.values()}
        ),
    ),
    (
        CausalModel,
        lambda name, config: (
            name.endswith(_GENERATING) or name in {*_CAUSAL.values(), config.model_type}
        ),
    ),
    (HeadlessModel, lambda name, config: name.endswith("Model") and not config.is_encoder_decoder),
)
"""Each family, and whether it takes a class by its name and configuration; the first that does."""


def load_model(base: Base, placement: Placement) -> Model:
    """The base as a model of its family.

    Raises PoolError for an architecture of none, and for a base that does not load.
    """
    trusted = placement.trust_remote_code
    config = load_config(base.path, trust_remote_code=trusted, called=base.called)
    return pick_family(config)(base, placement)


def pick_family(config: Any) -> type[Model]:
    """The family of a configuration: by the class that was saved, else by the kind of model."""
    name = str((config.architectures or [config.model_type])[0])
    for family, takes in _FAMILIES:
        if takes(name, config):
            return family
    raise unsupported(
        f"the base is a {name}; a gate takes causal language models, encoder-decoders, sequence "
        "classifiers and headless encoders",
        "save the base as one of them, such as AutoModel.from_pretrained(...) without a head",
    )
