"""pytest's options and ini keys to one typed object; the only reader of pytest's configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import pytest

from pytest_mergegate.common.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_mergegate.gate.spec import Stage

STAGES = ("preflight", "conflict", "hidden", "merge", "eval")
"""As in spec.py, which must not be imported to parse options: it needs pydantic."""
REGISTRY = "mergegate.registry.jsonl"
"""The registry's name where none is given."""
NO_CODE = "refuse every metric, task and method that is code of the repository, and its base's"
"""Help of ``--no-code``."""
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_EXECUTOR = re.compile(r"local|ray(:\S+)?")


@dataclass(frozen=True, kw_only=True)
class ReportTarget:
    """One ``--mergegate-report``."""

    format: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How this session gates."""

    caps: dict[str, float]
    """Limits over every gate; they tighten its budget."""
    stage: Stage | None
    device: str
    executor: str
    reports: tuple[ReportTarget, ...]
    on_inconclusive: Literal["fail", "warn"]
    cache: Path | None
    """Where results are kept between runs; None for nowhere."""
    cache_size: int
    """Bytes."""
    files: tuple[Path, ...]
    """Gate files of ini ``mergegate_files``."""
    baseline: Path | None
    """The committed report to compare with."""
    update_baseline: bool
    """Whether it is written anew at the end."""
    registry: Path | None
    """Where measured losses are kept; None for nowhere."""
    no_code: bool
    """Whether everything in a gate that is code of the repository is refused."""


class CapOption(Protocol):
    """How the option of a cap is declared."""

    @property
    def metavar(self) -> str:
        """What stands for its value."""

    @property
    def help(self) -> str:
        """What it is."""


class Cap(Protocol):
    """A budget, as far as an option tightens it in every gate."""

    @property
    def name(self) -> str:
        """Its key."""

    @property
    def most(self) -> float:
        """The largest number that can be its limit."""

    @property
    def option(self) -> CapOption | None:
        """How the option is declared; None where there is none."""


def add_options(parser: pytest.Parser, budgets: Iterable[Cap]) -> None:
    """Declare the option group ``mergegate`` and the ini twins."""
    group = parser.getgroup("mergegate", "gates for merges of fine-tuned models")
    group.addoption(
        "--mergegate",
        action="store_true",
        default=None,
        help="run the merge gates: gate files and tests marked mergeable",
    )
    parser.addini("mergegate", "run the merge gates", type="bool", default=False)
    for name, option in ((b.name, b.option) for b in budgets if b.option is not None):
        flag = f"--mergegate-{name.replace('_', '-')}"
        text = f"{option.help}; tightens every gate"
        group.addoption(flag, type=float, metavar=option.metavar, default=None, help=text)
        parser.addini(f"mergegate_{name}", text, type="float", default=None)
    group.addoption(
        "--mergegate-stage",
        metavar="STAGE",
        default=None,
        help=f"deepest stage that may run: {'|'.join(STAGES)} (default: what the budgets ask)",
    )
    parser.addini("mergegate_stage", "deepest stage that may run", default="")
    group.addoption(
        "--mergegate-report",
        action="append",
        metavar="FORMAT[:PATH]",
        default=[],
        help=f"write a report (repeatable); formats: {', '.join(FORMATS)}",
    )
    parser.addini("mergegate_report", "reports to write, one FORMAT[:PATH] a line", type="linelist")
    group.addoption(
        "--mergegate-baseline",
        metavar="PATH",
        default=None,
        help="compare with a committed JSON report",
    )
    parser.addini("mergegate_baseline", "a committed report, from the rootdir", default="")
    group.addoption(
        "--mergegate-update-baseline",
        action="store_true",
        default=False,
        help="write the baseline anew with what this run computed",
    )
    group.addoption(
        "--mergegate-registry",
        metavar="PATH",
        default=None,
        help=f"append measured losses to this file (default: {REGISTRY} in the rootdir)",
    )
    parser.addini(
        "mergegate_registry", "where measured losses are kept, from the rootdir", default=""
    )
    group.addoption(
        "--mergegate-no-registry",
        action="store_true",
        default=None,
        help="keep no measured losses",
    )
    parser.addini("mergegate_no_registry", "keep no measured losses", type="bool", default=False)
    group.addoption(
        "--mergegate-device",
        metavar="auto|cpu|cuda[:i]",
        default=None,
        help="where the models run (default: auto)",
    )
    parser.addini("mergegate_device", "where the models run", default="auto")
    group.addoption(
        "--mergegate-executor",
        metavar="local|ray[:ADDRESS]",
        default=None,
        help="what runs the models: this process, or workers of a Ray cluster (default: local)",
    )
    parser.addini("mergegate_executor", "what runs the models", default="local")
    group.addoption(
        "--mergegate-cache",
        metavar="DIR",
        default=None,
        help="where results are kept between runs (default: the user's cache folder)",
    )
    parser.addini("mergegate_cache", "where results are kept, from the rootdir", default="")
    group.addoption(
        "--mergegate-no-cache",
        action="store_true",
        default=None,
        help="keep no results, and use none",
    )
    parser.addini("mergegate_no_cache", "keep no results", type="bool", default=False)
    group.addoption("--mergegate-no-code", action="store_true", default=None, help=NO_CODE)
    parser.addini("mergegate_no_code", NO_CODE, type="bool", default=False)
    parser.addini("mergegate_cache_size", "most that is kept, such as 500MB", default="5GB")
    parser.addini(
        "mergegate_on_inconclusive", "what an undecided gate does: fail or warn", default="fail"
    )
    parser.addini(
        "mergegate_files", "gate file of @mergeable tests that name no pool", type="linelist"
    )
    parser.addini(
        "verbosity_mergegate",
        "verbosity of the merge gates' summary (default: that of pytest)",
        default="auto",
    )


def enabled(config: pytest.Config) -> bool:
    """Whether the gates run in this session."""
    return bool(config.getoption("mergegate") or config.getini("mergegate"))


def read_settings(config: pytest.Config, budgets: Iterable[Cap]) -> Settings:
    """Parse and check everything once. Raises pytest.UsageError."""
    on_inconclusive = str(config.getini("mergegate_on_inconclusive"))
    if on_inconclusive not in {"fail", "warn"}:
        raise pytest.UsageError(
            f"mergegate_on_inconclusive must be fail or warn, not {on_inconclusive!r}"
        )
    try:
        config.get_verbosity("mergegate")
    except ValueError as error:
        raise pytest.UsageError(f"verbosity_mergegate must be a whole number: {error}") from None
    device = config.getoption("mergegate_device") or str(config.getini("mergegate_device"))
    executor = config.getoption("mergegate_executor") or str(config.getini("mergegate_executor"))
    return Settings(
        caps=_caps(config, budgets),
        stage=parse_stage(config.getoption("mergegate_stage") or config.getini("mergegate_stage")),
        device=parse_device(device),
        executor=parse_executor(executor),
        reports=tuple(
            parse_report(entry, config.invocation_params.dir)
            for entry in config.getoption("mergegate_report") or config.getini("mergegate_report")
        ),
        on_inconclusive=cast("Any", on_inconclusive),
        cache=_cache(config),
        cache_size=parse_size(str(config.getini("mergegate_cache_size"))),
        files=tuple(config.rootpath / entry for entry in config.getini("mergegate_files")),
        registry=_registry(config),
        no_code=bool(config.getoption("mergegate_no_code") or config.getini("mergegate_no_code")),
        **_baseline(config),
    )


def parse_device(name: str) -> str:
    """A device's name; whether it is there shows later. Raises pytest.UsageError."""
    if not _DEVICE.fullmatch(name):
        raise pytest.UsageError(f"--mergegate-device must be auto, cpu or cuda[:i], not {name!r}")
    return name


