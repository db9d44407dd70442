"""``vocabulary: pad``: base and experts brought to one vocabulary before anything is compared.

Rows that the base lacks are added as transformers' ``resize_token_embeddings`` does, and rows of an
expert that stand for no token are the base's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.adapters import CONFIG, PREFIX, WEIGHTS, WRAPPED, read_adapter_config
from pytest_mergegate.pool.base import OUTPUT_LAYERS, Base
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.references import Located
from pytest_mergegate.pool.repaired_names import as_loaded, repaired
from pytest_mergegate.pool.tensors import StoredTensors
from pytest_mergegate.pool.tokenizer_files import TokenizerFiles, token_ids

_MOST_ROWS = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor of an expert with a row, or a column, for every token."""

    parameter: str
    """Of the base."""
    axis: int
    """That of the tokens."""
    is_whole: bool
    """Whether it holds the parameter itself, rather than a factor of its change."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What one expert makes of the vocabulary."""

    located: Located
    tensors: StoredTensors
    """Under the names that they are read by."""
    stored: Mapping[str, Stored]
    """By that name."""
    known: int
    """Ids below it stand for tokens of its tokenizer, or the base's, where it has none."""
    added: Mapping[int, str]
    """Its tokens that the base's tokenizer does not have, by id."""
    needed: int
    """Rows that its tokens and its trained rows take."""

    def differs(self, rows: int) -> bool:
        """Whether one of its tensors is for another number of rows."""
        return any(self.tensors[k].shape[s.axis] != rows for k, s in self.stored.items())


def read_vocabularies(base: Base, experts: Mapping[str, Located]) -> dict[str, Vocabulary]:
    """By expert. Raises PoolError where two give one id two tokens, or one token two ids."""
    ours = token_ids(TokenizerFiles.of(base.path))
    found = {name: _read(base, name, located, ours) for name, located in experts.items()}
    ids: dict[int, tuple[str, str]] = {}
    tokens: dict[str, tuple[int, str]] = {}
    for name, own in found.items():
        for number, token in own.added.items():
            other, whose = ids.setdefault(number, (token, name))
            place, by = tokens.setdefault(token, (number, name))
            if other != token:
                said = f"id {number} is token '{shown(token, 40)}' here and "
                raise _torn(f"{said}'{shown(other, 40)}' in {whose}", name)
            if place != number:
                said = f"token '{shown(token, 40)}' has id {number} here and {place} in {by}"
                raise _torn(said, name)
    return found


def rows_of(base: Base, experts: Mapping[str, Vocabulary]) -> int:
    """How many rows the embedding needs for all tokens. Raises PoolError for absurdly many."""
    assert base.embedding is not None
    needed = {name: own.needed for name, own in experts.items()}
    rows = max([base.tensors[base.embedding].shape[0], *needed.values()])
    if rows > _MOST_ROWS:
        name = max(needed, key=needed.__getitem__)
        what = f"its tokens take {rows} rows of the embedding, over {_MOST_ROWS}"
        raise PoolError(what, code="MG110", expert=name, fix="save its tokenizer again")
    return rows


def donor_of(experts: Mapping[str, Vocabulary]) -> str | None:
    """The expert whose tokenizer has all tokens that were added; None where none was.

    Raises PoolError where no tokenizer has them all.
    """
    added = {number for own in experts.values() for number in own.added}
    if not added:
        return None
    for name, own in experts.items():
        if added <= set(own.added):
            return name
    name, own = max(experts.items(), key=lambda item: len(item[1].added))
    lacking = min(added - set(own.added))
    raise PoolError(
        f"no expert's tokenizer has all {len(added)} tokens that were added: the one with the most "
        f"lacks id {lacking}",
        code="MG110",
        expert=name,
        fix="add the tokens of all experts to one tokenizer, in one order, and train from that",
    )


def _torn(what: str, expert: str) -> PoolError:
    fix = "such experts cannot be merged: no model reads one id as two tokens; leave one out"
    return PoolError(what, code="MG110", expert=expert, fix=fix)


