"""mergekit's ``run_merge`` from outside: one process per merge, in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.merging import run_mergekit

if TYPE_CHECKING:
    from collections.abc import Mapping


def run(
    config: Mapping[str, Any],
    work: Path,
    *,
    seed: int,
    lora_dtype: str | None,
    trust: bool,
    called: Mapping[str, str],
) -> Path:
    """Run mergekit on ``config``, whose models are paths; returns the folder it wrote.

    ``work`` is a folder for its results and caches. Raises GateError with mergekit's own last
    words, the models' paths in them as ``called``.
    """
    out, job, lora, away = (work / name for name in ("merged", "job.json", "lora", "away"))
    options = {
        "quiet": True,
        "random_seed": seed,
        "write_model_card": False,
        "copy_tokenizer": True,
        "lora_merge_cache": str(lora),
        "lora_merge_dtype": lora_dtype,
        "trust_remote_code": trust,
    }
    text = json.dumps({"config": config, "out": str(out), "options": options})
    job.write_text(text, encoding="utf-8")
    away.mkdir()
    done = subprocess.run(
        [sys.executable, "-P", run_mergekit.__file__, str(job)],
        # mergekit picks its donor from a set
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1"},
        cwd=away,  # no module, and no library's settings, from where the gate was started
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    for folder in (lora, away):
        shutil.rmtree(folder, ignore_errors=True)
    if done.returncode != 0:
        fix = "check the method's settings, and whether mergekit knows this architecture"
        reason = next(filter(None, map(str.strip, reversed(done.stderr.splitlines()))), None)
        if done.returncode < 0:
            reason, fix = f"killed by signal {-done.returncode}", "give it more memory"
        for path, name in called.items():
            reason = reason and reason.replace(path, name)
        raise GateError(
            f"mergekit's own run of {config['merge_method']} failed "
            f"({reason or f'exit code {done.returncode}'})",
            fix=fix,
        )
    return out


def new_folder() -> Path:
    """A temporary folder whose path mergekit can read. Raises GateError."""
    folder = Path(tempfile.mkdtemp(prefix="mergegate-")).resolve()
    if {"+", "@"} & {*str(folder)}:
        folder.rmdir()
        raise GateError(
            f"mergekit cannot read the temporary folder {folder.parent}: it takes '+' and '@' in "
            "paths for its own syntax",
            fix="set TMPDIR to a folder without them",
        )
    return folder
