"""The table: one row for every statement in every setting, and when a row is an alarm."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_mergegate.metrics import disagreement_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

ALARM = 0.05
"""The chance that a table in which every promise is kept raises any alarm at all."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Something that a gate says with a confidence."""

    name: str
    """For ``--only``."""
    text: str
    """What breaks the promise, and of whom the promise is: the gate, or one expert."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """How often one statement was broken in one setting."""

    statement: str
    """The name of it."""
    setting: str
    nominal: float | None
    """How often the statement may be broken at most; None where nothing is promised."""
    broken: int
    gates: int

    @property
    def actual(self) -> float:
        """How often it was broken."""
        return self.broken / self.gates

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper-Pearson's of the actual rate, at 95 %."""
        return disagreement_interval(self.broken, self.gates)

    def is_above(self, rows: int) -> bool:
        """Whether the actual rate is above the nominal beyond chance, in a table of so many rows.

        Hundreds of intervals at 95 % would miss a few times by chance alone, so each is taken at
        the Bonferroni level that makes any false alarm of the whole table as rare as ``ALARM``.
        """
        if self.nominal is None:
            return False
        low, _ = disagreement_interval(self.broken, self.gates, confidence=1 - 2 * ALARM / rows)
        return low > self.nominal


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A way to draw gates, and what is counted of them."""

    statement: Statement
    label: str
    """Unique: with the seed of the table it decides on what is drawn."""
    run: Callable[[np.random.Generator, int], list[Row]]
    """Draws so many gates, and counts."""
    times: int = 1
    """How many times as many gates are drawn as asked: more where they cost next to nothing."""
    quick: bool = False
    """Whether it is part of the quick table."""

    def rows(self, seed: int, gates: int) -> list[Row]:
        """What is counted of at least so many gates."""
        own = zlib.crc32(f"{self.statement.name} {self.label}".encode())
        return self.run(np.random.default_rng([seed, own]), self.times * gates)


def rows_above(rows: Sequence[Row]) -> list[Row]:
    """Those whose promise is broken more often than it may be, beyond chance."""
    promised = sum(row.nominal is not None for row in rows)
    return [row for row in rows if row.is_above(promised)]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The whole of it, as it is recorded."""

    seed: int
    gates: int
    statements: tuple[Statement, ...]
    rows: tuple[Row, ...]

    def of(self, statement: str) -> tuple[Row, ...]:
        """The rows of one statement."""
        return tuple(row for row in self.rows if row.statement == statement)

    def write(self, path: Path) -> None:
        """Keep it, a row a line, without a date: the same seed gives the same file."""
        plain = asdict(self)
        lines = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in plain.pop("rows"))
        head = json.dumps(plain, ensure_ascii=False, indent=1).removesuffix("\n}")
        path.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Table:
        """What ``write`` kept."""
        plain: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            seed=plain["seed"],
            gates=plain["gates"],
            statements=tuple(Statement(**one) for one in plain["statements"]),
            rows=tuple(Row(**one) for one in plain["rows"]),
        )


def counted(
    statement: Statement, setting: str, nominal: float | None, broken: Iterable[bool]
) -> list[Row]:
    """One row of what was found gate by gate."""
    found = list(broken)
    return [
        Row(
            statement=statement.name,
            setting=setting,
            nominal=nominal,
            broken=sum(found),
            gates=len(found),
        )
    ]
