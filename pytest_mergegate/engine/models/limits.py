"""How much a model reads."""

from __future__ import annotations

import sys
from typing import Any

import torch

_ENCODER = ("max_position_embeddings", "max_encoder_position_embeddings")
_DECODER = ("max_position_embeddings", "max_decoder_position_embeddings")


def positions_read(module: Any, *, decoder: bool = False) -> int:
    """How many tokens a model, or the decoder of an encoder-decoder, reads at most."""
    config = module.config.get_text_config()
    limits = [getattr(config, name, None) for name in (_DECODER if decoder else _ENCODER)]
    known = [int(limit) for limit in limits if limit is not None and limit > 0]
    return known[0] - _positions_skipped(module) if known else sys.maxsize


def _positions_skipped(module: Any) -> int:
    """RoBERTa and its kin start counting behind the padding token, within the same table."""
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Embedding) and name.endswith("position_embeddings"):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0
