"""MG101, MG112, MG113 and MG117: what an expert was trained on, and what it is gated against."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from huggingface_hub import constants

from .files import LLAMA, Files

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_sound_pool_has_no_findings(files: Files) -> None:
    assert files.findings() == []


class TestBaseMismatch:
    def test_another_name(self, files: Files) -> None:
        files.edit_config("b", base_model_name_or_path="org/other")
        found = files.only("MG101")
        assert (found.severity, found.expert) == ("error", "b")
        assert "'org/other'" in found.message
        assert "'base'" in found.message
        assert "ignore: {MG101" in found.fix

    @pytest.mark.parametrize(
        "name",
        [
            "base",
            "org/Base",
            "/somewhere/else/base/",
            "C:\\models\\base",
            "org/base@main",
            f"/home/somebody/.cache/huggingface/hub/models--org--base/snapshots/{COMMIT}",
            "org/base-bnb-4bit",
            None,
            "",
            7,
            ["base"],
        ],
        ids=str,
    )
    def test_the_same_name_elsewhere(self, files: Files, name: Any) -> None:
        files.edit_config("b", base_model_name_or_path=name)
        assert "MG101" not in {f.code for f in files.findings()}

    def test_ignored_with_a_reason(self, files: Files) -> None:
        files.edit_config("b", base_model_name_or_path="org/other")
        found = files.only("MG101", ignore={"MG101": "a renamed copy"})
        assert found.severity == "warning"
        assert "a renamed copy" in found.fix

    @pytest.mark.parametrize(
        ("task", "fits"),
        [("CAUSAL_LM", True), ("SEQ_CLS", False), ("TOKEN_CLS", False), (None, True), (3, True)],
    )
    def test_task(self, files: Files, task: Any, fits: bool) -> None:
        files.edit_config("b", task_type=task)
        if fits:
            assert files.findings() == []
        else:
            found = files.only("MG101")
            assert f"task_type={task!r}" in found.message
            assert "LlamaForCausalLM" in found.message

    @pytest.mark.parametrize(
        ("architecture", "task", "fits"),
        [
            ("T5ForConditionalGeneration", "SEQ_2_SEQ_LM", True),
            ("T5ForConditionalGeneration", "CAUSAL_LM", False),
            ("GPT2LMHeadModel", "CAUSAL_LM", True),
            ("BertForSequenceClassification", "SEQ_CLS", True),
            ("BertForSequenceClassification", "CAUSAL_LM", False),
            ("BertModel", "CAUSAL_LM", False),
            ("BertModel", "FEATURE_EXTRACTION", True),
            ("BertForMaskedLM", "SEQ_CLS", True),
            ("SomethingNew", "SEQ_CLS", True),
        ],
    )
    def test_task_of_other_bases(
        self, files: Files, architecture: str, task: str, fits: bool
    ) -> None:
        files.edit_config("base", architectures=[architecture], is_encoder_decoder=True)
        for name in "abc":
            files.edit_config(name, task_type=task)
        assert [f.code for f in files.findings()] == ([] if fits else ["MG101"] * 3)

    def test_checkpoint_of_another_kind(self, files: Files) -> None:
        files.write_checkpoint("b", model_type="mistral")
        assert "'mistral'" in files.only("MG101").message

    def test_checkpoint_of_another_size(self, files: Files) -> None:
        files.write_checkpoint("b", hidden_size=16)
        assert "hidden_size is 16 in the checkpoint, 8 in the base" in files.only("MG101").message

    def test_checkpoint_of_another_task(self, files: Files) -> None:
        files.write_checkpoint("b", architectures=["LlamaForTokenClassification"])
        assert "LlamaForTokenClassification" in files.only("MG101").message

    @pytest.mark.parametrize(
        ("ours", "theirs", "says"),
        [
            ({"rope_theta": 1e4}, {"rope_theta": 1e6}, "rope_theta is 1000000.0 in the checkpoint"),
            (
                {"rope_theta": 1e4},
                {"rope_theta": None, "rope_parameters": {"rope_theta": 1e6}},
                "rope_theta is 1000000.0",
            ),
            ({}, {"rope_scaling": {"rope_type": "linear", "factor": 8}}, "rope_factor is 8"),
            ({"hidden_act": "silu"}, {"hidden_act": "gelu_new"}, "hidden_act is gelu"),
            ({"rms_norm_eps": 1e-5}, {"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-06"),
        ],
    )
    def test_checkpoint_under_other_settings(
        self, files: Files, ours: dict[str, Any], theirs: dict[str, Any], says: str
    ) -> None:
        """The gate runs every expert under the base's."""
        files.edit_config("base", **ours)
        files.write_checkpoint("b", **theirs)
        assert says in files.only("MG101").message

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({"rope_theta": 10000}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "x"}}),
            ({"rope_scaling": None}, {"rope_parameters": {"full_attention": {"factor": 8}}}),
            ({"hidden_act": "gelu"}, {"hidden_act": "gelu_pytorch_tanh"}),
            ({"rms_norm_eps": 1e-6}, {"rms_norm_eps": None}),
        ],
        ids=str,
    )
    def test_the_same_settings_as_other_releases_write_them(
        self, files: Files, ours: dict[str, Any], theirs: dict[str, Any]
    ) -> None:
        files.edit_config("base", **ours)
        files.write_checkpoint("b", **theirs)
        assert files.findings() == []

    @pytest.mark.parametrize("odd", [None, [], [3], {"a": 1}], ids=str)
    def test_odd_types_say_nothing(self, files: Files, odd: Any) -> None:
        files.write_checkpoint("b", architectures=odd, model_type=odd, hidden_size=odd)
        assert files.findings() == []


