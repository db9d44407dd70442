"""How to run a gate; what the gate file does not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.files.cache_folder import cache_folder
from pytest_mergegate.engine.running.cache import DEFAULT_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_mergegate.gate.spec import Stage
    from pytest_mergegate.report.baseline.reading import Baseline

Scorer = Callable[..., Sequence[float] | None]
"""Called like the hook ``pytest_mergegate_evaluate``."""
Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run a gate; what the gate file does not say."""

    stage: Stage | None = None
    """The deepest stage that may run; None for as deep as the budgets ask."""
    caps: Mapping[str, float] = field(default_factory=dict)
    """Limits that tighten every gate's budget."""
    device: str = "auto"
    executor: str = "local"
    """``local``, ``ray`` or ``ray:ADDRESS``."""
    cache: Path | None = field(default_factory=cache_folder)
    """Where results are kept between runs; None for nowhere."""
    cache_size: int = DEFAULT_LIMIT
    """Bytes beyond which the least recently used are evicted."""
    baseline: Baseline | None = None
    """A committed report to compare with."""
    registry: Path | None = None
    """The team's recorded merges, to predict losses from; there need be no such file."""
    scorer: Scorer | None = None
    """Asked first for scores by a metric that is not built in."""
    progress: Progress | None = None
    no_code: bool = False
    """Whether everything in a gate that is code of its repository is refused."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the report keeps of them."""
        return {
            "stage": self.stage,
            "caps": dict(self.caps),
            "device": self.device,
            "executor": self.executor,
        }
