"""A finished merge as the thing to gate: exports that are good, and each way known to spoil one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from exports import changed, edited, export, quickstart, save, with_other_ids
from peft import PeftModel
from pools import edit_adapter_config, words, write_gate, write_jsonl
from safetensors.torch import load_file, save_file
from variants import load, write_variant

from pytest_mergegate import assess
from pytest_mergegate.cli import main
from pytest_mergegate.common.errors import GateFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pytest_mergegate.report.types import Report

ONE = "reverse_upper"
THREE = ("rotate_upper", "cut_upper", "number_dot")
PROBES = {"max_answer_tokens": 16}
"""The longest answer has 13 tokens."""
CERTIFICATE = {"per_task": 40}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, experts and good exports; a test adds to it, and changes nothing that is there."""
    root = quickstart(tmp_path_factory.mktemp("finished"))
    export(root, root / "good", [ONE])
    export(root, root / "other", ["rotate_upper"])
    export(root, root / "three", THREE, "cat", 0.35)
    return root


def gate(*experts: str, **keys: Any) -> dict[str, Any]:
    """A gate of a finished merge of ``experts``."""
    said = {n: {"path": f"adapters/{n}", "examples": f"data/{n}.jsonl"} for n in experts or (ONE,)}
    asked = {"base": "base", "experts": said, "probes": PROBES, "certificate": CERTIFICATE}
    return asked | {"merged": "good"} | keys


def held(root: Path, merged: Path | str, *experts: str, **keys: Any) -> Report:
    """The report on a finished merge; the answers of base and experts are kept between tests."""
    return assess(gate(*experts, **keys), root=root, merged=merged)


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def disagreement(report: Report) -> float:
    return report.merges[0].experts[0].disagreement


