"""Chats to prompts by a template that may be a stranger's, in a process of its own with limits.

Started as ``python -P render_chats.py``, with the job on standard input; imports nothing of this
package. A template is a program: it may loop for ever, and one multiplication takes all memory.
"""

from __future__ import annotations

import json
import sys
from typing import Any

LONGEST = 4 << 20
"""Characters of one prompt."""
_MEMORY = 1 << 30
"""Bytes beyond what the process has when it starts."""


def main(job: dict[str, Any]) -> list[dict[str, str]]:
    """``text`` or ``error`` of each chat of ``job``, up to the first error."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit(int(job["seconds"]))
    found: list[dict[str, str]] = []
    for chat in job["chats"]:
        try:
            texts, _ = render_jinja_template(
                conversations=[chat],
                chat_template=job["template"],
                add_generation_prompt=True,
                **job["tokens"],
            )
        except MemoryError:
            found.append({"error": f"it takes more than {_MEMORY >> 20} MiB of memory"})
        except Exception as error:  # a template raises what it likes
            lines = str(error).strip().splitlines()
            found.append({"error": (lines[0] if lines else type(error).__name__)[:500]})
        else:
            size = len(texts[0])
            long = f"it makes {size} characters, and {LONGEST} are the most"
            found.append({"error": long} if size > LONGEST else {"text": texts[0]})
        if "error" in found[-1]:
            break
    return found


def _limit(seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: what started this process waits no longer than its own limit
        return
    own = resource.getrusage(resource.RUSAGE_SELF)
    until = int(own.ru_utime + own.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, until))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            held = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (held + _MEMORY, held + _MEMORY))


if __name__ == "__main__":
    json.dump(main(json.load(sys.stdin)), sys.stdout)
