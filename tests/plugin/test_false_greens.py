"""Gates that once passed on too little: on the quickstart's trained experts, as a user runs them.

Under ``BROKEN`` weights the merge answers half of what ``rotate_upper`` was asked differently.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from pools import read_jsonl, write_gate, write_jsonl
from safetensors.torch import load_file, save_file
from scipy.stats import beta
from transformers import AutoModelForCausalLM, AutoTokenizer
from unit.history.registry.making import made

from plugin.test_cli import mergegate
from pytest_mergegate import metrics
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("shared_pool")  # all that a gate needs is imported

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
BROKEN = {"rotate_upper": 0.14, "first_last": 0.86}
KEEPS = {"min_gain_kept": 0.7}
SOUND = {"rotate_upper": 0.5, "first_last": 0.5}
LONGEST = 16
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    return read_jsonl(QUICKSTART / "data" / f"{name}.jsonl")


def unlabelled(rows: Sequence[Row]) -> list[Row]:
    return [{"input": row["input"]} for row in rows]


def write(
    folder: Path, weights: dict[str, float], rows: dict[str, Sequence[Row]], **gate: Any
) -> Path:
    """A gate on quickstart's experts, each with the rows given."""
    experts: dict[str, Any] = gate.pop("experts", {})
    for name in weights:
        own = rows[name] if name in rows else rows_of(name)[:40]
        path = write_jsonl(folder / f"{name}.jsonl", list(own))
        experts.setdefault(name, {"path": str(QUICKSTART / "adapters" / name)})
        experts[name]["examples"] = str(path)
    merge = {"methods": ["linear"], "weights": weights} | gate.pop("merge", {})
    probes = {"max_answer_tokens": LONGEST} | gate.pop("probes", {})
    given = {"base": str(QUICKSTART / "base"), "experts": experts, "probes": probes, **gate}
    return write_gate(folder / "mergegate.yaml", {**given, "merge": merge})


def checked(gate: Path, *options: object) -> dict[str, Any]:
    """The report of ``mergegate check``, whose exit code agrees with it."""
    path = gate.with_name("report.json")
    code = mergegate("check", gate, "--report", f"json:{path}", "--no-cache", *options)
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert (code == 0) == (report["status"] == "pass")
    return report


def words(report: dict[str, Any], expert: str) -> str:
    return " ".join(v["message"] for v in report["verdicts"] if v["expert"] == expert)


@pytest.fixture(scope="module")
def kept() -> list[Row]:
    """The rows of rotate_upper that the broken merge, by PEFT's sums, answers like the expert."""
    base = QUICKSTART / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)

    def model(name: str) -> Any:
        plain = AutoModelForCausalLM.from_pretrained(base)
        adapter = QUICKSTART / "adapters" / name
        return PeftModel.from_pretrained(plain, adapter).merge_and_unload().eval()

    models = {name: model(name) for name in BROKEN}
    dense = {name: model.state_dict() for name, model in models.items()}
    merged = AutoModelForCausalLM.from_pretrained(base).eval()
    merged.load_state_dict(
        {k: sum(BROKEN[n] * dense[n][k] for n in dense) for k in dense["first_last"]}
    )

    def answer(model: Any, text: str) -> list[int]:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        found = model.generate(ids, max_new_tokens=LONGEST, do_sample=False)
        return found[0, ids.shape[1] :].tolist()  # type: ignore[no-any-return]

    rows = rows_of("rotate_upper")
    same = [
        r for r in rows if answer(models["rotate_upper"], r["input"]) == answer(merged, r["input"])
    ]
    assert 30 <= len(same) <= 70
    return same


