"""Gate files: what they say, and every error with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.common.errors import GateFileError
from pytest_mergegate.gate.gatefile import gate_from, load_gate

if TYPE_CHECKING:
    from pathlib import Path

MINIMAL = "base: base\nexperts: {a: adapters/a, b: adapters/b}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the gate file goes."""
    return tmp_path / "mergegate.yaml"


def problems(file: Path, text: str) -> list[str]:
    """The lines of the error that ``text`` gives."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(GateFileError) as caught:
        load_gate(file)
    return str(caught.value).split("\n")


def test_minimal(file: Path) -> None:
    file.write_text(MINIMAL)
    gate = load_gate(file)
    assert {name: expert.path for name, expert in gate.spec.experts.items()} == {
        "a": "adapters/a",
        "b": "adapters/b",
    }
    assert gate.root == file.parent
    assert gate.spec.effective_budget.limits == {"max_disagreement": 0.3}


def test_everything(file: Path) -> None:
    file.write_text(
        """
base: org/name@main
experts:
  a: {path: x/a, examples: a.jsonl, score: 0.97, metric: rouge_l}
  b: {path: x/b, metric: "package.module:function"}
examples: data/{name}.jsonl
probes: {per_task: 3, seed: 1, positions: last, normalize: base, max_answer_tokens: 8}
certificate: {per_task: 10, confidence: 0.9}
budget: {max_mds: 3, max_loss: 10}
judge: bound
merge:
  methods: [linear, {method: ties, density: 0.5}]
  weights: {a: 0.5, b: 1}
  select: all
