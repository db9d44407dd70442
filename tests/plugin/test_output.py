"""``mergegate check --output``: what has passed is written, read back, and nothing else."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from pools import read_gate, write_adapter, write_base, write_gate, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from plugin.gates import CHEAP
from plugin.test_cli import mergegate
from pytest_mergegate.merging import build as write

if TYPE_CHECKING:
    from pathlib import Path

    from plugin.gates import Gates

pytestmark = pytest.mark.usefixtures("any_base")

LOOSE = {"max_disagreement": 1.0}


def naive(base: Path, adapters: list[Path]) -> dict[str, torch.Tensor]:
    """The mean of PEFT's own merges, in float64."""
    merged = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base).double(), adapter)
        .merge_and_unload()
        .state_dict()
        for adapter in adapters
    ]
    return {name: sum(m[name] for m in merged) / len(merged) for name in merged[0]}


def left(folder: Path) -> set[str]:
    """What lies in the folder beside the gate file."""
    return {path.name for path in folder.iterdir()} - {"mergegate.yaml"}


class TestPassed:
    def test_it_is_the_naive_merge(
        self, gates: Gates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = gates.write(budget=LOOSE), tmp_path / "out"
        assert mergegate("check", path, "--output", out) == 0
        assert f"the merge linear was written to {out}" in capsys.readouterr().out
        pool = gates.shared.parent
        expected = naive(pool / "base", [pool / "adapters" / n for n in "abc"])
        model = AutoModelForCausalLM.from_pretrained(out)
        state = model.state_dict()
        assert set(state) == set(expected)
        for name, weight in expected.items():
            torch.testing.assert_close(state[name].double(), weight, rtol=0, atol=1e-5)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert tokenizer("abc") == AutoTokenizer.from_pretrained(pool / "base")("abc")
        text = (out / "config.json").read_text("utf-8")
        assert str(pool) not in text
        assert left(gates.folder) == set()

    def test_the_judged_method(
        self, gates: Gates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        half = {"method": "task_arithmetic", "weight": 0.5}
        path = gates.write(budget=LOOSE, merge={"methods": [half, "linear"]})
        out, pool = tmp_path / "out", gates.shared.parent
        assert mergegate("check", path, "--output", out) == 0
        scale = 1.5 if "the merge task_arithmetic" in capsys.readouterr().out else 1.0
        mean = naive(pool / "base", [pool / "adapters" / n for n in "abc"])
        base = AutoModelForCausalLM.from_pretrained(pool / "base").state_dict()
        for name, weight in AutoModelForCausalLM.from_pretrained(out).state_dict().items():
            expected = base[name] + scale * (mean[name] - base[name])
            torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-5)

    def test_an_empty_folder_is_filled(self, gates: Gates, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert mergegate("check", gates.write(budget=LOOSE), "--output", tmp_path / "out") == 0
        assert (tmp_path / "out" / "model.safetensors").exists()

    def test_the_base_s_own_files(self, gates: Gates, tmp_path: Path) -> None:
        """Tied embeddings stay tied; template and generation settings come along."""
        base = write_base(tmp_path / "base", 5, tie_word_embeddings=True)
        (base / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
        settings = {"eos_token_id": 1, "pad_token_id": 0, "repetition_penalty": 1.3}
        (base / "generation_config.json").write_text(json.dumps(settings), "utf-8")
        experts = {}
        for k, name in enumerate("abc", start=1):
            write_adapter(base, tmp_path / name, k)
            write_jsonl(tmp_path / f"{name}.jsonl", [{"input": f"{name}:{w}="} for w in "xyz"])
            experts[name] = {"path": name, "examples": f"{name}.jsonl"}
        gate: dict[str, Any] = {"base": "base", "experts": experts, "budget": LOOSE}
        gate["probes"] = {"max_answer_tokens": 4}
        path = write_gate(tmp_path / "mergegate.yaml", gate)
        out = tmp_path / "out"
        assert mergegate("check", path, "--output", out) == 0
        assert (out / "chat_template.jinja").read_text("utf-8") == "{{ messages }}"
        assert json.loads((out / "generation_config.json").read_text("utf-8")) == settings
        model = AutoModelForCausalLM.from_pretrained(out)
        assert model.lm_head.weight is model.model.embed_tokens.weight

    def test_half_precision(self, gates: Gates, tmp_path: Path) -> None:
        path = gates.write(budget=LOOSE, dtype="bfloat16")
        assert mergegate("check", path, "--output", tmp_path / "out") == 0
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert model.dtype == torch.bfloat16


class TestNothingIsWritten:
    def test_where_the_gate_fails(self, gates: Gates, tmp_path: Path) -> None:
        assert mergegate("check", gates.failing(), "--output", tmp_path / "out") == 1
        assert not (tmp_path / "out").exists()

    def test_where_it_cannot_be_read(self, gates: Gates, tmp_path: Path) -> None:
        assert mergegate("check", gates.malformed(), "--output", tmp_path / "out") == 2
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("case", ["full", "a file", "no parent", "two gates", "hidden"])
    def test_bad_options(
        self, gates: Gates, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, more = tmp_path / "out", []
        if case == "full":
            out.mkdir()
            (out / "mine").touch()
        elif case == "a file":
            out.touch()
        elif case == "no parent":
            out = out / "deeper"
        elif case == "two gates":
            more = [gates.passing("b.mergegate.yaml")]
        else:
            more = ["--stage", "hidden"]
        assert mergegate("check", gates.passing(), *more, "--output", out) == 4
        assert "--output" in capsys.readouterr().err
        assert left(out) == {"mine"} if case == "full" else not out.is_dir()

    @pytest.mark.parametrize(
        ("what", "says"),
        [
            pytest.param("numbers", "has other numbers", id="numbers"),
            pytest.param("names", "is missing, new, or tied", id="names"),
            pytest.param("states", "other hidden states", id="states"),
        ],
    )
    def test_where_what_was_written_is_another_model(
        self,
        gates: Gates,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        what: str,
        says: str,
    ) -> None:
        own = write.load_model

        def spoiled(*args: Any) -> Any:
            model = own(*args)
            if what == "numbers":
                next(iter(model.parameters.values())).data.add_(1e-3)
            elif what == "names":
                model.names["new"] = "new"
            else:
                model.states = lambda rows, positions: [
                    state + 1e-3 for state in type(model).states(model, rows, positions)
                ]
            return model

        monkeypatch.setattr(write, "load_model", spoiled)
        out = tmp_path / "out"
        assert mergegate("check", gates.write(budget=LOOSE), "--output", out) == 2
        assert says in capsys.readouterr().err
        assert list(tmp_path.glob("*out*")) == []

    def test_where_an_expert_was_changed_since(
        self,
        pool_copy: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        own = write.read_engine

        def late(*args: Any) -> Any:
            shutil.rmtree(pool_copy.parent / "adapters" / "a")
            write_adapter(pool_copy.parent / "base", pool_copy.parent / "adapters" / "a", 99)
            return own(*args)

        monkeypatch.setattr(write, "read_engine", late)
        out = tmp_path / "out"
        path = write_gate(pool_copy, read_gate(pool_copy) | {"budget": LOOSE})
        assert mergegate("check", path, "--output", out) == 2
        assert "a was changed while the gate ran" in capsys.readouterr().err
        assert not out.exists()


def test_a_gate_that_merges_nothing_writes_its_only_method(gates: Gates, tmp_path: Path) -> None:
    path = gates.write(budget={CHEAP: 1.0})
    assert mergegate("check", path, "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "config.json").exists()


def test_of_several_methods_none_was_judged(
    gates: Gates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = gates.write(budget={CHEAP: 1.0}, merge={"methods": ["linear", "task_arithmetic"]})
    assert mergegate("check", path, "--output", tmp_path / "out") == 2
    assert "none of the gate's methods was judged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_mergekit_file(gates: Gates, tmp_path: Path) -> None:
    pool = gates.shared.parent
    models = [{"model": f"{pool / 'base'}+{pool / 'adapters' / n}"} for n in "abc"]
    own = {"examples": str(pool / "data" / "{name}.jsonl"), "budget": LOOSE}
    config = {"merge_method": "linear", "models": models, "parameters": {"weight": 1}}
    path = write_gate(gates.folder / "merge.yml", config | {"mergegate": own})
    out = tmp_path / "out"
    assert mergegate("check", path, "--output", out) == 0
    expected = naive(pool / "base", [pool / "adapters" / n for n in "abc"])
    for name, weight in AutoModelForCausalLM.from_pretrained(out).state_dict().items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=0, atol=1e-5)
