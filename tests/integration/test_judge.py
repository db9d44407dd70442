"""The judge of docs/judge.md, as a reader copies it, against a server on this machine."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from doc_blocks import blocks
from engine_of import engine_of
from pools import read_gate, read_jsonl, words, write_gate, write_jsonl, write_pool

from pytest_mergegate import assess
from pytest_mergegate.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_mergegate.report.types import Report

PAGE = {block.file: block.text for block in blocks("docs/judge.md") if block.file}
COUNT = 30
_PAIR = re.compile(
    r"Answer A:\n<answer>\n(.*)\n</answer>\n\nAnswer B:\n<answer>\n(.*)\n</answer>\n", re.DOTALL
)


def longer(first: str, second: str) -> str:
    """A steady judge: the longer answer is better, then the later in the alphabet."""
    return "A" if (len(first), first) > (len(second), second) else "B"


def raw(body: bytes, code: int = 200) -> Callable[[str, str], Any]:
    """A server that answers everything with ``body``."""
    return lambda *_: (code, body)


def slow(first: str, second: str) -> str:
    time.sleep(1.0)
    return "A"


@dataclass
class Judge:
    """What the server says of a pair, and what it was asked."""

    says: Callable[[str, str], Any] = longer
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    judge: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/chat/completions"
        (message,) = body["messages"]
        found = _PAIR.search(message["content"])
        assert found
        self.judge.bodies.append(body)
        self.judge.asked.append((found[1], found[2]))
        said = self.judge.says(found[1], found[2])
        if isinstance(said, str):
            choice = {"message": {"role": "assistant", "content": said}}
            said = 200, json.dumps({"choices": [choice]}).encode()
        code, answer = said
        self.send_response(code)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Says nothing on standard error."""


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    found = Judge()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"judge": found}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hangs up may do so
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("JUDGE_URL", found.url)
    for name in ("http_proxy", "HTTP_PROXY"):  # nobody is there
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def module(tmp_path: Path, judge: Judge) -> Any:
    """judge.py as the page has it, with that server."""
    return loaded(tmp_path)


