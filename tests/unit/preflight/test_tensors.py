"""MG102 to MG108: tensors that do not fit, hold nothing sound, or are out of proportion."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from .files import CONFIG, EMBEDDING, HEAD, PREFIX, RANK, ROWS, WEIGHTS, WIDTH, Files, Q

Q_A, Q_B = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"


def scale(files: Files, name: str, factor: float) -> None:
    files.edit_tensors(
        name, lambda t: t.update({k: v * np.float32(factor) for k, v in t.items() if "B" in k})
    )


class TestUnknownTensors:
    def test_adapter(self, files: Files) -> None:
        def rename(tensors: dict[str, Any]) -> None:
            for key in list(tensors):
                tensors[key.replace("layers.1.", "layers.9.")] = tensors.pop(key)

        files.edit_tensors("b", rename)
        found = next(f for f in files.findings() if f.code == "MG102")
        assert (found.severity, found.expert) == ("error", "b")
        assert "2 of 4 adapted parameters match nothing" in found.message
        assert "layers.9.self_attn" in found.message
        assert "the base has 'model.layers." in found.message

    def test_is_never_ignored(self, files: Files) -> None:
        files.write_checkpoint("b", lambda t: t.update(extra=files.draw(3)))
        found = files.only("MG102", ignore={"MG102": "surely fine"})
        assert found.severity == "error"
        assert "cannot be ignored" in found.fix

    def test_checkpoint_whose_prefix_drifted(self, files: Files) -> None:
        def rename(tensors: dict[str, Any]) -> None:
            for key in [key for key in tensors if "layers" in key]:
                tensors[key.replace("layers", "blocks")] = tensors.pop(key)

        files.write_checkpoint("b", rename)
        codes = {f.code: f for f in files.findings()}
        assert set(codes) == {"MG102", "MG103"}
        assert "8 of 10 stored parameters" in codes["MG102"].message

    def test_checkpoint_with_the_base_s_names(self, files: Files) -> None:
        files.write_checkpoint("b")
        assert files.findings() == []

    def test_a_long_name_is_cut(self, files: Files) -> None:
        files.write_checkpoint("b", lambda t: t.update({"x" * 240: files.draw(3)}))
        assert len(files.only("MG102").message) < 300


class TestMissingTensors:
    def test_targets_without_tensors(self, files: Files) -> None:
        files.edit_config("b", target_modules=["q_proj", "v_proj", "up_proj"])
        found = files.only("MG103")
        assert (found.severity, found.expert) == ("error", "b")
        assert "2 modules are targeted" in found.message
        assert "'model.layers.0.mlp.up_proj'" in found.message

    def test_tensors_without_target(self, files: Files) -> None:
        files.edit_config("b", target_modules=["q_proj"])
        found = files.only("MG103")
        assert "2 modules have tensors but are not targeted" in found.message

    @pytest.mark.parametrize(
        "settings",
        [
            {"target_modules": r".*self_attn\.[qv]_proj"},
            {"target_modules": "all-linear", "exclude_modules": r".*mlp.*"},
            {"target_modules": ["q_proj", "up_proj", "v_proj"], "exclude_modules": ["up_proj"]},
            {"layers_to_transform": [0, 1]},
            {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
            {"layers_to_transform": [0, 1], "layers_pattern": ["h", r"lay\w+"]},
            {"target_modules": None},
        ],
        ids=str,
    )
    def test_other_ways_to_say_the_same(self, files: Files, settings: dict[str, Any]) -> None:
        files.edit_config("b", **settings)
        assert files.findings() == []

    @pytest.mark.parametrize(
        "settings",
        [
            {"target_modules": 5},
            {"target_modules": ["q_proj", 5]},
            {"target_modules": {"q_proj": 1}},
            {"layers_to_transform": ["all"]},
            {"layers_to_transform": 1},
            {"layers_to_transform": [0, 1], "layers_pattern": "h"},
            {"exclude_modules": ["q_proj"]},
            {"modules_to_save": ["lm_head"]},
        ],
        ids=str,
    )
    def test_contradictions(self, files: Files, settings: dict[str, Any]) -> None:
        files.edit_config("b", **settings)
        assert files.only("MG103").expert == "b"

    @pytest.mark.parametrize("pattern", [r"(", r"(.*.*)*q_proj!", "x" * 5000], ids=len)
    def test_expressions_that_cannot_be_matched(self, files: Files, pattern: str) -> None:
        files.edit_config("b", target_modules=pattern)
        found = files.findings()
        assert {f.expert for f in found if f.severity == "error"} == {"b"}

    def test_biases(self, files: Files) -> None:
        bias = f"{Q}.bias"
        files.edit_tensors("base", lambda t: t.update({bias: files.draw(WIDTH)}))
        files.edit_config("b", bias="all")
        assert f"first '{bias}'" in files.only("MG103").message
        files.edit_tensors("b", lambda t: t.update({PREFIX + bias: files.draw(WIDTH)}))
        assert files.findings() == []

    def test_checkpoint(self, files: Files) -> None:
        files.write_checkpoint("b", lambda t: t.pop(f"{Q}.weight"))
        found = files.only("MG103")
        assert "lacks 1 of the base's 10 tensors" in found.message
        assert f"'{Q}.weight'" in found.message

    def test_a_checkpoint_without_a_bias_of_gpt2_s_attention(self, files: Files) -> None:
        bias = "model.layers.0.attn.c_attn.bias"  # no causal mask, as attn.bias was
        files.edit_tensors("base", lambda t: t.update({bias: files.draw(WIDTH)}))
        files.write_checkpoint("b", lambda t: t.pop(bias))
        assert f"'{bias}'" in files.only("MG103").message

    def test_checkpoint_without_the_tied_copy(self, files: Files) -> None:
        files.edit_config("base", tie_word_embeddings=True)
        files.edit_tensors("base", lambda t: t.update({HEAD: t[EMBEDDING]}))
        files.write_checkpoint("b", lambda t: t.pop(HEAD))
        assert files.findings() == []


class TestShapes:
    def test_factors(self, files: Files) -> None:
        files.edit_tensors("b", lambda t: t.update({Q_A: files.draw(RANK, WIDTH - 1)}))
        found = files.only("MG104", ignore={"MG104": "no"})
        assert (found.severity, found.expert) == ("error", "b")
        assert f"'{Q}.weight': B·A is [8, 7], the base's weight [8, 8]" in found.message

    def test_several_are_counted(self, files: Files) -> None:
        files.edit_tensors(
            "b", lambda t: t.update({k: files.draw(RANK, 7) for k in t if "lora_A" in k})
        )
        assert "(and 3 more)" in files.only("MG104").message

    def test_checkpoint(self, files: Files) -> None:
        name = f"{Q}.weight"
        files.write_checkpoint("b", lambda t: t.update({name: files.draw(WIDTH, 4)}))
        assert f"'{name}' is [8, 4], the base's weight [8, 8]" in files.only("MG104").message

    @pytest.mark.parametrize(("rows", "fits"), [([0, 31], True), ([0, 32], False)])
    def test_trained_rows(self, files: Files, rows: list[int], fits: bool) -> None:
        key = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
        files.edit_config("b", trainable_token_indices={"embed_tokens": rows})
        files.edit_tensors("b", lambda t: t.update({key: files.draw(2, WIDTH)}))
        if fits:
            assert files.findings() == []
        else:
            assert "row 32 is changed" in files.only("MG104").message

    def test_width_of_rows(self, files: Files) -> None:
        key = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
        files.edit_config("b", trainable_token_indices={"embed_tokens": [0, 1]})
        files.edit_tensors("b", lambda t: t.update({key: files.draw(2, WIDTH + 1)}))
        assert "rows of 9 numbers" in files.only("MG104").message


class TestNonFinite:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
    def test_adapter(self, files: Files, value: float) -> None:
        files.edit_tensors("b", lambda t: t[Q_B].__setitem__((3, 1), value))
        found = files.only("MG105", ignore={"MG105": "no"})
        assert (found.severity, found.expert) == ("error", "b")
        assert f"{WEIGHTS}: tensor '{Q_B}' holds NaN or infinity" in found.message

    def test_checkpoint(self, files: Files) -> None:
        files.write_checkpoint("b", lambda t: [v.fill(np.nan) for v in t.values()])
        assert "(and 9 more)" in files.only("MG105").message


class TestIdenticalExperts:
    def test_copy_with_another_configuration(self, files: Files) -> None:
        shutil.copy(files.folder / "a" / WEIGHTS, files.folder / "b" / WEIGHTS)
        files.edit_config("b", lora_dropout=0.5)
        found = files.only("MG106")
        assert (found.severity, found.expert) == ("error", "b")
        assert "expert 'a'" in found.message

    def test_another_scale_is_another_expert(self, files: Files) -> None:
        shutil.copy(files.folder / "a" / WEIGHTS, files.folder / "b" / WEIGHTS)
        files.edit_config("b", lora_alpha=8)
        assert files.findings() == []

    def test_checkpoints(self, files: Files) -> None:
        files.write_checkpoint("a")
        shutil.rmtree(files.folder / "b")
        shutil.copytree(files.folder / "a", files.folder / "b")
        assert files.only("MG106").expert == "b"


class TestNoOp:
    def test_untrained(self, files: Files) -> None:
        scale(files, "b", 0)
        found = files.only("MG107")
        assert (found.severity, found.expert) == ("error", "b")
        assert "the adapter changes nothing: every change is zero" in found.message

    def test_nearly_untrained(self, files: Files) -> None:
        scale(files, "b", 1e-8)
        codes = {f.code: f for f in files.findings()}
        assert "of ‖W‖" in codes["MG107"].message

    def test_small_is_not_nothing(self, files: Files) -> None:
        scale(files, "b", 1e-4)
        assert {f.code for f in files.findings()} == {"MG108"}

    def test_a_copy_of_the_base(self, files: Files) -> None:
        files.write_checkpoint("b")
        shutil.copy(files.base / "model.safetensors", files.folder / "b")
        assert "the checkpoint changes nothing" in files.only("MG107").message


class TestNormDisparity:
    @pytest.mark.parametrize(("factor", "times"), [(50, "times"), (1 / 50, "1/")])
    def test_three(self, files: Files, factor: float, times: str) -> None:
        scale(files, "b", factor)
        found = files.only("MG108")
        assert (found.severity, found.expert) == ("warning", "b")
        assert times in found.message
        assert "median" in found.message

    def test_two(self, files: Files) -> None:
        scale(files, "b", 50)
        found = files.only("MG108", experts="ab")
        assert found.expert is None
        assert "in b and" in found.message

    @pytest.mark.parametrize("experts", ["ab", "abc"])
    def test_within_bounds(self, files: Files, experts: str) -> None:
        scale(files, "b", 2)
        assert files.findings(experts) == []


def test_everything_odd_at_once(files: Files) -> None:
    """Wrong types in every setting that a rule reads give findings, never an exception."""
    for odd in (None, 3, -1.5, True, "x", [], [None], [[]], {}, {"a": {}}):
        names = "base_model_name_or_path revision task_type target_modules exclude_modules "
        names += "layers_to_transform layers_pattern modules_to_save bias loftq_config "
        names += "ensure_weight_tying trainable_token_indices"
        for name in names.split():
            kept = (files.folder / "b" / CONFIG).read_text()
            files.edit_config("b", **{name: odd})
            assert all(f.message for f in files.findings()), (name, odd)
            (files.folder / "b" / CONFIG).write_text(kept)


def test_resized_embedding_is_one_finding(files: Files) -> None:
    files.write_checkpoint("b", lambda t: t.update({EMBEDDING: files.draw(ROWS + 2, WIDTH)}))
    found = files.only("MG110", ignore={"MG110": "no"})
    assert (found.severity, found.expert) == ("error", "b")
    assert f"'{EMBEDDING}' has 34 rows, 32 in the base" in found.message


class TestPartsOfWhatIsTrainedBesideFactors:
    """PEFT goes by the endings of names, and saves each of the modules that they mean."""

    NORMS = tuple(f"model.layers.{k}.input_layernorm.weight" for k in range(2))

    def train_norms(self, files: Files, *norms: str) -> None:
        files.edit_config("b", modules_to_save=["norm"])
        added = {f"{PREFIX}{norm}": files.draw(WIDTH) for norm in norms}
        files.edit_tensors("b", lambda t: t.update(added))

    def test_all_norms(self, files: Files) -> None:
        self.train_norms(files, *self.NORMS)
        assert not [f for f in files.findings() if f.severity == "error"]

    def test_one_norm_of_two(self, files: Files) -> None:
        self.train_norms(files, self.NORMS[0])
        found = [f for f in files.findings() if f.code == "MG103"]
        assert len(found) == 1
        assert self.NORMS[1] in found[0].message

    @pytest.mark.parametrize("stored", [2, 1])
    def test_biases_of_adapted_layers(self, files: Files, stored: int) -> None:
        biases = [f"model.layers.{k}.self_attn.q_proj.bias" for k in range(2)]
        files.edit_tensors("base", lambda t: t.update({b: files.draw(WIDTH) for b in biases}))
        files.edit_config("b", bias="lora_only")
        added = {f"{PREFIX}{bias}": files.draw(WIDTH) for bias in biases[:stored]}
        files.edit_tensors("b", lambda t: t.update(added))
        found = [f for f in files.findings() if f.code == "MG103"]
        assert len(found) == 2 - stored
        assert all(biases[1] in f.message for f in found)


class TestWhatTheToolDid:
    """Causes that the message names."""

    def test_empty_tensors(self, files: Files) -> None:
        empty = np.zeros((0,), np.float32)
        files.edit_tensors("b", lambda t: t.update(dict.fromkeys(t, empty)))
        found = files.only("MG104")
        assert "ZeRO-3" in found.fix

    def test_an_empty_module_that_was_trained(self, files: Files) -> None:
        key = f"{PREFIX}model.layers.0.mlp.up_proj.weight"
        files.edit_config("b", modules_to_save=["layers.0.mlp.up_proj"])
        files.edit_tensors("b", lambda t: t.update({key: np.zeros((0,), np.float32)}))
        assert "ZeRO-3" in files.only("MG104").fix

    def test_projections_that_are_fused(self, files: Files) -> None:
        extra = {f"model.layers.{k}.self_attn.k_proj.weight": files.draw(8, 8) for k in range(2)}
        files.edit_tensors("base", lambda t: t.update(extra))
        files.edit_tensors("b", lambda t: _renamed(t, "q_proj", "qkv_proj"))
        files.edit_config("b", target_modules=["qkv_proj", "v_proj"])
        found = next(f for f in files.findings() if f.code == "MG102")
        assert "fuses what the base has as q_proj and k_proj and v_proj" in found.message

    def test_an_adapter_in_a_folder_of_its_name(self, files: Files) -> None:
        inner = files.folder / "b" / "sft"
        inner.mkdir()
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            (files.folder / "b" / name).rename(inner / name)
        found = files.only("MG001")
        assert "sft/ in it has" in found.message
        assert found.fix == "PEFT saves an adapter under its name: write b/sft"


def _renamed(tensors: dict[str, Any], old: str, new: str) -> None:
    for key in [key for key in tensors if old in key]:
        tensors[key.replace(old, new)] = tensors.pop(key)
