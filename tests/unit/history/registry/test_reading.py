"""Whatever stands in a registry file is counted, or there is a word about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.history.registry.lines import RegistryLine, line_id
from pytest_mergegate.history.registry.reading import Registry, read_registry, told

from .making import made

if TYPE_CHECKING:
    from pathlib import Path

GOOD = made("ab").to_json().encode()
OTHER = made("cd").to_json().encode()


def read(folder: Path, content: bytes) -> Registry:
    path = folder / "registry.jsonl"
    path.write_bytes(content)
    return read_registry(path)


def kinds(found: Registry) -> list[tuple[int, str]]:
    return [(problem.line, problem.kind) for problem in found.problems]


def renewed(**changes: Any) -> bytes:
    """A good line with other content, under the id that belongs to it."""
    data = json.loads(GOOD) | changes
    data["id"] = line_id(data)
    return json.dumps(data).encode()


def test_good_lines(tmp_path: Path) -> None:
    for content in (
        GOOD + b"\n" + OTHER + b"\n",
        GOOD + b"\r\n\r\n" + OTHER,
        b"\xef\xbb\xbf" + GOOD + b"\n" + OTHER + b"\n",
    ):
        found = read(tmp_path, content)
        assert [line.to_json().encode() for line in found.lines] == [GOOD, OTHER]
        assert found.exists
        assert not found.problems


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (GOOD[:200], "truncated"),
        (GOOD.replace(b'"loss":0.0', b'"loss":-3.0', 1), "edited"),
        (GOOD.replace(b'"loss":0.0', b'"loss":NaN', 1), "not_a_number"),
        (GOOD.replace(b'"loss":0.0', b'"loss":-Infinity', 1), "not_a_number"),
        (GOOD.replace(b'"loss":0.0', b'"loss":1e999', 1), "not_a_number"),
        (GOOD.replace(b"registry/1", b"registry/2", 1), "other_schema"),
        (b"{}", "other_schema"),
        (b"[1]", "other_schema"),
        (b"null", "other_schema"),
        (renewed(new_key=1), "not_a_line"),
        (renewed(label=None), "not_a_line"),
        (GOOD.replace(b'"linear"', b'"\\ud800"', 1), "not_a_line"),
        (b"hello", "not_json"),
        (b'{"schema": ' + b"[" * 100_000 + b"}", "not_json"),
        (b'{"schema": 1' + b"0" * 10_000 + b"}", "not_json"),
        ("été".encode("latin-1"), "not_utf8"),
        (GOOD.decode().encode("utf-16"), "not_utf8"),
        (b"<<<<<<< HEAD", "conflict_marker"),
        (b"=======", "conflict_marker"),
        (b">>>>>>> theirs", "conflict_marker"),
    ],
)
def test_one_bad_line_takes_no_other_along(tmp_path: Path, bad: bytes, kind: str) -> None:
    bad = bad.replace(b"\n", b"")
    found = read(tmp_path, b"\n".join([GOOD, bad, OTHER, b""]))
    assert len(found.lines) == 2
    assert kinds(found) == [(2, kind)]
    (said,) = told(found)
    assert "\n" not in said
    assert f"registry.jsonl: line 2: {found.problems[0].message} (fix: " in said


def test_a_line_cut_within_a_letter(tmp_path: Path) -> None:
    whole = made("é").to_json().encode()
    cut = whole[: whole.index("é".encode()) + 1]
    assert kinds(read(tmp_path, GOOD + b"\n" + cut)) == [(2, "truncated")]


def test_any_cut_of_the_last_line_is_told(tmp_path: Path) -> None:
    for end in [*range(1, len(OTHER), 7), len(OTHER) - 1]:
        found = read(tmp_path, GOOD + b"\n" + OTHER[:end])
        assert [line.id for line in found.lines] == [json.loads(GOOD)["id"]]
        assert kinds(found) == [(2, "truncated")], OTHER[:end]


def test_a_duplicate_counts_once(tmp_path: Path) -> None:
    again = made("ab", created="2027-01-01T00:00:00+00:00").to_json().encode()
    found = read(tmp_path, b"\n".join([GOOD, OTHER, GOOD, again]))
    assert len(found.lines) == 2
    assert kinds(found) == [(3, "duplicate"), (4, "duplicate")]
    assert "lines 3, 4: the same as an earlier line; counted once" in told(found)[0]


def test_lines_of_other_versions_count_with_a_word_for_all_of_them(tmp_path: Path) -> None:
    old = [made(pool, versions={"mergekit": "0.0.1"}).to_json().encode() for pool in ("ab", "cd")]
    found = read(tmp_path, b"\n".join([GOOD, *old]))
    assert len(found.lines) == 3
    assert kinds(found) == [(2, "other_versions")]
    assert "2 lines of pytest-mergegate unknown and mergekit 0.0.1, not" in told(found)[0]


def test_what_is_alike_is_told_together(tmp_path: Path) -> None:
    found = read(tmp_path, b"\n".join([b"?"] * 13 + [GOOD[:50]]))
    alike, cut = told(found)
    assert "registry.jsonl: lines 1, 2, 3, 4, 5 and 8 more: left out: no JSON" in alike
    assert "line 14: left out: it was cut short" in cut
    assert told(found, most=1)[1].endswith("and 1 more things to say of its lines")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="cannot be read") as caught:
        read_registry(tmp_path)
    assert "\n" not in str(caught.value)
    nowhere = read_registry(tmp_path / "nowhere")
    assert (nowhere.exists, nowhere.lines, nowhere.problems) == (False, (), ())


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_never_raises_and_never_passes_for_another_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(b"\n".join([GOOD, OTHER, b""]))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        part = data.draw(st.binary(max_size=3))
        content[place : place + data.draw(st.integers(0, 3))] = part
    found = read(tmp_path_factory.getbasetemp(), bytes(content))
    passing = {"created", "gate"}
    known = [json.loads(line) for line in (GOOD, OTHER)]
    for line in found.lines:
        assert _without(line, passing) in [
            _without(RegistryLine.model_validate(one), passing) for one in known
        ]
    assert len(found.lines) == 2 or found.problems


def _without(line: RegistryLine, keys: set[str]) -> dict[str, Any]:
    return line.model_dump(exclude=keys)
