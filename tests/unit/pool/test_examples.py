"""Files of examples that are read, and the draws from them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.running.tasks import sample
from pytest_mergegate.pool import examples
from pytest_mergegate.pool.examples import Example, join, read_examples

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


def _read(path: Path, text: str, encoding: str = "utf-8") -> tuple[object, ...]:
    path.write_text(text, encoding=encoding)
    return tuple(e.input for e in read_examples(path, expert="a", where="gate.yaml:1"))


def test_blank_lines_and_bom(tmp_path: Path) -> None:
    text = '{"input": "a"}\r\n\r\n{"input": "b"}'
    assert _read(tmp_path / "x.jsonl", text, "utf-8-sig") == ("a", "b")


def test_separators_inside_strings(tmp_path: Path) -> None:
    assert _read(tmp_path / "x.jsonl", '{"input": "a\u2028b"}\n') == ("a\u2028b",)


def test_a_key_given_twice_is_found_in_linear_time(tmp_path: Path) -> None:
    keys = "".join(f'"k{k}": 0, ' for k in range(50_000))
    started = time.perf_counter()
    with pytest.raises(PoolError, match="'k49999' is given twice"):
        _read(tmp_path / "x.jsonl", f'{{{keys}"k49999": 0}}')
    assert time.perf_counter() - started < 10


def test_too_much_is_told_as_such_wherever_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "_BYTES", 1 << 20)
    for padding in "", " ":
        with pytest.raises(PoolError, match="the examples are over 1 MiB"):
            _read(tmp_path / "x.jsonl", f'{padding}{{"input": "{"é" * (1 << 20)}"}}')


def test_chat(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"input": [{"role": "user", "content": "hi"}]}\n')
    (example,) = read_examples(path, expert="a", where="")
    assert [(m.role, m.content) for m in example.input if not isinstance(m, str)] == [
        ("user", "hi")
    ]


def test_sample_is_a_permutation_that_hangs_on_seed_and_name() -> None:
    drawn = sample(50, 0, "a")
    assert sorted(drawn) == list(range(50))
    assert drawn == sample(50, 0, "a")
    assert drawn != sample(50, 1, "a")
    assert drawn != sample(50, 0, "b")


def _rows(path: Path, *rows: dict[str, Any]) -> tuple[Example, ...]:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return read_examples(path, expert="a", where="")


class TestReferences:
    @pytest.mark.parametrize(
        ("target", "references"),
        [
            ("x", ("x",)),
            (["x"], ("x",)),
            (["x", "y"], ("x", "y")),
            (["x", "y", "x", "x"], ("x", "y")),
            ("", ("",)),
            (["", " "], ("", " ")),
            (["\x1b[31m", "\u202e", "a\x00b"], ("\x1b[31m", "\u202e", "a\x00b")),
            (None, ()),
        ],
    )
    def test_read(self, tmp_path: Path, target: object, references: tuple[str, ...]) -> None:
        (example,) = _rows(tmp_path / "x.jsonl", {"input": "a", "target": target})
        assert example.references == references

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            ([], "target: the list is empty; leave the target out where there is none"),
            ([["x"]], "target: entry 1 of the list is no string"),
            (["x", ["y"]], "target: entry 2 of the list is no string"),
            (["x", None], "target: entry 2 of the list is no string"),
            (["x", 3], "target: entry 2 of the list is no string"),
            (["x", True, {}], "target: entry 2 of the list is no string"),
            ({"text": ["x"]}, "target: it is neither a string nor a list of strings"),
            (3, "target: it is neither a string nor a list of strings"),
            (False, "target: it is neither a string nor a list of strings"),
        ],
    )
    def test_refused(self, tmp_path: Path, target: object, says: str) -> None:
        with pytest.raises(PoolError) as caught:
            _rows(
                tmp_path / "x.jsonl",
                {"input": "a", "target": "x"},
                {"input": "b", "target": target},
            )
        assert (caught.value.what, caught.value.where) == (says, "x.jsonl:2")
        assert caught.value.code == "MG201"

    def test_each_is_among_the_choices(self, tmp_path: Path) -> None:
        row = {"input": "a", "choices": ["x", "y", "z"]}
        (example,) = _rows(tmp_path / "x.jsonl", row | {"target": ["z", "x"]})
        assert example.references == ("z", "x")
        with pytest.raises(PoolError, match="a target is none of the choices"):
            _rows(tmp_path / "x.jsonl", row | {"target": ["x", "w"]})

    def test_as_many_as_there_may_be(self, tmp_path: Path) -> None:
        many = [f"answer {k}" for k in range(10_000)]
        row = {"input": "a", "target": many, "choices": many[::-1]}
        started = time.perf_counter()
        (example,) = _rows(tmp_path / "x.jsonl", row)
        assert example.references == tuple(many)
        assert time.perf_counter() - started < 5
        with pytest.raises(PoolError, match="target has 10001 entries, 10000 are the limit"):
            _rows(tmp_path / "x.jsonl", {"input": "a", "target": ["x"] * 10_001})

    def test_half_a_character(self, tmp_path: Path) -> None:
        with pytest.raises(PoolError, match="surrogates not allowed"):
            _rows(tmp_path / "x.jsonl", {"input": "a", "target": ["x", "\ud800"]})

    def test_an_input_has_targets_or_none(self, tmp_path: Path) -> None:
        with pytest.raises(PoolError, match="1 of 2 examples have a target") as caught:
            _rows(tmp_path / "x.jsonl", {"input": "a", "target": ["x"]}, {"input": "a"})
        assert caught.value.where == "x.jsonl:2"

    def test_they_are_written_as_they_are_read(self, tmp_path: Path) -> None:
        targets = ("x", ["x"], ["x", "y"], ["x", "x"])
        rows = [
            {"input": name, "target": given} for name, given in zip("abcd", targets, strict=True)
        ]
        found = [
            example.model_dump(mode="json", exclude_none=True)
            for example in _rows(tmp_path / "x.jsonl", *rows)
        ]
        assert found == [*rows[:3], {"input": "d", "target": ["x"]}]


class TestJoin:
    def test_one_example_per_question(self, tmp_path: Path) -> None:
        chat = [{"role": "user", "content": "a"}]
        rows = _rows(
            tmp_path / "x.jsonl",
            {"input": "b", "target": "y"},
            {"input": "a", "target": "x"},
            {"input": chat, "target": "u"},
            {"input": "a", "target": ["y", "x"]},
            {"input": "a", "target": "z"},
            {"input": chat, "target": ["v"]},
            {"input": "b", "target": "y"},
            {"input": "a", "target": "x", "choices": ["x", "y"]},
            {"input": "a", "target": "y", "choices": ["y", "x"]},
            {"input": "a", "target": "y", "choices": ["y", "z"]},
        )
        joined = join(rows)
        assert [example.references for example in joined] == [
            ("y",), ("x", "y", "z"), ("u", "v"), ("x", "y"), ("y",)
        ]  # fmt: skip
        assert joined[0] is rows[0]
        assert [example.question for example in joined] == [
            rows[k].question for k in (0, 1, 2, 7, 9)
        ]

    def test_what_is_not_repeated_stays_as_it_is(self, tmp_path: Path) -> None:
        rows = _rows(
            tmp_path / "x.jsonl", *({"input": f"a{k}", "target": ["x"]} for k in range(50))
        )
        assert all(one is row for one, row in zip(join(rows), rows, strict=True))

    def test_without_targets(self, tmp_path: Path) -> None:
        rows = _rows(tmp_path / "x.jsonl", {"input": "a"}, {"input": "b"}, {"input": "a"})
        assert join(rows) == rows[:2]

    def test_many_rows_of_one_input(self) -> None:
        rows = [Example(input="a", target=f"x{k}") for k in range(100_000)]
        started = time.perf_counter()
        (joined,) = join(rows)
        assert joined.references == tuple(f"x{k}" for k in range(100_000))
        assert time.perf_counter() - started < 5
