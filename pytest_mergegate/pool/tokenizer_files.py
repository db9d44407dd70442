"""What a model's tokenizer files say, read as data: which token has which id, and what differs.

The tokenizers library would build each of them, with a stranger's regular expressions, to say no
more than which words it has.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.files.reading import (
    label,
    open_regular,
    read_at_most,
    read_json_object,
)
from pytest_mergegate.pool.fingerprints import content_hash

if TYPE_CHECKING:
    from pytest_mergegate.pool.experts import Expert
    from pytest_mergegate.pool.pool import Pool

TOKENIZER, VOCABULARY, WORDS = "tokenizer.json", "vocab.json", "vocab.txt"
SETTINGS = "tokenizer_config.json"
_ADDED = "added_tokens.json"
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_PARTS = ("normalizer", "pre_tokenizer", "post_processor")
SPECIAL_TOKENS = ("eos_token", "pad_token", "bos_token", "unk_token")
_TEMPLATE, _TEMPLATE_LIMIT = "chat_template.jinja", 1 << 20
_WORDS_LIMIT, _MOST_WORDS = 64 << 20, 2_000_000


@dataclass(frozen=True, kw_only=True)
class Differences:
    """What an expert's tokenizer has otherwise than the base's."""

    moved: tuple[str, int, int] | None = None
    """A token with another id: token, id in the base, id in the expert."""
    replaced: tuple[int, str, str] | None = None
    """An id with another token: id, token in the base, token in the expert."""
    lacking: tuple[str, ...] = ()
    """Tokens of the base that the expert's does not have; the first few."""
    sizes: tuple[int, int] = (0, 0)
    """Number of tokens in the base's and in the expert's."""
    added: tuple[tuple[str, int], ...] = ()
    """The expert's tokens with ids that the base's does not use, by id."""
    parts: tuple[str, ...] = ()
    """Other rules by which text becomes tokens: merges, normalizer, ..."""
    uncompared: str | None = None
    """Why the two could not be compared."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFiles:
    """The tokenizer files in one folder; equal where their contents are."""

    folder: Path = field(compare=False)
    expert: str | None = field(compare=False)
    """Whose they are, for messages; None for the base."""
    digests: tuple[tuple[str, str], ...]
    """Name and content hash of each."""

    @classmethod
    def of(cls, folder: Path, expert: str | None = None) -> Self:
        """Look at a folder. Raises PoolError for files that cannot be read."""
        # tokenizer.json holds it all; beside it, the others say nothing more
        others = () if (folder / TOKENIZER).exists() else (VOCABULARY, WORDS, _ADDED, SETTINGS)
        known = (TOKENIZER, *others, *_SENTENCEPIECE)
        try:
            found = tuple((n, content_hash(folder / n)) for n in known if (folder / n).exists())
        except PoolError as error:
            error.expert = expert
            raise
        return cls(folder=folder, expert=expert, digests=found)

    @property
    def names(self) -> frozenset[str]:
        """The files that hold a vocabulary."""
        return frozenset(name for name, _ in self.digests) - {_ADDED, SETTINGS}

    def same(self, other: Self, *names: str) -> bool:
        """Whether both have one of ``names``, with the same content."""
        return any(entry in other.digests for entry in self.digests if entry[0] in names)


def tokenizer_differences(
    pool: "Pool",
) -> "Iterator[tuple[Expert, Differences | PoolError]]":
    """Experts whose own tokenizer is not the base's, or cannot be read or compared."""
    for expert in pool.experts:
        try:
            base = TokenizerFiles.of(pool.base.origin or pool.base.path)
            found = differences(base, TokenizerFiles.of(expert.path, expert.name))
        except PoolError as error:
            yield expert, error
            if error.expert is None:  # the base's, which no expert can be compared with
                return
        else:
            if found is not None:
                yield expert, found


@dataclass(frozen=True, kw_only=True)
class _Tokenizer:
    ids: Mapping[str, int]
    parts: Mapping[str, str]
    """Digest of each rule; empty where the files do not hold them as JSON."""


def token_ids(files: TokenizerFiles) -> Mapping[str, int]:
    """Tokens and their ids; empty where there are no files, or none that can be understood.

    Raises PoolError for files that are no tokenizer's.
    """
    read = _read(files) if files.names else None
    return read.ids if read is not None else {}


@lru_cache(maxsize=256)
def differences(base: TokenizerFiles, expert: TokenizerFiles) -> Differences | None:
    """Compare two tokenizers; None where one of them has no files, or they are the same.

    Raises PoolError for files that are no tokenizer's.
    """
    if not base.names or not expert.names or base.same(expert, TOKENIZER):
        return None
    ours, theirs = _read(base), _read(expert)
    if ours is None or theirs is None:
        if base.same(expert, *_SENTENCEPIECE, VOCABULARY, WORDS):
            return None
        held, against = (" and ".join(sorted(files.names)) for files in (expert, base))
        return Differences(uncompared=f"{held} with the base's {against}")
    tokens = {number: token for token, number in ours.ids.items()}
    moved = ((t, n, theirs.ids[t]) for t, n in ours.ids.items() if theirs.ids.get(t, n) != n)
    new = [(token, number) for token, number in theirs.ids.items() if token not in ours.ids]
    added = sorted(((t, n) for t, n in new if n not in tokens), key=lambda entry: entry[1])
    parts = (part for part, own in ours.parts.items() if theirs.parts.get(part, own) != own)
    sizes = (len(ours.ids), len(theirs.ids))
    found = Differences(
        moved=next(moved, None),
        replaced=next(((n, tokens[n], token) for token, n in new if n in tokens), None),
        lacking=tuple(token for token in ours.ids if token not in theirs.ids)[:3],
        sizes=sizes,
        added=tuple(added),
        parts=tuple(parts),
    )
    return found if found != Differences(sizes=sizes) else None


