"""What the stages compute with: results kept by earlier runs, and a model once one is needed."""

from __future__ import annotations

import hashlib
import platform
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_mergegate.common.machine import memory_left
from pytest_mergegate.common.plain import result
from pytest_mergegate.engine.models.footprint import bytes_needed
from pytest_mergegate.engine.models.readings import Reading
from pytest_mergegate.gate.sections import Positions
from pytest_mergegate.pool.fingerprints import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_mergegate.engine.running.cache import Cache
    from pytest_mergegate.engine.running.distances import Compare
    from pytest_mergegate.engine.running.engine import Engine
    from pytest_mergegate.engine.running.executors import Block, Kind, Rows
    from pytest_mergegate.engine.weights.task_vectors import TaskVectors
    from pytest_mergegate.pool.pool import Pool

T = TypeVar("T")
_PACKAGES = ("pytest-mergegate", "torch", "transformers", "tokenizers", "peft", "mergekit")
_SINGLE = 4
"""Bytes of a number in float32."""
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


@result
class Facts:
    """What is known of the loaded base: none of it takes a model to ask again."""

    positions: Positions
    """Where states are read."""
    forced: bool
    """Whether that takes the expert's own answers."""
    answering: bool
    """Whether the states read give the answers."""
    has_head: bool
    """Whether the base answers at all."""


@result
class Draw:
    """One expert's own inputs in the order in which they are drawn, distinct to the tokenizer."""

    reading: Reading
    order: tuple[int, ...]


