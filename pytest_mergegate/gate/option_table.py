"""One table of a run's options, which pytest and the command both declare and read.

Defaults stand in ``Options``. Every pytest session imports this, so it imports nothing heavy.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from pytest_mergegate.common.errors import GateError, UsageError
from pytest_mergegate.gate.named_merge import named_merge
from pytest_mergegate.gate.options import FORMATS, STAGES, Options, ReportTarget

REGISTRY = "mergegate.registry.jsonl"
"""The registry's name where none is given."""


class Given(NamedTuple):
    """A setting as the user gave it."""

    value: Any
    name: str
    """What an error calls it: ``--device``, ``--mergegate-device``, ``ini mergegate_device``."""
    folder: Path
    """Where a relative path starts."""
    asked: bool = True
    """Whether the user did give it, and it is not the default."""


def check_place(path: Path, option: str) -> None:
    """Raise UsageError for a place that would not be written to in the end."""
    from pytest_mergegate.common.files.writing import refuse_links

    try:
        refuse_links(path)
    except OSError as error:
        raise UsageError(f"{option}: {error.strerror}; name the place itself") from None


def parse_report(given: Given) -> ReportTarget:
    """``FORMAT[:PATH]``. Raises UsageError."""
    kind, _, path = given.value.partition(":")
    if kind not in FORMATS:
        raise UsageError(f"{given.name}: unknown format {kind!r}; available: {', '.join(FORMATS)}")
    if any(find_spec(module) is None for module in FORMATS[kind].needs):
        install = f"pip install 'pytest-mergegate[{kind}]'"
        raise UsageError(f"{given.name}: {kind} needs more: {install}")
    target = given.folder / (path or f"mergegate-report.{FORMATS[kind].ending}")
    return ReportTarget(format=kind, path=_file(target, given.name))


def parse_cache(given: Given | None) -> Path | None:
    """A folder, else the user's own; None where there is no home. Raises UsageError."""
    from pytest_mergegate.common.files.cache_folder import cache_folder, check_cache

    folder = given.folder / Path(given.value).expanduser() if given else cache_folder()
    if folder is not None and folder.exists() and not folder.is_dir():
        asked = f"{given.name}: " if given is not None and given.asked else "the cache "
        raise UsageError(f"{asked}{folder} is a file; name a folder")
    try:
        if folder is not None:
            check_cache(folder)
    except GateError as error:
        raise UsageError(str(error)) from None
    return folder


