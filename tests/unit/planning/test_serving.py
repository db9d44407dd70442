"""What serving unmerged would take: from adapters that PEFT wrote, and commands that do it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from pools import Adapter, edit_adapter_config, read_gate, write_adapter, write_pool
from transformers import AutoModelForCausalLM

from pytest_mergegate import Report, assess
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.planning.serving import Serving, serving_of
from pytest_mergegate.pool.pool import read_pool
from pytest_mergegate.report.formats import html, markdown
from pytest_mergegate.report.formats.terminal import Look, summary
from pytest_mergegate.report.types import Collected

if TYPE_CHECKING:
    from pathlib import Path

ODD: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True, "target_modules": ["q_proj"]}, "DoRA"),
    "saved": ({"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
    "biased": ({"lora_bias": True, "target_modules": ["q_proj"]}, "trained biases"),
    "patterned": ({"rank_pattern": {"q_proj": 2}}, "rank_pattern or alpha_pattern"),
    "tokens": ({"trainable_token_indices": [2, 3]}, "trained tokens"),
    "pissa": ({"init_lora_weights": "pissa"}, "its start changes the base"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A pool of three plain adapters, and others beside them."""
    place = tmp_path_factory.mktemp("serving")
    adapters = {
        "a": Adapter(lora={"r": 4}),
        "b": Adapter(lora={"r": 12, "target_modules": ["q_proj", "up_proj"]}),
        "c": Adapter(lora={"r": 2}),
    }
    write_pool(place, seed, adapters)
    for name, (settings, _) in ODD.items():
        if name != "pissa":
            write_adapter(place / "base", place / "odd" / name, seed, Adapter(lora=settings))
    base = AutoModelForCausalLM.from_pretrained(place / "base")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights="pissa")
    get_peft_model(base, config).save_pretrained(place / "odd" / "pissa")
    base = AutoModelForCausalLM.from_pretrained(place / "base")
    get_peft_model(base, IA3Config(task_type="CAUSAL_LM")).save_pretrained(place / "odd" / "ia3")
    AutoModelForCausalLM.from_pretrained(place / "base").save_pretrained(place / "odd" / "whole")
    return place


def served(folder: Path, **experts: str) -> dict[str, Serving]:
    """By tool."""
    gate = gate_from({"base": "base", "experts": experts}, root=folder)
    pool, errors = read_pool(gate)
    assert pool is not None, errors
    return {way.tool: way for way in serving_of(pool)}


PLAIN = {"a": "adapters/a", "b": "adapters/b", "c": "adapters/c"}


def test_a_command_for_vllm(folder: Path) -> None:
    way = served(folder, **PLAIN)["vLLM"]
    (command,) = way.steps
    assert shlex.split(command) == [
        *("vllm", "serve", "base", "--enable-lora", "--max-loras", "3", "--max-lora-rank", "16"),
        *("--lora-modules", "a=adapters/a", "b=adapters/b", "c=adapters/c"),
    ]
    assert way.text == "the base with 3 adapters at rank 16, each request names its own"


def test_a_name_that_the_shell_would_split(folder: Path) -> None:
    experts = {"two words": "adapters/a", "x=y": "adapters/b"}
    (command,) = served(folder, **experts)["vLLM"].steps
    assert shlex.split(command)[-2:] == [
        '{"name": "two words", "path": "adapters/a"}',
        '{"name": "x=y", "path": "adapters/b"}',
    ]


@pytest.mark.parametrize("name", ODD)
def test_what_vllm_does_not_serve(folder: Path, name: str) -> None:
    way = served(folder, a="adapters/a", **{name: f"odd/{name}"})["vLLM"]
    assert "with 1 adapter at rank 8" in way.text
    assert f"on their own: {name} ({ODD[name][1]}" in way.text
    assert f"{name}=" not in way.steps[0]


