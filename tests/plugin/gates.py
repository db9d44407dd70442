"""Gate files for a folder of its own, on one pool that all tests share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pools import read_gate, write_gate

if TYPE_CHECKING:
    from pathlib import Path

CHEAP = "max_conflicting_magnitude_ratio"
"""Decided at the second stage, from the factors alone: no model is loaded."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Writes gate files into ``folder`` whose paths lead to the pool of ``shared``."""

    shared: Path
    """A gate file with experts a, b and c; not to be written to."""
    folder: Path

    def expert(self, name: str, **settings: Any) -> dict[str, Any]:
        """One expert of the pool as a gate file names it."""
        pool = self.shared.parent
        paths = {
            "path": str(pool / "adapters" / name),
            "examples": str(pool / "data" / f"{name}.jsonl"),
        }
        return paths | settings

    def spec(self, names: str = "abc", **gate: Any) -> dict[str, Any]:
        """A gate as a mapping, without a budget unless ``gate`` has one."""
        experts = {name: self.expert(name) for name in names}
        base = str(self.shared.parent / "base")
        return {**read_gate(self.shared), "base": base, "experts": experts, **gate}

    def write(self, name: str = "mergegate.yaml", **gate: Any) -> Path:
        """A gate file; its arguments are those of ``spec``."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_gate(path, self.spec(**gate))

    def passing(self, name: str = "mergegate.yaml") -> Path:
        """A gate that holds: no ratio is larger than one."""
        return self.write(name, budget={CHEAP: 1.0})

    def failing(self, name: str = "mergegate.yaml") -> Path:
        """A gate that does not hold: random factors always conflict somewhere."""
        return self.write(name, budget={CHEAP: 0.0})

    def undecided(self, name: str = "mergegate.yaml") -> Path:
        """A gate that says nothing: two experts have no MDS."""
        return self.write(name, names="ab", budget={"max_mds": 100.0})

    def unreadable(self, name: str = "mergegate.yaml") -> Path:
        """A gate whose expert b is not there."""
        experts = {k: self.expert(k) for k in "abc"} | {"b": self.expert("b", path="nowhere")}
        return self.write(name, budget={CHEAP: 1.0}, experts=experts)

    def malformed(self, name: str = "mergegate.yaml") -> Path:
        """A gate file with mistakes on lines 2 and 5."""
        path = self.folder / name
        path.write_text(
            "base: base\nbudgt: {}\nexperts: {a: a, b: b}\nbudget:\n  max_mds: many\n",
            encoding="utf-8",
        )
        return path
