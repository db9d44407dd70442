"""Task vectors that only a library can work out: PEFT those of IA3, LoHa, LoKr, VeRA, ...;
transformers those of checkpoints whose tensors it renames or fuses when it loads them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pytest_mergegate.common.errors import PoolError, first_line
from pytest_mergegate.engine.models.families import pick_family
from pytest_mergegate.engine.models.loading import load_config, load_module
from pytest_mergegate.engine.weights.peft_merge import merged_by_peft
from pytest_mergegate.engine.weights.plain_adapters import refused
from pytest_mergegate.pool.statistics import NEGLIGIBLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool


class ComputedDeltas:
    """Dense task vectors of whole experts, kept in a temporary folder, not in memory."""

    def __init__(self, pool: Pool) -> None:
        self._base = pool.base
        self._trust_remote_code = pool.spec.trust_remote_code
        self._ignored = pool.spec.ignore
        self._folder = Path(tempfile.mkdtemp(prefix="mergegate-"))
        # a TemporaryDirectory would warn of being cleaned up with its owner
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files: dict[str, Path] = {}

    def delta(self, expert: Expert, parameter: str) -> Tensor:
        """Float32 τ of one parameter.

        Raises PoolError where PEFT does not take the adapter, or transformers the checkpoint.
        """
        if expert.name not in self._files:
            self._files[expert.name] = self._compute(expert)
        with safe_open(self._files[expert.name], framework="pt") as file:
            found: Tensor = file.get_tensor(parameter)
        return found

    def _compute(self, expert: Expert) -> Path:
        module = self._load()
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        after = self._after(module, expert)
        del module
        deltas = {name: (after[name] - own).contiguous() for name, own in before.items()}
        self._check_moved(expert, deltas, before)
        moved = {name for name, delta in deltas.items() if bool(delta.any())}
        if expert.is_adapter:
            if strays := sorted(moved - set(expert.changes)):
                raise refused(expert, f"it changes {strays[0]!r} besides the modules it names")
            deltas = {name: delta for name, delta in deltas.items() if name in expert.changes}
        file = self._folder / f"{len(self._files)}.safetensors"
        save_file(deltas, file)
        return file

    def _check_moved(
        self, expert: Expert, deltas: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> None:
        """The rule of MG107, which its own file could not apply to tensors alone."""
        size = sum(float(before[n].double().square().sum()) for n in expert.changes if n in before)
        moved = sum(float(delta.double().square().sum()) for delta in deltas.values())
        if moved < NEGLIGIBLE**2 * size and "MG107" not in self._ignored:
            raise PoolError(
                f"the {'adapter' if expert.is_adapter else 'checkpoint'} changes nothing: "
                f"‖ΔW‖ is below {NEGLIGIBLE:g} of ‖W‖",
                code="MG107",
                expert=expert.name,
                fix="it was saved untrained, or its tensors were lost; save it again",
            )

    def _load(self) -> Any:
        trusted, path = self._trust_remote_code, self._base.path
        family = pick_family(load_config(path, trust_remote_code=trusted))
        return load_module(path, family.auto_class, family.kind, trust_remote_code=trusted)

    def _after(self, module: Any, expert: Expert) -> Mapping[str, Tensor]:
        if not expert.is_adapter:
            # the base's own class and configuration: nothing that the expert's folder names
            family = type(module)
            tuned = load_module(
                expert.path, family, family.__name__, config=module.config, expert=expert.name
            )
            _check_buffers(module, tuned, expert)
            return {name: p.detach() for name, p in tuned.named_parameters()}
        try:
            return merged_by_peft(module, expert)
        except PoolError:
            raise
        except Exception as error:  # a stranger's configuration can break PEFT in any way
            raise refused(expert, first_line(error)) from None


def _check_buffers(module: Any, tuned: Any, expert: Expert) -> None:
    """Raise PoolError for a checkpoint with numbers of its own that no merge of parameters moves,
    such as BART's ``final_logits_bias``."""
    own = dict(module.named_buffers())
    for name, buffer in tuned.named_buffers():
        if not torch.equal(buffer, own[name]):
            raise PoolError(
                f"{name!r} is not the base's, and is no parameter that a merge would change",
                code="MG002",
                expert=expert.name,
                fix="leave this expert out of the pool, or save it with the base's values",
            )
