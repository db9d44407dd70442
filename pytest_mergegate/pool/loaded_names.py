"""What transformers makes of the tensors in a checkpoint's files when it loads it.

Of most architectures the files hold the parameters as they are. Of models that read images, names
moved; experts of a mixture are stored one by one and held together. The rules are transformers'
own, which loads torch: they are asked only for bases of such a kind.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_mergegate.pool.hooks import take_hooks_out, without_hooks
from pytest_mergegate.pool.tensors import StoredTensors

_PARTS = ("text_config", "vision_config", "audio_config", "llm_config")
_EXPERTS = re.compile(r"(^|\.)(experts|block_sparse_moe)\.")
_STACKED, _JOINED = "MergeModulelist", "Concatenate"


@dataclass(frozen=True, kw_only=True)
class LoadedNames:
    """The parameters of a model as transformers loads it, and the rules that lead there."""

    shapes: Mapping[str, tuple[int, ...]]
    """In the order in which the model registers them."""
    transposed: frozenset[str]
    """Stacks of experts that are stored as [experts, inputs, outputs]."""
    linear: frozenset[str]
    """Modules that PEFT's ``all-linear`` means, the output layer among them."""
    tied: frozenset[str]
    """Other names of parameters, and buffers."""
    renamings: tuple[Any, ...] = field(repr=False)
    converters: tuple[Any, ...] = field(repr=False)
    prefix: str = ""
    """What a model with a head puts before the names of the one without."""

    def as_loaded(self, tensors: StoredTensors) -> StoredTensors:
        """A checkpoint's tensors under the model's names, put together as the model holds them.

        What no rule leads to a parameter, or what is put together in any other way than one behind
        the other, stays as it is.
        """
        from transformers.core_model_loading import dot_natural_key

        found: dict[str, dict[str, list[str]]] = {}
        for key in sorted(tensors, key=dot_natural_key):
            name, pattern = self._target(key)
            found.setdefault(name, {}).setdefault(pattern or key, []).append(key)
        names: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
        for name in (*(n for n in self.shapes if n in found), *(set(found) - set(self.shapes))):
            sources = found[name]
            parts = self._in_order(name, sources, tensors)
            if parts is not None:
                names[name] = parts, self.shapes.get(name, tensors[parts[0]].shape)
            else:
                names.update({key: ((key,), ()) for keys in sources.values() for key in keys})
        return tensors.joined_as(names)

    def rename(self, name: str) -> str:
        """The name of a module's or a parameter's tensor in the model, by the renamings alone."""
        from transformers.core_model_loading import rename_source_key

        named, _ = rename_source_key(name, [*self.renamings], [], self.prefix, self._known)
        return str(named)

    @property
    def _known(self) -> dict[str, bool]:
        return dict.fromkeys((*self.shapes, *self.tied), True)

    def _target(self, key: str) -> tuple[str, str | None]:
        from transformers.core_model_loading import rename_source_key

        known = self._known
        rules = [*self.renamings], [*self.converters]
        name, pattern = rename_source_key(key, *rules, self.prefix, known)
        if name not in known and key in known:
            return key, None
        return str(name), pattern

    def _in_order(
        self, name: str, sources: Mapping[str, list[str]], tensors: StoredTensors
    ) -> tuple[str, ...] | None:
        """The tensors that lie one behind the other in parameter ``name``; None where they do
        not."""
        keys = [key for held in sources.values() for key in held]
        if len(keys) == 1:
            plain = tensors[keys[0]].shape == self.shapes.get(name, tensors[keys[0]].shape)
            return (keys[0],) if plain or next(iter(sources)) == keys[0] else None
        rule = next((c for c in self.converters if {*sources} <= {*c.source_patterns}), None)
        if rule is None or len({tensors[key].dtype for key in keys}) > 1:
            return None
        steps = [(type(step).__name__, getattr(step, "dim", None)) for step in rule.operations]
        groups = [sources.get(pattern, []) for pattern in rule.source_patterns]
        if steps == [(_STACKED, 0)] and len(groups) == 1:
            ordered = groups[0]
        elif steps == [(_STACKED, 0), (_JOINED, 1)] and len({len(g) for g in groups}) == 1:
            ordered = [key for expert in zip(*groups, strict=True) for key in expert]
        elif steps == [(_JOINED, 0)] and {len(group) for group in groups} == {1}:
            ordered = [group[0] for group in groups]
        else:
            return None
        size = sum(tensors[key].size for key in ordered)
        shape = self.shapes.get(name, ())
        whole = 1
        for length in shape:
            whole *= length
        return tuple(ordered) if shape and size == whole else None


def loaded_names(config: Mapping[str, Any], names: Iterable[str]) -> LoadedNames | None:
    """The rules for a base with this configuration and tensors of these names.

    None where its files hold the parameters as they are, as those of most architectures do, and
    where transformers makes no model of it.
    """
    parts = any(isinstance(config.get(part), Mapping) for part in _PARTS)
    if not parts and not any(_EXPERTS.search(name) for name in names):
        return None
    try:
        return _of_model(config)
    except Exception:  # a config can break transformers in any way; loading it says how
        return None


def _of_model(config: Mapping[str, Any]) -> LoadedNames | None:
    import torch
    import transformers
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming
    from transformers.pytorch_utils import Conv1D

    named = (config.get("architectures") or [None])[0]
    kind = getattr(transformers, named, None) if isinstance(named, str) else None
    if kind is None or not issubclass(kind, transformers.PreTrainedModel):
        return None
    plain = without_hooks(config, code=False)
    settings = kind.config_class.from_dict(plain)
    take_hooks_out(settings)
    with torch.device("meta"):
        model = kind(settings)
    rules = get_model_conversion_mapping(model)
    first = dict(model.named_parameters())
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    modules = dict(model.named_modules())
    return LoadedNames(
        shapes={name: tuple(p.shape) for name, p in first.items()},
        transposed=frozenset(
            n for n in first if getattr(modules[n.rpartition(".")[0]], "is_transposed", False)
        ),
        linear=frozenset(
            name for name, part in modules.items() if isinstance(part, (torch.nn.Linear, Conv1D))
        ),
        tied=frozenset(every - set(first)) | frozenset(name for name, _ in model.named_buffers()),
        renamings=tuple(rule for rule in rules if isinstance(rule, WeightRenaming)),
        converters=tuple(rule for rule in rules if isinstance(rule, WeightConverter)),
        prefix=model.base_model_prefix,
    )
