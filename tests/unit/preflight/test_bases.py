"""MG101, MG112, MG113 and MG117: what an expert was trained on, and what it is gated against."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files as files_of
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from pytest_mergegate.pool.references import names_repository

from .files import EMBEDDING, HEAD, LLAMA, PREFIX, RANK, ROWS, WEIGHTS, WIDTH, Files

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_sound_pool_has_no_findings(files: Files) -> None:
    assert files.findings() == []


class TestBaseMismatch:
    @pytest.mark.parametrize(
        "name",
        [
            "org/other",
            "org/Base",
            "org/base",
            "org/base@main",
            "/other/run/base",
            "C:\\models\\base",
            f"/home/somebody/.cache/huggingface/hub/models--org--base/snapshots/{COMMIT}",
        ],
    )
    def test_a_name_proves_nothing_and_refutes_nothing(self, files: Files, name: str) -> None:
        files.edit_config("b", base_model_name_or_path=name)
        found = files.only("MG101")
        assert (found.severity, found.expert) == ("warning", "b")
        assert repr(name) in found.message
        assert "'base'" in found.message
        assert ("@<commit>" in found.fix) == (name.startswith("org/"))
        assert "ignore: {MG101" in found.fix

    @pytest.mark.parametrize(
        "name",
        ["base", "./base", "../{folder}/base", "{path}/base", None, "", 7, ["base"]],
        ids=str,
    )
    def test_the_folder_itself_or_no_name(self, files: Files, name: Any) -> None:
        if isinstance(name, str):
            name = name.format(folder=files.folder.name, path=files.folder)
        files.edit_config("b", base_model_name_or_path=name)
        assert files.findings() == []

    def test_ignored_with_a_reason(self, files: Files) -> None:
        files.edit_config("b", base_model_name_or_path="org/other")
        found = files.only("MG101", ignore={"MG101": "a renamed copy"})
        assert found.severity == "warning"
        assert "a renamed copy" in found.fix

    def test_told_once_for_all(self, files: Files) -> None:
        for name in "abc":
            files.edit_config(name, base_model_name_or_path="org/other")
        assert files.only("MG101").message.startswith("a, b, c: the adapter was trained on")

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


class TestByContent:
    """The base that an adapter names, where it is at hand beside the gate's."""

    @pytest.fixture
    def copy(self, files: Files) -> Path:
        copied = files.folder / "run" / "named otherwise"
        shutil.copytree(files.base, copied)
        files.edit_config("b", base_model_name_or_path=str(copied))
        return copied

    def test_the_same_weights(self, files: Files, copy: Path) -> None:
        assert files.findings() == []
        files.edit_config("b", base_model_name_or_path="run/named otherwise")
        assert files.findings() == []

    def test_in_shards(self, files: Files, copy: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        (copy / "model.safetensors").unlink()
        names = sorted(tensors)
        shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
        for file, held in shards.items():
            save_file({name: tensors[name] for name in held}, copy / file)
        weight_map = {name: file for file, held in shards.items() for name in held}
        index = {"metadata": {}, "weight_map": weight_map}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        assert files.findings() == []

    def test_in_another_precision(self, files: Files, copy: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        halves = {name: value.astype(np.float16) for name, value in tensors.items()}
        save_file(halves, copy / "model.safetensors")
        assert files.findings() == []

    @pytest.mark.parametrize("shape", [False, True])
    def test_other_weights_under_the_right_name(
        self, files: Files, copy: Path, shape: bool
    ) -> None:
        tensors = load_file(copy / "model.safetensors")
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name][:4] if shape else tensors[name] + 0.001
        save_file(tensors, copy / "model.safetensors")
        right = copy.parent / "base"
        copy.rename(right)
        files.edit_config("b", base_model_name_or_path=str(right))
        found = files.only("MG101")
        assert (found.severity, found.expert) == ("error", "b")
        assert "are at hand and are not those" in found.message

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_every_number_is_compared(self, files: Files, dtype: torch.dtype) -> None:
        """One number in 200,000 that is another, wherever it is, and in whatever precision."""
        name, rng = EMBEDDING, files.rng
        tensors = load_file(files.base / "model.safetensors")
        tensors[name] = tensors[HEAD] = rng.standard_normal((25_000, WIDTH)).astype(np.float32)
        files.write_model(files.base, tensors, LLAMA)
        copy = files.folder / "run" / "copy"
        shutil.copytree(files.base, copy)
        files.edit_config("b", base_model_name_or_path=str(copy))
        own = {key: torch.tensor(value).to(dtype) for key, value in tensors.items()}
        save_torch(own, copy / "model.safetensors", {"other": "bytes"})
        assert files.findings() == []
        own[name].view(-1)[rng.integers(own[name].numel())] += 0.5
        save_torch(own, copy / "model.safetensors", {"other": "bytes"})
        found = files.only("MG101")
        assert (found.severity, "are not those" in found.message) == ("error", True)

    def test_what_rounding_does_not_explain(self, files: Files, copy: Path) -> None:
        """A short fine-tuning in bfloat16 is near the base, and is not the base."""
        tensors = load_file(copy / "model.safetensors")
        near = {key: value * np.float32(1 + 2**-8) for key, value in tensors.items()}
        halves = {key: torch.tensor(value).bfloat16() for key, value in near.items()}
        save_torch(halves, copy / "model.safetensors")
        found = files.only("MG101")
        assert (found.severity, "nothing shows" in found.message) == ("warning", True)

    def test_codes_are_compared_by_their_bytes(self, files: Files, copy: Path) -> None:
        tensors = load_file(copy / "model.safetensors")
        held = {**tensors, "model.table": np.arange(9)}
        files.write_model(files.base, held, LLAMA)
        save_file({**held, "model.table": np.arange(9)[::-1].copy()}, copy / "model.safetensors")
        assert "are not those" in files.only("MG101").message

    def test_in_ci_nothing_outside_is_read(
        self,
        files: Files,
        copy: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        outside = tmp_path_factory.mktemp("outside") / "base"
        shutil.copytree(files.base, outside)
        files.edit_config("b", base_model_name_or_path=str(outside))
        assert files.findings() == []
        monkeypatch.setenv("CI", "true")
        assert files.only("MG101").severity == "warning"


class TestTraces:
    """What the numbers of an adapter tell of its base."""

    def widen(self, files: Files) -> dict[str, Any]:
        """A base whose embedding is large enough for chance to decide nothing."""
        tensors = load_file(files.base / "model.safetensors")
        tensors[EMBEDDING] = tensors[HEAD] = files.draw(ROWS * 4, WIDTH)
        files.write_model(files.base, tensors, LLAMA)
        for name in "abc":
            files.edit_config(name, base_model_name_or_path="org/other")
        return tensors

    @pytest.mark.parametrize("own", [True, False])
    def test_trained_copies(self, files: Files, own: bool) -> None:
        rows = self.widen(files)[EMBEDDING]
        noise = files.draw(*rows.shape)
        copied = rows + 0.05 * noise if own else noise
        files.edit_config("b", modules_to_save=["embed_tokens"])
        files.edit_tensors("b", lambda t: t.update({PREFIX + EMBEDDING: copied}))
        self.check(files, own, "embed_tokens")

    @pytest.mark.parametrize("own", [True, False])
    def test_trained_rows(self, files: Files, own: bool) -> None:
        chosen = [*range(3, 83)]
        rows = self.widen(files)[EMBEDDING][chosen]
        trained = rows + 0.05 * files.draw(*rows.shape) if own else files.draw(*rows.shape)
        key = PREFIX + "model.embed_tokens.token_adapter.trainable_tokens_delta"
        files.edit_config("b", trainable_token_indices=chosen)
        files.edit_tensors("b", lambda t: t.update({key: trained}))
        self.check(files, own, "trained rows")

    def check(self, files: Files, own: bool, says: str) -> None:
        errors = [f for f in files.findings() if f.severity == "error"]
        assert [(f.code, f.expert) for f in errors] == ([] if own else [("MG101", "b")])
        if own:  # numbers near the base's own show it, whatever the name says
            assert files.only("MG101").message.startswith("a, c: ")
        else:
            assert says in errors[0].message

    @pytest.mark.parametrize("kind", ["the base's", "another's", "far longer"])
    def test_lengths_of_dora(self, files: Files, kind: str) -> None:
        """Each of 4 modules has 8 outputs here: widened, so that chance decides nothing."""
        rng = files.rng
        tall = load_file(files.base / "model.safetensors")
        modules = [n for n in tall if "q_proj" in n or "v_proj" in n]
        for name in modules:
            tall[name] = files.draw(64, WIDTH)
        files.write_model(files.base, tall, LLAMA)
        for expert in "abc":
            tensors: dict[str, Any] = {}
            for name in modules:
                stem = PREFIX + name.removesuffix(".weight")
                tensors[f"{stem}.lora_A.weight"] = 0.1 * files.draw(RANK, WIDTH)
                tensors[f"{stem}.lora_B.weight"] = 0.1 * files.draw(64, RANK)
                lengths = np.linalg.norm(tall[name], axis=1)
                if expert == "b" and kind == "another's":
                    lengths = rng.permutation(lengths)
                if expert == "b" and kind == "far longer":
                    lengths = 3 * lengths
                tensors[f"{stem}.lora_magnitude_vector"] = lengths.astype(np.float32)
            save_file(tensors, files.folder / expert / WEIGHTS)
            files.edit_config(expert, use_dora=True, base_model_name_or_path="org/other")
        if kind == "the base's":
            assert files.findings() == []
        else:
            assert "DoRA magnitudes" in files.only("MG101").message


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
        for name in "abc":
            files.edit_config(name, base_model_name_or_path="org/base")
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
        "named",
        ["org/base", "ORG/Base@main", "org/alias", f"/x/models--org--base/snapshots/{COMMIT}"],
    )
    def test_one_repository(
        self, cached: Files, named: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {"org/base": "org/base", "org/alias": "org/base"}
        monkeypatch.setattr("pytest_mergegate.pool.identity._aliases", lambda: known)
        cached.edit_config("b", base_model_name_or_path=named)
        assert cached.findings(base="org/base") == []

    @pytest.mark.parametrize("form", ["org/base@{}", "/x/models--org--base/snapshots/{}"])
    def test_another_pinned_revision_is_another_base(self, cached: Files, form: str) -> None:
        cached.edit_config("b", base_model_name_or_path=form.format("f" * 40))
        for base in ("org/base", f"org/base@{COMMIT}"):
            found = cached.only("MG101", base=base)
            assert (found.severity, found.expert) == ("warning", "b")
            assert "nothing shows that they are the same weights" in found.message
        if "@" in form:
            assert f"write `base: org/base@{'f' * 40}`" in found.fix
        cached.edit_config("b", base_model_name_or_path=form.format(COMMIT))
        assert cached.findings(base=f"org/base@{COMMIT}") == []

    def test_the_table_of_aliases(self) -> None:
        """Each name stands in one group, and each group has several."""
        text = files_of("pytest_mergegate.pool").joinpath("base_aliases.json").read_text("utf-8")
        groups = json.loads(text)
        names = [name.lower() for group in groups for name in group]
        assert len(names) == len({*names})
        assert all(len(group) > 1 for group in groups)
        assert all(names_repository(name) for name in names)

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
    def test_other_names_are_none(self, files: Files, name: str) -> None:
        files.edit_config("b", base_model_name_or_path=name)
        assert files.only("MG101").expert == "b"

    def test_of_an_alias(self, files: Files) -> None:
        files.edit_config("base", _name_or_path="meta-llama/Llama-3.2-1B")
        files.edit_config("b", base_model_name_or_path="unsloth/Llama-3.2-1B-bnb-4bit")
        assert files.only("MG112").expert == "b"
        files.edit_config("b", base_model_name_or_path="unsloth/Llama-3.2-3B-bnb-4bit")
        assert files.only("MG101").severity == "warning"


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
