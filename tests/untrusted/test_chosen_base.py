"""What adapters may choose where the gate file names no base, and what its template may do."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import transformers
from pools import read_gate, write_gate, write_jsonl

from pytest_mergegate import assess
from pytest_mergegate.cli import main
from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.engine.models import chats, loading
from pytest_mergegate.pool.examples import Example
from untrusted.suite import SECONDS, checked, configure, refused

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The repositories that the hub is asked for; it has none."""
    found: list[str] = []

    def download(repository: str, **_: Any) -> str:
        found.append(repository)
        raise OSError("there is no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return found


def unnamed(gate: Path, base: str, **more: Any) -> Path:
    """The gate without a base, and adapters that agree on one."""
    settings = read_gate(gate) | more
    del settings["base"]
    for name in "abc":
        configure(gate.parent / "adapters" / name, base_model_name_or_path=base)
    return write_gate(gate, settings)


# The choice


@pytest.mark.parametrize("ci", ["true", "1", "True", "yes"])
@pytest.mark.parametrize("base", ["./base", "org/name"])
def test_none_in_ci(
    gate: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, ci: str, base: str
) -> None:
    monkeypatch.setenv("CI", ci)
    found = refused(unnamed(gate, base, allowed_bases=["org/name"]), "MG101", None)
    assert "in CI adapters do not choose it" in found.message
    assert f"write base: {base} in the gate file" in str(found.fix)
    assert not asked


@pytest.mark.parametrize("command", ["check", "plan"])
def test_none_in_ci_by_any_command(
    gate: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("CI", "true")
    unnamed(gate, "./base")
    assert main([command, str(gate), "--no-cache"]) == 2
    out, err = capsys.readouterr()
    assert "adapters do not choose it" in " ".join((out + err).split())


@pytest.mark.parametrize("ci", ["", "0", "false", "False"])
def test_a_folder_elsewhere(gate: Path, monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)
    assert checked(unnamed(gate, "./base"), stage="preflight").status == "inconclusive"


ALLOWED: list[tuple[str, list[str]]] = [
    ("org/name", []), ("org/name", ["org/other"]), ("org/name@main", ["org/name"]),
    ("org/name@refs/pr/7", ["org/name"]), ("org/name", ["org/name@main"]),
    ("org/NAME", ["org/name"]), ("org/name-evil", ["org/name"]), ("org/name", ["org/*", "*"]),
]  # fmt: skip


@pytest.mark.parametrize(("base", "allowed"), ALLOWED)
def test_repositories(gate: Path, asked: list[str], base: str, allowed: list[str]) -> None:
    more = {"allowed_bases": allowed} if allowed else {}
    found = refused(unnamed(gate, base, **more), "MG101", None)
    assert "a repository of the hub that allowed_bases does not list" in found.message
    assert f"'{base}'" in found.message
    assert "write base:" in str(found.fix)
    assert not asked


def test_an_allowed_repository_is_asked_for(gate: Path, asked: list[str]) -> None:
    found = refused(unnamed(gate, "org/name", allowed_bases=["org/name"]), "MG001", None)
    assert asked == ["org/name"]
    assert "there is no network" in found.message


@pytest.mark.parametrize(
    "base", ["org/\x1b[31m", "org/na\nme", "org/::error::", "$(touch marker)/x"]
)
def test_names_that_are_none(gate: Path, asked: list[str], base: str) -> None:
    found = refused(unnamed(gate, base), "MG001", None)
    assert found.message.isprintable()
    assert not asked


# Attention


@pytest.mark.parametrize(
    "key", ["_attn_implementation", "attn_implementation", "_experts_implementation"]
)
@pytest.mark.parametrize("name", ["kernels-community/flash-attn", "stranger/x@main:forward"])
def test_no_kernel_is_fetched(
    gate: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str
) -> None:
    """transformers takes the name of a repository as that of code, which it fetches and runs."""
    monkeypatch.setattr(
        "transformers.modeling_utils.lazy_import_flash_attention",
        lambda *_, **__: pytest.fail("a kernel is loaded"),
    )
    file = gate.parent / "base" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: name}))
    report = checked(gate, stage="hidden", cache=False)
    assert report.experts[0].mds is not None, report.findings


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_of_parts(tmp_path: Path, key: str) -> None:
    """Where a configuration is made of several, each is rid of it."""
    config = transformers.LlavaConfig().to_dict()
    config[key] = "stranger/kernel"
    config["text_config"][key] = config["vision_config"][key] = "stranger/kernel"
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = loading.load_config(tmp_path)
    for part in (read, read.text_config, read.vision_config):
        assert part._attn_implementation is None