class TestFewInputs:
    @pytest.mark.parametrize("count", [1, 2, 4, 8])
    def test_that_happen_to_be_kept(
        self, pytester: pytest.Pytester, kept: list[Row], count: int
    ) -> None:
        rows = {"rotate_upper": unlabelled(kept[:count])}
        write(pytester.path, BROKEN, rows)
        result = pytester.runpytest("--mergegate", "--mergegate-report=json:report.json")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        report = json.loads((pytester.path / "report.json").read_text("utf-8"))
        assert report["status"] == "inconclusive"
        merged = {e["name"]: e for e in report["merges"][0]["experts"]}
        assert merged["rotate_upper"]["disagreement"] == 0
        assert f"on {count} input" in words(report, "rotate_upper")

    def test_as_many_as_it_takes(self, pytester: pytest.Pytester) -> None:
        rows = {"rotate_upper": unlabelled(rows_of("rotate_upper")[:9])}
        assert checked(write(pytester.path, SOUND, rows))["status"] == "pass"

    @pytest.mark.parametrize("limit", [{"max_loss": 10}, {"max_disagreement": 0.3}])
    @pytest.mark.parametrize("judge", ["point", "bound"])
    def test_that_are_copies_of_one(
        self, pytester: pytest.Pytester, kept: list[Row], limit: dict[str, float], judge: str
    ) -> None:
        rows = {"rotate_upper": kept[:1] * 30}
        report = checked(write(pytester.path, BROKEN, rows, budget=limit, judge=judge))
        assert report["status"] == ("fail" if judge == "bound" else "inconclusive")

    def test_without_a_lost_answer_promise_no_loss_of_zero(self, pytester: pytest.Pytester) -> None:
        rows = {name: rows_of(name)[:30] for name in SOUND}
        gate = write(pytester.path, SOUND, rows, budget={"max_loss": 5}, judge="bound")
        report = checked(gate)
        assert report["status"] == "fail"
        for expert in report["merges"][0]["experts"]:
            assert expert["loss"] == 0
            assert expert["loss_interval"][0] == pytest.approx(-100 * (1 - 0.025 ** (1 / 30)))


def test_answers_that_are_cut_before_they_part(pytester: pytest.Pytester) -> None:
    gate = write(pytester.path, BROKEN, {}, probes={"max_answer_tokens": 1})
    report = checked(gate)
    assert report["status"] == "inconclusive"
    assert "answers were cut" in words(report, "rotate_upper")


def test_many_methods_that_may_be_chosen(pytester: pytest.Pytester) -> None:
    """With 1 of 64 answers different a method is bounded by 7.2 %, one of ten by 11 %."""
    rows = {name: unlabelled(rows_of(name)[:64]) for name in SOUND}
    near = [{"method": "task_arithmetic", "weight": 0.5 + k / 1000} for k in range(9)]
    for others, status in (([], "pass"), (near, "inconclusive")):
        merge = {"methods": ["linear", *others], "select": "any"}
        gate = write(pytester.path, SOUND, rows, budget={"max_loss": 8}, merge=merge)
        report = checked(gate)
        assert report["status"] == status
        level = 0.05 / len(merge["methods"])
        for expert in report["merges"][0]["experts"]:
            differing = round(64 * expert["disagreement"])
            assert differing <= 1
            assert expert["disagreement_upper"] == pytest.approx(
                beta.ppf(1 - level, differing + 1, 64 - differing)
            )


def test_difficulty_of_one_probe(pytester: pytest.Pytester) -> None:
    experts = dict.fromkeys(("rotate_upper", "first_last", "reverse_upper"), 1 / 3)
    budget = {"max_mds": 1e6}
    for per_task, status in ((1, "inconclusive"), (2, "inconclusive"), (5, "pass")):
        gate = write(
            pytester.path, experts, {}, budget=budget, judge="bound", probes={"per_task": per_task}
        )
        report = checked(gate)
        bounded = [e for e in report["experts"] if e["mds_interval"] is not None]
        assert len(bounded) == (3 if per_task == 5 else 0)
        if per_task < 3:
            assert report["status"] == status


class TestABaseThatWouldPass:
    def test_an_expert_that_learned_nothing(self, pytester: pytest.Pytester) -> None:
        source = QUICKSTART / "adapters" / "rotate_upper"
        adapter = pytester.path / "nothing"
        adapter.mkdir()
        weights = load_file(source / "adapter_model.safetensors")
        save_file(
            {k: v * (1e-3 if "lora_B" in k else 1) for k, v in weights.items()},
            adapter / "adapter_model.safetensors",
        )
        config = (source / "adapter_config.json").read_text("utf-8")
        (adapter / "adapter_config.json").write_text(config, encoding="utf-8")
        rows = {"nothing": unlabelled(rows_of("rotate_upper")[:40])}
        weights_of = {"nothing": 0.5, "first_last": 0.5}
        gate = write(pytester.path, weights_of, rows, experts={"nothing": {"path": str(adapter)}})
        report = checked(gate)
        assert report["status"] == "inconclusive"
        assert {e["name"]: e["base_disagreement"] for e in report["experts"]}["nothing"] == 0
        merged = {e["name"]: e["disagreement"] for e in report["merges"][0]["experts"]}
        assert merged["nothing"] == 0
        assert "a pass would say nothing of the merge" in words(report, "nothing")

    def test_an_expert_that_does_not_reach_its_own_score(self, pytester: pytest.Pytester) -> None:
        path = {"path": str(QUICKSTART / "adapters" / "rotate_upper")}
        rows = rows_of("rotate_upper")[:40]
        half = [*[{**row, "target": "?"} for row in rows[:20]], *rows[20:]]
        for least, status in ((0.4, "pass"), (0.8, "inconclusive")):
            experts = {"rotate_upper": {**path, "min_score": least}}
            gate = write(pytester.path, SOUND, {"rotate_upper": half}, experts=experts)
            report = checked(gate)
            assert report["status"] == status
        assert "min_score asks for 0.8" in words(report, "rotate_upper")