def parse_executor(name: str) -> str:
    """``local``, ``ray`` or ``ray:ADDRESS``. Raises pytest.UsageError."""
    if not _EXECUTOR.fullmatch(name):
        raise pytest.UsageError(
            f"--mergegate-executor must be local, ray or ray:ADDRESS, not {name!r}"
        )
    return name


def parse_stage(name: Any) -> Stage | None:
    """A stage's name, or nothing. Raises pytest.UsageError."""
    if not name:
        return None
    if name not in STAGES:
        raise pytest.UsageError(f"the stage must be one of {', '.join(STAGES)}, not {name!r}")
    return cast("Stage", name)


def parse_report(entry: str, directory: Path) -> ReportTarget:
    """``FORMAT[:PATH]``. Raises pytest.UsageError."""
    kind, _, path = entry.partition(":")
    if kind not in FORMATS:
        raise pytest.UsageError(
            f"--mergegate-report: unknown format {kind!r}; available: {', '.join(FORMATS)}"
        )
    if any(find_spec(module) is None for module in FORMATS[kind].needs):
        raise pytest.UsageError(
            f"--mergegate-report: {kind} needs more: pip install 'pytest-mergegate[{kind}]'"
        )
    target = directory / (path or f"mergegate-report.{FORMATS[kind].ending}")
    if target.is_dir():
        raise pytest.UsageError(f"--mergegate-report: {target} is a folder; name a file in it")
    check_place(target, "--mergegate-report")
    return ReportTarget(format=kind, path=target)