def _file(path: Path, option: str, colon: str = ":") -> Path:
    """A file to write, or to read and then to write. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"{option}{colon} {path} is a folder; name a file in it")
    check_place(path, option)
    return path


def _parse_registry(given: Given) -> Path:
    path = given.folder / Path(given.value or REGISTRY).expanduser()
    return _file(path, given.name if given.asked else "the registry", ":" if given.asked else "")


def _parse_size(given: Given) -> int:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B\s*", given.value, re.IGNORECASE)
    size = float(found[1]) * 1024.0 ** " KMGT".find(found[2].upper() or " ") if found else 0.0
    if not 1 <= size < float("inf"):
        raise UsageError(f"the size of the cache must be like 500MB or 5GB, not {given.value!r}")
    return int(size)


def _text(pattern: str, said: str) -> Callable[[Given], str]:
    """A parser of texts that match ``pattern``, which errors call ``said``."""

    def parse(given: Given) -> str:
        if not re.fullmatch(pattern, given.value):
            raise UsageError(f"{given.name} must be {said}, not {given.value!r}")
        return str(given.value)

    return parse


_ACTIONS: Mapping[str, Mapping[str, Any]] = {
    "text": {"default": None},
    "number": {"type": float, "default": None},
    "flag": {"action": "store_true", "default": None},
    "list": {"action": "append", "default": []},
}


@dataclass(frozen=True, kw_only=True)
class Option:
    """``--mergegate-NAME`` and ini ``mergegate_NAME`` of pytest, ``--NAME`` of the command."""

    name: str
    help: str
    ini_help: str = ""
    """What the help of the ini key says instead."""
    kind: Literal["text", "number", "flag", "list"] = "text"
    metavar: str | None = None
    default: Any = None
    where: frozenset[str] = frozenset({"pytest", "ini", "command"})
    parse: Callable[[Given], Any] = lambda given: given.value

    @property
    def key(self) -> str:
        """Its name in Python."""
        return self.name.replace("-", "_")

    @property
    def declaration(self) -> dict[str, Any]:
        """How parsers are told of it: argparse's, and pytest's."""
        named = {"metavar": self.metavar} if self.metavar else {}
        return {"help": self.help, **_ACTIONS[self.kind], **named}


def cap_option(budget: str, metavar: str, text: str, most: float) -> Option:
    """The option that tightens ``budget``, whose limit is ``most`` at the highest, everywhere."""

    def parse(given: Given) -> float:
        if not 0 <= given.value <= most or given.value == float("inf"):
            to = f" to {most:g}" if most < float("inf") else ""
            raise UsageError(f"{given.name} must be a number from 0{to}, not {given.value!r}")
        return float(given.value)

    text = f"{text}; tightens every gate"
    name = budget.replace("_", "-")
    return Option(name=name, kind="number", metavar=metavar, help=text, parse=parse)


_TABLE = (
    Option(
        name="stage",
        metavar="STAGE",
        help=f"deepest stage that may run: {'|'.join(STAGES)} (default: what the budgets ask)",
        parse=_text("|".join(STAGES), f"one of {', '.join(STAGES)}"),
    ),
    Option(
        name="report",
        kind="list",
        metavar="FORMAT[:PATH]",
        help=f"write a report (repeatable); formats: {', '.join(FORMATS)}",
        ini_help="reports to write, one FORMAT[:PATH] a line",
        parse=parse_report,
    ),
    Option(
        name="baseline",
        metavar="PATH",
        help="compare with a committed JSON report",
        ini_help="a committed report, from the rootdir",
        parse=lambda given: _file(given.folder / str(given.value), given.name),
    ),
    Option(
        name="update-baseline",
        kind="flag",
        help="write the baseline anew with what this run computed",
        where=frozenset({"pytest", "command"}),
    ),
    Option(
        name="registry",
        metavar="PATH",
        default=REGISTRY,
        help=f"append measured losses to this file (default: {REGISTRY} in the rootdir)",
        ini_help="where measured losses are kept, from the rootdir",
        parse=_parse_registry,
    ),
    Option(name="no-registry", kind="flag", help="keep no measured losses"),
    Option(
        name="device",
        metavar="auto|cpu|cuda[:i]",
        default=Options.device,
        help=f"where the models run (default: {Options.device})",
        parse=_text(r"auto|cpu|cuda(:\d+)?", "auto, cpu or cuda[:i]"),
    ),
    Option(
        name="executor",
        metavar="local|ray[:ADDRESS]",
        default=Options.executor,
        help="what runs the models: this process, or workers of a Ray cluster "
        f"(default: {Options.executor})",
        parse=_text(r"local|ray(:\S+)?", "local, ray or ray:ADDRESS"),
    ),
    Option(
        name="cache",
        metavar="DIR",
        help="where results are kept between runs (default: the user's cache folder)",
        ini_help="where results are kept, from the rootdir",
    ),
    Option(name="no-cache", kind="flag", help="keep no results, and use none"),
    Option(
        name="all-methods",
        kind="flag",
        help="try every merge method under select: any, also after one has passed",
    ),
    Option(
        name="merged",
        metavar="DIR",
        help="gate this finished merge in place of one that is made (merged: of the gate file)",
        parse=lambda given: named_merge(*given[:3]),
    ),
    Option(
        name="no-code",
        kind="flag",
        help="refuse every metric, distance, task and method that is code of the repository, "
        "and its base's",
    ),
    Option(
        name="cache-size",
        default=f"{Options.cache_size >> 30}GB",
        help="most that is kept, such as 500MB",
        where=frozenset({"ini"}),
        parse=_parse_size,
    ),
    Option(
        name="on-inconclusive",
        default=Options.on_inconclusive,
        help="what an undecided gate does: fail or warn",
        where=frozenset({"ini"}),
        parse=_text("fail|warn", "fail or warn"),
    ),
    Option(
        name="files",
        kind="list",
        help="gate file of @mergeable tests that name no pool",
        where=frozenset({"ini"}),
        parse=lambda given: given.folder / given.value,
    ),
)
OPTIONS: Mapping[str, Option] = {option.name: option for option in _TABLE}
Source: TypeAlias = Callable[[Option], Sequence[Given]]
"""What the user gave for an option, what goes before the rest first; its default where nothing."""


def read_options(source: Source, caps: Iterable[Option]) -> Options:
    """The options of a run, each checked; of a cap, the tightest. Raises UsageError."""
    limits = {cap.key: list(map(cap.parse, _given(cap, source))) for cap in caps}
    baseline, update = _read("baseline", source), _first("update-baseline", source)
    if update and baseline is None:
        named = update.name.replace("update-", "")
        raise UsageError(f"{update.name} takes a baseline; name it with {named} PATH")
    return Options(
        caps={name: min(given) for name, given in limits.items() if given},
        stage=_read("stage", source),
        device=_read("device", source),
        executor=_read("executor", source),
        cache=None if _first("no-cache", source) else parse_cache(_first("cache", source)),
        cache_size=_read("cache-size", source),
        reports=_read("report", source),
        baseline=baseline,
        update_baseline=update is not None,
        registry=None if _first("no-registry", source) else _read("registry", source),
        registry_asked=any(given.asked for given in _given(OPTIONS["registry"], source)),
        all_methods=_first("all-methods", source) is not None,
        merged=_read("merged", source),
        no_code=_first("no-code", source) is not None,
        on_inconclusive=_read("on-inconclusive", source),
        files=_read("files", source),
    )


def _read(name: str, source: Source) -> Any:
    option = OPTIONS[name]
    first = _first(name, source)
    if option.kind == "list":
        return tuple(option.parse(first._replace(value=v)) for v in first.value) if first else ()
    return option.parse(first) if first else None


def _first(name: str, source: Source) -> Given | None:
    return next(iter(_given(OPTIONS[name], source)), None)


def _given(option: Option, source: Source) -> list[Given]:
    given = [one for one in source(option) if one.value not in ([], None)]
    given = [one for one in given if one.value != "" or option.default]
    return [one for one in given if one.value is not False]  # which a limit of 0.0 equals