# Templates

_NESTED = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
_DOUBLED = (
    "{% set n = namespace(x='a') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
)
TEMPLATES = {
    "a loop": (_NESTED, "does not end within"),
    "a number": ("{{ (7 ** (9 ** 9)) % 3 }}", "does not end within|memory"),
    "a recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "a product": ("{{ 'x' * 10000000000 }}", "memory"),
    "doubling": (_DOUBLED, "memory|does not end"),
    "a list": ("{{ ([0] * 10000000000) | length }}", "memory"),
    "long": ("{{ 'x' * 9000000 }}", "characters"),
    "a pad": ("{{ '%9999999999d' % 1 }}", "memory"),
    "python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "a module": ("{{ cycler.__init__.__globals__.os.system('touch marker') }}", "unsafe|undefined"),
    "an include": ("{% include '/etc/passwd' %}", "no loader"),
    "an import": ("{% import 'os' as os %}", "no loader"),
    "raised": ("{{ raise_exception('x\n::error::\x1b[31m') }}", "x"),
    "syntax": ("{% for", "unexpected"),
}  # fmt: skip


class Tokenizer(SimpleNamespace):
    """All that rendering takes of one."""

    special_tokens_map: dict[str, str] = {"eos_token": "<eos>"}  # noqa: RUF012

    def get_chat_template(self) -> str:
        return str(self.chat_template)


def chat(text: str) -> Example:
    return Example.model_validate({"input": [{"role": "user", "content": text}]})


@pytest.mark.parametrize(("template", "says"), TEMPLATES.values(), ids=TEMPLATES)
def test_templates(marker: Path, monkeypatch: pytest.MonkeyPatch, template: str, says: str) -> None:
    monkeypatch.setattr(chats, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(PoolError, match=says) as raised:
        chats.render([chat("hello")], "b", Tokenizer(chat_template=template), [1])
    assert time.monotonic() - started < SECONDS
    error = raised.value
    assert (error.code, error.expert) == ("MG203", "b")
    assert "chat template" in error.what
    assert error.what.isprintable()
    assert error.fix


def test_a_template_finds_nothing_where_it_runs(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "transformers", "json", "numpy"):
        (marker.parent / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.setenv("PYTHONPATH", ":")
    (text,) = chats.render(
        [chat("hello")], "b", Tokenizer(chat_template="{{ messages[0].content }}"), [1]
    ).values()
    assert text == "hello"


def test_a_template_that_is_fine(gate: Path) -> None:
    """The prompts are those that the tokenizer itself makes; texts among chats stay texts."""
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}a={% endif %}"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(gate.parent / "base")
    tokenizer.chat_template = template
    asked = [chat("x"), Example(input="plain"), chat("y")]
    rendered = chats.render(asked, "b", tokenizer, [1, 2, 3])
    assert sorted(rendered) == [0, 2]
    for index, text in rendered.items():
        messages = [{"role": "user", "content": "xy"[index // 2]}]
        wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == wanted


def test_a_template_in_a_gate(gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats, "SECONDS", 1)
    (gate.parent / "base" / "chat_template.jinja").write_text(TEMPLATES["a loop"][0])
    rows = [{"input": [{"role": "user", "content": str(k)}]} for k in range(20)]
    write_jsonl(gate.parent / "data" / "b.jsonl", rows)
    write_gate(gate, read_gate(gate) | {"budget": {"max_mds": 100}})
    report = assess(gate, cache=False)
    assert report.status == "error"
    (found,) = [f for f in report.findings if f.severity == "error"]
    assert (found.code, found.expert) == ("MG203", "b")
    assert "does not end within" in found.message
