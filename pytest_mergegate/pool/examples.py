"""Examples of a task: JSONL of inputs, and targets and choices where there are labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pytest_mergegate.errors import PoolError
from pytest_mergegate.pool.regular_files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

Choice = Annotated[str, Field(min_length=1)]


class Message(BaseModel):
    """One turn of a chat, for the tokenizer's chat template."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    role: str
    content: str


class Example(BaseModel):
    """One line of a file of examples."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    input: str | Annotated[tuple[Message, ...], Field(min_length=1, strict=False)]
    """A prompt, or chat messages."""
    target: str | None = None
    choices: Annotated[tuple[Choice, ...], Field(min_length=2, strict=False)] | None = None
    """The answers allowed; ``accuracy`` ranks them by log-likelihood."""

    @model_validator(mode="after")
    def _consistent(self) -> Example:
        if not self.input:
            raise ValueError("input is empty")
        if self.choices is not None:
            if len(set(self.choices)) != len(self.choices):
                raise ValueError("choices holds a duplicate")
            if self.target is not None and self.target not in self.choices:
                raise ValueError(f"target {self.target!r} is none of the choices")
        return self


def read_examples(path: Path, *, expert: str, where: str) -> tuple[Example, ...]:
    """Read a JSONL file of examples.

    Raises PoolError with ``file:line`` for a missing, empty or malformed file, and where only
    some of the lines have a target (a score over the labelled part would pass for the whole).
    """
    code = "MG201"
    try:
        with open_regular(path, expert=expert) as file:
            text = file.read().decode("utf-8-sig")
    except PoolError as error:
        raise PoolError(
            f"the examples: {error.what}",
            code=code,
            expert=expert,
            where=where,
            fix="correct the path; it is relative to the gate file",
        ) from None
    except UnicodeDecodeError:
        raise PoolError("not UTF-8 text", code=code, expert=expert, where=path.name) from None
    # not splitlines(): JSON strings may hold U+2028 and its like
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    examples = [_parse(line, f"{path.name}:{n}", expert, code) for n, line in numbered]
    if not examples:
        raise PoolError(
            "the file of examples is empty",
            code=code,
            expert=expert,
            where=path.name,
            fix='add one {"input": ...} a line',
        )
    unlabelled = [n for (n, _), e in zip(numbered, examples, strict=True) if e.target is None]
    if unlabelled and len(unlabelled) < len(examples):
        raise PoolError(
            f"{len(examples) - len(unlabelled)} of {len(examples)} examples have a target",
            code=code,
            expert=expert,
            where=f"{path.name}:{unlabelled[0]}",
            fix="give every example of the file a target, or none",
        )
    return tuple(examples)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object as a dict; of a key given twice, the second would silently win."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def _parse(line: str, where: str, expert: str, code: str) -> Example:
    try:
        example = Example.model_validate(json.loads(line, object_pairs_hook=_unique))
        example.model_dump_json()  # refuses half a surrogate pair, which no tokenizer reads
        return example
    except json.JSONDecodeError as error:
        raise PoolError(
            f"not JSON ({error.msg} at column {error.colno})",
            code=code,
            expert=expert,
            where=where,
            fix="each line is one JSON object",
        ) from None
    except RecursionError:
        raise PoolError("nested too deeply", code=code, expert=expert, where=where) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise PoolError(
            f"{key}: {message}" if key else message,
            code=code,
            expert=expert,
            where=where,
            fix='an example is {"input": ..., "target": ..., "choices": [...]}',
        ) from None
    except ValueError as error:  # also a number with more digits than Python reads
        raise PoolError(
            str(error),
            code=code,
            expert=expert,
            where=where,
            fix="keep to plain JSON in UTF-8, each key once",
        ) from None
