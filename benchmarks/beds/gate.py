"""Gate pools of a bed: pairs, groups of four and of eight, each on both halves of the examples.

    python benchmarks/beds/gate.py --bed DIR [--pairs N] [--sizes 2 4 8]

Writes DIR/reports/ and DIR/gating.json. A run that was cut short goes on where it ended; runs on
other sizes may go beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
sys.path[0] = str(Path(__file__).resolve().parents[1])

from beds.gating import GROUPS, gate_all, groups_of, pairs_of  # noqa: E402


def main() -> None:
    """Do it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bed", type=Path, required=True, metavar="DIR")
    parser.add_argument("--pairs", type=int, metavar="N", help="a sample of the pairs, not all")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, *GROUPS], metavar="N")
    options = parser.parse_args()
    bed = options.bed.resolve()
    known = json.loads((bed / "bed.json").read_text(encoding="utf-8"))
    names = list(known["experts"])
    drawn = [tuple(pool) for pool in known.get("pools", ())]
    pools = drawn or [*groups_of(names), *pairs_of(names, options.pairs)]
    said = gate_all(bed, [pool for pool in pools if len(pool) in options.sizes])
    failed = [name for name, entry in said.items() if "error" in entry]
    if failed:
        sys.exit(f"{len(failed)} of {len(said)} pools could not be gated: see {bed}/gating.json")


if __name__ == "__main__":
    main()
