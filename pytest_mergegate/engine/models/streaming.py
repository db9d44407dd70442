"""Bases larger than memory: weights come from their files while their module runs, then go."""

from __future__ import annotations

import mmap
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch.overrides import TorchFunctionMode
from transformers import GenerationConfig

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.loading import check_finite, does_not_load, load_config, quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_mergegate.engine.models.placement import Placement
    from pytest_mergegate.pool.base import Base
    from pytest_mergegate.pool.tensors import StoredTensors

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


class StreamedWeights:
    """The parameters of a module that holds none of them but while it runs.

    Everywhere else a parameter is a placeholder of its shape that takes no memory.
    """

    def __init__(self, module: Any, tensors: StoredTensors, placement: Placement) -> None:
        self._tensors = tensors
        self._device = placement.device
        self._dtypes = {name: p.dtype for name, p in module.named_parameters()}
        self.swapped: list[Mapping[str, Tensor]] = []
        """What is in place of the base's weights, the last first to be asked."""
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for part in module.modules():
            own = {k: p for k, p in part._parameters.items() if p is not None}
            if own:
                loaded = {key: names[id(parameter)] for key, parameter in own.items()}
                part.register_forward_pre_hook(partial(self._enter, loaded), prepend=True)
                part.register_forward_hook(partial(_leave, own), always_call=True)

    def original(self, name: str) -> Tensor:
        """The base's own parameter, on the device."""
        self._tensors.check_unchanged(name)
        return mapped(self._tensors, name).to(self._device, self._dtypes[name])

    def loaded(self, name: str) -> Tensor:
        """The parameter that is in now, on the device."""
        for weights in reversed(self.swapped):
            if name in weights:
                return weights[name].to(self._device, self._dtypes[name])
        return self.original(name)

    def _enter(self, names: Mapping[str, str], part: Any, _: Any) -> None:
        for key, name in names.items():
            # not through setattr, which takes nothing but a Parameter
            part._parameters[key] = self.loaded(name)


class _NothingAllocated(TorchFunctionMode):
    """``torch.empty``, which weights are made with, takes no memory, not even until it is freed."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _leave(own: Mapping[str, Any], part: Any, *_: Any) -> None:
    part._parameters.update(own)


def mapped(tensors: StoredTensors, name: str) -> Tensor:
    """A tensor as stored, read-only: its pages are the file's and count as nobody's memory."""
    header = tensors[name]
    start = header.start - header.start % mmap.ALLOCATIONGRANULARITY
    with tensors.file_of(name).open("rb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given buffer is not writable")
        view = mmap.mmap(file.fileno(), header.stop - start, access=mmap.ACCESS_READ, offset=start)
        flat = torch.frombuffer(view, dtype=_DTYPES[header.dtype], offset=header.start - start)
    return flat.reshape(header.shape)


def load_streamed(
    base: Base, auto_class: Any, kind: str, placement: Placement
) -> tuple[Any, StreamedWeights]:
    """The base without its weights, and what brings them in when it runs. Raises PoolError."""
    trusted = placement.trust_remote_code
    config = load_config(base.path, trust_remote_code=trusted)
    try:
        build = partial(
            auto_class.from_config, config, dtype=placement.dtype, trust_remote_code=trusted
        )
        with quiet(), init_empty_weights(include_buffers=False):
            with _NothingAllocated():
                module = build()
            if any(buffer.is_meta for buffer in module.buffers()):
                module = build()
        module.tie_weights()  # which registering parameters as empty has undone
        if (base.path / "generation_config.json").exists():
            module.generation_config = GenerationConfig.from_pretrained(base.path)
    except Exception as error:  # a config can break transformers in any way
        raise does_not_load(base.path, f"as a {kind}", error) from None
    _check_names(base, module)
    _fill(base, module, placement)
    module.eval()
    return module, StreamedWeights(module, base.tensors, placement)


def _fill(base: Base, module: Any, placement: Placement) -> None:
    """Placeholders for the parameters, and the buffers that are stored."""
    placeholders: dict[int, Any] = {}
    wide = _kept_wide(module, placement.dtype)
    for name, parameter in module.named_parameters():
        check_finite(base.path, name, mapped(base.tensors, name))
        dtype = torch.float32 if any(f".{k}." in f".{name}." for k in wide) else parameter.dtype
        empty = torch.zeros((), dtype=dtype, device=placement.device)
        placeholders[id(parameter)] = torch.nn.Parameter(
            empty.expand(parameter.shape), requires_grad=False
        )
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[key] = placeholders[id(parameter)]
    for name, buffer in module.named_buffers():
        if name in base.tensors:
            buffer.copy_(mapped(base.tensors, name))
        parent, _, key = name.rpartition(".")
        module.get_submodule(parent)._buffers[key] = buffer.to(placement.device)


def _kept_wide(module: Any, dtype: torch.dtype) -> set[str]:
    """Parts whose weights transformers leaves in float32, such as T5's ``wo``."""
    if dtype == torch.float32:
        return set()
    kept = set(getattr(module, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(module, "_keep_in_fp32_modules", None) or ())
    return kept


def _check_names(base: Base, module: Any) -> None:
    """Raise PoolError where the files' tensors are not the model's parameters one by one."""
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    stored = {name: header.shape for name, header in base.tensors.items()}
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    odd = {name for name, shape in shapes.items() if stored.get(name) != shape}
    odd |= set(stored) - tied - set(module.state_dict())
    if odd:
        raise PoolError(
            f"the base is larger than the memory, and its files do not hold {sorted(odd)[0]!r} as "
            "the model does, so that it cannot be read a module at a time",
            code="MG002",
            where=base.path.name,
            fix="give the process more memory, or choose dtype: bfloat16",
        )
