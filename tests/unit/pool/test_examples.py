"""Files of examples that are read, and the draws from them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.running.tasks import sample
from pytest_mergegate.pool import examples
from pytest_mergegate.pool.examples import read_examples

if TYPE_CHECKING:
    from pathlib import Path


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