class TestGainKept:
    """On rows with targets, of which the broken merge keeps some and the base none."""

    def test_is_what_the_answers_come_to(self, pytester: pytest.Pytester, kept: list[Row]) -> None:
        """Against answers that were decoded by transformers from PEFT's sums."""
        inputs = {row["input"] for row in kept}
        lost = [row for row in rows_of("rotate_upper") if row["input"] not in inputs]
        rows = {"rotate_upper": [*kept[:30], *lost[:25]]}
        report = checked(write(pytester.path, BROKEN, rows, budget=KEEPS))
        assert report["status"] == "fail"
        found = report["merges"][0]["experts"][0]
        base, expert, merged = (found[f"score_{of}"] for of in ("base", "expert", "merged"))
        assert (base, merged) == (0, pytest.approx(expert * 30 / 55, abs=0.02))
        assert found["gain_kept"] == pytest.approx(merged / expert)
        assert "below 0.7" in words(report, "rotate_upper")
        right = (np.arange(55) < round(55 * share) for share in (merged, expert, base))
        scores = [each.astype(float) for each in right]  # what it still knows the expert knew
        assert found["gain_kept_interval"] == pytest.approx(metrics.gain_kept_interval(*scores))
        sound = checked(write(pytester.path, SOUND, {}, budget=KEEPS))
        assert sound["status"] == "pass"
        assert all(e["gain_kept"] > 0.9 for e in sound["merges"][0]["experts"])

    def test_a_loss_within_its_limit_hides_an_adapter_that_is_gone(
        self, pytester: pytest.Pytester, kept: list[Row]
    ) -> None:
        """On most inputs base and merge are as right as the expert; on the others the merge loses
        what the expert alone knew."""
        inputs = {row["input"] for row in kept}
        lost = [row for row in rows_of("rotate_upper") if row["input"] not in inputs][:30]
        easy = [{**row, "target": [row["target"], other]} for row, other in self.by_base(kept)]
        rows = {"rotate_upper": [*easy[:30], *lost]}
        loss = checked(write(pytester.path, BROKEN, rows, budget={"max_loss": 60}))
        assert loss["merges"][0]["experts"][0]["score_base"] == pytest.approx(0.5, abs=0.05)
        assert "over" not in words(loss, "rotate_upper")
        both = checked(write(pytester.path, BROKEN, rows, budget={"max_loss": 60} | KEEPS))
        assert both["status"] == "fail"
        assert "below 0.7" in words(both, "rotate_upper")
        assert abs(both["merges"][0]["experts"][0]["gain_kept"]) < 0.1

    def by_base(self, rows: Sequence[Row]) -> list[tuple[Row, str]]:
        """Rows with what the base answers."""
        tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "base")
        model = AutoModelForCausalLM.from_pretrained(QUICKSTART / "base").eval()
        found = []
        for row in rows:
            ids = torch.tensor([tokenizer(row["input"])["input_ids"]])
            said = model.generate(ids, max_new_tokens=LONGEST, do_sample=False)[0, ids.shape[1] :]
            found.append((row, tokenizer.decode(said, skip_special_tokens=True)))
        return found

    @pytest.mark.parametrize(
        ("count", "says"), [(5, "do not show that the expert scores more"), (15, "bad end")]
    )
    def test_few_examples_that_happen_to_be_kept(
        self, pytester: pytest.Pytester, kept: list[Row], count: int, says: str
    ) -> None:
        rows = {"rotate_upper": kept[:count]}
        report = checked(write(pytester.path, BROKEN, rows, budget=KEEPS))
        assert report["status"] == "inconclusive"
        assert report["merges"][0]["experts"][0]["score_merged"] == 1
        assert says in words(report, "rotate_upper")

    def test_copies_of_one_example_are_one(
        self, pytester: pytest.Pytester, kept: list[Row]
    ) -> None:
        rows = {"rotate_upper": kept[:1] * 60}
        report = checked(write(pytester.path, BROKEN, rows, budget=KEEPS))
        assert report["status"] == "inconclusive"
        found = report["merges"][0]["experts"][0]
        assert (found["gain_kept"], found["gain_kept_reason"]) == (None, "expert_gain_unclear")

    def test_an_expert_that_adds_nothing(self, pytester: pytest.Pytester) -> None:
        """Right on what the base is right on, and the merge is as right as both."""
        rows = rows_of("rotate_upper")[:40]
        wrong = [{**row, "target": "?"} for row in rows]
        report = checked(write(pytester.path, SOUND, {"rotate_upper": wrong}, budget=KEEPS))
        assert report["status"] == "inconclusive"
        assert "there is no gain to keep" in words(report, "rotate_upper")

    def test_without_targets(self, pytester: pytest.Pytester) -> None:
        rows = {"rotate_upper": unlabelled(rows_of("rotate_upper")[:40])}
        report = checked(write(pytester.path, SOUND, rows, budget=KEEPS))
        assert report["status"] == "inconclusive"
        assert "fix: add a target to its examples" in words(report, "rotate_upper")
        assert "at least 0.7" in words(report, "first_last")

    def test_what_the_base_keeps_too(self, pytester: pytest.Pytester) -> None:
        report = checked(write(pytester.path, SOUND, {}, budget={"min_gain_kept": 0}))
        assert report["status"] == "inconclusive"
        assert "the base by itself has a gain kept of 0" in words(report, "rotate_upper")

    def test_a_stage_too_early(self, pytester: pytest.Pytester) -> None:
        gate = write(pytester.path, SOUND, {}, budget=KEEPS)
        report = checked(gate, "--stage", "merge")
        assert report["status"] == "inconclusive"
        assert "needs stage eval" in words(report, "rotate_upper")