def check_place(path: Path, option: str) -> None:
    """Raise pytest.UsageError for a place that would not be written to in the end."""
    from pytest_mergegate.common.files.writing import refuse_links

    try:
        refuse_links(path)
    except OSError as error:
        raise pytest.UsageError(f"{option}: {error.strerror}; name the place itself") from None


def parse_size(text: str) -> int:
    """``500MB`` or ``5 GB`` to bytes. Raises pytest.UsageError."""
    units = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", text, re.IGNORECASE)
    size = float(found[1]) * units[found[2].upper()] if found else 0.0
    if not 1 <= size < float("inf"):
        raise pytest.UsageError(f"the size of the cache must be like 500MB or 5GB, not {text!r}")
    return int(size)


def parse_cache(entry: str | None, directory: Path, *, none: bool) -> Path | None:
    """The folder ``entry``, else the user's own; None where there is to be none.

    Raises pytest.UsageError.
    """
    from pytest_mergegate.common.errors import GateError
    from pytest_mergegate.common.files.cache_folder import cache_folder, check_cache

    if none:
        return None
    folder = directory / Path(entry).expanduser() if entry else cache_folder()
    if folder is not None and folder.exists() and not folder.is_dir():
        raise pytest.UsageError(f"the cache {folder} is a file; name a folder")
    try:
        if folder is not None:
            check_cache(folder)
    except GateError as error:
        raise pytest.UsageError(str(error)) from None
    return folder


def parse_baseline(path: Path | None, *, update: bool, option: str) -> Path | None:
    """The file of a baseline; whether there is one shows later. Raises pytest.UsageError."""
    if path is None and update:
        raise pytest.UsageError(
            f"{option.replace('baseline', 'update-baseline')} takes a baseline; name it with "
            f"{option} PATH"
        )
    if path is not None and path.is_dir():
        raise pytest.UsageError(f"{option}: {path} is a folder; name a file in it")
    if path is not None:
        check_place(path, option)
    return path


def _baseline(config: pytest.Config) -> dict[str, Any]:
    given, kept = config.getoption("mergegate_baseline"), config.getini("mergegate_baseline")
    update = bool(config.getoption("mergegate_update_baseline"))
    path: Path | None = None
    if given or kept:
        path = config.invocation_params.dir / given if given else config.rootpath / str(kept)
    path = parse_baseline(path, update=update, option="--mergegate-baseline")
    return {"baseline": path, "update_baseline": update}


def _cache(config: pytest.Config) -> Path | None:
    none = config.getoption("mergegate_no_cache") or bool(config.getini("mergegate_no_cache"))
    if given := config.getoption("mergegate_cache"):
        return parse_cache(given, config.invocation_params.dir, none=none)
    return parse_cache(str(config.getini("mergegate_cache")), config.rootpath, none=none)


def parse_registry(entry: str | None, directory: Path, *, none: bool) -> Path | None:
    """The file ``entry``, else the one of the usual name; None where there is to be none.

    Raises pytest.UsageError.
    """
    if none:
        return None
    path = directory / Path(entry or REGISTRY).expanduser()
    if path.is_dir():
        raise pytest.UsageError(f"the registry {path} is a folder; name a file in it")
    check_place(path, "the registry")
    return path


def _registry(config: pytest.Config) -> Path | None:
    none = config.getoption("mergegate_no_registry") or config.getini("mergegate_no_registry")
    if given := config.getoption("mergegate_registry"):
        return parse_registry(given, config.invocation_params.dir, none=bool(none))
    entry = str(config.getini("mergegate_registry"))
    return parse_registry(entry, config.rootpath, none=bool(none))


def check_cap(cap: Cap, value: float) -> float:
    """A cap that can be a limit. Raises pytest.UsageError."""
    if not 0 <= value <= cap.most or value == float("inf"):
        raise pytest.UsageError(
            f"--mergegate-{cap.name.replace('_', '-')} must be a number from 0"
            f"{'' if cap.most == float('inf') else f' to {cap.most:g}'}, not {value!r}"
        )
    return value


def _caps(config: pytest.Config, budgets: Iterable[Cap]) -> dict[str, float]:
    caps: dict[str, float] = {}
    for cap in budgets:
        if cap.option is None:
            continue
        name = f"mergegate_{cap.name}"
        try:
            given = (config.getoption(name), config.getini(name))
        except (ValueError, TypeError, pytest.UsageError) as error:
            raise pytest.UsageError(f"ini {name} must be a number: {error}") from None
        values = [check_cap(cap, value) for value in given if value is not None]
        if values:
            caps[cap.name] = min(values)
    return caps
