"""Whatever strangers call things: no output steers a terminal or is a command to a CI."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest
from hostile import COMMAND, GOLDEN, HOSTILE, assert_plain
from pools import read_gate, words, write_gate, write_jsonl

from pytest_mergegate.common.errors import GateError
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.common.plain_text import clean, cut, printable, say, shown
from pytest_mergegate.report.changed import LONGEST
from untrusted.suite import CONFIG, configure, expert, mergegate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("text", [*HOSTILE.values(), "\0", "\ud800", "a" * 100_000], ids=ascii)
def test_the_exit_itself(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say([text, f"  indented  {text}"])
    told = [capsys.readouterr().out, clean(text), printable(text), shown(text)]
    error = GateError(text, where=f"{text}:3", fix=text)
    finding = Finding(code="MG001", severity="error", message=text, fix=text)
    told += [str(error), cut(text), finding.message, finding.fix]
    for said in told:
        assert_plain(said)
    assert error.line == 3
    assert max(map(len, told[4:])) < 3000


@pytest.mark.parametrize(
    "text", ["mergegate.yaml::b", "a: b", "# x [y]", "日本語", "naïve", "👩‍🔬"]
)
def test_what_is_plain_stays(text: str) -> None:
    assert printable(text) == clean(text) == text


def _folder(gate: Path, text: str) -> None:
    expert(gate).rename(expert(gate).with_name(text))
    (gate.parent / "data" / "b.jsonl").rename(gate.parent / "data" / f"{text}.jsonl")
    globbed = {"experts": "adapters/*", "examples": "data/{name}.jsonl"}
    write_gate(gate, read_gate(gate) | globbed)


def _nested(gate: Path, text: str) -> None:
    (expert(gate) / text).mkdir()
    (expert(gate) / CONFIG).rename(expert(gate) / text / CONFIG)


def _link(gate: Path, text: str) -> None:
    (expert(gate) / text).symlink_to("/etc")


def _linked_to(gate: Path, text: str) -> None:
    (expert(gate) / "x").symlink_to(f"/{text}")


def _dangling(gate: Path, text: str) -> None:
    (gate.parent / "adapters" / text).symlink_to("nowhere")
    write_gate(gate, read_gate(gate) | {"experts": "adapters/*", "examples": "data/{name}.jsonl"})


def _twice(gate: Path, text: str) -> None:
    for place in "ab":
        (gate.parent / "adapters" / place / text).mkdir()
    write_gate(gate, read_gate(gate) | {"experts": "adapters/*/*", "examples": "data/{name}.jsonl"})


def _found_gate(gate: Path, text: str) -> None:
    write_gate(expert(gate) / f"{text}.mergegate.yaml", read_gate(gate))


def _found_in(gate: Path, text: str) -> None:
    (gate.parent / text).mkdir()
    write_gate(gate.parent / text / "mergegate.yaml", read_gate(gate))


def _key_of_examples(gate: Path, text: str) -> None:
    rows = [json.dumps({text: "x", "input": "x"}), json.dumps({"input": "x", "target": "y"})]
    (gate.parent / "data" / "b.jsonl").write_text("\n".join(rows))


def _value_of_examples(gate: Path, text: str) -> None:
    row = {"input": "x", "target": text, "choices": ["y", "z"]}
    (gate.parent / "data" / "b.jsonl").write_text(json.dumps(row))


def _two_keys(gate: Path, text: str) -> None:
    key = json.dumps(text)
    (gate.parent / "data" / "b.jsonl").write_text(f'{{{key}: 1, {key}: 2, "input": "x"}}')


def _base(gate: Path, text: str) -> None:
    configure(expert(gate), base_model_name_or_path=text)


def _method(gate: Path, text: str) -> None:
    configure(expert(gate), peft_type=text)


def _modules(gate: Path, text: str) -> None:
    configure(expert(gate), target_modules=f"({text}")


def _setting(gate: Path, text: str) -> None:
    configure(expert(gate), **{f"use_{text}": True})


def _shard(gate: Path, text: str) -> None:
    for file in expert(gate).iterdir():
        file.unlink()
    (expert(gate) / "config.json").write_text((gate.parent / "base" / "config.json").read_text())
    index = {"weight_map": {text: f"{text}.safetensors"}}
    (expert(gate) / "model.safetensors.index.json").write_text(json.dumps(index))


def _pickle(gate: Path, text: str) -> None:
    (expert(gate) / "adapter_model.safetensors").rename(expert(gate) / f"{text}.bin")


def _generation(gate: Path, text: str) -> None:
    (expert(gate) / "generation_config.json").write_text(json.dumps({text: 1}))


def _token(gate: Path, text: str) -> None:
    path = gate.parent / "base" / "tokenizer.json"
    parsed = json.loads(path.read_text())
    parsed["model"]["vocab"][text] = 5000
    (expert(gate) / "tokenizer.json").write_text(json.dumps(parsed))


PLACES: dict[str, Callable[[Path, str], None]] = {
    "name of an expert's folder": _folder,
    "folder in an expert": _nested,
    "link in an expert": _link,
    "target of a link": _linked_to,
    "dangling link": _dangling,
    "folder twice": _twice,
    "gate file": _found_gate,
    "folder of a gate file": _found_in,
    "key of examples": _key_of_examples,
    "value of examples": _value_of_examples,
    "key twice": _two_keys,
    "base of an adapter": _base,
    "method of an adapter": _method,
    "expression of an adapter": _modules,
    "setting of an adapter": _setting,
    "name of a shard": _shard,
    "name of a pickle": _pickle,
    "key of generation": _generation,
    "token": _token,
}


@pytest.mark.parametrize("spoil", PLACES.values(), ids=PLACES)
def test_every_command(
    gate: Path, spoil: Callable[[Path, str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """All at once: a name with something of each kind."""
    spoil(gate, "x\n::error::y\x1b[31m##[error]z\u202e\r::warning::w"[:80].replace("/", ""))
    report = gate.parent.parent / "reports"
    formats = ("json", "markdown", "sarif", "html")
    written = [f"--report={name}:{report / name}" for name in formats]
    mergegate("check", gate, gate.parent, "--stage", "preflight", *written, "-v")
    mergegate("plan", gate)
    mergegate("init", gate.parent / "adapters", "--output", gate, "--force")
    out, err = capsys.readouterr()
    assert_plain(out)
    assert_plain(err)
    assert "Traceback" not in out + err
    assert "MG900" not in out
    for name in formats:
        text = (report / name).read_text()
        # the style of HTML has pseudo-elements; JSON is read by machines, and escaped
        if name not in ("html", "json"):
            assert_plain(text)
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("spoil", PLACES.values(), ids=PLACES)
def test_pytest(
    gate: Path,
    spoil: Callable[[Path, str], None],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil(gate, "x\n::error::y\x1b[31m##[error]z\u202e")
    monkeypatch.chdir(gate.parent)
    options = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--junitxml=junit.xml")
    result = pytester.runpytest_inprocess(
        "--mergegate", ".", "--rootdir", gate.parent, "--mergegate-stage=preflight", *options
    )
    assert result.ret != 0
    assert_plain(result.stdout.str())
    assert_plain(result.stderr.str())
    assert "INTERNALERROR" not in result.stdout.str()
    for part in ET.parse(gate.parent / "junit.xml").iter():
        assert_plain("".join([*part.attrib.values(), part.text or ""]).replace("\r", "\x0b"))


def test_examples(gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a stranger asks and takes for right is shown with what the merge makes of it."""
    texts = [text for name, text in GOLDEN.items() if name != "half a pair"]  # no JSON holds it
    texts += [GOLDEN["long"]] * 12  # of which the merge answers one differently at least
    begun = zip(words(len(texts), seed=0), texts, strict=True)
    rows = [{"input": f"{word} {text}"[:40], "target": text} for word, text in begun]
    write_jsonl(gate.parent / "data" / "b.jsonl", rows)
    settings = read_gate(gate)
    settings["certificate"] = {"shown": len(rows), "sequential": False}
    settings["budget"] = {"max_disagreement": 0.0, "max_loss": 0.0}
    write_gate(gate, settings)
    report = gate.parent.parent / "reports"
    formats = ("json", "markdown", "sarif", "html")
    written = [f"--report={name}:{report / name}" for name in formats]
    mergegate("check", gate, "--no-cache", "--no-registry", *written, "-v")
    out, err = capsys.readouterr()
    assert_plain(out)
    assert_plain(err)
    assert "Traceback" not in out + err
    assert "MG900" not in out
    told = {name: (report / name).read_text() for name in formats}
    assert f"[… {len(GOLDEN['long']) - LONGEST} characters left out …]" in told["json"]
    assert out.count("input  ") >= len(rows) // 2  # the others are answered alike
    for name, text in told.items():
        assert len(text) < 4_000_000
        if name not in ("html", "json"):
            assert_plain(text)
        if name != "html":
            assert not COMMAND.search(text)
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_names_of_folders(gate: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    _folder(gate, text)
    mergegate("check", gate, "--stage", "preflight", "-v")
    mergegate("plan", gate)
    out, err = capsys.readouterr()
    assert_plain(out)
    assert_plain(err)
    assert out


@pytest.mark.parametrize("name", ["##[error]x", "##vso[task.x]y", "##teamcity[x]"])
@pytest.mark.parametrize("option", ["--collect-only", "--mergegate-stage=preflight"])
def test_names_of_items(gate: Path, pytester: pytest.Pytester, name: str, option: str) -> None:
    (gate.parent / "adapters" / "b").rename(gate.parent / "adapters" / name)
    (gate.parent / "data" / "b.jsonl").rename(gate.parent / "data" / f"{name}.jsonl")
    write_gate(gate, {"base": "base", "experts": "adapters/*", "examples": "data/{name}.jsonl"})
    result = pytester.runpytest("--mergegate", option, "-v", gate)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert not COMMAND.search(result.stdout.str() + result.stderr.str())


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model_name_or_path": "org/name", "revision": []},
        {"base_model_name_or_path": "a" * 300 + "/b"},
        {"base_model_name_or_path": "o/a--b"},
        {"base_model_name_or_path": "o/n.git"},
        {"base_model_name_or_path": "o/" + "a" * 100},
    ],
    ids=["a list as revision", "a long name", "dashes", "git", "a long repository"],
)
def test_bases_that_no_repository_can_be(
    gate: Path, changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(gate.parent / "base")
    for name in "abc":
        configure(gate.parent / "adapters" / name, **changes)
    gate.unlink()
    assert mergegate("init", gate.parent / "adapters", "--no-check") in {0, 2}
    mergegate("init", gate.parent / "adapters", "--force")
    assert_plain(capsys.readouterr().err)
