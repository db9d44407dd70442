"""What mergekit gets of experts: their weights under settings written anew, and no code."""

from __future__ import annotations

import json
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from peft import PeftConfig
from pools import edit_adapter_config, read_gate, write_gate

from pytest_mergegate.engine.weights.adapters import plain_configuration
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.merging.mergekit_process import LinkedModels
from pytest_mergegate.pool.pool import Pool, read_pool
from untrusted.suite import SECONDS, checked, configure, expert

if TYPE_CHECKING:
    from pathlib import Path

HOOKS: dict[str, Any] = {
    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    "custom_pipelines": {"x": {"impl": "evil.Pipe"}},
    "_attn_implementation": "stranger/kernel",
    "attn_implementation": "stranger/kernel@main:forward",
    "_attn_implementation_internal": "stranger/kernel",
    "_experts_implementation": "stranger/kernel",
    "experts_implementation": "stranger/kernel",
    "fusion_config": {"x": "stranger"},
    "use_kernels": True,
}
REMOTE = {"AutoConfig": "stranger/repo--evil.Config", "AutoTokenizer": ["stranger/x--t.T", None]}


def trusted(gate: Path, *, trust: bool = True) -> Pool:
    write_gate(gate, read_gate(gate) | {"trust_remote_code": trust})
    pool, errors = read_pool(load_gate(gate))
    assert pool is not None, errors
    return pool


def linked(gate: Path, pool: Pool) -> dict[str, Path]:
    """The folder that mergekit gets of each expert, and of the base."""
    from pathlib import Path

    models = LinkedModels(pool, gate.parent.parent / "models")
    found = {name: Path(path.split("+")[-1]) for name, path in models.experts.items()}
    return {**found, "base": Path(models.base)}


def make_checkpoint(gate: Path) -> Path:
    """Expert b as a full checkpoint with code of its own."""
    folder = expert(gate)
    shutil.rmtree(folder)
    shutil.copytree(gate.parent / "base", folder)
    for name in ("evil.py", "modeling.py", "__init__.py"):
        (folder / name).write_text("raise SystemExit\n")
    return folder


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def texts(folder: Path) -> str:
    return "".join(f.read_text() for f in folder.rglob("*.json") if "tokenizer.json" not in f.name)


