"""MG118 to MG121, and MG123, in mergekit configurations."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load_file, save_file

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from pytest_mergegate.common.findings import Finding

    from .files import Files


def found(files: Files, method: str, models: list[Any], **more: Any) -> dict[str, Finding]:
    """Warnings of a configuration with ``models``: names, or entries."""
    entries = [{"model": m} if isinstance(m, str) else m for m in models]
    data = {"merge_method": method, "models": entries, **more}
    result = run_preflight(gate_from(data, root=files.folder))
    return {f.code: f for f in result.findings if f.severity != "note"}


ADAPTERS = ["base+a", "base+b", "base+c"]
WEIGHT = {"weight": 1.0}


class TestAveragedBase:
    @pytest.mark.parametrize("method", ["linear", "karcher"])
    def test_base_model(self, files: Files, method: str) -> None:
        told = found(files, method, ADAPTERS, base_model="base", parameters=WEIGHT)
        assert list(told) == ["MG119"]
        assert "as one of 4 models, not of 3" in told["MG119"].message

    def test_the_base_as_a_model(self, files: Files) -> None:
        assert "MG119" in found(files, "linear", ["base", *ADAPTERS], parameters=WEIGHT)

    def test_without_weight_it_is_not_averaged_in(self, files: Files) -> None:
        base = {"model": "base", "parameters": {"weight": 0}}
        assert found(files, "linear", [base, *ADAPTERS], parameters=WEIGHT) == {}

    def test_no_base(self, files: Files) -> None:
        assert found(files, "linear", ADAPTERS, parameters=WEIGHT) == {}

    def test_methods_with_a_base(self, files: Files) -> None:
        parameters = {"weight": 0.3}
        more = {"base_model": "base", "parameters": parameters}
        assert found(files, "task_arithmetic", ADAPTERS, **more) == {}


class TestDonor:
    def test_checkpoints_without_base_model(self, files: Files) -> None:
        files.write_checkpoint("b")
        models = ["base+a", "b", "base+c"]
        assert "MG120" in found(files, "linear", models, parameters=WEIGHT)
        more = {"base_model": "base", "parameters": {"weight": 0.3}}
        assert "MG120" not in found(files, "task_arithmetic", models, **more)


class TestOtherBases:
    def test_a_copy_is_the_same_base(self, files: Files) -> None:
        shutil.copytree(files.folder / "base", files.folder / "copy")
        assert found(files, "linear", ["base+a", "copy+b"], parameters=WEIGHT) == {}

    def test_another_model(self, files: Files) -> None:
        shutil.copytree(files.folder / "base", files.folder / "other")
        weights = next((files.folder / "other").glob("*.safetensors"))
        numbers = load_file(weights)
        key = next(name for name in numbers if name.endswith(".weight"))
        save_file({**numbers, key: numbers[key] + 1}, weights)
        told = found(files, "linear", ["base+a", "other+b"], parameters=WEIGHT)["MG123"]
        assert (told.severity, told.expert) == ("error", "b")
        assert "other+b: mergekit puts this adapter into that base, whose" in told.message
        assert told.fix.startswith("write base+b, where that is meant")

    def test_a_name_alone(self, files: Files) -> None:
        told = found(files, "linear", ["base+a", "org/another+b"], parameters=WEIGHT)["MG123"]
        assert (told.severity, told.expert) == ("warning", "b")
        assert "a name alone proves nothing" in told.message


class TestPaths:
    def test_plus_and_at(self, files: Files) -> None:
        (files.folder / "a").rename(files.folder / "a@1")
        told = found(files, "linear", ["base+a@1", "base+b"], parameters=WEIGHT)["MG121"]
        assert told.expert == "a@1"
        assert "takes '+' and '@'" in told.message

    def test_an_adapter_without_its_base(self, files: Files) -> None:
        told = found(files, "linear", ["a", "base+b"], parameters=WEIGHT)["MG121"]
        assert told.fix == "write base+a"

    def test_paths_from_the_working_folder(
        self, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (files.folder / "sub").mkdir()
        monkeypatch.chdir(files.folder)
        data = {"merge_method": "linear", "models": [{"model": m} for m in ADAPTERS]}
        data["parameters"] = WEIGHT
        (told,) = run_preflight(gate_from(data, root=files.folder / "sub")).findings
        assert (told.code, told.severity) == ("MG121", "note")
        assert "were found from the working folder" in told.message

    def test_relative_paths(self, files: Files) -> None:
        data = {"merge_method": "linear", "models": [{"model": m} for m in ADAPTERS]}
        notes = run_preflight(gate_from(data, root=files.folder)).findings
        assert [(f.code, f.severity) for f in notes] == [("MG121", "note")]
        assert "(base)" in notes[0].message

    def test_ordinary_gates_are_not_mergekit_s(self, files: Files) -> None:
        assert files.findings() == []


class TestSettings:
    def test_a_common_weight_cancels(self, files: Files) -> None:
        more = {"base_model": "base", "parameters": {"weight": 0.3, "density": 0.5}}
        told = found(files, "ties", ADAPTERS, **more)
        assert "the common weight of all experts cancels" in told["MG118"].message
        more["parameters"] |= {"normalize": False}
        assert found(files, "ties", ADAPTERS, **more) == {}

    def test_dare(self, files: Files) -> None:
        more = {"base_model": "base", "parameters": {"weight": 0.3, "density": 0.5}}
        told = found(files, "dare_linear", ADAPTERS, **more)["MG118"]
        assert told.fix.startswith("write mergegate: {merge: {seed: 0}}")
        seeded = more | {"mergegate": {"merge": {"seed": 1}}}
        assert found(files, "dare_linear", ADAPTERS, **seeded) == {}
        data = {"merge_method": "dare_linear", "models": [{"model": m} for m in ADAPTERS]} | seeded
        notes = run_preflight(gate_from(data, root=files.folder)).findings
        assert any("L1 norm" in f.message for f in notes)

    @pytest.mark.parametrize(
        ("density", "told"), [([0.2, 0.9], []), (1.0, ["MG118"]), (None, ["MG118"])], ids=str
    )
    def test_what_mergekit_runs_itself(self, files: Files, density: Any, told: list[str]) -> None:
        parameters = {"weight": [0.1, 2.0]} | ({} if density is None else {"density": density})
        more = {"base_model": "base", "parameters": parameters}
        assert list(found(files, "ties", ADAPTERS, **more)) == told
