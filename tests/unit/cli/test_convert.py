"""``mergegate convert``: adapters put into the form that PEFT saves, up to the bytes written."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pytest_mergegate.cli import main
from pytest_mergegate.cli.convert import KEPT, PICKLE
from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.pool.adapters import WEIGHTS
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str]]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command as people do: exit code, and what it says."""
    monkeypatch.delenv("CI", raising=False)  # where a base outside of the repository is not read

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main(["convert", *map(str, arguments)])
        except SystemExit as exit:
            code = int(exit.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return code, said.out + said.err

    return run


@pytest.fixture
def adapter(tiny_pool: Path, tmp_path: Path) -> Path:
    """A sound adapter, to spoil."""
    return shutil.copytree(tiny_pool.parent / "adapters" / "b", tmp_path / "b")


def to_pickle(adapter: Path, held: Any = None) -> dict[str, torch.Tensor]:
    """Have the folder hold a pickle alone; returns the tensors that it held."""
    tensors = load_file(adapter / WEIGHTS)
    (adapter / WEIGHTS).unlink()
    torch.save(tensors if held is None else held, adapter / PICKLE)
    return tensors


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_nothing_to_do(adapter: Path, convert: Run) -> None:
    before = {file.name for file in adapter.iterdir()}
    code, said = convert(adapter)
    assert (code, {file.name for file in adapter.iterdir()}) == (0, before)
    assert "nothing to convert" in said


def test_a_pickle(adapter: Path, convert: Run) -> None:
    tensors = to_pickle(adapter)
    code, said = convert(adapter)
    assert code == 0, said
    assert "weights-only" in said
    assert are_equal(load_file(adapter / WEIGHTS), tensors)
    assert (adapter / PICKLE).exists()


def test_names_are_repaired_as_peft_reads_them(
    adapter: Path, tiny_pool: Path, convert: Run
) -> None:
    tensors = load_file(adapter / WEIGHTS)
    odd = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    save_file(odd, adapter / WEIGHTS)
    code, said = convert(adapter)
    assert code == 0, said
    assert "is read as" in said
    assert are_equal(load_file(adapter / WEIGHTS), tensors)
    assert are_equal(load_file(adapter / KEPT), odd)
    base = AutoModelForCausalLM.from_pretrained(tiny_pool.parent / "base")
    held = PeftModel.from_pretrained(base, adapter).state_dict()
    key = min(odd)
    assert torch.equal(held[key], odd[key])


def test_in_ci_an_adapter_chooses_no_base_of_the_machine(
    adapter: Path, convert: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = load_file(adapter / WEIGHTS)
    odd = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    save_file(odd, adapter / WEIGHTS)
    monkeypatch.setenv("CI", "true")
    code, said = convert(adapter)
    assert (code, "--base REF" in said) == (2, True)
    assert are_equal(load_file(adapter / WEIGHTS), odd)


def test_to_another_folder(adapter: Path, tmp_path: Path, convert: Run) -> None:
    tensors = to_pickle(adapter)
    held = {file.name for file in adapter.iterdir()}
    out = tmp_path / "out"
    assert convert(adapter, "--output", out)[0] == 0
    assert are_equal(load_file(out / WEIGHTS), tensors)
    assert (out / "adapter_config.json").read_bytes()
    assert {file.name for file in adapter.iterdir()} == held
    code, said = convert(adapter, "--output", out)
    assert (code, "is there already" in said) == (4, True)


class Payload:
    """What a hostile pickle runs when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_is_a_program(
    adapter: Path, tmp_path: Path, convert: Run, zipped: bool
) -> None:
    marker = tmp_path / "ran"
    to_pickle(adapter, {"x": Payload(marker)})
    if not zipped:
        (adapter / PICKLE).write_bytes(pickle.dumps({"x": Payload(marker)}))
    code, said = convert(adapter)
    assert code == 2
    assert "is not read" in said
    if zipped:
        assert "more than tensors (io.open)" in said
        assert "do not load it" in said
    assert not marker.exists()
    assert not (adapter / WEIGHTS).exists()


@pytest.mark.parametrize("held", [[1, 2], {"x": 3}, {3: torch.ones(2)}], ids=str)
def test_other_things_than_tensors(adapter: Path, convert: Run, held: Any) -> None:
    to_pickle(adapter, held)
    code, said = convert(adapter)
    assert code == 2
    assert "something else than tensors" in said


@pytest.mark.parametrize("junk", [b"", b"junk\n", b"\x80\x02hello", b"PK\x03\x04", b"<html>"])
def test_junk_for_a_pickle(adapter: Path, convert: Run, junk: bytes) -> None:
    """torch itself says a bare number, nothing, or how to load it without its check."""
    to_pickle(adapter)
    (adapter / PICKLE).write_bytes(junk)
    code, said = convert(adapter)
    assert code == 2
    assert f"b: {PICKLE} is not read: its {len(junk)} bytes are nothing that torch.save" in said
    assert said.count("fix:") == 1
    assert "download it again" in said


def test_a_pickle_cut_off(adapter: Path, convert: Run) -> None:
    to_pickle(adapter)
    whole = (adapter / PICKLE).read_bytes()
    (adapter / PICKLE).write_bytes(whole[: len(whole) // 2])
    assert "or not all of it" in convert(adapter)[1]


def test_a_pickle_in_lfs(adapter: Path, convert: Run) -> None:
    to_pickle(adapter)
    (adapter / PICKLE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    code, said = convert(adapter)
    assert (code, "git lfs pull" in said) == (2, True)


def test_bad_input(adapter: Path, tmp_path: Path, convert: Run) -> None:
    assert convert(tmp_path / "none")[0] == 4
    assert convert(tmp_path)[0] == 2  # no adapter_config.json
    assert convert(adapter, "--base", "missing")[0] == 2
    (adapter / WEIGHTS).write_bytes(b"cut")
    assert convert(adapter)[0] == 2
    (adapter / WEIGHTS).unlink()
    code, said = convert(adapter)
    assert (code, "neither" in said) == (2, True)


def test_names_without_a_base(adapter: Path, convert: Run) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file(
        {key.removeprefix("base_model.model."): t for key, t in tensors.items()}, adapter / WEIGHTS
    )
    config = adapter / "adapter_config.json"
    import json

    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "x"}))
    code, said = convert(adapter)
    assert code == 2
    assert "--base REF" in said


def test_an_adapter_of_mlx(adapter: Path, tmp_path: Path, convert: Run, tiny_pool: Path) -> None:
    """mlx-lm computes x · A · B · scale, and keeps no alpha."""
    tensors = load_file(adapter / WEIGHTS)
    mlx = tmp_path / "mlx"
    mlx.mkdir()
    names = {"lora_A.weight": "lora_a", "lora_B.weight": "lora_b"}
    own = {}
    for key, tensor in tensors.items():
        stem, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        own[f"{stem}.{names[f'lora_{part}']}"] = tensor.T.contiguous()
    save_file(own, mlx / "adapters.safetensors")
    settings: dict[str, Any] = {"fine_tune_type": "lora", "model": str(tiny_pool.parent / "base")}
    settings["lora_parameters"] = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    (mlx / "adapter_config.json").write_text(json.dumps(settings))
    assert convert(mlx)[0] == 4  # it would overwrite mlx-lm's configuration
    assert convert(mlx, "--output", tmp_path / "out")[0] == 0
    assert are_equal(load_file(tmp_path / "out" / WEIGHTS), tensors)
    base = AutoModelForCausalLM.from_pretrained(tiny_pool.parent / "base")
    model = PeftModel.from_pretrained(base, tmp_path / "out")
    scales = {m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)}
    assert scales == {2.0}
    gate = {"a": "mlx", "b": "out"}
    settings = {"base": str(tiny_pool.parent / "base"), "experts": gate}
    found = run_preflight(gate_from(settings, root=tmp_path)).findings
    assert [(f.code, f.expert) for f in found] == [("MG002", "a")]
    assert "mlx-lm" in found[0].message
    assert "mergegate convert" in found[0].fix
