"""Does the certificate tell what collapses? Train a bed, gate pools of it, write what was found.

    python benchmarks/validation.py [--bed DIR] [--groups 14] [--jobs 1]

Trains the bed (`bed.py`) where DIR has none; gates every pair and some larger groups; writes
`docs/validation.md`, and the points to DIR/points.csv and benchmarks/validation_points.csv. What
DIR holds already is used again, gates included.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}  # before torch is there

from points import gate_all, groups_of, pairs_of, write_csv
from validation_page import page

ROOT = Path(__file__).resolve().parents[1]
GROUPS_SEED = 7


def main() -> None:
    """Do all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = Path(tempfile.gettempdir()) / "mergegate-bed"
    parser.add_argument("--bed", type=Path, default=folder, metavar="DIR")
    parser.add_argument("--groups", type=int, default=14, help="of three to eight experts")
    parser.add_argument("--jobs", type=int, default=1, help="experts trained at the same time")
    chosen = parser.parse_args()

    import bed

    root = chosen.bed.resolve()
    trained = bed.train(root, chosen.jobs)
    names = list(bed.BED.experts)
    groups = groups_of(names, chosen.groups, GROUPS_SEED)
    points, seconds = gate_all(root, [*pairs_of(names), *groups])
    run = {
        "seconds": seconds,
        "cores": os.cpu_count(),
        "seed": GROUPS_SEED,
        "sizes": [len(group) for group in groups],
    }
    for file in (root / "points.csv", ROOT / "benchmarks" / "validation_points.csv"):
        write_csv(points, file)
    text = page("python benchmarks/validation.py", trained, bed.FAMILIES, points, run)
    (ROOT / "docs" / "validation.md").write_text(text, encoding="utf-8")
    print("written: docs/validation.md")


if __name__ == "__main__":
    main()
