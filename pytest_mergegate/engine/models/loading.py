"""Models and the base's tokenizer from disk, refused where anything would be made up."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from pytest_mergegate.common.errors import PoolError, first_line
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.hooks import take_hooks_out

_OLD_BUFFERS = (".masked_bias",)
"""Constants that old releases of transformers stored and that new ones no longer know."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers."""
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


def load_tokenizer(
    path: Path, *, trust_remote_code: bool = False, called: str = Base.called
) -> Any:
    """The tokenizer in the folder of what is ``called`` so. Raises PoolError."""
    fix = "save it beside the weights: tokenizer.save_pretrained(path)"
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # tokenizers raises nothing more specific
        what = f"{called}'s tokenizer does not load ({first_line(error)})"
        raise PoolError(what, where=path.name, fix=fix) from None
    # without its files transformers makes one up, to which all words are unknown
    names = {*(getattr(tokenizer, "vocab_files_names", None) or {}).values()}
    files = sorted(names | {"tokenizer.json"})
    if names and not any((path / file).exists() for file in files):
        what = f"{called} has no tokenizer: its folder holds none of {', '.join(files)}"
        raise PoolError(what, where=path.name, fix=fix)
    return tokenizer


def load_config(path: Path, *, trust_remote_code: bool = False, called: str = Base.called) -> Any:
    """The configuration of what is ``called`` so. Raises PoolError."""
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
            take_hooks_out(config)
    except Exception as error:  # a config can break transformers in any way
        how = "its configuration is not understood"
        raise does_not_load(path, how, error, called=called) from None
    return config


def load_module(
    path: Path,
    auto_class: Any,
    kind: str,
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype = torch.float32,
    config: Any = None,
    device: torch.device | str | None = "cpu",
    expert: str | None = None,
    called: str = Base.called,
) -> Any:
    """A model in ``dtype``, for inference, with every weight from its files and finite.

    Weights that are stored in ``dtype`` stay in their files, mapped into memory.

    The implementation of attention is the one that transformers picks, whatever is stored.
    ``auto_class`` is the class of transformers that loads a ``kind``; ``config`` stands in for
    the configuration beside the weights; without a ``device`` it is spread over all GPUs;
    ``expert`` is whose checkpoint it is, None for what is ``called`` otherwise. Raises PoolError.
    """
    called = called if expert is None else "the checkpoint"
    if config is None:
        config = load_config(path, trust_remote_code=trust_remote_code, called=called)
    try:
        with quiet():
            module, info = auto_class.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                dtype=dtype,
                device_map="auto" if device is None else None,
                output_loading_info=True,
            )
    except Exception as error:  # a config can break transformers in any way
        raise does_not_load(path, f"as a {kind}", error, expert, called=called) from None
    _check_complete(path, module, info, expert, called)
    for name, parameter in module.named_parameters():
        check_finite(path, name, parameter.data, expert, called=called)
    module.eval().requires_grad_(False)
    return module if device is None else module.to(device)


def check_finite(
    path: Path,
    name: str,
    tensor: Tensor,
    expert: str | None = None,
    *,
    called: str = Base.called,
) -> None:
    """Raise PoolError for a tensor of the base's, or of an expert's checkpoint, that is not."""
    # the extremes, NaN among them: no copy of the tensor is made for them
    if tensor.numel() and not all(bool(torch.isfinite(end)) for end in tensor.aminmax()):
        raise PoolError(
            f"{called}'s tensor {name!r} holds NaN or infinity",
            code="MG105",
            expert=expert,
            where=path.name,
            fix=f"download or save {called} again",
        )


def _check_complete(
    path: Path, module: Any, info: dict[str, Any], expert: str | None, called: str
) -> None:
    """Raise PoolError where weights would be made up, or would be dropped."""
    missing = sorted(map(str, info.get("missing_keys") or ()))
    backbone = f"{module.base_model_prefix}."
    if missing and "Classification" in type(module).__name__:
        head = [name for name in missing if not name.startswith(backbone)]
        if len(head) == len(missing):
            what = f"{called}'s files hold no classification head ({head[0]}): it would be random"
            fix = "give one that was trained and saved with its head"
            raise PoolError(what, expert=expert, where=path.name, fix=fix)
    problems = {
        "are missing and would be random": missing,
        "have another shape and would be random": info.get("mismatched_keys"),
        "are in the file but not in the model": [
            name for name in info.get("unexpected_keys") or () if not name.endswith(_OLD_BUFFERS)
        ],
    }
    for says, keys in problems.items():
        if keys:
            what = f"{len(keys)} tensors of {called} {says}, first {sorted(map(str, keys))[0]}"
            fix = f"save {called} again with save_pretrained"
            raise PoolError(what, expert=expert, where=path.name, fix=fix)


def does_not_load(
    path: Path,
    how: str,
    error: Exception,
    expert: str | None = None,
    *,
    called: str = Base.called,
) -> PoolError:
    """The error for a model that transformers does not make."""
    advice = "check config.json against the weights"
    if "trust_remote_code" in str(error):
        advice = "trust_remote_code: true runs the base's own code; read it first"
        if called != Base.called:
            advice = f"the code in the folder of {called} is never run; save it as a model that "
            advice += "transformers knows"
    what = f"{called} does not load {how} ({first_line(error)})"
    return PoolError(what, expert=expert, where=path.name, fix=advice)


def unsupported(what: str, fix: str = "this architecture is not supported yet") -> PoolError:
    """The error for a base of which no family can make anything."""
    return PoolError(what, code="MG002", fix=fix)
