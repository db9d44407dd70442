"""Examples of a task: JSONL of inputs, and targets and choices where there are labels."""

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import open_regular, read_at_most, unique
from pytest_mergegate.common.plain_text import shown

_SHAPE = 'an example is {"input": ..., "target": ..., "choices": [...]}'
_BYTES, _ROWS, _LINE, _ENTRIES = 128 << 20, 100_000, 1 << 20, 10_000
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
    target: str | tuple[str, ...] | None = None
    """What is right: one text, or several references of which the best counts."""
    choices: Annotated[tuple[Choice, ...], Field(min_length=2, strict=False)] | None = None
    """The answers allowed; ``accuracy`` ranks them by log-likelihood."""

    @property
    def question(self) -> Hashable:
        """What a model is asked: examples that share it repeat each other."""
        return self.input, self.choices and tuple(sorted(self.choices))

    @property
    def references(self) -> tuple[str, ...]:
        """All texts that are right, each once; empty without a target."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target

    @field_validator("target", mode="before")
    @classmethod
    def _one_or_several(cls, target: object) -> object:
        if target is None or isinstance(target, str):
            return target
        if not isinstance(target, list | tuple):
            raise ValueError("it is neither a string nor a list of strings")
        if not target:
            raise ValueError("the list is empty; leave the target out where there is none")
        for place, reference in enumerate(target, start=1):
            if not isinstance(reference, str):
                raise ValueError(f"entry {place} of the list is no string")
        return tuple(dict.fromkeys(target))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.input:
            raise ValueError("input is empty")
        if self.choices is not None:
            if len(set(self.choices)) != len(self.choices):
                raise ValueError("choices holds a duplicate")
            if not set(self.references) <= set(self.choices):
                raise ValueError("a target is none of the choices")
        return self


def named(numbers: Sequence[int], index: int) -> str:
    """How an error calls an example: by the number of its line, where it stands in a file."""
    return f"example {numbers[index]}" if numbers else "the input"


def read_examples(path: Path, *, expert: str, where: str) -> tuple[Example, ...]:
    """Read a JSONL file of examples, one per line.

    Raises PoolError with ``file:line`` for a missing, empty or malformed file, and where only
    some of the lines have a target (a score over the labelled part would pass for the whole).
    """
    try:
        with open_regular(path, expert=expert) as file:
            data = read_at_most(file, _BYTES)
    except PoolError as error:
        fix = "correct the path; it is relative to the gate file"
        raise _malformed(f"the examples: {error.what}", expert, where, fix) from None
    # more than a gate will ever ask; each row costs far more than its text
    if len(data) > _BYTES or data.count(b"\n") > _ROWS:
        most = f"{_BYTES >> 20} MiB" if len(data) > _BYTES else f"{_ROWS} lines"
        fix = "a gate asks hundreds of examples, not millions; shorten the file"
        raise _malformed(f"the examples are over {most}", expert, path.name, fix)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _malformed("not UTF-8 text", expert, path.name, "save the file as UTF-8") from None
    # not splitlines(): JSON strings may hold U+2028 and its like
    numbered = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    examples = [_parse(line, f"{path.name}:{n}", expert) for n, line in numbered]
    if not examples:
        fix = 'add one {"input": ...} a line'
        raise _malformed("the file of examples is empty", expert, path.name, fix)
    unlabelled = [n for (n, _), e in zip(numbered, examples, strict=True) if not e.references]
    if unlabelled and len(unlabelled) < len(examples):
        what = f"{len(examples) - len(unlabelled)} of {len(examples)} examples have a target"
        fix = "give every example of the file a target, or none"
        raise _malformed(what, expert, f"{path.name}:{unlabelled[0]}", fix)
    return tuple(examples)


def join(rows: Sequence[Example]) -> tuple[Example, ...]:
    """One example per question, in the order in which questions first come; the targets of all its
    ``rows`` are its references."""
    asked: dict[Hashable, list[Example]] = {}
    for row in rows:
        asked.setdefault(row.question, []).append(row)
    return tuple(_joined(same) for same in asked.values())


def _joined(same: Sequence[Example]) -> Example:
    references = tuple(dict.fromkeys(one for row in same for one in row.references))
    first = same[0]
    if references == first.references:
        return first
    return first.model_copy(update={"target": references})


def _parse(line: str, where: str, expert: str) -> Example:
    if len(line) > _LINE:
        what = f"the line has {len(line)} characters, {_LINE} are the limit"
        raise _malformed(what, expert, where, "shorten the example, or leave it out")
    try:
        data = json.loads(line, object_pairs_hook=unique)
        for key, value in data.items() if isinstance(data, dict) else ():
            # each entry would have an error of its own
            if isinstance(value, list) and len(value) > _ENTRIES:
                what = f"{shown(key, 60)} has {len(value)} entries, {_ENTRIES} are the limit"
                raise _malformed(what, expert, where, "shorten the example, or leave it out")
        example = Example.model_validate(data)
        example.model_dump_json()  # refuses half a surrogate pair, which no tokenizer reads
        return example
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg} at column {error.colno})"
        raise _malformed(what, expert, where, "each line is one JSON object") from None
    except RecursionError:
        raise _malformed("nested too deeply", expert, where, _SHAPE) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        what = f"{key}: {message}" if key else message
        raise _malformed(what, expert, where, _SHAPE) from None
    except ValueError as error:  # also a number with more digits than Python reads
        fix = "keep to plain JSON in UTF-8, each key once"
        raise _malformed(str(error), expert, where, fix) from None


def _malformed(what: str, expert: str, where: str, fix: str) -> PoolError:
    return PoolError(what, code="MG201", expert=expert, where=where, fix=fix)
