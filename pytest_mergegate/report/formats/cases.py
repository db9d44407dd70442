"""The cases behind the scores, for people: an input, what the expert says, and what the merge."""

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size

from pytest_mergegate.common.plain_text import clean, printable
from pytest_mergegate.common.wording import common_start, shorten, under
from pytest_mergegate.report.formats.reading import Concern, concerns, merge_of, plural
from pytest_mergegate.report.merge_records import ChangedRecord, MergedExpertRecord, MergeRecord
from pytest_mergegate.report.types import Report

NOTHING = "(nothing)"
"""What stands for an answer without a character."""
_NARROWEST, _WIDEST = 40, 120
_LEAST = 20
"""Columns that a text has at any rate."""
_LINE_END = "↵"
_MOST_EXPERTS = 3
"""Experts with a case where not all are asked for and several have some."""
_MOST_TOLD = 8
"""Experts of which verdicts are told where not all are asked for."""
_LEFT_OUT = re.compile(r"\A(\[… \d+ characters left out …\] )?(.*?)( \[… \d+ [a-z ]+ …\])?\Z", re.S)
_WORDS = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")
_FEWEST_WORDS, _MOST_WORDS = 3, 250
"""Between so many, a difference is told by words, and else as one: to compare more takes long."""


def compared_with(merge: MergeRecord | None, expert: str | None) -> MergedExpertRecord | None:
    """The expert under a merge; None where there is none."""
    experts = merge.experts if merge is not None else ()
    return next((found for found in experts if found.name == expert), None)


def cases_of(report: Report, expert: str | None) -> tuple[ChangedRecord, ...]:
    """What changed most under the merge that the verdicts speak of."""
    found = compared_with(merge_of(report), expert)
    return found.changed if found is not None else ()


class Told:
    """The cases that people are told of experts that are not within budget: all of a single
    expert's; where several have some, one each of the first few; all of them for ``whole``."""

    def __init__(self, report: Report, width: int, *, whole: bool = False) -> None:
        self._width, merge = width, merge_of(report)
        self._under = f" {under(clean(merge.method))}" if merge is not None else ""
        self._all = {c.expert: cases_of(report, c.expert) for c in worst_first(report)}
        having = [expert for expert, cases in self._all.items() if cases]
        single = whole or len(having) == 1
        chosen = having if single else having[:_MOST_EXPERTS]
        self._told = {name: self._all[name][: None if single else 1] for name in chosen}

    def chosen(self, concerns: Sequence[Concern]) -> list[Concern]:
        """Those that have a case to show, or nothing to show but their verdicts; a few of them."""
        shown = [c for c in concerns if c.expert in self._told or not self._all.get(c.expert, ())]
        return shown[:_MOST_TOLD]

    def lines(self, expert: str | None, indent: int) -> Iterator[str]:
        """Those of one expert, to stand below its verdicts, and how many more there are."""
        told = self._told.get(expert, ())
        if told:
            yield f"{'':{indent}}what changed most{self._under}:"
            yield from case_lines(told, self._width, indent + 2)
        if more := len(self._all.get(expert, ())) - len(told):
            said = plural(more, "more case" if told else "changed case")
            yield f"{'':{indent}}{said}, shown with -v"


def worst_first(report: Report) -> list[Concern]:
    """Experts over budget first, then the undecided, each in the gate's order."""
    return sorted(concerns(report), key=lambda c: all(v.status != "fail" for v in c.verdicts))


def page_width(given: int | None = None) -> int:
    """Columns of a page: as many as are ``given``, else as the terminal has, within reason."""
    width = shutil.get_terminal_size().columns if given is None else given
    return min(max(width, _NARROWEST), _WIDEST)


def case_lines(cases: Sequence[ChangedRecord], width: int, indent: int = 0) -> Iterator[str]:
    """The cases, each text on one line of at most ``width`` columns: of an answer that is longer,
    the part around the place where the two part."""
    for number, case in enumerate(cases, start=1):
        numbered = f"{number:<2}" if len(cases) > 1 else ""
        flat = {name: _flat(text) for name, text in _texts(case)}
        room = max(width - indent - len(numbered) - len(_label(case, "input")), _LEAST)
        start = _start((flat["expert"], flat["merge"]), room)
        for name, text in flat.items():
            first = numbered if name == "input" else " " * len(numbered)
            at = start if name != "target" else max(0, min(start, len(text) - room))
            shown = _without_middle(text, room) if name == "input" else _from(text, at, room)
            yield printable(f"{'':{indent}}{first}{_label(case, name)}{shown}".rstrip())


def whole_lines(cases: Sequence[ChangedRecord], width: int) -> Iterator[str]:
    """The cases with all of their texts that there is, wrapped; a blank line between two."""
    for place, case in enumerate(cases):
        if place:
            yield ""
        for name, text in _texts(case):
            yield from labelled(_label(case, name), text, width)


