"""Weights that stay in files: streamed while their module runs, given back, or spilled."""

import ctypes
import mmap
import shutil
import tempfile
import warnings
import weakref
from bisect import bisect_right
from collections import UserDict
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import GenerationConfig

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models.loading import check_finite, does_not_load, load_config, quiet
from pytest_mergegate.engine.models.placement import Placement
from pytest_mergegate.pool.base import Base
from pytest_mergegate.pool.tensors import StoredTensors

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_MAPS = Path("/proc/self/maps")
_DONT_NEED = 4
"""MADV_DONTNEED; of a file's pages nothing is lost by it."""


class StreamedWeights:
    """The parameters of a module that holds none of them but while it runs.

    Everywhere else a parameter is a placeholder of its shape that takes no memory.
    """

    def __init__(
        self,
        module: Any,
        tensors: StoredTensors,
        device: torch.device,
        dtypes: dict[str, torch.dtype],
    ) -> None:
        self._tensors = tensors
        self._device = device
        self.dtypes = dtypes
        """To what each is rounded; placeholders are of the type to compute with."""
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
        return mapped(self._tensors, name).to(self._device, self.dtypes[name])

    def loaded(self, name: str) -> Tensor:
        """The parameter that is in now, on the device."""
        for weights in reversed(self.swapped):
            if name in weights:
                return weights[name].to(self._device, self.dtypes[name])
        return self.original(name)

    def _enter(self, names: Mapping[str, str], part: Any, _: Any) -> None:
        for key, name in names.items():
            # not through setattr, which takes nothing but a Parameter
            part._parameters[key] = self.loaded(name).to(part._parameters[key].dtype)


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
    """A tensor as stored, read-only: its pages are the file's and count as nobody's memory, except
    for one that is put together from several."""
    header = tensors[name]
    if tensors.is_joined(name):
        with tensors.reader(name) as reader:
            stored = torch.from_numpy(reader.read(0, header.size))
        return stored.view(_DTYPES[header.dtype]).reshape(header.shape)
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
    config = load_config(base.path, trust_remote_code=trusted, called=base.called)
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
        raise does_not_load(base.path, f"as a {kind}", error, called=base.called) from None
    _check_names(base, module)
    dtypes = _fill(base, module, placement)
    module.eval()
    return module, StreamedWeights(module, base.tensors, placement.device, dtypes)


def _fill(base: Base, module: Any, placement: Placement) -> dict[str, torch.dtype]:
    """Placeholders for the parameters, and the buffers that are stored; what the parameters are
    rounded to."""
    dtypes: dict[str, torch.dtype] = {}
    placeholders: dict[int, Any] = {}
    wide = _kept_wide(module, placement.dtype)
    for name, parameter in module.named_parameters():
        check_finite(base.path, name, mapped(base.tensors, name), called=base.called)
        kept_wide = any(f".{k}." in f".{name}." for k in wide)
        dtypes[name] = torch.float32 if kept_wide else parameter.dtype
        held = placement.computes or dtypes[name]
        empty = torch.zeros((), dtype=held, device=placement.device)
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
        computed = placement.computes if buffer.is_floating_point() else None
        module.get_submodule(parent)._buffers[key] = buffer.to(placement.device, computed)
    return dtypes


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
            f"{base.called} is larger than the memory, and its files do not hold "
            f"{sorted(odd)[0]!r} as the model does, so that it cannot be read a module at a time",
            code="MG002",
            where=base.path.name,
            fix="give the process more memory, or choose dtype: bfloat16",
        )


class MappedPages:
    """Where ``files`` are mapped in this process; nowhere where that cannot be told.

    With it, three experts and a merge of a base of 470 million parameters in bfloat16, one in
    place after the other, took 1,457 MiB at their peak, without it 2,206 MiB.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        wanted = {str(file.resolve()) for file in files}
        self._ranges = sorted(_mapped(wanted))
        self._madvise = getattr(ctypes.CDLL(None), "madvise", None) if self._ranges else None

    def give_back(self, tensor: Tensor) -> None:
        """Let the pages of ``tensor`` go, if it lies in one of the files and nothing wrote to it.

        They come back from the file when they are read.
        """
        if self._madvise is None or tensor.device.type != "cpu":
            return
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        stop = (tensor.data_ptr() + tensor.nbytes) // page * page
        place = bisect_right(self._ranges, (start, 1 << 64)) - 1
        if place < 0 or stop <= start or stop > self._ranges[place][1]:
            return
        self._madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONT_NEED)


def _mapped(files: set[str]) -> list[tuple[int, int]]:
    """First address, and the one behind the last, of every mapping of one of ``files``."""
    try:
        text = _MAPS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in files:
            first, last = fields[0].split("-")
            found.append((int(first, 16), int(last, 16)))
    return found


class SpilledWeights(UserDict[str, Any]):
    """Tensors in files of a temporary folder, where memory would not hold them, each mapped from
    its file when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="mergegate-"))
        # a TemporaryDirectory would warn of being cleaned up with its owner
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._numbers = count()

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        file = self._folder / str(next(self._numbers))
        tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tofile(file)
        self.data[name] = file, tensor.shape, tensor.dtype

    def __getitem__(self, name: str) -> Tensor:
        file, shape, dtype = self.data[name]
        flat = torch.from_file(str(file), shared=False, size=shape.numel(), dtype=dtype)
        return flat.reshape(shape)