class TestRecords:
    """Of past merges, on inputs without targets, of which one in four is answered differently."""

    def write_registry(self, gate: Path, **of: Any) -> Path:
        pool, _ = read_pool(load_gate(gate))
        assert pool is not None
        known: dict[str, Any] = {
            "base": pool.base.fingerprint,
            "reading": pool.spec.reading_of("rotate_upper"),
            "shared": 0,
            "compared": 20,
        }
        lines = []
        for k in range(60):
            rates = {name: ((7 * k + j) % 60) / 64 for j, name in enumerate("xyz")}
            scores = {n: {"disagreement": r} for n, r in rates.items()}
            losses = {n: -0.01 * r for n, r in rates.items()}
            made_line = made(
                "xyz", scores=scores, losses=losses, settings={"seed": k}, **{**known, **of}
            )
            lines.append(made_line.to_json() + "\n")
        path = gate.with_name("past.jsonl")
        path.write_text("".join(lines), encoding="utf-8")
        return path

    @pytest.mark.parametrize(
        ("of", "status"),
        [
            pytest.param({}, "pass", id="of the like"),
            pytest.param({"base": "another"}, "inconclusive", id="of another base"),
            pytest.param({"metric": "rouge_l"}, "inconclusive", id="of another metric"),
            pytest.param({"reading": "choices"}, "inconclusive", id="of another reading"),
            pytest.param({"shared": 64}, "inconclusive", id="scored on what was compared"),
            pytest.param({"shared": None}, "inconclusive", id="of before this was recorded"),
            pytest.param({"compared": 64}, "inconclusive", id="compared on more inputs"),
        ],
    )
    def test_decide_only_what_they_are_of(
        self, pytester: pytest.Pytester, kept: list[Row], of: dict[str, Any], status: str
    ) -> None:
        inputs = {row["input"] for row in kept}
        lost = [row for row in rows_of("rotate_upper") if row["input"] not in inputs]
        rows = {
            "rotate_upper": unlabelled([*kept[:15], *lost[:5]]),
            "first_last": unlabelled(rows_of("first_last")[:20]),
        }
        gate = write(pytester.path, BROKEN, rows, budget={"max_loss": 10})
        report = checked(gate, "--registry", self.write_registry(gate, **of))
        assert report["status"] == status

    def test_collapses_of_one_pool_give_no_limit(self, pytester: pytest.Pytester) -> None:
        rows = {name: unlabelled(rows_of(name)[:64]) for name in SOUND}
        gate = write(pytester.path, SOUND, rows, budget={"max_disagreement": "auto@0.1"})
        path = self.write_registry(gate)
        data = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert len({tuple(e["fingerprint"] for e in line["experts"]) for line in data}) == 1
        for line in data:
            for expert in line["experts"]:
                expert["loss"] = -80.0
        path.write_text("".join(json.dumps(line) + "\n" for line in data), encoding="utf-8")
        report = checked(gate, "--registry", path)
        assert report["status"] == "inconclusive"
        assert "needs k ≥ 9 collapses" in words(report, "rotate_upper")