class TestHub:
    """A base from a cache of the hub, written here as huggingface_hub lays it out."""

    @pytest.fixture
    def cached(self, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
        cache = tmp_path / "cache"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        repository = cache / "models--org--base"
        (repository / "refs").mkdir(parents=True)
        (repository / "snapshots").mkdir()
        files.base.rename(repository / "snapshots" / COMMIT)
        for branch in ("main", "dev"):
            (repository / "refs" / branch).write_text(COMMIT)
        return files

    def test_unpinned_in_ci(self, cached: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        assert cached.findings(base="org/base") == []
        monkeypatch.setenv("CI", "true")
        found = cached.only("MG117", base="org/base")
        assert found.severity == "warning"
        assert found.fix == f"write org/base@{COMMIT}"
        assert "dev" in cached.only("MG117", base="org/base@dev").message
        assert cached.findings(base=f"org/base@{COMMIT}") == []
        monkeypatch.setenv("CI", "false")
        assert cached.findings(base="org/base") == []

    @pytest.mark.parametrize(
        ("wanted", "base", "fits"),
        [
            (COMMIT, "org/base", True),
            (COMMIT[:8], "org/base", True),
            ("f" * 40, "org/base", False),
            ("main", "org/base", True),
            ("dev", "org/base", False),
            ("dev", "org/base@dev", True),
            ("dev", f"org/base@{COMMIT}", True),  # may well be that commit
            (None, "org/base", True),
            ([], "org/base", True),
        ],
    )
    def test_revision(self, cached: Files, wanted: Any, base: str, fits: bool) -> None:
        cached.edit_config("b", revision=wanted)
        if fits:
            assert cached.findings(base=base) == []
        else:
            found = cached.only("MG101", base=base)
            assert wanted in found.message
            assert f"org/base@{wanted}" in found.fix


class TestQuantisedBase:
    @pytest.mark.parametrize(
        "name", ["base-bnb-4bit", "org/base-GPTQ-Int4", "base-AWQ", "base-unsloth-bnb-4bit"]
    )
    def test_name(self, files: Files, name: str) -> None:
        files.edit_config("b", base_model_name_or_path=name)
        found = files.only("MG112")
        assert (found.severity, found.expert) == ("warning", "b")
        assert name in found.message

    def test_told_once_for_all(self, files: Files) -> None:
        for name in "abc":
            files.edit_config(name, base_model_name_or_path="org/base-4bit")
        found = files.only("MG112")
        assert found.expert is None
        assert found.message.startswith("a, b, c: ")

    def test_loftq(self, files: Files) -> None:
        files.edit_config("b", loftq_config={"loftq_bits": 4})
        assert "loftq_config" in files.only("MG112").message
        files.edit_config("b", loftq_config={})
        assert files.findings() == []

    @pytest.mark.parametrize("name", ["base-unsloth", "base-dynamic", "base-7b", "a-4bits-base"])
    def test_other_names_are_another_base(self, files: Files, name: str) -> None:
        files.edit_config("b", base_model_name_or_path=name)
        assert files.only("MG101").expert == "b"


class TestQuantisedWeights:
    def test_base(self, files: Files) -> None:
        files.edit_config("base", quantization_config={"quant_method": "fp8"})
        found = files.only("MG113", ignore={"MG113": "whatever"})
        assert (found.severity, found.expert) == ("error", None)
        assert "(fp8)" in found.message
        assert "cannot be ignored" in found.fix

    @pytest.mark.parametrize("odd", [None, {}], ids=str)
    def test_no_settings(self, files: Files, odd: Any) -> None:
        files.edit_config("base", quantization_config=odd)
        assert files.findings() == []

    def test_checkpoint(self, files: Files) -> None:
        files.write_checkpoint("b", quantization_config="yes")
        assert files.only("MG113").expert == "b"

    def test_integers(self, files: Files) -> None:
        name = "model.layers.1.mlp.up_proj.weight"
        files.edit_tensors("base", lambda t: t.update({name: t[name].astype(np.int8)}))
        found = files.only("MG113")
        assert f"'{name}' is stored as I8" in found.message

    def test_integer_buffers_are_no_weights(self, files: Files) -> None:
        buffer = np.arange(4)
        files.edit_tensors("base", lambda t: t.update({"model.position_ids": buffer}))
        assert files.findings() == []


def test_configuration_as_written(files: Files) -> None:
    """The helper of these tests starts from what it says."""
    assert json.loads((files.base / "config.json").read_text()) == LLAMA


class TestFarAway:
    def test_a_checkpoint_from_another_start(self, files: Files) -> None:
        files.write_checkpoint(
            "b", lambda t: t.update({k: files.draw(*v.shape) for k, v in t.items()})
        )
        found = files.only("MG101")
        assert "as far from the base as another model" in found.message
        assert found.severity == "error"

    def test_a_fine_tuned_checkpoint(self, files: Files) -> None:
        files.write_checkpoint("b")
        assert not files.findings()