@lru_cache(maxsize=2)  # a vocabulary takes tens of megabytes; the base's comes back every time
def _read(files: TokenizerFiles) -> _Tokenizer | None:
    """The vocabulary in JSON or text; None where there is none that can be understood."""
    folder, expert = files.folder, files.expert
    if TOKENIZER in files.names:
        parsed = _object(folder / TOKENIZER, expert)
        ids = _vocabulary(parsed)
        return _Tokenizer(ids=ids, parts=dict(_parts(parsed))) if ids else None
    ids = {}
    if VOCABULARY in files.names:
        ids = _ids(_object(folder / VOCABULARY, expert).items())
    elif WORDS in files.names:
        ids = _words(folder / WORDS, expert)
    return _Tokenizer(ids=ids | _added(files), parts={}) if ids else None


def _vocabulary(parsed: Mapping[str, Any]) -> dict[str, int]:
    model, added = parsed.get("model"), parsed.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    found: dict[str, int] = {}
    if isinstance(vocabulary, dict):
        found = _ids(vocabulary.items())
    elif isinstance(vocabulary, list):  # Unigram: [token, score], its place is its id
        words = (entry[0] if isinstance(entry, list) and entry else None for entry in vocabulary)
        found = _ids((word, number) for number, word in enumerate(words))
    entries = (e for e in added if isinstance(e, dict)) if isinstance(added, list) else ()
    return found | _ids((entry.get("content"), entry.get("id")) for entry in entries)


def _ids(pairs: Iterable[tuple[object, object]]) -> dict[str, int]:
    return {t: number for t, number in pairs if isinstance(t, str) and type(number) is int}


def _parts(parsed: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Digests, so that half a million merges need not be kept."""
    for part in _PARTS:
        yield part, _digest(parsed.get(part))
    model = parsed.get("model")
    merges = model.get("merges") if isinstance(model, dict) else None
    if isinstance(merges, list):  # "a b" in old files, ["a", "b"] in new ones
        pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in merges]
        yield "merges", _digest(pairs)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def default_template(folder: Path) -> str | None:
    """The default chat template of the tokenizer in ``folder``; None where it has none."""
    try:
        if (folder / _TEMPLATE).exists():
            with open_regular(folder / _TEMPLATE, expert=None) as file:
                return file.read(_TEMPLATE_LIMIT).decode("utf-8", errors="replace").strip()
    except PoolError:
        return None
    try:
        template = read_json_object(folder / SETTINGS, expert=None).get("chat_template")
    except PoolError:
        return None
    if isinstance(template, list):  # several, by name
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template.strip() if isinstance(template, str) else None


def special_tokens(folder: Path) -> dict[str, str | None]:
    """The special tokens that the files in ``folder`` name; None for one that they leave unset."""
    named: dict[str, Any] = {}
    for file in ("special_tokens_map.json", SETTINGS):
        with suppress(PoolError):
            named |= read_json_object(folder / file, expert=None)
    found: dict[str, str | None] = {}
    for name in SPECIAL_TOKENS:
        value = named.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if name in named and (value is None or isinstance(value, str)):
            found[name] = value
    return found


def _words(path: Path, expert: str | None) -> dict[str, int]:
    with open_regular(path, expert=expert) as file:
        data = read_at_most(file, _WORDS_LIMIT)
    if len(data) > _WORDS_LIMIT or data.count(b"\n") > _MOST_WORDS:
        what = f"{label(path)} has over {_MOST_WORDS} words, or {_WORDS_LIMIT >> 20} MiB"
        fix = "save the tokenizer again, or remove the file"
        raise PoolError(what, expert=expert, where=label(path), fix=fix)
    words = data.decode("utf-8", errors="replace").splitlines()
    return {word: number for number, word in enumerate(words)}


def _added(files: TokenizerFiles) -> dict[str, int]:
    """Tokens beside the vocabulary, where tokenizer.json does not hold them."""
    found: dict[str, int] = {}
    names = {name for name, _ in files.digests}
    if _ADDED in names:
        found |= _ids(_object(files.folder / _ADDED, files.expert).items())
    if SETTINGS in names:
        decoder = _object(files.folder / SETTINGS, files.expert).get("added_tokens_decoder")
        for number, entry in decoder.items() if isinstance(decoder, dict) else ():
            if isinstance(entry, dict) and number.isdecimal() and len(number) < 10:
                found |= _ids([(entry.get("content"), int(number))])
    return found


def _object(path: Path, expert: str | None) -> dict[str, Any]:
    """Raises PoolError that says whose file it is."""
    try:
        return read_json_object(path, expert=expert)
    except PoolError as error:
        error.fix = f"{error.fix}, or remove {label(path)}" if expert else error.fix
        raise


def chat_template(folder: Path) -> bool:
    """Whether the tokenizer in ``folder`` is saved with a chat template; what cannot be read is
    taken to hold one, for the tokenizer itself to say so."""
    if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
        return True
    if (folder / "additional_chat_templates").is_dir():
        return True
    try:
        settings = read_json_object(folder / SETTINGS, expert=None)
    except PoolError:
        return (folder / SETTINGS).exists()
    return bool(settings.get("chat_template"))
