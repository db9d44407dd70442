"""Which stacks of experts the modules of a LoRA adapter stand for."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import strings
from pytest_mergegate.pool.adapters import CONFIG
from pytest_mergegate.pool.changes import ExpertFactors, FactorBlock
from pytest_mergegate.pool.expert_factors import stacked

if TYPE_CHECKING:
    from pytest_mergegate.pool.lora import LoraAdapter

_NESTED = ".base_layer"
_SAVE_AGAIN = "save the adapter again with PEFT's save_pretrained"


class ExpertModules:
    """The modules of an adapter that are parameters of stacked experts, or parts of them."""

    def __init__(self, adapter: "LoraAdapter") -> None:
        self._adapter = adapter
        self._stacks: list[ExpertFactors] = []
        self._blocks: dict[str, list[FactorBlock]] = {}

    def take(self, module: str, keys: Mapping[str, str]) -> bool:
        """Whether a module's tensors are those of experts; they are then kept. Raises PoolError."""
        base = self._adapter.base
        if base is None or not {"A", "B"} <= set(keys) or f"{module}.weight" in base.tensors:
            return False
        place = self._places.get(f"{module}.weight")
        if place is not None and len(base.tensors[place[0]].shape) == 3:
            self._part(module, keys, *place)
            return True
        parameter = self._parameter(module)
        if parameter is None:
            return False
        shape = base.tensors[parameter].shape
        if len(shape) != 3:
            return False
        transposed = base.loaded is not None and parameter in base.loaded.transposed
        key_a, key_b = keys["A"], keys["B"]
        shapes = self._adapter.tensors[key_a].shape, self._adapter.tensors[key_b].shape
        found = stacked(
            parameter,
            shape,
            (key_a, key_b),
            shapes,
            transposed=transposed,
            scale=lambda rank: self._adapter.scale(parameter, rank),
        )
        if found is None:
            what = f"the factors of {parameter!r} {list(shape)} do not fit: A {list(shapes[0])}, "
            raise self._adapter.refused("MG104", f"{what}B {list(shapes[1])}", _SAVE_AGAIN)
        self._stacks.append(found)
        return True

    def changes(self) -> Iterator[ExpertFactors]:
        """One change for every stack."""
        yield from self._stacks
        for parameter, blocks in self._blocks.items():
            assert self._adapter.base is not None
            shape = self._adapter.base.tensors[parameter].shape
            yield ExpertFactors(
                parameter=parameter, shape=shape, transposed=False, blocks=tuple(blocks)
            )

    @cached_property
    def _places(self) -> Mapping[str, tuple[str, int]]:
        base = self._adapter.base
        return base.tensors.places() if base is not None and base.loaded is not None else {}

    def _parameter(self, module: str) -> str | None:
        """The parameter that PEFT wrapped: it nests one wrapper in the other, the module's first
        parameter innermost."""
        assert self._adapter.base is not None
        named = strings(self._adapter.config.get("target_parameters"))
        inner, depth = module, 0
        while inner.endswith(_NESTED):
            inner, depth = inner.removesuffix(_NESTED), depth + 1
        own = [
            name
            for name in self._adapter.base.tensors
            if name.rpartition(".")[0] == inner and is_targeted(name, named)
        ]
        return own[-1 - depth] if depth < len(own) else None

    def _part(self, module: str, keys: Mapping[str, str], parameter: str, before: int) -> None:
        """Keep the factors of one expert's projection, which lies in a stack."""
        assert self._adapter.base is not None
        if self._adapter.config.get("use_rslora") or len(keys) > 2:
            raise PoolError(
                f"{module!r} is part of a stack of experts today, and its adapter is of a kind "
                "(rsLoRA, DoRA, biases) that PEFT reads otherwise there than it was trained",
                code="MG002",
                expert=self._adapter.expert,
                where=CONFIG,
                fix="leave this expert out of the pool, or merge it into its base with the "
                "versions that it was trained with, and list the checkpoint",
            )
        _, rows, columns = self._adapter.base.tensors[parameter].shape
        a, b = (self._adapter.tensors[keys[part]].shape for part in "AB")
        expert, row = divmod(before // columns, rows)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] == 0 or a[1] != columns:
            what = f"the factors of {module!r} do not fit: A {list(a)}, B {list(b)}"
            raise self._adapter.refused("MG104", what, _SAVE_AGAIN)
        if row + b[0] > rows:
            what = f"{module!r} has {b[0]} outputs, its expert in the base {rows - row}"
            raise self._adapter.refused("MG104", what, _SAVE_AGAIN)
        block = FactorBlock(
            expert=expert,
            row=row,
            key_a=keys["A"],
            key_b=keys["B"],
            place=None,
            scale=self._adapter.scale(module, a[0]),
        )
        self._blocks.setdefault(parameter, []).append(block)


def is_targeted(parameter: str, named: list[str]) -> bool:
    """PEFT's rule for ``target_parameters``: by the whole name or its end."""
    return any(f".{parameter}".endswith(f".{name}") for name in named)
