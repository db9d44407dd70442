"""Writes every ``run:`` block of the workflows and actions named to DIR, for shellcheck.

Usage: scripts.py DIR FILE...
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml


def main(folder: Path, files: list[Path]) -> None:
    """Write them; no block at all is an error."""
    blocks = []
    for file in files:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        owners = [said["runs"]] if "runs" in said else said["jobs"].values()
        blocks += [step["run"] for owner in owners for step in owner["steps"] if "run" in step]
    if not blocks:
        sys.exit("there is no run: block in them")
    folder.mkdir(parents=True, exist_ok=True)
    for number, block in enumerate(blocks):
        (folder / f"{number}.sh").write_text(f"#!/usr/bin/env bash\nset -eo pipefail\n{block}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