def _read(base: Base, name: str, located: Located, ours: Mapping[str, int]) -> Vocabulary:
    path = located.path
    config: Mapping[str, object] = {}
    if (path / CONFIG).is_file():
        config = read_adapter_config(path, expert=name)
        files = [path / WEIGHTS] if (path / WEIGHTS).is_file() else []
        tensors = as_loaded(StoredTensors(files, expert=name), base)
        if (repair := repaired(tensors, base)) is not None:
            tensors = repair.tensors
    else:
        tensors = read_checkpoint(path, expert=name)
    stored = {key: held for key in tensors if (held := _stored(key, base, tensors)) is not None}
    own = token_ids(TokenizerFiles.of(path, name)) or ours
    known = max(own.values(), default=-1) + 1
    used = set(ours.values())
    added = {number: token for token, number in own.items() if token not in ours}
    if clash := sorted(set(added) & used):  # MG109 says which
        added = {n: t for n, t in added.items() if n not in clash}
    trained = max(_trained_rows(config), default=-1) + 1
    return Vocabulary(
        located=located,
        tensors=tensors,
        stored=stored,
        known=known,
        added=added,
        needed=max(trained, max(added, default=-1) + 1),
    )


def _trained_rows(config: Mapping[str, object]) -> Iterator[int]:
    listed = config.get("trainable_token_indices")
    lists = listed.values() if isinstance(listed, dict) else [listed]
    for rows in lists:
        yield from (r for r in rows if type(r) is int) if isinstance(rows, list) else ()


def _stored(key: str, base: Base, tensors: StoredTensors) -> Stored | None:
    """What a tensor of an expert holds of the vocabulary; None for any other."""
    name = WRAPPED.sub(".", key.removeprefix(PREFIX))
    # the base's own, which PEFT loads, too, where it lies beside what was trained
    name = name.replace(".original_module.", ".").replace(".token_adapter.base_layer.", ".")
    module, axis, whole = name.rpartition(".")[0], 0, True
    for part, along, is_whole in (
        (".base_layer.weight", 0, True),
        (".lora_embedding_A", 1, False),
        (".lora_B.weight", 0, False),
    ):
        if name.endswith(part):
            module, axis, whole = name.removesuffix(part), along, is_whole
            break
    else:
        if not name.endswith((".weight", ".bias")):
            return None
    leaf = "bias" if whole and name.endswith(".bias") else "weight"
    parameter = next((p for p in vocabulary_parameters(base) if _is(p, f"{module}.{leaf}")), None)
    if parameter is None and module in OUTPUT_LAYERS and leaf == "weight":
        parameter = base.parameter(f"{module}.weight")  # tied
    if parameter is None or parameter not in base.tensors or len(tensors[key].shape) <= axis:
        return None
    if name.endswith(".lora_B.weight") and module not in OUTPUT_LAYERS:
        return None
    return Stored(parameter=parameter, axis=axis, is_whole=whole)


def _is(parameter: str, name: str) -> bool:
    return parameter == name or parameter.endswith(f".{name}")


def vocabulary_parameters(base: Base) -> list[str]:
    """The base's parameters with a row for every token, the input embedding first."""
    if base.embedding is None:
        return []
    rows = base.tensors[base.embedding].shape[0]
    others = [f"{layer}.{leaf}" for layer in OUTPUT_LAYERS for leaf in ("weight", "bias")]
    found = [n for n in others if n in base.tensors and base.tensors[n].shape[0] == rows]
    return [base.embedding, *found]


def check_size(base: Base, rows: int) -> int:
    """Numbers that are added to the base. Raises PoolError where an embedding is no matrix."""
    assert base.embedding is not None
    shape = base.tensors[base.embedding].shape
    if len(shape) != 2:
        what = f"the embedding {shown(base.embedding)!r} is {list(shape)}, and cannot be padded"
        raise PoolError(what, code="MG110", where=base.path.name, fix="leave vocabulary: pad out")
    return (rows - shape[0]) * math.prod(shape[1:])