class TestGood:
    def test_an_export_of_one_expert_passes(self, root: Path) -> None:
        report = assess(gate(), root=root)
        assert report.status == "pass"
        assert codes(report) == set()
        (merge,) = report.merges
        assert merge.method == "merged"
        assert merge.weights == {ONE: pytest.approx(1.0, abs=1e-4)}
        assert merge.fidelity is not None
        assert merge.fidelity < 1e-3
        (expert,) = merge.experts
        assert (expert.disagreement, expert.inputs, expert.cut) == (0, 40, 0)
        assert (expert.kl, expert.kl_reason) == (None, "texts_compared")
        assert (expert.distortion, expert.distortion_reason) == (None, "texts_compared")
        assert report.merged is not None
        assert (report.merged.kind, report.merged.dtype) == ("full", "float32")
        assert report.merged.has_tokenizer
        assert merge.digest == report.merged.fingerprint
        assert (report.pairs, report.bounds, report.forecasts) == ((), None, ())

    def test_in_half_precision_beside_the_expert_in_whole(self, root: Path, tmp_path: Path) -> None:
        half = edited(root / "good", tmp_path / "half", {"config.json": {"dtype": "bfloat16"}})
        tensors = load_file(half / "model.safetensors")
        halved = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
        save_file(halved, half / "model.safetensors", {"format": "pt"})
        report = held(root, half)
        assert report.status == "pass"
        assert report.merged is not None
        assert report.merged.dtype == "bfloat16"
        assert report.settings["dtype"] == "float32"
        assert 0 < (report.merges[0].fidelity or 0) < 0.5

    def test_of_three_experts_with_losses(self, root: Path) -> None:
        limits = {"max_disagreement": 0.3, "max_loss": 15, "min_gain_kept": 0.7}
        report = held(root, "three", *THREE, budget=limits)
        assert report.status == "pass"
        assert {verdict.budget for verdict in report.verdicts} == limits.keys()
        assert all(expert.score_merged is not None for expert in report.merges[0].experts)
        assert report.merges[0].fidelity_reason == "made_elsewhere"
        assert report.merges[0].weights == pytest.approx(dict.fromkeys(THREE, 0.35), abs=1e-3)
        assert codes(report) == set()

    def test_choices_are_ranked_by_each(self, root: Path, tmp_path: Path) -> None:
        file = root / "data" / f"{ONE}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["choices"] = [row["target"].lower(), row["target"]]
        ranked = write_jsonl(tmp_path / "ranked.jsonl", rows)
        expert = {"path": f"adapters/{ONE}", "examples": str(ranked), "metric": "accuracy"}
        statuses = {}
        for name in ("good", "other"):
            asked = gate() | {"experts": {ONE: expert}, "budget": {"max_disagreement": 0.2}}
            report = assess(asked, root=root, merged=root / name)
            statuses[name] = report.status
            assert report.merges[0].experts[0].reading == "choices"
            assert report.merges[0].experts[0].cut == 0
        assert statuses == {"good": "pass", "other": "fail"}

    def test_another_vocabulary_is_met_as_a_user_would(self, root: Path, tmp_path: Path) -> None:
        report = held(root, with_other_ids(root / "good", tmp_path / "ids"), budget={"max_loss": 1})
        assert report.status == "pass"
        assert disagreement(report) == 0
        assert report.merges[0].experts[0].loss == 0
        assert codes(report) == {"MG132"}  # it ends at another id

    def test_without_a_tokenizer_it_is_asked_through_the_base_s(
        self, root: Path, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(root / "good", bare, ignore=shutil.ignore_patterns("tokenizer*"))
        report = held(root, bare)
        assert (report.status, codes(report)) == ("pass", {"MG132"})
        assert "no tokenizer" in report.findings[0].message

    def test_an_adapter_is_read_on_the_base(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "adapters" / ONE, tmp_path / "adapter")
        report = held(root, tmp_path / "adapter")
        assert report.status == "pass"
        assert report.merged is not None
        assert report.merged.kind == "lora"
        assert report.merges[0].fidelity == 0


def fp8(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if "layers" in name and tensor.ndim == 2:
            tensors[name] = tensor.to(torch.float8_e4m3fn).to(torch.float32)


def coarse(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if "layers" in name and tensor.ndim == 2:
            step = float(tensor.abs().max()) / 2
            tensors[name] = (tensor / step).round() * step


class TestBad:
    def test_the_base_copied(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "base", tmp_path / "copied")
        report = held(root, tmp_path / "copied")
        assert (report.status, codes(report)) == ("error", {"MG131"})
        ignored = held(root, tmp_path / "copied", ignore={"MG131": "to see what it says"})
        assert ignored.status == "fail"
        assert codes(ignored) == {"MG131", "MG307", "MG308"}
        assert ignored.merges[0].fidelity == pytest.approx(1.0)

    def test_of_another_expert(self, root: Path) -> None:
        report = held(root, "other")
        assert report.status == "fail"
        assert "MG308" in codes(report)
        changed = report.merges[0].experts[0].changed
        assert changed
        assert all(case.expert != case.merged for case in changed)

    @pytest.mark.parametrize("budget", [{"max_disagreement": 0.3}, {"max_loss": 30}])
    def test_of_one_expert_and_not_the_other(self, root: Path, budget: dict[str, Any]) -> None:
        report = held(root, "good", ONE, "rotate_upper", budget=budget)
        statuses = {verdict.expert: verdict.status for verdict in report.verdicts}
        assert statuses == {ONE: "pass", "rotate_upper": "fail"}

    def test_rounded_as_in_fp8(self, root: Path, tmp_path: Path) -> None:
        report = held(root, changed(root / "good", tmp_path / "fp8", fp8))
        assert "MG133" in codes(report)
        assert "to 3 bits" in next(f.message for f in report.findings if f.code == "MG133")

    def test_rounded_until_the_change_is_lost(self, root: Path, tmp_path: Path) -> None:
        report = held(root, changed(root / "good", tmp_path / "coarse", coarse))
        assert report.status == "fail"
        assert "MG308" in codes(report)

    def test_with_another_end_of_text(self, root: Path, tmp_path: Path) -> None:
        files: dict[str, dict[str, Any]] = {
            "config.json": {"eos_token_id": 7},
            "generation_config.json": {"eos_token_id": 7},
            "tokenizer_config.json": {"eos_token": "e"},
        }
        report = held(root, edited(root / "good", tmp_path / "eos", files))
        assert report.status in {"fail", "inconclusive"}
        said = [finding.message for finding in report.findings if finding.code == "MG132"]
        assert len(said) == 2
        assert "ends text with 'e', the expert with '<eos>'" in said[0]
        assert "ends generation at token 7, the expert at token 1" in said[1]

    def test_with_the_tokenizer_s_end_of_text_alone_rewritten(
        self, root: Path, tmp_path: Path
    ) -> None:
        files = {"tokenizer_config.json": {"eos_token": "<unk>"}}
        report = held(root, edited(root / "good", tmp_path / "eos", files))
        assert codes(report) == {"MG132"}

    def test_tied_by_its_settings_and_not_in_its_files(self, root: Path, tmp_path: Path) -> None:
        files = {"config.json": {"tie_word_embeddings": True}}
        report = held(root, edited(root / "good", tmp_path / "untied", files))
        assert (report.status, codes(report)) == ("error", {"MG111"})
        assert "the finished merge ties its embeddings" in report.findings[0].message

    def test_with_an_output_layer_of_its_own(self, root: Path, tmp_path: Path) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

        report = held(root, changed(root / "good", tmp_path / "head", spoil))
        assert report.status == "fail"

    def test_with_a_layer_that_lacks_its_change(self, root: Path, tmp_path: Path) -> None:
        base = load_file(root / "base" / "model.safetensors")

        def spoil(tensors: dict[str, Tensor]) -> None:
            tensors |= {name: base[name] for name in tensors if ".layers.2." in name}

        report = held(root, changed(root / "good", tmp_path / "lacking", spoil))
        assert {"MG131", "MG308"} & codes(report) >= {"MG131"}
        said = next(f for f in report.findings if f.code == "MG131")
        assert said.severity == "warning"
        assert "7 of the 28 tensors" in said.message
        assert "model.layers.2." in said.message

    def test_by_peft_s_linear_of_two(self, root: Path, tmp_path: Path) -> None:
        two = ("rotate_upper", ONE)
        exact = held(root, export(root, tmp_path / "cat", two, "cat", 1.0), *two)
        report = held(root, export(root, tmp_path / "linear", two, "linear", 1.0), *two)
        assert report.status == "fail"
        worst = [max(e.disagreement for e in r.merges[0].experts) for r in (exact, report)]
        assert worst[1] > 0.3
        assert "MG308" in codes(held(root, tmp_path / "linear"))

    @pytest.mark.parametrize("weight", [0.3, 0.5])
    def test_by_peft_s_linear_of_two_with_smaller_weights(
        self, root: Path, tmp_path: Path, weight: float
    ) -> None:
        two = ("rotate_upper", "cut_upper")
        exact = held(root, export(root, tmp_path / "cat", two, "cat", weight), *two)
        assert exact.merges[0].weights == pytest.approx(dict.fromkeys(two, weight), abs=1e-3)
        assert "MG308" not in codes(exact)
        report = held(root, export(root, tmp_path / "linear", two, "linear", weight), *two)
        (note,) = (finding for finding in report.findings if finding.code == "MG308")
        assert note.severity == "note"
        assert "no weighted sum" in note.message

    def test_an_expert_that_is_not_in_it(self, root: Path) -> None:
        report = held(root, "good", ONE, "rotate_upper")
        assert report.merges[0].weights[ONE] == pytest.approx(1.0, abs=1e-2)
        said = [
            f.message for f in report.findings if (f.code, f.expert) == ("MG308", "rotate_upper")
        ]
        assert len(said) == 1
        assert "hardly in the finished merge" in said[0]

    def test_with_a_number_that_is_none(self, root: Path, tmp_path: Path) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            tensors["model.norm.weight"][3] = float("nan")

        report = held(root, changed(root / "good", tmp_path / "nan", spoil))
        assert (report.status, codes(report)) == ("error", {"MG105"})
        assert "model.norm.weight" in report.findings[0].message

    def test_with_a_tensor_missing(self, root: Path, tmp_path: Path) -> None:
        def spoil(tensors: dict[str, Tensor]) -> None:
            del tensors["model.layers.3.mlp.up_proj.weight"]

        report = held(root, changed(root / "good", tmp_path / "missing", spoil))
        assert (report.status, codes(report)) == ("error", {"MG103"})

    def test_cut_off_files(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "good", tmp_path / "cut")
        file = tmp_path / "cut" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        report = held(root, tmp_path / "cut")
        assert report.status == "error"
        assert "model.safetensors" in report.findings[0].message

    def test_an_adapter_that_changes_nothing(self, root: Path, tmp_path: Path) -> None:
        folder = tmp_path / "empty"
        shutil.copytree(root / "adapters" / ONE, folder)
        file = folder / "adapter_model.safetensors"
        tensors = {n: t * 0 if "lora_B" in n else t for n, t in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
        report = held(root, folder)
        assert (report.status, codes(report)) == ("error", {"MG107"})
        assert report.findings[0].message.startswith("the finished merge: the adapter changes")

    def test_an_adapter_of_another_expert(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root / "adapters" / "rotate_upper", tmp_path / "adapter")
        assert held(root, tmp_path / "adapter").status == "fail"


class TestNoFalseGreen:
    @pytest.mark.parametrize("folder", ["base", f"adapters/{ONE}", f"adapters/../adapters/{ONE}"])
    def test_what_goes_into_a_merge_is_none(self, root: Path, folder: str) -> None:
        report = assess(gate(merged=folder), root=root)
        assert (report.status, codes(report)) == ("error", {"MG131"})

    def test_an_expert_that_answers_like_its_base_shows_nothing(
        self, root: Path, tmp_path: Path
    ) -> None:
        weak = tmp_path / "pool"
        quickstart(weak)
        edit_adapter_config(weak / "adapters" / ONE, lora_alpha=1e-3)
        report = held(weak, export(weak, weak / "out", [ONE]))
        assert disagreement(report) == 0
        assert report.status == "inconclusive"
        assert "the base by itself" in report.verdicts[0].message

    def test_few_inputs_pass_on_their_bound_alone(self, root: Path) -> None:
        report = held(root, "good", certificate={"per_task": 5})
        assert (disagreement(report), report.status) == (0, "inconclusive")

    def test_what_is_between_experts_is_nothing_of_one(self, root: Path) -> None:
        budget = {"max_mds": 3, "max_sign_change_ratio": 1.0, "max_disagreement": 0.3}
        report = held(root, "good", budget=budget)
        assert report.status == "inconclusive"
        assert {v.budget: v.status for v in report.verdicts} == {
            "max_mds": "inconclusive",
            "max_sign_change_ratio": "inconclusive",
            "max_disagreement": "pass",
        }

    def test_what_is_between_experts_is_computed_of_three(self, root: Path) -> None:
        budget = {"max_mds": 100, "max_sign_change_ratio": 1.0, "max_disagreement": 0.3}
        report = held(root, "three", *THREE, budget=budget)
        assert report.status == "pass"
        assert report.bounds is not None
        assert report.forecasts == ()

    def test_a_stage_that_may_not_run(self, root: Path) -> None:
        report = assess(gate(), root=root, stage="hidden")
        assert (report.status, report.merges) == ("inconclusive", ())

    def test_the_content_of_its_files_is_in_every_key(self, root: Path, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        shutil.copytree(root / "good", folder)
        settings = {"cache": tmp_path / "cache"}
        first = assess(gate(merged=str(folder)), root=root, **settings)
        again = assess(gate(merged=str(folder)), root=root, **settings)
        assert (first.status, again.status) == ("pass", "pass")
        assert again.cache.misses == 0
        shutil.copyfile(root / "other" / "model.safetensors", folder / "model.safetensors")
        assert assess(gate(merged=str(folder)), root=root, **settings).status == "fail"
        shutil.copyfile(root / "good" / "model.safetensors", folder / "model.safetensors")
        for name in ("config.json", "generation_config.json"):
            said = json.loads((folder / name).read_text(encoding="utf-8"))
            (folder / name).write_text(json.dumps(said | {"eos_token_id": 7}), encoding="utf-8")
        assert assess(gate(merged=str(folder)), root=root, **settings).status != "pass"

    def test_nothing_is_learned_of_methods(self, root: Path, tmp_path: Path) -> None:
        path = write_gate(root / "learned.mergegate.yaml", gate(budget={"max_loss": 10}))
        registry = tmp_path / "registry.jsonl"
        assert main(["check", str(path), "--registry", str(registry), "-q"]) == 0
        assert not registry.exists()
        path.unlink()


@pytest.mark.parametrize(
    ("keys", "line", "said"),
    [
        ({"merge": {"methods": ["linear"]}}, 6, "names a merge that exists already; keep merge:"),
        ({"dtype": "bfloat16"}, 6, "write reference_dtype"),
        ({"budget": {"max_disagreement": "auto@0.1"}}, 7, "write a number for max_disagreement"),
        ({"experts": {}}, 2, "at least one expert"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, keys: dict[str, Any], line: int, said: str
) -> None:
    own = {"base": "base", "experts": {"a": {"path": "a"}}, "merged": "out"} | keys
    path = write_gate(tmp_path / "mergegate.yaml", own)
    with pytest.raises(GateFileError) as caught:
        assess(path)
    assert f"mergegate.yaml:{line}: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "said"),
    [({}, "name it with merged: PATH"), ({"reference_dtype": "float32"}, "write dtype")],
)
def test_without_a_finished_merge(tmp_path: Path, keys: dict[str, Any], said: str) -> None:
    experts = {"a": {"path": "a"}} | ({"b": {"path": "b"}} if keys else {})
    path = write_gate(tmp_path / "mergegate.yaml", {"base": "base", "experts": experts} | keys)
    with pytest.raises(GateFileError, match=said):
        assess(path)


TEMPLATE = "{% for m in messages %}rev:{{ m['content'] }}={% endfor %}"


class TestChats:
    """Each is asked through the template in its own folder, as whoever loads it does."""

    @pytest.fixture(scope="class")
    @staticmethod
    def asked(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
        own = quickstart(tmp_path_factory.mktemp("chats"))
        shutil.copytree(root / "good", own / "good")
        file = own / "data" / f"{ONE}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            word = row["input"].removeprefix("rev:").removesuffix("=")
            row["input"] = [{"role": "user", "content": word}]
        write_jsonl(file, rows)
        for folder in (own / "adapters" / ONE, own / "good"):
            (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        return own

    def test_the_expert_s_own_is_read_and_not_the_base_s(self, asked: Path) -> None:
        report = held(asked, "good", budget={"max_loss": 10})
        assert (report.status, codes(report)) == ("pass", set())
        assert (report.merges[0].experts[0].score_expert or 0) > 0.9

    def test_another_one_beside_the_merge(self, asked: Path, tmp_path: Path) -> None:
        shutil.copytree(asked / "good", tmp_path / "out")
        template = TEMPLATE.replace("rev:", "rot:")
        (tmp_path / "out" / "chat_template.jinja").write_text(template, encoding="utf-8")
        report = held(asked, tmp_path / "out")
        assert (report.status, codes(report)) == ("fail", {"MG132"})

    def test_none_beside_the_merge(self, asked: Path, tmp_path: Path) -> None:
        shutil.copytree(asked / "good", tmp_path / "out")
        (tmp_path / "out" / "chat_template.jinja").unlink()
        report = held(asked, tmp_path / "out")
        assert report.status == "error"
        assert any("the finished merge's tokenizer has no chat template" in f.message
                   for f in report.findings)  # fmt: skip


class TestFrontDoors:
    @pytest.fixture
    def page(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A gate file that makes its merges, which an option overrules."""
        absolute = gate(*THREE)
        del absolute["merged"]
        absolute["base"] = str(root / "base")
        for name in THREE:
            absolute["experts"][name]["path"] = str(root / "adapters" / name)
            shutil.copyfile(root / "data" / f"{name}.jsonl", tmp_path / f"{name}.jsonl")
            absolute["experts"][name]["examples"] = f"{name}.jsonl"
        absolute |= {"merge": {"methods": ["ties"]}, "dtype": "bfloat16"}
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "80")
        return write_gate(tmp_path / "mergegate.yaml", absolute)

    def test_the_command(self, page: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        asked = ["check", page.name, "--report", "json:r.json", "--merged"]
        assert main([*asked, str(root / "three")]) == 0
        said = capsys.readouterr().out
        assert "3 experts within budget in the finished merge" in said
        assert main([*asked, str(root / "good"), "--report", "html:r.html",
                     "--report", "markdown:r.md", "--report", "sarif:r.sarif"]) == 1  # fmt: skip
        said = capsys.readouterr().out
        assert "3 of 3 experts over budget in the finished merge" in said
        assert "why in the finished merge:\n" in said
        assert "\n  3 experts: the finished merge answers like the base" in said
        assert "try: look whether the expert went into it" in said
        headline, *more = said.splitlines()
        assert headline.startswith("FAIL")
        assert [line for line in more if len(line) > 80] == []
        for name in ("r.html", "r.md", "r.sarif"):
            assert "finished merge" in Path(name).read_text(encoding="utf-8")
        kept = json.loads(Path("r.json").read_text(encoding="utf-8"))
        kept = kept["reports"][0] if "reports" in kept else kept
        assert kept["settings"]["merged"] == str(root / "good")
        assert "merge" not in kept["settings"]

    @pytest.mark.parametrize("named", ["nowhere", "mergegate.yaml"])
    def test_no_such_folder(self, page: Path, named: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["check", page.name, "--merged", named])
        assert ended.value.code == 4

    def test_what_makes_or_plans_a_merge(self, page: Path, root: Path) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["check", page.name, "--merged", str(root / "three"), "--output", "out"])
        assert ended.value.code == 4
        write_gate(page, gate(*THREE) | {"merged": "three"})
        assert main(["plan", page.name]) == 2

    def test_asked_by_hand(
        self, page: Path, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        merged = ["--merged", str(root / "three")]
        assert main(["ask", page.name, "cut_upper", "cut:abcd=", *merged]) == 0
        lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert lines["merged"] == lines["expert"] != lines["base"]

    def test_pytest(self, page: Path, root: Path, pytester: pytest.Pytester) -> None:
        for file in page.parent.iterdir():
            shutil.copy(file, pytester.path)
        pytester.makepyfile(
            """
            from pytest_mergegate import mergeable

            @mergeable("mergegate.yaml")
            def test_pool(merge_report, merged_model):
                assert merge_report.merged.kind == "full"
                assert merged_model.num_parameters() == merge_report.base.parameters
            """
        )
        asked = ["--mergegate", "mergegate.yaml", "-p", "no:cacheprovider"]
        ran = pytester.runpytest_inprocess(
            *asked, "test_pytest.py", f"--mergegate-merged={root / 'three'}", "--junitxml=j.xml"
        )
        ran.assert_outcomes(passed=5)
        assert "in the finished merge" in (pytester.path / "j.xml").read_text(encoding="utf-8")
        ran = pytester.runpytest_inprocess(*asked, f"--mergegate-merged={root / 'good'}")
        ran.assert_outcomes(failed=4)

    def test_a_baseline(self, page: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        said = gate(*THREE) | {"budget": {"max_loss_increase": 5}}
        own = json.loads(json.dumps(said).replace('"data/', f'"{root}/data/'))
        own = json.loads(json.dumps(own).replace('"adapters/', f'"{root}/adapters/'))
        write_gate(page, own | {"base": str(root / "base"), "merged": str(root / "three")})
        kept = ["check", page.name, "--baseline", "base.json"]
        main([*kept, "--update-baseline"])
        assert main(kept) == 0
        capsys.readouterr()
        assert main([*kept, "--merged", str(root / "good")]) == 1
        assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert_classifier"])
def test_other_families(
    tmp_path: Path, seed: int, random_base: Callable[[str], tuple[Path, Any]], architecture: str
) -> None:
    """Tokens behind the prompt, a decoder's, and labels: an export in the names that transformers
    stores is the expert, and the base is not."""
    base, _ = random_base(architecture)
    write_variant(base, tmp_path / "a", variant="lora", architecture=architecture, seed=seed)
    module = PeftModel.from_pretrained(load(base, architecture), tmp_path / "a")
    save(module.merge_and_unload(), base, tmp_path / "out")
    shutil.copytree(base, tmp_path / "copied")
    write_jsonl(tmp_path / "a.jsonl", [{"input": word} for word in words(40, seed)])
    asked = {"base": str(base), "experts": {"a": {"path": "a", "examples": "a.jsonl"}}}
    asked |= {"probes": {"max_answer_tokens": 6}, "ignore": {"MG131": "to ask it all the same"}}
    report = assess(asked, root=tmp_path, merged="out")
    assert report.status in {"pass", "inconclusive"}  # the base may answer alike
    # round-off decides where two tokens are as likely
    assert disagreement(report) <= 0.1
    assert (report.merges[0].fidelity or 0) < 1e-3
    assert assess(asked, root=tmp_path, merged="copied").status != "pass"
