"""A finished merge in memory, asked the experts' inputs as its own folder has it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

from pytest_mergegate.common.wording import FINISHED
from pytest_mergegate.engine.running.askers import Asker
from pytest_mergegate.engine.running.engine import Engine
from pytest_mergegate.engine.running.tasks import Task, build_task
from pytest_mergegate.pool.pool import Pool


class FinishedEngine(Engine):
    """The engine of a finished merge: its own model, tokenizer, template and settings, in the
    precision in which it is stored. Nothing of the gate's base is in it but under an adapter.

    Raises PoolError where it does not load.
    """

    def __init__(self, pool: Pool, device: str, *, computes: str | None = None) -> None:
        found = pool.merged
        assert found is not None
        self._asked = pool.names
        update = {
            "reference_dtype": found.dtype,
            "probes": pool.spec.probes.model_copy(update={"positions": None}),
            "trust_remote_code": False,  # that is for the base, which the gate file chooses
        }
        own = replace(
            pool,
            base=found.model,
            experts=() if found.adapter is None else (found.adapter,),
            spec=pool.spec.model_copy(update=update),
        )
        super().__init__(own, device, computes=computes)

    @property
    def askers(self) -> dict[str, Asker]:
        """None: every input is asked through the merge's own tokenizer."""
        return {}

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Each expert's inputs, as the merge reads them. Raises PoolError where one cannot be."""
        return {name: build_task(name, self.pool, self.model) for name in self._asked}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the merge itself loaded: where it is an adapter, on the base."""
        with self.expert(FINISHED) if self.pool.experts else nullcontext():
            yield