class Workspace:
    """A pool, what the cache holds of it, and the engine, loaded when something is missing there.

    ``loading`` wraps the construction of the engine, to time it.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        device: str,
        cache: Cache,
        vectors: Callable[[], TaskVectors],
        loading: Callable[[Callable[[], Engine]], Engine] = lambda load: load(),
        comparer: Callable[[str], Compare | None] = lambda expert: None,
        computing: Mapping[str, str] | None = None,
    ) -> None:
        """``computing`` was chosen by another process, whose work this is."""
        self.pool = pool
        self.spec = pool.spec
        self.cache = cache
        self.answers: dict[tuple[str, str, int], list[int]] = {}
        """Tokens by model, task and input, as the engine knows them."""
        self.begun: dict[tuple[str, str, int], list[int]] = {}
        """Those of them that were cut at a limit that was raised since."""
        self.ahead: dict[tuple[Kind, str | None, Block], Rows] = {}
        """What a model was asked while it was in place, and a later stage will need; measured on
        a base of 470 million parameters, about a twentieth of a gate."""
        self.per_task = pool.spec.probes.per_task
        """Probes of each task by now."""
        self.answer_limit = pool.spec.probes.answer_limit
        """How many tokens of an answer are decoded at most, by now."""
        self._device = device
        self._chosen = computing
        self._vectors = vectors
        self._loading = loading
        self.comparer = lru_cache(maxsize=None)(comparer)
        """How an expert's answers are compared; None where they are the same or not."""

    @cached_property
    def engine(self) -> Engine:
        """The model and all around it. Raises GateError."""
        return self._loading(self._load)

    def _load(self) -> Engine:
        from pytest_mergegate.engine.running.engine import Engine

        engine = Engine(
            self.pool,
            self._device,
            self._vectors(),
            computes=self.computing[self.spec.precision],
            answers=self.answers,
        )
        engine.answer_limit, engine.begun = self.answer_limit, self.begun
        # what is kept under the base's fingerprint must come from the files that had it
        self.pool.base.tensors.check_unchanged()
        return engine

    @cached_property
    def device(self) -> str:
        """``cpu`` or ``cuda[:i]``; torch is asked only where there is a driver.

        Raises GateError.
        """
        without = self._device == "auto" and not any(Path(p).exists() for p in _GPU_DRIVERS)
        if without or self._device == "cpu":
            return "cpu"
        from pytest_mergegate.engine.models.placement import pick_device

        return str(pick_device(self._device))

    @cached_property
    def computing(self) -> Mapping[str, str]:
        """In what the gate's models compute, by the precision of their weights: float32 where this
        machine is slow at products of it, as was found once, and has the memory."""
        if self._chosen is not None:
            return self._chosen
        merged = self.pool.merged
        wanted = dict.fromkeys([self.spec.precision, *([merged.dtype] if merged else [])])
        return {name: name if name == "float32" else self._computing(name) for name in wanted}

    def _computing(self, precision: str) -> str:
        if self.device == "cpu":
            processor, left = own_processor(), memory_left()
        else:
            from pytest_mergegate.engine.models.placement import available, gpu, pick_device

            device = pick_device(self.device)
            processor, left = gpu(device), available(device)

        def are_slow() -> bool:
            from pytest_mergegate.engine.models import products

            return products.are_slow(precision, self.device)

        key = {"kind": "products", "processor": processor, "torch": version("torch")}
        key |= {"precision": precision, "engine": own_code()}
        fits = bytes_needed(self.pool, _SINGLE) <= left
        slow = fits and self.cache.kept(bool, key, are_slow, counted=False)
        return "float32" if slow else precision

    @cached_property
    def ground(self) -> dict[str, Any]:
        """What every number of the engine depends on: the root of all keys."""
        base = self.pool.base
        trusted = self.spec.trust_remote_code
        return {
            "engine": own_code(),
            "versions": {name: version(name) for name in _PACKAGES},
            "base": base.fingerprint,
            "code": fingerprint(base.path.rglob("*.py")) if trusted else None,
            "device": self.device.partition(":")[0],
            "dtype": self.spec.precision,
            "computing": dict(self.computing),
            # beside a finished merge each expert is asked through its own tokenizer
            "asked": self.spec.merged and {e.name: e.asking for e in self.pool.experts},
        }

    @cached_property
    def models(self) -> dict[str, str]:
        """The experts' fingerprints, by name."""
        return {expert.name: expert.fingerprint for expert in self.pool.experts}

    def key(self, kind: str, **more: Any) -> dict[str, Any]:
        """The key of one entry."""
        return {"kind": kind, **self.ground, **more}

    def kept(self, kind: Any, key: Mapping[str, Any], compute: Callable[[], T]) -> T:
        """What the cache holds of a comparison with the experts, or else what is computed; always
        that where a function of the team's own compares, which may change from run to run."""
        return self.cache.kept(kind, key, compute) if self.keeps_comparisons else compute()

    @property
    def keeps_comparisons(self) -> bool:
        """Whether comparisons come out the same whenever they are made."""
        return all(expert.distance is None for expert in self.spec.experts.values())

    @cached_property
    def facts(self) -> Facts:
        """What the base is. Raises PoolError."""
        key = self.key("facts", positions=self.spec.probes.positions)
        return self.cache.kept(Facts, key, lambda: self.engine.facts)

    @cached_property
    def draws(self) -> dict[str, Draw]:
        """Each expert's inputs as they are drawn. Raises PoolError where one has none, or cannot be
        read."""
        return {name: self._draw(name) for name in self.pool.names}

    def _draw(self, name: str) -> Draw:
        key = self.key(
            "draw",
            name=name,
            examples=self.pool.examples_fingerprint.get(name),
            read=self.spec.experts[name].how_read,
            seed=self.spec.probes.seed,
        )

        def draw() -> Draw:
            task = self.engine.tasks[name]
            return Draw(reading=task.reading, order=task.order)

        return self.cache.kept(Draw, key, draw)

    def probes(self, name: str) -> tuple[int, ...]:
        """The inputs of expert ``name`` on which states are compared."""
        return self.draws[name].order[: self.per_task]

    @property
    def probing(self) -> dict[str, Any]:
        """How probes are drawn and answered: a part of keys."""
        return self.spec.probes.drawn | {"max_answer_tokens": self.answer_limit}

    def let_answers_grow(self, tokens: int) -> None:
        """Decode up to so many ``tokens`` of an answer, where fewer were allowed so far."""
        if tokens == self.answer_limit:
            return
        for known, answer in list(self.answers.items()):
            if len(answer) >= self.answer_limit:
                self.begun[known] = self.answers.pop(known)
        for key in [key for key in self.ahead if key[0] == "answers"]:
            del self.ahead[key]
        self.answer_limit = tokens
        if "engine" in vars(self):
            self.engine.answer_limit = tokens

    def draw_more(self) -> bool:
        """Twice as many probes as so far, within the gate's cap; False where there are no more."""
        before = sum(len(self.probes(name)) for name in self.draws)
        most = self.spec.probes.max_per_task or self.spec.probes.per_task
        self.per_task = min(2 * self.per_task, most)
        return sum(len(self.probes(name)) for name in self.draws) > before


@cache
def own_code() -> str:
    """Over this package's modules: another release, or a change at work, has results of its own."""
    return fingerprint(Path(__file__).parents[2].rglob("*.py"))


@cache
def own_processor() -> str:
    """The kind of processor, on which the last bits of a sum hang."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    described = {line for line in text.splitlines() if line.startswith(("model name", "flags"))}
    return hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()
