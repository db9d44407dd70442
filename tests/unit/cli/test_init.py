"""``mergegate init`` on folders of every kind, up to the text that it writes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml
from pools import edit_adapter_config, read_gate, write_jsonl
from safetensors.torch import load_file, save_file

from pytest_mergegate.cli import main
from pytest_mergegate.cli.init import scalar
from pytest_mergegate.gate.gatefile import load_gate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

ODD_NAMES = (
    *("on", "yes", "NO", "null", "~", "1e3", "0x1f", "1_000", "12:30", "2024-01-01", "="),
    *("with space", "naïve-日本", "😀", "a: b", "# no comment", "it's", 'say "x"', "{x}", "*star"),
    *("&anchor", "!tag", "- dash", "%percent", "@at", "`tick", "<script>", "a|b", "\\n", "100%"),
)


@pytest.fixture
def project(pool_copy: Path) -> Path:
    """A folder with base/, adapters/ and data/, and no gate file."""
    pool_copy.unlink()
    return pool_copy.parent


@pytest.fixture
def init(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command: exit code, what it says, and its errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main(["init", *map(str, arguments)])
        except SystemExit as exit:
            code = int(exit.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


class TestWhatItFinds:
    def test_a_gate_beside_the_adapters(self, project: Path, init: Run) -> None:
        code, out, _ = init(project / "adapters")
        assert code == 0
        assert "3 experts" in out
        assert "checked: no errors, 1 warning\n" in out
        gate = read_gate(project / "mergegate.yaml")
        assert gate["base"] == "base"
        assert gate["experts"]["b"] == {
            "path": "adapters/b",
            "examples": "data/b.jsonl",
            "metric": "exact_match",
        }
        assert gate["budget"] == {"max_disagreement": 0.3}  # six examples measure no loss
        assert gate["merge"]["methods"] == ["linear", {"method": "ties", "density": 0.5}]

    def test_the_precision_of_the_base(self, project: Path, init: Run) -> None:
        """What float32 takes is twice what the base was made for."""
        assert init(project / "adapters")[0] == 0
        assert "dtype" not in read_gate(project / "mergegate.yaml")
        weights = project / "base" / "model.safetensors"
        halves = {key: tensor.bfloat16() for key, tensor in load_file(weights).items()}
        save_file(halves, weights, {"format": "pt"})
        assert init(project / "adapters", "--force")[0] == 0
        assert read_gate(project / "mergegate.yaml")["dtype"] == "bfloat16"

    def test_examples_where_the_user_says(
        self, project: Path, init: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "data").rename(project / "elsewhere")
        for name in "abc":
            (project / "elsewhere" / f"{name}.jsonl").rename(
                project / "elsewhere" / f"{name}.eval.jsonl"
            )
        monkeypatch.chdir(project.parent)
        pattern = f"{project.name}/elsewhere/{{name}}.eval.jsonl"
        code, out, _ = init(project / "adapters", "--examples", pattern)
        assert code == 0
        assert "next: mergegate check" in out
        gate = read_gate(project / "mergegate.yaml")
        assert gate["experts"]["b"]["examples"] == "elsewhere/b.eval.jsonl"
        (project / "elsewhere" / "b.eval.jsonl").unlink()
        code, out, _ = init(project / "adapters", "--examples", pattern, "--force")
        assert code == 2
        assert "to do: elsewhere/b.eval.jsonl is not there: write it" in out
        assert f"paths below start at {project.resolve()}\n" in out
        assert "next: " not in out
        assert out.splitlines()[-1].startswith("once that is done: mergegate check ")
        code, _, said = init(project / "adapters", "--examples", "data/all.jsonl", "--force")
        assert code == 4
        assert "--examples: data/all.jsonl is one file for all experts" in said

    def test_chats_without_targets_are_compared_as_texts(self, project: Path, init: Run) -> None:
        chat = [{"role": "user", "content": "hello"}]
        for name in "abc":
            write_jsonl(project / "data" / f"{name}.jsonl", [{"input": chat}])
        init(project / "adapters", "--no-check")
        gate = read_gate(project / "mergegate.yaml")
        assert gate["experts"]["b"]["compare"] == "rouge_l"
        assert "metric" not in gate["experts"]["b"]

    def test_a_whole_project(self, project: Path, init: Run) -> None:
        code, _, _ = init(project)
        assert code == 0
        assert set(read_gate(project / "mergegate.yaml")["experts"]) == set("abc")

    def test_experts_without_a_folder_of_their_own(self, project: Path, init: Run) -> None:
        for name in "abc":
            shutil.move(project / "adapters" / name, project / name)
        assert init(project)[0] == 0
        gate = load_gate(project / "mergegate.yaml")
        assert gate.spec.experts["a"].path == "a"

    def test_examples_inside_the_expert(self, project: Path, init: Run) -> None:
        for name in "abc":
            shutil.move(project / f"data/{name}.jsonl", project / f"adapters/{name}/eval.jsonl")
        assert init(project / "adapters")[0] == 0
        gate = read_gate(project / "mergegate.yaml")
        assert gate["experts"]["c"]["examples"] == "adapters/c/eval.jsonl"

    def test_a_second_file_of_examples_is_named(self, project: Path, init: Run) -> None:
        shutil.copytree(project / "data", project / "examples")
        assert init(project / "adapters")[0] == 0
        assert "# also there: examples/a.jsonl" in (project / "mergegate.yaml").read_text("utf-8")

    def test_training_checkpoints_are_no_experts(self, project: Path, init: Run) -> None:
        shutil.copytree(project / "adapters/a", project / "adapters/a/checkpoint-120")
        code, out, _ = init(project / "adapters")
        assert code == 0
        assert "left out: adapters/a/checkpoint-120: a training checkpoint of a" in out
        assert "checkpoint-120: a training" in (project / "mergegate.yaml").read_text("utf-8")

    def test_a_full_checkpoint_beside_the_base(self, project: Path, init: Run) -> None:
        shutil.copytree(project / "base", project / "adapters" / "tuned")
        shutil.copy(project / "data/a.jsonl", project / "data/tuned.jsonl")
        code, out, _ = init(project / "adapters")
        assert "4 experts" in out
        assert read_gate(project / "mergegate.yaml")["base"] == "base"
        # it changes nothing, and preflight has seen that
        assert (code, "MG107 tuned" in out) == (2, True)

    def test_only_full_checkpoints(self, project: Path, init: Run) -> None:
        shutil.rmtree(project / "adapters")
        for name in "xy":
            shutil.copytree(project / "base", project / "models" / name)
            shutil.copy(project / "data/a.jsonl", project / f"data/{name}.jsonl")
        _, out, err = init(project / "models")
        assert "base: base (the folder of that name" in out, err
        assert set(read_gate(project / "mergegate.yaml")["experts"]) == set("xy")

    def test_two_of_one_name(self, project: Path, init: Run) -> None:
        shutil.copytree(project / "adapters", project / "adapters/more")
        init(project / "adapters")
        names = set(read_gate(project / "mergegate.yaml")["experts"])
        assert names == {"a", "b", "c", "more-a", "more-b", "more-c"}

    def test_a_name_that_stands_for_the_pool(self, project: Path, init: Run) -> None:
        shutil.move(project / "adapters/a", project / "adapters/pool")
        shutil.move(project / "data/a.jsonl", project / "data/pool_.jsonl")
        assert init(project / "adapters")[0] == 0
        assert load_gate(project / "mergegate.yaml").spec.experts["pool_"].path == "adapters/pool"


class TestMetrics:
    @staticmethod
    def metric_of(project: Path, init: Run, rows: list[dict[str, object]]) -> str | None:
        write_jsonl(project / "data/a.jsonl", rows)
        init(project / "adapters", "--force")
        return load_gate(project / "mergegate.yaml").spec.experts["a"].metric

    def test_by_the_targets(self, project: Path, init: Run) -> None:
        rows: list[dict[str, object]] = [{"input": f"a{k}", "target": "yes"} for k in range(30)]
        assert self.metric_of(project, init, rows) == "exact_match"
        long = [row | {"target": "a sentence of words " * 4} for row in rows]
        assert self.metric_of(project, init, long) == "rouge_l"
        choices = [row | {"choices": ["yes", "no"]} for row in rows]
        assert self.metric_of(project, init, choices) == "accuracy"

    def test_by_several_references(self, project: Path, init: Run) -> None:
        short = ["yes", "no", "x" * 90]
        rows: list[dict[str, object]] = [{"input": f"a{k}", "target": short} for k in range(30)]
        assert self.metric_of(project, init, rows) == "exact_match"
        spec = load_gate(project / "mergegate.yaml").spec
        assert spec.probes.max_answer_tokens == 128
        long = [row | {"target": ["yes", "a sentence " * 8, "of words " * 9]} for row in rows]
        assert self.metric_of(project, init, long) == "rouge_l"
        apart = [{"input": f"a{k // 3}", "target": f"yes {k}"} for k in range(90)]
        assert self.metric_of(project, init, [*apart]) == "exact_match"
        assert "30 inputs with targets" in (project / "mergegate.yaml").read_text("utf-8")

    def test_answers_have_room(self, project: Path, init: Run) -> None:
        rows: list[dict[str, object]] = [{"input": f"a{k}", "target": "x" * 90} for k in range(5)]
        self.metric_of(project, init, rows)
        assert load_gate(project / "mergegate.yaml").spec.probes.max_answer_tokens == 128

    def test_a_loss_only_where_all_can_be_measured(self, project: Path, init: Run) -> None:
        for name in "abc":
            rows = [{"input": f"{name}{k}", "target": "yes"} for k in range(30)]
            write_jsonl(project / f"data/{name}.jsonl", rows)
        init(project / "adapters")
        assert read_gate(project / "mergegate.yaml")["budget"]["max_loss"] == 10
        write_jsonl(project / "data/b.jsonl", [{"input": f"b{k}"} for k in range(30)])
        init(project / "adapters", "--force")
        text = (project / "mergegate.yaml").read_text("utf-8")
        assert "max_loss" not in yaml.safe_load(text)["budget"]
        assert "first give b 30 examples with targets" in text


class TestWhatIsMissing:
    def test_examples(self, project: Path, init: Run) -> None:
        (project / "data/b.jsonl").unlink()
        (project / "data/b.csv").touch()
        code, out, _ = init(project / "adapters")
        assert code == 2
        assert 'to do: data/b.jsonl is not there: write it, one {"input": ...' in out
        assert "data/b.csv is there, but a gate reads JSONL" in out
        assert "examples: for 2 of them, with targets for 2" in out
        assert "not checked: that has to be done first" in out
        # the gate names the file all the same: without it, it does not pass
        assert main(["check", "--stage", "preflight", str(project / "mergegate.yaml")]) == 2
        write_jsonl(project / "data/b.jsonl", [{"input": "b"}])
        assert main(["check", "--stage", "preflight", str(project / "mergegate.yaml")]) == 0

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"prompt": "p", "completion": "c"}, "jq -c '{input: .prompt, target: .completion}'"),
            ({"question": "q", "answer": "a"}, "jq -c '{input: .question, target: .answer}'"),
            ({"instruction": "i", "input": "", "output": "o"}, "{input: .instruction, target:"),
            ({"instruction": "i", "input": "x", "output": "o"}, "the whole prompt, as in training"),
            ({"messages": []}, "target: .messages[-1].content"),
            ({"frage": "q"}, "have the keys frage, a gate reads input, target and choices; rename"),
        ],
    )
    def test_the_right_keys(
        self, project: Path, init: Run, row: dict[str, object], said: str
    ) -> None:
        write_jsonl(project / "data/b.jsonl", [row])
        code, out, _ = init(project / "adapters")
        assert code == 2
        assert "to do: data/b.jsonl: its lines" in out
        assert said in out

    def test_a_base(self, project: Path, init: Run) -> None:
        shutil.move(project / "base", project / "elsewhere")
        code, _, err = init(project / "adapters")
        assert code == 2
        assert "is not here" in err
        assert "--base PATH" in err
        assert not (project / "mergegate.yaml").exists()
        code, out, _ = init(project / "adapters", "--base", project / "elsewhere")
        assert "base: elsewhere (given by --base)" in out
        assert code == 0

    def test_a_base_on_the_hub_is_not_fetched(self, project: Path, init: Run) -> None:
        for name in "abc":
            edit_adapter_config(project / "adapters" / name, base_model_name_or_path="org/model-7b")
        code, out, _ = init(project / "adapters")
        assert code == 0
        assert "not checked: org/model-7b is on the hub, and not in the cache yet" in out
        assert read_gate(project / "mergegate.yaml")["base"] == "org/model-7b"

    def test_agreement_on_the_base(self, project: Path, init: Run) -> None:
        edit_adapter_config(project / "adapters/b", base_model_name_or_path="org/other")
        code, _, err = init(project / "adapters")
        assert code == 2
        assert "org/other: b" in err
        assert "base: a, c" in err
        assert not (project / "mergegate.yaml").exists()

    @pytest.mark.parametrize("left", ["", "a"])
    def test_experts(self, project: Path, init: Run, left: str) -> None:
        for name in set("abc") - set(left):
            shutil.rmtree(project / "adapters" / name)
        code, _, err = init(project / "adapters")
        assert code == (2 if left else 5)
        assert "it is a" in err if left else "there is no expert" in err

    def test_the_folder_around(self, project: Path, init: Run) -> None:
        code, _, err = init(project / "adapters" / "a")
        assert code == 5
        assert "a/ is itself an expert (fix: give the folder that holds it and the others)" in err


class TestWhatIsBroken:
    def test_is_listed_and_never_dropped(self, project: Path, init: Run) -> None:
        shutil.copytree(project / "adapters/a", project / "adapters/broken")
        (project / "adapters/broken/adapter_config.json").write_text("{", "utf-8")
        shutil.copytree(project / "adapters/a", project / "adapters/pickled")
        weights = project / "adapters/pickled/adapter_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        code, out, _ = init(project / "adapters")
        assert code == 2  # the gate is there, and lacks two
        text = (project / "mergegate.yaml").read_text("utf-8")
        for said in (
            "left out: adapters/broken: adapter_config.json is not JSON",
            "left out: adapters/pickled: pickled/ holds adapter_model.bin, a pickle",
        ):
            assert said in out
            assert said in text
        assert set(yaml.safe_load(text)["experts"]) == set("abc")

    def test_a_link_that_leads_out(
        self, project: Path, init: Run, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        outside = shutil.copytree(
            project / "adapters/a", tmp_path_factory.mktemp("outside") / "stranger"
        )
        (project / "adapters/link").symlink_to(outside)
        (project / "adapters/lost").symlink_to("nowhere")
        (project / "adapters/circle").symlink_to(".")
        code, out, _ = init(project / "adapters")
        assert code == 2
        assert "left out: adapters/link: the symlink adapters/link leaves the repository" in out
        assert "left out: adapters/lost: a link that leads nowhere" in out
        assert set(read_gate(project / "mergegate.yaml")["experts"]) == set("abc")

    def test_examples_that_are_a_link_to_themselves(self, project: Path, init: Run) -> None:
        (project / "data/b.jsonl").unlink()
        (project / "data/b.jsonl").symlink_to("b.jsonl")
        code, out, _ = init(project / "adapters")
        assert code == 2
        assert "to do: data/b.jsonl is not there: write it" in out

    def test_examples_outside_are_not_looked_at(
        self, project: Path, init: Run, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        outside = tmp_path_factory.mktemp("outside") / "secrets.jsonl"
        write_jsonl(outside, [{"password": "x"}])
        (project / "data/b.jsonl").unlink()
        (project / "data/b.jsonl").symlink_to(outside)
        code, out, _ = init(project / "adapters")
        assert code == 2
        assert "to do: data/b.jsonl: the symlink data/b.jsonl leaves the repository" in out
        assert "password" not in out + (project / "mergegate.yaml").read_text("utf-8")

    def test_a_folder_that_may_not_be_read(
        self, project: Path, init: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.listdir  # not by its mode: root may read everything

        def listdir(path: Path) -> list[str]:
            if path.name == "b":
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "listdir", listdir)
        code, out, _ = init(project / "adapters")
        assert code == 2
        said = "left out: adapters/b: the folder cannot be read (Permission denied)"
        assert said in out
        assert said in (project / "mergegate.yaml").read_text("utf-8")

    def test_hostile_names(self, project: Path, init: Run) -> None:
        for name in ODD_NAMES:
            shutil.copytree(project / "adapters/a", project / "adapters" / name)
            shutil.copy(project / "data/a.jsonl", project / "data" / f"{name}.jsonl")
        shutil.copytree(project / "adapters/a", project / "adapters/x\nbase: evil")
        code, out, _ = init(project / "adapters", "--no-check")
        assert code == 2
        assert r"left out: adapters/x\nbase: evil: its name is not printable" in out
        gate = load_gate(project / "mergegate.yaml")
        assert set(gate.spec.experts) == {*"abc", *ODD_NAMES}
        assert all(gate.spec.experts[n].path == f"adapters/{n}" for n in ODD_NAMES)
        assert gate.spec.base == "base"

    def test_a_stranger_s_base_stays_in_its_comment(self, project: Path, init: Run) -> None:
        shutil.move(project / "base", project / "evil: [")
        for name in "abc":
            named = "x\ntrust_remote_code: true\n/evil: ["
            edit_adapter_config(project / "adapters" / name, base_model_name_or_path=named)
        init(project / "adapters", "--no-check")
        gate = load_gate(project / "mergegate.yaml")
        assert gate.spec.base == "evil: ["
        assert not gate.spec.trust_remote_code

    def test_a_thousand_folders(self, project: Path, init: Run) -> None:
        for k in range(1000):
            (project / f"adapters/z{k}/deep/deeper").mkdir(parents=True)
        code, out, _ = init(project / "adapters")
        assert (code, "3 experts" in out) == (0, True)


class TestTheFile:
    def test_is_never_overwritten_unasked(self, project: Path, init: Run) -> None:
        (project / "mergegate.yaml").write_text("mine", "utf-8")
        code, _, err = init(project / "adapters")
        assert code == 4
        assert "is there already (fix: --force overwrites it, --output PATH writes another)" in err
        assert (project / "mergegate.yaml").read_text("utf-8") == "mine"
        assert init(project / "adapters", "--force")[0] == 0
        assert load_gate(project / "mergegate.yaml").spec.base == "base"
        assert not list(project.glob(".*"))

    def test_goes_where_it_is_told(self, project: Path, init: Run) -> None:
        (project / "ci").mkdir()
        assert init(project / "adapters", "--output", project / "ci/all.mergegate.yaml")[0] == 0
        gate = load_gate(project / "ci/all.mergegate.yaml")
        assert gate.spec.experts["a"].path == "../adapters/a"
        assert init(project / "adapters", "--output", project / "ci")[0] == 0
        assert (project / "ci/mergegate.yaml").is_file()

    @pytest.mark.parametrize(
        ("output", "said"), [("gate.yaml", "no name of a gate"), ("no/mergegate.yaml", "no folder")]
    )
    def test_has_a_name_and_a_folder(
        self, project: Path, init: Run, output: str, said: str
    ) -> None:
        code, _, err = init(project / "adapters", "--output", project / output)
        assert code == 4
        assert said in err

    def test_no_folder_to_look_into(self, project: Path, init: Run) -> None:
        code, _, err = init(project / "nowhere")
        assert code == 4
        assert "there is no folder" in err

    def test_reads_well(self, project: Path, init: Run) -> None:
        init(project / "adapters")
        first, *lines = (project / "mergegate.yaml").read_text("utf-8").splitlines()
        assert first.startswith("# yaml-language-server: $schema=https://")
        assert max(map(len, lines)) <= 100
        own = [f"  {name}:" for name in "abc"]
        for above, line in itertools.pairwise(lines):
            assert "# " in line or line in own or above.lstrip().startswith("# ")

    def test_loses_no_expert_on_the_way(self, project: Path, init: Run) -> None:
        init(project / "adapters")
        described = json.dumps(read_gate(project / "mergegate.yaml"))
        gate = load_gate(project / "mergegate.yaml")
        assert all(f'"{name}"' in described for name in gate.spec.experts)


@pytest.mark.parametrize(
    "text", [*ODD_NAMES, ".inf", "plain", "a/b.c", "../up", "x\ny", "\x7f", "", " "]
)
def test_a_string_stays_that_string(text: str) -> None:
    assert yaml.safe_load(f"key: {scalar(text)}") == {"key": text}
    assert yaml.safe_load(f"{scalar(text)}: 1") == {text: 1}
    assert "\n" not in scalar(text)
