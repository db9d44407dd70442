"""MG115 and MG118, and MG204 to MG206: precision, merge settings and examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .files import WEIGHTS, Files


def in_half(files: Files, name: str) -> None:
    files.edit_tensors(name, lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))


class TestDtypes:
    def test_mixed_adapters(self, files: Files) -> None:
        in_half(files, "b")
        found = files.only("MG115")
        assert (found.severity, found.expert) == ("warning", None)
        assert "F16: b; F32: a, c" in found.message

    def test_adapters_in_full_precision_on_a_half_base(self, files: Files) -> None:
        in_half(files, "base")
        files.edit_config("base", dtype="float16")
        assert files.findings() == []

    def test_base_against_its_configuration(self, files: Files) -> None:
        files.edit_config("base", dtype="torch.bfloat16")
        assert "the base is stored in F32, config.json says BF16" in files.only("MG115").message

    def test_checkpoint_against_base_and_configuration(self, files: Files) -> None:
        files.write_checkpoint("b")
        path = files.folder / "b" / "model.safetensors"
        path.rename(files.folder / "b" / WEIGHTS)
        in_half(files, "b")
        (files.folder / "b" / WEIGHTS).rename(path)
        messages = [f.message for f in files.findings() if f.code == "MG115"]
        assert messages == [
            "stored in F16, the base in F32",
            "stored in F16, config.json says F32",
        ]

    @pytest.mark.parametrize("odd", [None, 16, "half", ["float16"]], ids=str)
    def test_odd_configurations(self, files: Files, odd: object) -> None:
        files.edit_config("base", dtype=odd)
        assert files.findings() == []


class TestMergeSettings:
    @pytest.mark.parametrize(
        ("merge", "says"),
        [
            ({"methods": ["ties"]}, "without a density"),
            ({"methods": [{"method": "ties", "density": 1.0}]}, "density 1.0 trims nothing"),
            ({"methods": [{"method": "della", "density": 1.0}], "seed": 1}, "drops nothing"),
            ({"methods": [{"method": "dare_ties", "density": 0.5}]}, "names no seed"),
            ({"methods": ["task_arithmetic"]}, "the weights sum to 3"),
            (
                {"methods": ["task_arithmetic"], "weights": {"a": 1.0, "b": 1.0, "c": 1.0}},
                "the weights sum to 3",
            ),
            (
                {"methods": [{"method": "dare_linear", "density": 0.5, "lambda": 0.6}], "seed": 1},
                "the weights sum to 1.8",
            ),
        ],
    )
    def test_traps(self, files: Files, merge: dict[str, Any], says: str) -> None:
        found = files.only("MG118", merge=merge)
        assert found.severity == "warning"
        assert says in found.message

    @pytest.mark.parametrize(
        "merge",
        [
            {"methods": ["linear"]},
            {"methods": [{"method": "ties", "density": 0.5}]},
            {"methods": [{"method": "della", "density": 0.5}], "seed": 0},
            {"methods": [{"method": "task_arithmetic", "weight": 0.3}]},
            {"methods": [{"method": "task_arithmetic", "normalize": True}]},
            {"methods": ["task_arithmetic"], "weights": {"a": 0.5, "b": 0.3, "c": 0.2}},
        ],
        ids=str,
    )
    def test_sound_settings(self, files: Files, merge: dict[str, Any]) -> None:
        assert files.findings(merge=merge) == []


def rows(*words: str, **more: Any) -> list[dict[str, Any]]:
    return [{"input": word} | more for word in words]


FEW = {"probes": {"per_task": 2}, "certificate": {"per_task": 2}}


class TestExamples:
    def test_too_few(self, files: Files) -> None:
        files.write_examples("b", *rows("p", "q", "p"))
        found = [f for f in files.findings(probes={"per_task": 3}) if f.code == "MG204"]
        assert [(f.severity, f.expert) for f in found] == [("warning", "b")] * 2
        assert found[0].message == "2 distinct inputs, probes.per_task asks for 3"
        assert found[1].message == "2 distinct inputs, certificate.per_task asks for 64"

    def test_told_once(self, files: Files) -> None:
        files.write_examples("a", *rows("p", "q"))
        files.write_examples("b", *rows("r"))
        found = files.only(
            "MG204", **FEW | {"probes": {"per_task": 1}, "certificate": {"per_task": 3}}
        )
        assert found.message == "a, b: as few as 1 distinct inputs, certificate.per_task asks for 3"

    def test_no_certificate_is_asked_for(self, files: Files) -> None:
        files.write_examples("b", *rows("p", "q"))
        assert files.findings(probes={"per_task": 2}, budget={"max_mds": 3.0}) == []

    def test_enough(self, files: Files) -> None:
        files.write_examples("b", *rows("p", "q"))
        assert files.findings(**FEW) == []

    def test_repeated(self, files: Files) -> None:
        files.write_examples("b", *rows("p", "q", "p"))
        found = files.only("MG205", **FEW)
        assert (found.severity, found.expert) == ("warning", "b")
        assert found.message == "1 input is given more than once, first in examples 1 and 3"

    def test_repeated_with_another_target(self, files: Files) -> None:
        files.write_examples("b", *rows("p", "q", target="x"), *rows("q", target="y"))
        found = files.only("MG205", **FEW)
        assert found.severity == "warning"
        assert found.message == (
            "1 input is given with different targets, first in examples 2 and 3: each of them "
            "counts as right"
        )

    def test_repeated_with_the_same_references(self, files: Files) -> None:
        files.write_examples(
            "b", *rows("p", "q", target=["x", "y"]), *rows("q", target=["y", "x", "x"])
        )
        assert "more than once" in files.only("MG205", **FEW).message
        files.write_examples("b", *rows("p", "q", target=["x"]), *rows("q", target="x"))
        assert "more than once" in files.only("MG205", **FEW).message

    def test_lists_repeat_nothing(self, files: Files) -> None:
        files.write_examples("b", *rows("p", "q", target=["x", "y"]))
        assert files.findings(**FEW) == []

    def test_other_choices_are_another_question(self, files: Files) -> None:
        files.write_examples("b", *rows("p", choices=["x", "y"]), *rows("p", choices=["x", "z"]))
        assert files.findings(**FEW, settings={"b": {"metric": "accuracy"}}) == []

    def test_other_choices_that_nobody_ranks(self, files: Files) -> None:
        files.write_examples("b", *rows("p", choices=["x", "y"]), *rows("p", "q"))
        found = files.only("MG205", **FEW)
        assert found.severity == "warning"
        assert found.message == (
            "1 input is given with different choices, first in examples 1 and 2: only the first is "
            "asked"
        )

    def test_the_same_choices_in_another_order(self, files: Files) -> None:
        files.write_examples(
            "b", *rows("p", "q", choices=["x", "y"]), *rows("p", choices=["y", "x"])
        )
        assert "more than once, first in examples 1 and 3" in files.only("MG205", **FEW).message

    def test_chats(self, files: Files) -> None:
        chats = [[{"role": "user", "content": word}] for word in "ppq"]
        files.write_examples("b", *[{"input": chat} for chat in chats])
        assert files.only("MG205", **FEW).severity == "warning"

    def test_shared(self, files: Files) -> None:
        files.write_examples("a", *rows("p", "q", target="x"))
        files.write_examples("b", *rows("p", "r", target="x"))
        found = files.only("MG206", **FEW)
        assert (found.severity, found.expert) == ("warning", None)
        assert found.message == "inputs are shared (a, b: 1)"

    def test_contradictory(self, files: Files) -> None:
        files.write_examples("a", *rows("p", "q", target="x"))
        files.write_examples("b", *rows("p", "r", target="y"))
        assert "the tasks contradict each other (a, b: 1)" in files.only("MG206", **FEW).message

    def test_one_answer_that_suits_both(self, files: Files) -> None:
        files.write_examples("a", *rows("p", target=["x", "y"]), *rows("q", target="x"))
        files.write_examples("b", *rows("p", target="y"), *rows("r", target="x"))
        assert files.only("MG206", **FEW).message == "inputs are shared (a, b: 1)"
        files.write_examples("b", *rows("p", target=["z", "w"]), *rows("r", target="x"))
        assert "the tasks contradict each other (a, b: 1)" in files.only("MG206", **FEW).message

    def test_groups_are_listed_by_size(self, files: Files) -> None:
        files.write_examples("a", *rows("p", "q", "r", "s"))
        files.write_examples("b", *rows("p", "q", "t"))
        files.write_examples("c", *rows("r", "u"))
        assert files.only("MG206", **FEW).message == "inputs are shared (a, b: 2; a, c: 1)"

    def test_apart(self, files: Files) -> None:
        files.write_examples("a", *rows("p", "q"))
        files.write_examples("b", *rows("r", "s"))
        assert files.findings(**FEW) == []
