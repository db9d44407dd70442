"""How a run gates: what the gate file does not say.

Every pytest session imports this module, so it imports nothing heavy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Stage = Literal["preflight", "conflict", "hidden", "merge", "eval"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""From the cheapest to the dearest."""
Scorer = Callable[..., Sequence[float] | None]
"""Called like the hook ``pytest_mergegate_evaluate``."""
Progress = Callable[[str, float], None]
"""Called with what is being done and how much of it is done, in [0, 1]."""


def _own_cache() -> Path | None:
    from pytest_mergegate.common.files.cache_folder import cache_folder

    return cache_folder()


@dataclass(frozen=True, kw_only=True)
class Format:
    """What is known of a format before its module, which has its name, is imported."""

    ending: str
    """Of its files."""
    needs: tuple[str, ...] = ()
    """Modules beside the package's own dependencies; the extra that brings them has its name."""


FORMATS = {
    "json": Format(ending="json"),
    "html": Format(ending="html", needs=("jinja2", "plotly")),
    "markdown": Format(ending="md"),
    "sarif": Format(ending="sarif"),
}
"""The formats that ``--mergegate-report`` and ``mergegate report`` write, each by the module of its
name in ``report/formats/``."""


@dataclass(frozen=True, kw_only=True)
class ReportTarget:
    """A report to be written."""

    format: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run gates; what the gate file does not say."""

    stage: Stage | None = None
    """The deepest stage that may run; None for as deep as the budgets ask."""
    caps: Mapping[str, float] = field(default_factory=dict)
    """Limits that tighten every gate's budget."""
    device: str = "auto"
    executor: str = "local"
    """``local``, ``ray`` or ``ray:ADDRESS``."""
    cache: Path | None = field(default_factory=_own_cache)
    """Where results are kept between runs; None for nowhere."""
    cache_size: int = 5 << 30
    """Bytes beyond which the least recently used are evicted."""
    reports: tuple[ReportTarget, ...] = ()
    baseline: Path | None = None
    """The committed report to compare with; whether there is one shows later."""
    update_baseline: bool = False
    """Whether it is written anew at the end."""
    registry: Path | None = None
    """The team's recorded merges, to predict losses from; there need be no such file."""
    registry_asked: bool = False
    """Whether the user named it: CI and quiet runs write to no other."""
    all_methods: bool = False
    """Whether every merge method is tried under ``select: any``, also after one has passed."""
    merged: str | None = None
    """A finished merge to be gated in place of those that the gates make, or name themselves."""
    no_code: bool = False
    """Whether everything in a gate that is code of its repository is refused."""
    on_inconclusive: Literal["fail", "warn"] = "fail"
    files: tuple[Path, ...] = ()
    """Gate files of marked tests that name none."""
    scorer: Scorer | None = None
    """Asked first for scores by a metric that is not built in."""
    progress: Progress | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the report keeps of them."""
        kept = ("stage", "caps", "device", "executor", "all_methods")
        return {name: getattr(self, name) for name in kept} | {"caps": dict(self.caps)}
