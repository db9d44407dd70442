"""Train a bed.

    python benchmarks/beds/train.py minilm --out DIR

DIR gets `base/`, `adapters/NAME/`, `data/NAME.jsonl`, `fresh/NAME.jsonl` and `bed.json`. What is
there already is kept, so a run that was cut short goes on. The same machine and versions, the same
bytes.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
sys.path[0] = str(Path(__file__).resolve().parents[1])

BEDS = ("skills", "minilm", "gpt2", "chat")


def main() -> None:
    """Train it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bed", choices=BEDS)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    importlib.import_module(f"beds.{options.bed}").train(options.out.resolve())


if __name__ == "__main__":
    main()
