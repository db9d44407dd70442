"""The base and its tokenizer from disk, refused where anything would be made up."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pytest_mergegate.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_OLD_BUFFERS = (".masked_bias",)
"""Constants that old releases of transformers stored and that new ones no longer know."""


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


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer saved beside the base. Raises PoolError."""
    try:
        with _quiet():
            return AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # tokenizers raises nothing more specific
        raise PoolError(
            f"the base's tokenizer does not load ({_first_line(error)})",
            where=path.name,
            fix="save it beside the weights: tokenizer.save_pretrained(path)",
        ) from None


def load_config(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The base's configuration. Raises PoolError."""
    try:
        with _quiet():
            return AutoConfig.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # a config can break transformers in any way
        raise _does_not_load(path, "its configuration is not understood", error) from None


def load_module(
    path: Path,
    auto_class: Any,
    kind: str,
    *,
    trust_remote_code: bool = False,
    config: Any = None,
) -> Any:
    """The base in float32, for inference, with every weight from its files and finite.

    ``auto_class`` is the class of transformers that loads a ``kind``; ``config`` stands in for
    the configuration beside the weights. Raises PoolError.
    """
    try:
        with _quiet():
            module, info = auto_class.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # a config can break transformers in any way
        raise _does_not_load(path, f"as a {kind}", error) from None
    _check_complete(path, module, info)
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter.data).all()):
            raise PoolError(
                f"the base's tensor {name!r} holds NaN or infinity", code="MG105", where=path.name
            )
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _check_complete(path: Path, module: Any, info: dict[str, Any]) -> None:
    """Raise PoolError where weights would be made up, or would be dropped."""
    missing = sorted(map(str, info.get("missing_keys") or ()))
    backbone = f"{module.base_model_prefix}."
    if missing and "Classification" in type(module).__name__:
        head = [name for name in missing if not name.startswith(backbone)]
        if len(head) == len(missing):
            raise PoolError(
                f"the base's files hold no classification head ({head[0]}): it would be random",
                where=path.name,
                fix="give a base that was trained and saved with its head",
            )
    problems = {
        "are missing and would be random": missing,
        "have another shape and would be random": info.get("mismatched_keys"),
        "are in the file but not in the model": [
            name for name in info.get("unexpected_keys") or () if not name.endswith(_OLD_BUFFERS)
        ],
    }
    for says, keys in problems.items():
        if keys:
            raise PoolError(
                f"{len(keys)} tensors of the base {says}, first {sorted(map(str, keys))[0]}",
                where=path.name,
                fix="save the base again with save_pretrained",
            )


def _does_not_load(path: Path, how: str, error: Exception) -> PoolError:
    advice = "check config.json against the weights"
    if "trust_remote_code" in str(error):
        advice = "trust_remote_code: true runs the base's own code; read it first"
    return PoolError(
        f"the base does not load {how} ({_first_line(error)})", where=path.name, fix=advice
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