@pytest.mark.parametrize("trust", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_of_a_checkpoint(gate: Path, hook: str, trust: bool) -> None:
    folder = make_checkpoint(gate)
    edit(folder / "config.json", **{hook: HOOKS[hook]}, text_config={hook: HOOKS[hook]})
    given = linked(gate, trusted(gate, trust=trust))["b"]
    assert not list(given.rglob("*.py"))
    assert "stranger" not in texts(given) + "".join(map(str, given.iterdir()))
    assert "evil" not in texts(given)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_on_the_hub(gate: Path, file: str) -> None:
    folder = make_checkpoint(gate)
    edit(folder / file, auto_map=REMOTE)
    assert "stranger" not in texts(linked(gate, trusted(gate))["b"])


@pytest.mark.parametrize(
    "name", ["x.bin", "pytorch_model.bin", "adapter.py", "processor_config.json", "x.pt"]
)
def test_other_files_of_a_checkpoint_stay_behind(gate: Path, name: str) -> None:
    folder = make_checkpoint(gate)
    pool = trusted(gate)
    (folder / name).write_text("stranger")
    assert name not in {file.name for file in linked(gate, pool)["b"].iterdir()}


def test_the_bases_own_code_is_there(gate: Path) -> None:
    """Where the gate trusts it; a checkpoint's configuration is the base's, and may ask for it."""
    make_checkpoint(gate)
    edit(gate.parent / "base" / "config.json", auto_map={"AutoConfig": "own.Config"})
    (gate.parent / "base" / "own.py").write_text("own = 1\n")
    folders = linked(gate, trusted(gate))
    for name in ("base", "b"):
        assert (folders[name] / "own.py").read_text() == "own = 1\n"
        assert "own.Config" in texts(folders[name])
    assert not (folders["b"] / "evil.py").exists()
    assert not list(folders["a"].glob("*.py"))


def test_the_base_has_no_code_unasked(gate: Path) -> None:
    edit(gate.parent / "base" / "config.json", **HOOKS)
    (gate.parent / "base" / "own.py").write_text("own = 1\n")
    folder = linked(gate, trusted(gate, trust=False))["base"]
    assert not list(folder.glob("*.py"))
    assert "stranger" not in texts(folder)


ADAPTERS: dict[str, Any] = {
    "auto_mapping": {"base_model_class": "Evil", "parent_library": "stranger"},
    "megatron_core": "stranger",
    "megatron_config": {"stranger": 1},
    "base_model_name_or_path": "stranger/base",
    "revision": "stranger",
    "task_type": "CAUSAL_LM; stranger",
    "exclude_modules": "stranger|(.|..)+[!?]",
    "layers_pattern": "stranger(.|..)+",
    "rank_pattern": {"stranger|(a)": 4},
    "alpha_pattern": {"stranger.+|": 8},
    "modules_to_save": ["stranger(.|..)+[!?]", "(stranger"],
    "loftq_config": {"stranger": 1},
    "corda_config": {"stranger": 1},
    "peft_version": "stranger",
    "stranger": "import this",
}


@pytest.mark.parametrize("key", ADAPTERS)
def test_settings_of_an_adapter(gate: Path, key: str) -> None:
    configure(expert(gate), **{key: ADAPTERS[key]})
    (expert(gate) / "evil.py").write_text("raise SystemExit\n")
    folder = linked(gate, trusted(gate))["b"]
    assert {file.name for file in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert "stranger" not in texts(folder)
    assert not (folder / "adapter_config.json").is_symlink()


@pytest.mark.parametrize(
    "target", [r".*\.(q|v|k|o|up|gate|down)_proj", r"(?:.|x)*_proj", "all-linear"]
)
def test_no_expression_reaches_peft(gate: Path, target: str) -> None:
    """Modules are named in full, as their weights are, whatever the expression says."""
    configure(expert(gate), target_modules=target, rank_pattern={r".*\.1\..*": 4})
    read = PeftConfig.from_pretrained(str(linked(gate, trusted(gate))["b"]))
    assert sorted(read.target_modules) == sorted(
        f"model.layers.{k}.{part}_proj"
        for k in range(2)
        for part in (
            *(f"self_attn.{p}" for p in "qkvo"),
            *(f"mlp.{p}" for p in ("up", "gate", "down")),
        )
    )
    assert all("(" not in key and "*" not in key for key in read.rank_pattern)


@pytest.mark.parametrize("name", ["(.|..)+[!?]", "(", "(?R)", "a{9999}{9999}", "x|", "\\w+$"])
def test_names_of_modules_are_no_expressions(gate: Path, name: str) -> None:
    """PEFT puts ``modules_to_save`` into an expression as it is, on either route."""
    edit_adapter_config(expert(gate), modules_to_save=[name, "embed_tokens"])
    pool = trusted(gate)
    assert plain_configuration(pool.experts[1]).modules_to_save == ["embed_tokens"]


def test_the_official_route_with_code_of_strangers(
    gate: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, in mergekit's own process: a checkpoint and an adapter that bring code."""
    signal.alarm(4 * SECONDS)  # mergekit is imported once more
    monkeypatch.setenv("HF_MODULES_CACHE", str(gate.parent.parent / "modules"))
    folder = make_checkpoint(gate)
    for file in (*folder.glob("*.py"), gate.parent / "adapters" / "c" / "evil.py"):
        file.write_text(f"open({str(marker)!r}, 'w')\n")
    edit(folder / "config.json", **HOOKS)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    configure(gate.parent / "adapters" / "c", auto_map=HOOKS["auto_map"], megatron_core="evil")
    settings = read_gate(gate) | {"trust_remote_code": True, "ignore": {"MG107": "a copy"}}
    settings["merge"] = {"methods": ["linear"], "route": "official"}
    report = checked(write_gate(gate, settings), max_disagreement=1.0)
    assert report.merges, report.findings