def test_what_is_of_another_kind(folder: Path) -> None:
    ways = served(folder, a="adapters/a", b="adapters/b", ia3="odd/ia3", whole="odd/whole")
    assert "ia3 (vLLM serves LoRA alone, not ia3), whole (a full checkpoint)" in ways["vLLM"].text
    assert ways["PEFT"].text.endswith("on their own: ia3 (ia3), whole (a full checkpoint)")
    assert "2 adapters" in ways["PEFT"].text


def test_checkpoints_alone_are_no_adapters(folder: Path) -> None:
    assert served(folder, one="odd/whole", two="odd/whole") == {}
    assert "vLLM" not in served(folder, one="odd/dora", two="odd/saved")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("adapters/c", "hotswap_adapter swaps them in place"),
        ("adapters/b", "hotswap_adapter swaps them in place"),  # some of the modules of a
        ("odd/dora", "hotswap_adapter does not: they differ in use_dora"),
    ],
)
def test_what_peft_swaps_in_place(folder: Path, other: str, says: str) -> None:
    assert says in served(folder, a="adapters/a", other=other)["PEFT"].text


def test_modules_that_none_has_all_of(folder: Path, tmp_path: Path, seed: int) -> None:
    write_pool(
        tmp_path,
        seed,
        {
            "a": Adapter(lora={"target_modules": ["q_proj"]}),
            "b": Adapter(lora={"target_modules": ["up_proj"]}),
        },
    )
    text = served(tmp_path, a="adapters/a", b="adapters/b")["PEFT"].text
    assert "does not: none of them adapts all modules of the others" in text


def test_the_steps_for_peft_do_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = served(folder, **PLAIN)["PEFT"].steps
    known: dict[str, Any] = {"PeftModel": PeftModel}
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        known["base"] = AutoModelForCausalLM.from_pretrained("base")
        for step in steps:
            exec(step, known)
    assert {*known["model"].peft_config} == {*PLAIN}
    assert known["model"].active_adapter == "a"


def test_a_stranger_s_settings_break_nothing(folder: Path, tmp_path: Path, seed: int) -> None:
    write_adapter(folder / "base", tmp_path / "odd", seed)
    edit_adapter_config(tmp_path / "odd", modules_to_save="lm_head", lora_dropout=[{}])
    # read by the gate's own rules; what is left has a text
    gate = gate_from(
        {"base": str(folder / "base"), "experts": {"a": "odd", "b": "odd"}}, root=tmp_path
    )
    pool, _ = read_pool(gate)
    if pool is not None:
        assert all(way.text for way in serving_of(pool))


@pytest.fixture(scope="module")
def failed(folder: Path) -> Report:
    """A gate that no merge passes."""
    settings = {**read_gate(folder / "mergegate.yaml"), "budget": {"max_disagreement": 0.001}}
    report = assess(settings, root=folder, stage="merge", cache=False)
    assert report.status == "fail"
    return report


def test_a_failure_says_how(failed: Report) -> None:
    assert [way.tool for way in failed.serving] == ["vLLM", "PEFT"]
    collected = Collected(reports=(failed,))
    brief, whole = (
        " ".join(summary([failed], Look(verbosity=verbosity, width=80, reasons=True)).split())
        for verbosity in (0, 1)
    )
    assert "unmerged, by vLLM: the base with 3 adapters" in brief
    assert "vllm serve base --enable-lora" in brief
    assert "by PEFT" not in brief
    assert brief.rindex("(on ") < brief.index("unmerged, by vLLM"), brief
    assert "unmerged, by PEFT: the base and 3 adapters" in whole
    assert "vllm serve base --enable-lora" in markdown.render(collected)
    assert "vllm serve base --enable-lora" in html.render(collected)


def test_an_open_verdict_says_nothing(folder: Path) -> None:
    settings = {**read_gate(folder / "mergegate.yaml"), "budget": {"max_disagreement": 1.0}}
    report = assess(settings, root=folder, stage="merge", cache=False)
    assert report.status != "fail"
    assert report.serving == ()
