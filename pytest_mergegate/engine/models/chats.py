"""Chats as prompts: the base's template is run elsewhere, under a limit of time and memory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.common.working_folder import empty_folder
from pytest_mergegate.engine.models import render_chats
from pytest_mergegate.pool.examples import Example, named

SECONDS = 5
"""Of CPU time for all the chats of an expert, beside what is given for each."""
_EACH = 0.005
_PATIENCE = 10
"""Times as long by the clock: other processes want the processor, too."""
_CODE = "MG203"


def render(
    examples: Sequence[Example],
    expert: str,
    tokenizer: Any,
    numbers: Sequence[int],
    whose: str = "the base",
) -> dict[int, str]:
    """The prompts of those examples that are chats, by index, as the tokenizer's template has them.

    ``numbers`` are those by which errors name the examples, none for what stands in no file;
    ``whose`` tokenizer it is, they say as well.
    Raises PoolError where there is no template, where it fails, and where it takes too long or
    too much memory.
    """
    chats = {k: e.input for k, e in enumerate(examples) if not isinstance(e.input, str)}
    if not chats:
        return {}
    first = next(iter(chats))
    if not tokenizer.chat_template:
        raise PoolError(
            f"{named(numbers, first)} is a chat, and {whose}'s tokenizer has no chat template",
            code=_CODE,
            expert=expert,
            fix="write the inputs as plain strings, or save the template with the tokenizer",
        )
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # several, and none of them is the default
        raise _fails(named(numbers, first), expert, str(error), whose) from None
    seconds = SECONDS + int(_EACH * len(chats))
    job = {
        "chats": [[message.model_dump() for message in chat] for chat in chats.values()],
        "template": template,
        "tokens": dict(tokenizer.special_tokens_map),
        "seconds": seconds,
    }
    found = _run(job, seconds)
    if found is None:
        raise _fails("the chats", expert, f"it does not end within {seconds} s", whose)
    prompts = dict(zip(chats, found, strict=False))
    for index, prompt in prompts.items():
        if "error" in prompt:
            raise _fails(named(numbers, index), expert, prompt["error"], whose)
    return {index: prompt["text"] for index, prompt in prompts.items()}


def _run(job: Mapping[str, Any], seconds: int) -> list[dict[str, str]] | None:
    """What the process answers; None where it was ended."""
    with empty_folder() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-P", render_chats.__file__],
                input=json.dumps(job, default=str),
                cwd=folder,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                capture_output=True,
                check=False,
                text=True,
                encoding="utf-8",
                timeout=seconds * _PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode < 0:
        return None
    if done.returncode != 0:
        last = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        return [{"error": last}]
    answer: list[dict[str, str]] = json.loads(done.stdout)
    return answer


def _fails(chats: str, expert: str, why: str, whose: str) -> PoolError:
    said = f"the chat template of {whose}'s tokenizer makes no prompt of {chats}"
    return PoolError(
        f"{said} ({shown(why)})",
        discreet=said,
        code=_CODE,
        expert=expert,
        where="chat_template.jinja",
        fix="correct the template, or write the inputs as plain strings",
    )
