"""One run of mergekit, in a process of its own: its caches outlive a merge, and must not.

Started as ``python -P run_mergekit.py JOB``; imports nothing of this package. What goes wrong is
the last line of stderr.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(job: dict[str, Any]) -> None:
    """Merge as ``job`` says: configuration, output folder and mergekit's options."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = MergeConfiguration.model_validate(job["config"])
    run_merge(config, job["out"], MergeOptions(**job["options"]))


def _told(error: Exception) -> str:
    """The exception in one line; pydantic's by its first problem."""
    problems = getattr(error, "errors", None)
    if callable(problems):
        first = problems()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        return f"{where}{first['msg']}, not {first['input']!r}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # mergekit raises whatever its libraries raise
        sys.stderr.write(f"\n{_told(error)}\n")
        sys.exit(1)
