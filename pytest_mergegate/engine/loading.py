"""The base and its tokenizer from disk, refused where anything would be made up."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pytest_mergegate.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers while it loads."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_tokenizer(path: Path) -> Any:
    """The tokenizer saved beside the base. Raises PoolError."""
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # tokenizers raises nothing more specific
        raise PoolError(
            f"the base's tokenizer does not load ({_first_line(error)})",
            where=path.name,
            fix="save it beside the weights: tokenizer.save_pretrained(path)",
        ) from None


def load_module(path: Path) -> Any:
    """The base in float32, for inference, with every weight from its files and finite.

    Raises PoolError.
    """
    try:
        with _quiet():
            module, info = AutoModelForCausalLM.from_pretrained(
                path,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # a config can break transformers in any way
        raise PoolError(
            f"the base does not load as a causal language model ({_first_line(error)})",
            where=path.name,
            fix="check config.json against the weights",
        ) from None
    problems = {
        "are missing and would be random": info.get("missing_keys"),
        "have another shape and would be random": info.get("mismatched_keys"),
        "are in the file but not in the model": info.get("unexpected_keys"),
    }
    for says, keys in problems.items():
        if keys:
            raise PoolError(
                f"{len(keys)} tensors of the base {says}, first {sorted(map(str, keys))[0]}",
                where=path.name,
                fix="save the base again with save_pretrained",
            )
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter.data).all()):
            raise PoolError(
                f"the base's tensor {name!r} holds NaN or infinity", code="MG105", where=path.name
            )
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
