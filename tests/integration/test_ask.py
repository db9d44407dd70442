"""``mergegate ask``: base, expert and merges on an input of one's own, read as a gate's are."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import pytest
from architectures import ARCHITECTURES, LABELS
from hostile import assert_plain
from naive import Naive, Tie
from pools import copy_pool, read_gate, read_jsonl, write_gate, write_jsonl, write_pool

from pytest_mergegate import assess
from pytest_mergegate.cli import main

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}={% endfor %}"
METHODS = ["linear", {"method": "ties", "density": 0.5}]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """Three experts, two merges."""
    budget = {"max_disagreement": 0.1, "max_loss": 1}
    merge = {"methods": METHODS}
    return write_pool(tmp_path_factory.mktemp("asked"), seed, budget=budget, merge=merge)


@pytest.fixture
def spoilt(pool: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return copy_pool(pool, tmp_path / "pool")


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide page, and no code between what is said."""
    monkeypatch.setenv("COLUMNS", "120")


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, str]:
    """Who said what, in order."""
    assert main(["ask", *map(str, arguments)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in lines)


def answer(said: str) -> str:
    """What was said, without whether it was cut."""
    text = said.partition(" […")[0].strip()
    return "" if text == "(nothing)" else text


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit code, and what is said of the error, in one line."""
    try:
        code = main(["ask", *map(str, arguments)])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, error = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in error
    return code, error.splitlines()[-1]


def test_the_answers_are_those_of_each_model(
    pool: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    naive = Naive(pool)
    merged = naive.merged(dict.fromkeys(naive.names, 1 / 3))
    ties = naive.mergekit("ties", density=0.5, weight=1.0)
    models = {"base": naive.base, "linear": merged, "ties density=0.5": ties}
    for name in naive.names:
        naive.rows[name].append({"input": "hand written="})
        naive.prompts[name].append(naive.tokenizer("hand written=")["input_ids"])
        try:
            of = {**models, "expert": naive.experts[name]}
            told = {who: naive.output(model, name, -1) for who, model in of.items()}
            cut = {who: not naive.ended(naive.answer(m, name, -1), name) for who, m in of.items()}
        except Tie:
            continue
        said = asked(capsys, pool, name, "hand written=")
        assert [*said] == ["input", "base", "expert", "linear", "ties density=0.5"]
        assert said.pop("input") == "hand written="
        for who, text in said.items():
            assert answer(text) == told[who]
            assert text.endswith("[… cut after 6 tokens]") == cut[who]


@pytest.mark.parametrize(
    "weights", ["uniform", "optimal", "minimax", {"a": 0.7, "b": 0.2, "c": 0.1}]
)
def test_what_the_gate_shows_is_said_again(
    spoilt: Path, capsys: pytest.CaptureFixture[str], weights: Any
) -> None:
    settings = read_gate(spoilt)
    settings["merge"] = {"methods": METHODS, "weights": weights}
    settings["certificate"] = {"shown": 2}
    report = assess(write_gate(spoilt, settings))
    shown = 0
    for merge in report.merges:
        for expert in merge.experts:
            for case in expert.changed[:1]:
                said = asked(capsys, spoilt, expert.name, case.input, "--method", merge.method)
                assert [*said] == ["input", "base", "expert", merge.method]
                assert answer(said["expert"]) == case.expert
                assert answer(said[merge.method]) == case.merged
                shown += 1
    assert shown


class TestChats:
    @pytest.fixture
    def chats(self, spoilt: Path) -> Path:
        """Expert b's examples are chats, each behind the same word of the system's."""
        (spoilt.parent / "base" / "chat_template.jinja").write_text(TEMPLATE)
        file = spoilt.parent / "data" / "b.jsonl"
        system = {"role": "system", "content": "be brief"}
        rows = [
            row | {"input": [system, {"role": "user", "content": row["input"]}]}
            for row in read_jsonl(file)
        ]
        write_jsonl(file, rows)
        return spoilt

    def test_an_input_is_asked_as_the_examples_are(
        self, chats: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = assess(chats, cache=False)
        cases = next(e for e in report.merges[0].experts if e.name == "b").changed
        case = next(iter(cases))
        assert case.input.startswith("system: be brief\nuser: b:")
        said = asked(capsys, chats, "b", case.input.partition("user: ")[2], "--method", "linear")
        assert answer(said["expert"]) == case.expert
        assert answer(said["linear"]) == case.merged

    def test_a_chat_is_the_prompt_that_its_template_makes(
        self, chats: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Expert a's examples are plain."""
        plain = asked(capsys, chats, "a", "u:xyz=")
        chat = asked(capsys, chats, "a", "xyz", "--chat")
        assert {**plain, "input": ""} == {**chat, "input": ""}

    def test_without_a_template(self, spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, said = refused(capsys, spoilt, "a", "xyz", "--chat")
        assert code == 2
        assert "the input is a chat, and the base's tokenizer has no chat template" in said


def test_from_standard_input(
    pool: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = asked(capsys, pool, "a", "a:xy=", "--method", "ties")
    monkeypatch.setattr("sys.stdin", io.StringIO("a:xy=\n"))
    assert asked(capsys, pool, "a", "-", "--method", "ties") == given
    assert [*given] == ["input", "base", "expert", "ties density=0.5"]


def _checkpoints(folder: Path, family: str, seed: int) -> Path:
    """Two full checkpoints of one architecture as experts, without examples."""
    name = next(name for name, known in ARCHITECTURES.items() if known.family == family)
    for place, folders in enumerate(("base", "a", "b")):
        ARCHITECTURES[name].write(folder / folders, seed + place)
    gate: dict[str, Any] = {"base": "base", "experts": {"a": {"path": "a"}, "b": {"path": "b"}}}
    ignore = {"MG101": "random", "MG114": "the same labels"}
    return write_gate(folder / "mergegate.yaml", gate | {"ignore": ignore})


def test_a_classifier_says_a_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    said = asked(capsys, _checkpoints(tmp_path, "classifier", seed), "a", "a b")
    assert {said[who].strip() for who in ("base", "expert", "linear")} <= set(LABELS)


def test_a_model_that_does_not_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    code, said = refused(capsys, _checkpoints(tmp_path, "encoder", seed), "a", "a b")
    assert code == 2
    assert "gives no answers" in said


@pytest.mark.parametrize("text", ["x\x1b[31m", "::error::x", "##[error]x", "\u202ex"])
def test_what_is_asked_steers_no_terminal(
    pool: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert main(["ask", str(pool), "a", f"a:{text}", "--method", "linear"]) == 0
    out, error = capsys.readouterr()
    assert_plain(out)
    assert error == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("A", "x"), 4, "the gate has no expert 'A' (fix: "),
        (("a", "x", "--method", "tyes"), 4, "no merge by 'tyes' (fix: did you mean"),
        (("a", ""), 4, "TEXT is empty"),
        (("a", "x" * (2 << 20)), 4, "TEXT is over 1048576 characters"),
        (("a", "\udcff"), 4, "TEXT is not UTF-8"),
        (("a", "x" * 80), 2, "the input has 80 tokens, the base reads 64"),
    ],
)
def test_what_cannot_be_asked(
    pool: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    found, said = refused(capsys, pool, *arguments)
    assert says in said
    assert found == code


def test_no_such_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(capsys, tmp_path / "mergegate.yaml", "a", "x")
    assert code == 4
    assert "there is no gate file" in said


def test_an_unsound_pool(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (spoilt.parent / "adapters" / "c").iterdir():
        file.unlink()
    code, said = refused(capsys, spoilt, "a", "x")
    assert code == 2
    assert said.startswith("mergegate: MG")
    assert " c: " in said


def test_code_can_be_refused(spoilt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = read_gate(spoilt)
    settings["experts"]["a"]["metric"] = "mine:score"
    code, said = refused(capsys, write_gate(spoilt, settings), "a", "x", "--no-code")
    assert code == 2
    assert "metric mine:score is code of the repository" in said


def test_states_are_kept(spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the weights hang on them."""
    settings = read_gate(spoilt)
    settings["merge"] = {"methods": ["linear"], "weights": "optimal"}
    gate, cache = write_gate(spoilt, settings), tmp_path / "cache"
    first = asked(capsys, gate, "a", "a:x=", "--cache", cache)
    kept = sorted(cache.rglob("*"))
    assert kept
    assert asked(capsys, gate, "a", "a:x=", "--cache", cache) == first
    assert sorted(cache.rglob("*")) == kept
    assert asked(capsys, gate, "a", "a:x=", "--no-cache") == first
