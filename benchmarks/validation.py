"""Writes docs/validation.md: what every score is worth, from the recorded merges that ship; and
the parts of docs/choosing-a-budget.md and docs/registry.md that rest on the same.

    python benchmarks/validation.py                        recompute the card; no model, a minute
    python benchmarks/validation.py --ship DIR [DIR...]    first take over beds that were gated
    python benchmarks/validation.py --train DIR            first train and gate the beds, for hours

A bed's folder is what `benchmarks/beds/` makes: experts, examples, and two reports of every pool.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python benchmarks/validation.py"
CARD = ROOT / "docs" / "validation.md"
GUIDE = ROOT / "docs" / "choosing-a-budget.md"
REGISTRY = ROOT / "docs" / "registry.md"
BEDS = ROOT / "benchmarks" / "beds"
PROTOCOL = BEDS / "PROTOCOL.md"


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, metavar="DIR", help="where the beds are made")
    parser.add_argument("--ship", type=Path, nargs="+", default=[], metavar="DIR")
    chosen = parser.parse_args()
    made = _train(chosen.train) if chosen.train else []
    if beds := [*made, *chosen.ship]:
        from shipping import ship, ship_calibrations

        for bed in beds:
            print(ship(bed.resolve()))
        ship_calibrations()
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


def pages() -> dict[Path, str]:
    """The card, and the pages that have a part made from the same merges."""
    from card.beds import evidence
    from card.guide import with_evidence
    from card.losses import Predictions
    from card.page import page
    from card.registry import with_worth

    found = evidence()
    predictions = Predictions(found)
    guide = with_evidence(GUIDE.read_text(encoding="utf-8"), found)
    registry = with_worth(REGISTRY.read_text(encoding="utf-8"), found, predictions)
    card = page(COMMAND, PROTOCOL, found, predictions)
    return {CARD: card, GUIDE: guide, REGISTRY: registry}


def _train(folder: Path) -> list[Path]:
    """Train and gate every bed; what is there already is kept."""
    sys.path.insert(0, str(BEDS.parent))
    from beds.train import BEDS as NAMES

    made = [folder.resolve() / name for name in NAMES]
    for bed in made:
        for command in (["train.py", bed.name, "--out"], ["gate.py", "--bed"]):
            script, *options = command
            subprocess.run([sys.executable, BEDS / script, *options, bed], check=True)
    return made


if __name__ == "__main__":
    main()