def labelled(label: str, text: str, width: int) -> Iterator[str]:
    """``text`` with its own lines, wrapped, behind ``label`` and as deep."""
    room, deep = max(width - len(label), _LEAST), " " * len(label)
    lines = (text or NOTHING).split("\n")
    wrapped = (piece for line in lines for piece in _wrapped(printable(line), room))
    for place, line in enumerate(wrapped):
        yield printable(f"{deep if place else label}{line}".rstrip())


def _wrapped(line: str, room: int) -> Iterator[str]:
    """``line`` in pieces of at most ``room`` columns, parted where it has blanks if it can be."""
    begun = ""
    for word in re.findall(r"\s*\S+|\s+", line):
        if cell_len(begun + word) <= room:
            begun += word
            continue
        if begun:
            yield begun
        *full, begun = chop_cells(word.lstrip(), room) or [""]
        yield from full
    yield begun


def _texts(case: ChangedRecord) -> Iterator[tuple[str, str]]:
    yield "input", case.input
    if case.target is not None:
        yield "target", case.target
    yield "expert", case.expert
    yield "merge", case.merged


def _label(case: ChangedRecord, name: str) -> str:
    """What a text is, and its score."""
    scores = {"expert": case.score_expert, "merge": case.score_merged}
    if set(scores.values()) == {None}:
        return f"{name:8}"
    score = scores.get(name)
    return f"{name:8}{'' if score is None else f'{score:.2f}':6}"


def _flat(text: str) -> str:
    """``text`` on one line, its line ends as a sign."""
    if text.isspace():
        return f"({plural(len(text), 'blank')})"
    return printable(text.replace("\n", _LINE_END)) or NOTHING


def _start(both: tuple[str, str], room: int) -> int:
    """From where on both answers are shown, so that they can be laid beside each other and the
    place where they part is seen."""
    if max(map(cell_len, both)) <= room:
        return 0
    start = max(0, common_start(*both) - room // 3)
    while start and max(cell_len(text[start - 1 :]) for text in both) < room:
        start -= 1  # where little comes behind, more of what comes before
    return start


def _without_middle(text: str, room: int) -> str:
    return text if cell_len(text) <= room else shorten(text, room).rstrip()


def _from(text: str, start: int, room: int) -> str:
    """``text`` from ``start`` on, as far as there is room; all of it where it fits."""
    shown = f"…{text[start:]}" if start else text
    return shown if cell_len(shown) <= room else f"{set_cell_size(shown, room - 1).rstrip()}…"


class Piece(NamedTuple):
    """A part of an answer."""

    text: str
    differs: bool
    """Whether the other answer has something else there, or nothing."""


def compared_pieces(expert: str, merged: str) -> tuple[list[Piece], list[Piece]]:
    """Both answers, and what in them differs: the words that do, or, of short differences, all
    between what they begin and end with alike. What was left out of them is not compared."""
    (a0, a, a1), (b0, b, b1) = (_split(text) for text in (expert, merged))
    start = common_start(a, b)
    end = min(common_start(a[::-1], b[::-1]), min(len(a), len(b)) - start)
    middles = a[start : len(a) - end], b[start : len(b) - end]
    own, other = _by_words(*middles)
    head, tail = Piece(a[:start], False), Piece(a[len(a) - end :], False)
    return (
        _joined([Piece(a0, False), head, *own, tail, Piece(a1, False)]),
        _joined([Piece(b0, False), head, *other, tail, Piece(b1, False)]),
    )


def _split(text: str) -> tuple[str, str, str]:
    """What says that something is left out before, the text, and the same behind it."""
    found = _LEFT_OUT.match(text)
    assert found is not None
    return found[1] or "", found[2], found[3] or ""


def _by_words(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    words: list[list[str]] = [_WORDS.findall(text) for text in (one, other)]
    counts = [len(found) for found in words]
    if min(counts) < _FEWEST_WORDS or max(counts) > _MOST_WORDS:
        return [Piece(one, True)], [Piece(other, True)]
    found: tuple[list[Piece], list[Piece]] = ([], [])
    same = SequenceMatcher(a=words[0], b=words[1], autojunk=False)
    for kind, a, b, c, d in same.get_opcodes():
        texts = "".join(words[0][a:b]), "".join(words[1][c:d])
        blank = 0 if kind == "equal" else min(len(t) - len(t.lstrip()) for t in texts)
        blank = min(blank, common_start(*texts))
        for pieces, text in zip(found, texts, strict=True):
            pieces += Piece(text[:blank], False), Piece(text[blank:], kind != "equal")
    return found


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Without empty ones, and neighbours of a kind as one."""
    found: list[Piece] = []
    for piece in pieces:
        if not piece.text:
            continue
        if found and found[-1].differs == piece.differs:
            found[-1] = Piece(found[-1].text + piece.text, piece.differs)
        else:
            found.append(piece)
    return found
