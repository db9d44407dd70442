"""Gate groups of a bed again with the expert of the highest MDS replaced: the paper's Table 6.

    python benchmarks/beds/replace.py --bed DIR [--size 4]

Every group of that size that `gate.py` drew is gated once more, with an expert in place of the one
of the highest MDS that is drawn (seed 7) from those outside the group. MDS decides, and no loss.
Reports go beside the others, where `validation.py --ship` finds them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
sys.path[0] = str(Path(__file__).resolve().parents[1])

from beds.gating import SEED, gate, groups_of, pool_id, read_report  # noqa: E402


def replaced(bed: Path, size: int) -> list[tuple[str, ...]]:
    """The groups with one expert replaced; those without one hardest expert are left out."""
    names = list(json.loads((bed / "bed.json").read_text(encoding="utf-8"))["experts"])
    rng, found = random.Random(SEED), list[tuple[str, ...]]()
    for group in (group for group in groups_of(names) if len(group) == size):
        outside = [name for name in names if name not in group]
        into = rng.choice(outside)
        worst = hardest(bed, group)
        if worst is not None:
            chosen = {*group, into} - {worst}
            found.append(tuple(name for name in names if name in chosen))
    return list(dict.fromkeys(found))


def hardest(bed: Path, group: tuple[str, ...]) -> str | None:
    """The expert of the highest MDS; None where it is not one, or the group was not gated."""
    file = bed / "reports" / f"{pool_id(group)}.data.json.gz"
    if not file.exists():
        return None
    scores = {
        expert.name: float("inf") if expert.mds_infinite else expert.mds
        for expert in read_report(file).experts
    }
    known = [score for score in scores.values() if score is not None]
    if len(known) < len(group) or known.count(max(known)) != 1:
        return None
    return max(scores, key=lambda name: scores[name] or 0.0)


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bed", type=Path, required=True, metavar="DIR")
    parser.add_argument("--size", type=int, default=4, help="of the groups")
    options = parser.parse_args()
    bed = options.bed.resolve()
    failed = 0
    for group in replaced(bed, options.size):
        found = gate(bed, group)
        failed += found.error is not None
        print(f"{pool_id(group)}: {found.error or 'gated'}", flush=True)
    if failed:
        sys.exit(f"{failed} groups could not be gated")


if __name__ == "__main__":
    main()