ignore: {MG101: same weights}
"""
    )
    spec = load_gate(file).spec
    assert [m.label for m in spec.merge.methods] == ["linear", "ties density=0.5"]
    assert spec.merge.weights == {"a": 0.5, "b": 1.0}
    assert (spec.examples_of("a"), spec.examples_of("b")) == ("a.jsonl", "data/b.jsonl")
    assert spec.budget.limits == {"max_mds": 3.0, "max_loss": 10.0}


def test_glob_names_experts_by_folder(file: Path) -> None:
    for name in ("b", "a"):
        (file.parent / "adapters" / name).mkdir(parents=True)
    (file.parent / "adapters" / "notes.txt").touch()
    file.write_text("base: base\nexperts: adapters/*\n")
    experts = load_gate(file).spec.experts
    assert {name: expert.path for name, expert in experts.items()} == {
        "a": "adapters/a",
        "b": "adapters/b",
    }


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        pytest.param(MINIMAL + "budgets: {}\n", 3, "did you mean 'budget'?", id="unknown key"),
        pytest.param(
            MINIMAL + "budget:\n  max_md: 3\n", 4, "did you mean 'max_mds'?", id="budget misspelled"
        ),
        pytest.param(
            "base: b\nexperts:\n  a: {pth: x, path: x}\n  b: y\n", 3, "'path'?", id="expert key"
        ),
        pytest.param(MINIMAL + "budget: {max_mds: '3'}\n", 3, "valid number, not '3'", id="text"),
        pytest.param(MINIMAL + "budget: {max_mds: yes}\n", 3, "valid number, not True", id="yes"),
        pytest.param(MINIMAL + "budget: {max_mds: .nan}\n", 3, "finite number", id="nan"),
        pytest.param(
            MINIMAL + "budget: {max_mds: -1}\n", 3, "greater than or equal", id="negative"
        ),
        pytest.param(MINIMAL + "budget: {max_disagreement: 30}\n", 3, "less than", id="percent"),
        pytest.param(MINIMAL + "budget: [max_mds]\n", 3, "valid dictionary", id="list"),
        pytest.param(MINIMAL + "base: c\n", 3, "given twice (first on line 1)", id="duplicate"),
        pytest.param("- a\n", 1, "is a mapping", id="not a mapping"),
        pytest.param("", 1, "is a mapping", id="empty"),
        pytest.param("# nothing\n", 1, "is a mapping", id="only a comment"),
        pytest.param("base: x\n\tfoo: 1\n", 2, "not valid YAML", id="tab"),
        pytest.param("base: [x\n", 2, "not valid YAML", id="open bracket"),
        pytest.param("base: x\n---\nbase: y\n", 3, "holds 2 documents", id="two documents"),
        pytest.param(
            "base: !!python/object/apply:os.system ['x']\n", 1, "not allowed here", id="tag"
        ),
        pytest.param(MINIMAL + "ignore: 2020-13-45\n", 3, "month must be in", id="no date"),
        pytest.param("base: base\n", 1, "'experts' is missing", id="no experts"),
        pytest.param(
            MINIMAL + "merge:\n  methods:\n    - {method: linear, base_model: base}\n",
            5,
            "would average it in, as one of N+1 models",
            id="linear with base_model",
        ),
        pytest.param(
            "experts: {a: a, b: b}\ntrust_remote_code: true\n",
            2,
            "an adapter must not choose the code",
            id="code of a base that adapters name",
        ),
        pytest.param("base: b\nexperts: {a: x}\n", 2, "at least two experts", id="one expert"),
        pytest.param(
            "base: b\nexperts: {a: x, b: y, c: z}\nmerge:\n  methods: [{method: slerp, t: 0.3}]\n",
            4,
            "leave t out and write merge.weights",
            id="t of three",
        ),
        pytest.param(
            MINIMAL + "merge:\n  weights: {a: 1}\n", 4, "every expert once: b", id="weights"
        ),
        pytest.param(
            MINIMAL + "merge:\n  methods: [linear, linear]\n", 4, "linear twice", id="twice"
        ),
        pytest.param(MINIMAL + "merge: {methods: []}\n", 3, "at least 1 item", id="no method"),
        pytest.param(
            MINIMAL + "merge: {methods: [{method: ties, density: half}]}\n",
            3,
            "density must be a number",
            id="parameter",
        ),
        pytest.param(
            "base: b\nexperts:\n  a: {path: x, metric: exact}\n  b: y\n",
            3,
            "unknown metric 'exact'",
            id="metric",
        ),
        pytest.param(
            "base: b\nexperts:\n  a: {path: x, metric: 'lm_eval:'}\n  b: y\n",
            3,
            "unknown metric 'lm_eval:'",
            id="lm_eval without a task",
        ),
        pytest.param(
            "base: b\nexperts:\n  a: {path: x, length_normalization: bytes}\n  b: y\n",
            3,
            "for metric: accuracy, which ranks choices, not for exact_match",
            id="length of what is no choice",
        ),
        pytest.param(
            "base: b\nexperts:\n  a: {path: x, stop: ['']}\n  b: y\n",
            3,
            "at least 1 character",
            id="empty stop string",
        ),
        pytest.param(MINIMAL + "examples: data.jsonl\n", 3, "must hold {name}", id="examples"),
        pytest.param("base: b\nexperts: none/*\n", 2, "matches no folder", id="glob of nothing"),
        pytest.param("base: b\nexperts: /none/*\n", 2, "no usable glob", id="absolute glob"),
    ],
)
def test_error_has_its_line(file: Path, text: str, line: int, says: str) -> None:
    found = problems(file, text)
    assert len(found) == 1, found
    assert found[0].startswith(f"mergegate.yaml:{line}: ")
    assert says in found[0]


def test_all_errors_at_once_in_order_of_lines(file: Path) -> None:
    found = problems(file, MINIMAL + "probes: {per_task: 0}\nbudget: {max_mds: -1}\nfoo: 1\n")
    assert [line.split(": ")[0] for line in found] == [f"mergegate.yaml:{n}" for n in (3, 4, 5)]


def test_two_folders_of_one_name(file: Path) -> None:
    for parent in ("x", "y"):
        (file.parent / parent / "a").mkdir(parents=True)
    assert "several folders named a" in problems(file, "base: b\nexperts: '*/*'\n")[0]


@pytest.mark.parametrize(
    "content", [pytest.param(b"\xff\xfe", id="not utf-8"), pytest.param(b"a: \0", id="control")]
)
def test_not_text(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(GateFileError, match=r"^mergegate\.yaml: "):
        load_gate(file)


def test_deep_nesting_is_refused(file: Path) -> None:
    assert "without its aliases" in problems(file, "a: &a [*a]\n")[0]
    assert "nested too deeply" in problems(file, "a: " + "[" * 2000 + "]" * 2000 + "\n")[0]


def test_missing_file(file: Path) -> None:
    with pytest.raises(GateFileError, match="cannot be read"):
        load_gate(file)


class TestFromPython:
    pool: dict[str, Any] = {"base": "base", "experts": {"a": "x", "b": "y"}}  # noqa: RUF012

    def test_mapping(self, tmp_path: Path) -> None:
        gate = gate_from(self.pool, root=tmp_path, budget={"max_mds": 2})
        assert gate.spec.budget.limits == {"max_mds": 2}
        assert gate.root == tmp_path

    def test_budget_overrides_single_limits(self, file: Path) -> None:
        file.write_text(MINIMAL + "budget: {max_mds: 3, max_loss: 10}\n")
        gate = gate_from(file.name, root=file.parent, budget={"max_mds": 5})
        assert gate.spec.budget.limits == {"max_mds": 5, "max_loss": 10}

    @pytest.mark.parametrize(
        ("source", "budget", "says"),
        [
            pytest.param(3, {}, "cannot be made of int", id="a number"),
            pytest.param(pool, {"max_md": 3}, "did you mean 'max_mds'?", id="unknown limit"),
            pytest.param(pool, {"max_mds": "3"}, "budget.max_mds", id="wrong type"),
            pytest.param(pool | {"bse": 1}, {}, "did you mean 'base'?", id="unknown key"),
        ],
    )
    def test_errors(
        self, tmp_path: Path, source: object, budget: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(GateFileError, match=says.replace("?", r"\?")):
            gate_from(source, root=tmp_path, budget=budget)


def test_a_glob_passes_over_hidden_folders(file: Path) -> None:
    for name in ("a", "b", ".ipynb_checkpoints"):
        (file.parent / "adapters" / name).mkdir(parents=True)
    file.write_text("base: base\nexperts: adapters/*\n")
    assert list(load_gate(file).spec.experts) == ["a", "b"]


def test_a_glob_that_meets_a_link_to_nowhere(file: Path) -> None:
    """An expert that was not fetched is no reason to gate the pool without it."""
    for name in ("a", "b"):
        (file.parent / "adapters" / name).mkdir(parents=True)
    (file.parent / "adapters" / "c").symlink_to("/nowhere/c")
    file.write_text("base: base\nexperts: adapters/*\n")
    with pytest.raises(GateFileError, match=r"mergegate.yaml:2: .*leads nowhere, c"):
        load_gate(file)


@pytest.mark.parametrize("key", ["<x>", "dict[x", "[key]", "literal[x"])
def test_a_key_that_looks_like_one_of_pydantics(file: Path, key: str) -> None:
    (told,) = problems(file, f"{MINIMAL}'{key}': 1\n")
    assert told.startswith(f"mergegate.yaml:3: unknown key {key!r} (fix: known keys: base, ")
    inside = f"base: base\nexperts:\n  a: a\n  {key!r}: {{path: b, {key!r}: 1}}\n"
    assert problems(file, inside)[0].startswith(
        f"mergegate.yaml:4: unknown key 'experts.{key}.{key}' (fix: known keys: path, "
    )


@pytest.mark.parametrize("number", ["1" + "0" * 400, "0x" + "f" * 5000])
@pytest.mark.parametrize(
    "text", ["budget: {max_loss: %s}", "merge: {methods: [{method: ties, density: %s}]}"]
)
def test_a_number_of_which_no_float_is_made(file: Path, text: str, number: str) -> None:
    assert problems(file, f"{MINIMAL}{text % number}\n") == [
        "mergegate.yaml:3: not allowed here: a number with more than 300 digits"
    ]