def loaded(folder: Path) -> Any:
    (folder / "judge.py").write_text(PAGE["judge.py"])
    spec = spec_from_file_location("judge_of_a_reader", folder / "judge.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_both_orders_are_asked(module: Any, judge: Judge) -> None:
    assert module.preference(["long {0} answer"], ["short"]) == [1.0]
    assert judge.asked == [("long {0} answer", "short"), ("short", "long {0} answer")]
    assert [body["temperature"] for body in judge.bodies] == [0, 0]
    assert {body["model"] for body in judge.bodies} == {"judge"}


def test_scores(module: Any, judge: Judge) -> None:
    assert module.preference(["aaa", "a", "bb"], ["b", "bb", "bb"]) == [1.0, 0.0, 0.5]
    assert len(judge.asked) == 4  # equal texts are a tie that nobody is asked about


@pytest.mark.parametrize("letter", ["A", "B", " A.\n", "B)"])
def test_a_judge_of_places_sees_ties(module: Any, judge: Judge, letter: str) -> None:
    judge.says = lambda *_: letter
    assert module.preference(["aaa", "a"], ["b", "ccc"]) == [0.5, 0.5]
    assert len(judge.asked) == 4


def test_a_pair_is_asked_once(module: Any, judge: Judge) -> None:
    for _ in range(3):
        module.preference(["aaa", "aaa"], ["b", "b"])
    assert judge.asked == [("aaa", "b"), ("b", "aaa")]


def no_choice(**message: object) -> bytes:
    return json.dumps({"choices": [{"message": message}]}).encode()


BROKEN: dict[str, tuple[Callable[[str, str], Any], str]] = {
    "HTTP 500": (raw(b"out of memory", 500), "answered 500: out of memory"),
    "HTTP 404": (raw(b'{"error": "no model judge"}', 404), "answered 404: {\"error\": \"no model"),
    "no JSON": (raw(b"<html>"), "is no chat completion"),
    "cut JSON": (raw(b'{"choices": [{"mess'), "is no chat completion"),
    "no UTF-8": (raw(b"\xff\xfe\xfd"), "is no chat completion"),
    "another JSON": (raw(b'{"choices": []}'), "is no chat completion"),
    "a list": (raw(b"[1]"), "is no chat completion"),
    "nothing": (raw(b""), "is no chat completion"),
    "no text": (raw(no_choice(content=None)), "gave no text"),
    "neither": (lambda *_: "Both are fine", "answered 'Both are fine', which is neither A nor B"),
    "both": (lambda *_: "A or B", "which is neither A nor B"),
    "lower case": (lambda *_: "a", "which is neither A nor B"),
    "thinking": (lambda *_: "<think>\nThe first", "which is neither A nor B"),
    "silence": (lambda *_: "", "answered '', which is neither A nor B"),
    "a redirect": (raw(b"", 302), "answered 302"),
    "slow": (slow, "(timed out): start it, or set JUDGE_URL"),
}  # fmt: skip


@pytest.mark.parametrize(("says", "error"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_verdict_is_an_error(
    tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, says: Any, error: str
) -> None:
    monkeypatch.setenv("JUDGE_TIMEOUT", "0.3")
    module = loaded(tmp_path)
    judge.says = says
    with pytest.raises(RuntimeError) as caught:
        module.preference(["aaa"], ["b"])
    assert error in str(caught.value)
    judge.says = longer  # what failed was not kept
    assert module.preference(["aaa"], ["b"]) == [1.0]


# Through a gate


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A pool whose examples have one to three references, some of them the expert's own answers."""
    gate = write_pool(tmp_path_factory.mktemp("judged"), seed, count=COUNT)
    engine = engine_of(gate)
    for name in "abc":
        file = gate.parent / "data" / f"{name}.jsonl"
        rows, drawn = read_jsonl(file), words(2 * COUNT, seed, 5)
        with engine.expert(name):
            said = engine.outputs(engine.tasks[name], range(COUNT))
        for k, row in enumerate(rows):
            row["target"] = [said[k] if k % 5 == 0 else drawn[k], *drawn[COUNT + k :][: k % 3]]
        write_jsonl(file, rows)
    settings = read_gate(gate)
    for expert in settings["experts"].values():
        expert["metric"] = "judge:preference"
    return write_gate(gate, settings | {"budget": {"max_loss": 50}})


def gated(pool: Path, folder: Path, **gate: Any) -> Report:
    """The pool's gate in a folder of its own, with judge.py beside it."""
    return assess(written(pool, folder, **gate), cache=False)


def written(pool: Path, folder: Path, **gate: Any) -> Path:
    (folder / "judge.py").write_text(PAGE["judge.py"])
    settings = read_gate(pool) | gate
    for entry in (settings, *settings["experts"].values()):
        for key in {"base", "path", "examples"} & set(entry):
            entry[key] = str(pool.parent / entry[key])
    return write_gate(folder / "mergegate.yaml", settings)


def test_scores_of_a_gate(pool: Path, tmp_path: Path, judge: Judge) -> None:
    methods = ["linear", {"method": "task_arithmetic", "weight": 0.5}]
    report = gated(pool, tmp_path, merge={"methods": methods, "select": "all"})
    assert report.status != "error"
    assert len(report.merges) == 2
    engine, pairs = engine_of(pool), set[tuple[str, str]]()

    def score(name: str) -> float:
        scores = []
        said = engine.outputs(engine.tasks[name], range(COUNT))
        for output, row in zip(
            said, read_jsonl(pool.parent / "data" / f"{name}.jsonl"), strict=True
        ):
            tried = []
            for right in row["target"]:
                if output == right:
                    tried.append(0.5)
                    continue
                tried.append(float(longer(output, right) == "A"))
                pairs.update([(output, right), (right, output)])
            scores.append(max(tried))
        return float(np.mean(scores))

    for name in "abc":
        found = next(e for e in report.merges[0].experts if e.name == name)
        assert found.score_base == pytest.approx(score(name))
        with engine.expert(name):
            assert found.score_expert == pytest.approx(score(name))
        with engine.mixed("by hand", dict.fromkeys("abc", 1 / 3)):
            assert found.score_merged == pytest.approx(score(name))
            loss = (found.score_merged / found.score_expert - 1) * 100
            assert found.loss == pytest.approx(loss)
    assert pairs <= set(judge.asked)
    # every ordered pair once, at most as often as the page says
    assert len(judge.asked) == len(set(judge.asked))
    references = sum(
        len(row["target"])
        for name in "abc"
        for row in read_jsonl(pool.parent / "data" / f"{name}.jsonl")
    )
    assert len(judge.asked) <= references * 2 * (2 + len(methods))


def test_stages_before_the_last_ask_nothing(pool: Path, tmp_path: Path, judge: Judge) -> None:
    report = assess(written(pool, tmp_path), cache=False, stage="merge")
    assert report.status == "inconclusive"
    assert judge.asked == []


@pytest.mark.parametrize(("says", "error"), BROKEN.values(), ids=BROKEN)
def test_a_gate_ends_in_an_error(
    pool: Path, tmp_path: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, says: Any, error: str
) -> None:
    """Also where the judge fails only in the middle, after verdicts that were good."""
    monkeypatch.setenv("JUDGE_TIMEOUT", "0.3")
    sound = 40
    judge.says = lambda *pair: (says if len(judge.asked) > sound else longer)(*pair)
    report = gated(pool, tmp_path)
    assert report.status == "error"
    assert report.verdicts == ()
    (found,) = [finding for finding in report.findings if finding.severity == "error"]
    assert (found.code, found.expert) == ("MG301", "a")
    assert found.message.startswith("metric judge:preference raised RuntimeError: ")
    assert error in found.message
    assert re.search(r"\(example \d+: output ", found.message)


def test_no_server(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("JUDGE_URL", url)
    assert main(["check", str(written(pool, tmp_path)), "--no-cache"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"no judge answers at {url} ([Errno 111] Connection refused)" in said


@pytest.mark.parametrize("url", ["localhost:8000", "", "127.0.0.1"])
def test_an_address_that_is_none(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("JUDGE_URL", url)
    report = gated(pool, tmp_path)
    assert report.status == "error"
    (found,) = [finding for finding in report.findings if finding.severity == "error"]
    assert found.code == "MG301"


def test_the_gate_of_the_page_names_the_function() -> None:
    experts = yaml.safe_load(PAGE["mergegate.yaml"])["experts"].values()
    assert {expert["metric"] for expert in experts} == {"judge:preference"}
    assert "def preference(outputs, targets):" in PAGE["judge.py"]
    lines = chain.from_iterable(text.splitlines() for text in PAGE.values())
    assert max(map(len, lines)) <= 100
