"""Gates compared with a committed report: what passes, what fails, and what is never compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pools import (
    Adapter,
    apart,
    edit_adapter_config,
    examples,
    never_end,
    read_gate,
    write_adapter,
    write_gate,
    write_jsonl,
)
from pools import write_pool as write_new_pool

from plugin.test_cli import mergegate
from pytest_mergegate import Report, assess
from pytest_mergegate.report.baseline import read_baseline, update_baseline

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("any_base")

INCREASES = {"max_mds_increase": 0.0, "max_loss_increase": 0.0}
ABSOLUTE = {"max_mds": 1e9, "max_disagreement": 1.0}
ON = ("--mergegate", "--mergegate-baseline=baseline.json")
METRIC = """
def few(outputs, targets):  # random experts score, too
    return [1 / (1 + len(set(output))) for output in outputs]
"""
UPDATE = "--mergegate-update-baseline"


@pytest.fixture(scope="session")
def pool_of_four(tmp_path_factory: pytest.TempPathFactory, seed: int, shared_pool: Path) -> Path:
    """Experts a to d with enough examples for a loss, which for c can only be certified; not to be
    written to."""
    folder = tmp_path_factory.mktemp("four")
    probes = {"per_task": 4, "max_answer_tokens": 6}
    merge = {"methods": [{"method": "task_arithmetic", "weight": 0.5}]}
    adapters = apart("abcd") | {"c": Adapter(scale=0.3, examples="unlabelled")}
    gate = write_new_pool(folder, seed, adapters, count=30, probes=probes, merge=merge)
    (folder / "metric.py").write_text(METRIC, "utf-8")
    experts = read_gate(gate)["experts"]
    edit(
        gate, experts={name: expert | {"metric": "metric:few"} for name, expert in experts.items()}
    )
    return gate


@pytest.fixture
def pool(pool_of_four: Path, pytester: pytest.Pytester) -> Path:
    """A copy in the folder where pytester runs, of a, b and c."""
    shutil.copytree(pool_of_four.parent, pytester.path, dirs_exist_ok=True)
    for adapter in pytester.path.glob("adapters/*"):
        edit_adapter_config(adapter, base_model_name_or_path=str(pytester.path / "base"))
    path = pytester.path / "mergegate.yaml"
    edit(path, without="d", budget=INCREASES)
    return path


def edit(path: Path, *, without: str = "", **changes: Any) -> None:
    """Change keys of a gate file."""
    gate = read_gate(path) | changes
    gate["experts"] = {n: e for n, e in gate["experts"].items() if n not in without}
    write_gate(path, gate)


def add_back(path: Path, name: str) -> None:
    """The fourth expert again."""
    experts = read_gate(path)["experts"]
    experts[name] = experts["a"] | {"path": f"adapters/{name}", "examples": f"data/{name}.jsonl"}
    edit(path, experts=experts)


def retrain(path: Path, name: str, scale: float) -> None:
    """Another adapter in the place of ``name``."""
    folder = path.parent / "adapters" / name
    shutil.rmtree(folder)
    write_adapter(path.parent / "base", folder, 77, Adapter(scale=scale))


def compared(path: Path, **budget: float) -> Report:
    """The gate beside its baseline."""
    return assess(path, root=path.parent, baseline="baseline.json", **budget)


def commit(path: Path) -> bytes:
    """Write the gate's baseline, of everything that there is to compare."""
    file = path.parent / "baseline.json"
    found = assess(path, root=path.parent)
    assert update_baseline(read_baseline(file, path.parent), [found])
    return file.read_bytes()


def statuses(report: Report, budget: str) -> dict[str, str]:
    return {v.expert or "": v.status for v in report.verdicts if v.budget == budget}


class TestARound:
    def test_written_passed_and_rewritten(self, pytester: pytest.Pytester, pool: Path) -> None:
        file = pytester.path / "baseline.json"
        first = pytester.runpytest(*ON, UPDATE)
        assert first.ret == pytest.ExitCode.TESTS_FAILED  # there was nothing to compare with
        first.stdout.fnmatch_lines(
            ["*MDS increase undecided: there is no baseline *", "baseline baseline.json: 1 added"]
        )
        written = file.read_bytes()
        assert pytester.runpytest(*ON).ret == pytest.ExitCode.OK
        again = pytester.runpytest(*ON, UPDATE)
        assert again.ret == pytest.ExitCode.OK
        again.stdout.fnmatch_lines(["baseline baseline.json: 1 unchanged"])
        assert mergegate("check", pool, "--baseline=baseline.json", "--update-baseline") == 0
        assert file.read_bytes() == written
        edit(pool, budget={"max_disagreement": 0.0})  # no update makes a failing gate pass
        assert pytester.runpytest(*ON, UPDATE).ret == pytest.ExitCode.TESTS_FAILED

    def test_worse_weights_fail_and_are_accepted_by_an_update(
        self, pytester: pytest.Pytester, pool: Path
    ) -> None:
        commit(pool)
        retrain(pool, "a", 3.0)
        result = pytester.runpytest(*ON, UPDATE, "--mergegate-report=json:report.json")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*: MDS increase * over 0 (MDS *, * before; moved most: *"])
        baseline = json.loads((pytester.path / "report.json").read_text("utf-8"))["baseline"]
        assert (baseline["comparable"], baseline["changed"]) == (True, ["a"])
        pairs = {(c["expert"], c["other"]) for c in baseline["changes"] if c["other"]}
        assert {("a", "b"), ("a", "c")} <= pairs
        assert pytester.runpytest(*ON).ret == pytest.ExitCode.OK

    def test_under_xdist_and_of_one_gate_alone(self, pytester: pytest.Pytester, pool: Path) -> None:
        shutil.copy(pool, pytester.path / "other.mergegate.yaml")
        file = pytester.path / "baseline.json"
        pytester.runpytest(*ON, UPDATE, "-n2")
        both = json.loads(file.read_text("utf-8"))["reports"]
        assert [r["gate"] for r in both] == ["mergegate.yaml", "other.mergegate.yaml"]
        assert pytester.runpytest(*ON).ret == pytest.ExitCode.OK
        retrain(pool, "a", 3.0)
        pytester.runpytest(*ON, UPDATE, "-k", "other and pool")
        one, other = json.loads(file.read_text("utf-8"))["reports"]
        assert one == both[0]
        assert other["experts"][0]["fingerprint"] != both[1]["experts"][0]["fingerprint"]

    def test_an_error_leaves_the_good_entry(self, pytester: pytest.Pytester, pool: Path) -> None:
        before = commit(pool)
        shutil.rmtree(pool.parent / "adapters" / "b")
        result = pytester.runpytest(*ON, UPDATE)
        assert result.ret == pytest.ExitCode.INTERRUPTED
        result.stdout.fnmatch_lines(["*mergegate.yaml is left as it was: *not be computed"])
        assert (pytester.path / "baseline.json").read_bytes() == before


class TestTheExperts:
    def test_one_more_leaves_the_others_comparable(self, pool: Path) -> None:
        commit(pool)
        add_back(pool, "d")
        report = compared(pool, **ABSOLUTE)
        assert report.baseline is not None
        assert (report.baseline.added, report.baseline.removed) == (("d",), ())
        # scores of the whole pool have changed; among those that both have, none has
        old = assess(pool, root=pool.parent, max_mds=1e9)
        assert {e.name: e.mds for e in report.experts} == {e.name: e.mds for e in old.experts}
        assert statuses(report, "max_mds_increase") == dict.fromkeys("abc", "pass")
        assert all(v.value == 0 for v in report.verdicts if v.budget == "max_mds_increase"), (
            "recomputed on the probes and the experts of the baseline"
        )
        assert {c.quantity for c in report.baseline.changes} <= {"loss", "disagreement"}
        assert set(statuses(report, "max_loss_increase")) == set("abc")
        assert [f.expert for f in report.findings if f.code == "MG602"] == ["d"]

    def test_a_new_one_is_judged_by_something(self, pool: Path) -> None:
        commit(pool)
        add_back(pool, "d")
        report = compared(pool)  # increases alone say nothing of it
        assert statuses(report, "max_mds_increase")["d"] == "inconclusive"
        assert statuses(report, "max_loss_increase")["d"] == "inconclusive"
        assert report.status != "pass"

    def test_one_less_leaves_losses_comparable(self, pool: Path) -> None:
        add_back(pool, "d")
        commit(pool)
        edit(pool, without="d", merge={"methods": [{"method": "linear"}]})
        report = compared(pool)
        assert report.baseline is not None
        assert report.baseline.removed == ("d",)
        assert set(statuses(report, "max_mds_increase").values()) == {"inconclusive"}
        (warned,) = [f for f in report.findings if f.code == "MG601"]
        assert "also had d" in warned.message

    def test_none_of_them(self, pool: Path) -> None:
        commit(pool)
        gate = read_gate(pool)
        write_gate(pool, gate | {"experts": {n * 2: e for n, e in gate["experts"].items()}})
        report = compared(pool, **ABSOLUTE)
        assert set(statuses(report, "max_mds_increase")) == {"aa", "bb", "cc"}
        assert set(statuses(report, "max_loss_increase").values()) == {"inconclusive"}


CHANGES: dict[str, dict[str, Any]] = {
    "probes.seed": {"probes": {"per_task": 4, "max_answer_tokens": 6, "seed": 1}},
    "probes.drawn_per_task": {"probes": {"per_task": 5, "max_answer_tokens": 6}},
    "probes.normalize": {"probes": {"per_task": 4, "max_answer_tokens": 6, "normalize": "none"}},
    "probes.positions": {"probes": {"per_task": 4, "max_answer_tokens": 6, "positions": "last"}},
    "probes.max_answer_tokens": {"probes": {"per_task": 4, "max_answer_tokens": 5}},
    "certificate.confidence": {"certificate": {"confidence": 0.9}},
    "merge.weights": {
        "merge": {"methods": [{"method": "task_arithmetic", "weight": 0.5}], "weights": "optimal"}
    },
    "dtype": {"dtype": "bfloat16"},
}


class TestNotComparable:
    @pytest.mark.parametrize("setting", CHANGES)
    def test_other_settings(self, pool: Path, setting: str) -> None:
        commit(pool)
        edit(pool, **CHANGES[setting])
        self.refused(pool, f"other settings: {setting}")

    def test_answers_that_were_allowed_to_be_longer(self, pool: Path) -> None:
        never_end(pool.parent / "base", positions=120)
        edit(pool, probes={"per_task": 4})
        commit(pool)
        edit(pool, probes={"per_task": 4, "max_answer_tokens": 64})
        self.refused(pool, "other settings: probes.max_answer_tokens 128 then, 64 now")

    def test_other_examples(self, pool: Path) -> None:
        commit(pool)
        write_jsonl(pool.parent / "data" / "b.jsonl", examples("b", "plain", 31, 5))
        self.refused(pool, "other settings: examples of b")

    def test_another_base(self, pool: Path) -> None:
        commit(pool)
        config = pool.parent / "base" / "config.json"
        config.write_text(config.read_text("utf-8").replace("1e-06", "1e-05"), "utf-8")
        self.refused(pool, "another base")

    def test_an_older_report_that_does_not_say(self, pool: Path) -> None:
        commit(pool)
        file = pool.parent / "baseline.json"
        data = json.loads(file.read_text("utf-8"))
        del data["reports"][0]["settings"]["examples"]
        file.write_text(json.dumps(data), "utf-8")
        self.refused(pool, "examples of a")

    @staticmethod
    def refused(pool: Path, why: str) -> None:
        """No increase is decided, and, where none is asked for, the difference is a warning."""
        report = compared(pool, **ABSOLUTE)
        assert report.baseline is not None
        assert not report.baseline.comparable
        assert why in str(report.baseline.reason)
        assert report.baseline.changes == ()
        assert report.status == "inconclusive"
        for budget in INCREASES:
            assert statuses(report, budget) == dict.fromkeys("abc", "inconclusive")
        assert why in next(v.message for v in report.verdicts if v.budget == "max_mds_increase")
        edit(pool, budget=ABSOLUTE)
        warned = compared(pool)
        assert warned.status == "pass"
        (finding,) = [f for f in warned.findings if f.code == "MG601"]
        assert (finding.severity, why in finding.message) == ("warning", True)


class TestTheFile:
    def test_none_given(self, pytester: pytest.Pytester, pool: Path) -> None:
        result = pytester.runpytest("--mergegate")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*undecided: it takes a baseline, and none was given*"])

    def test_the_ini_twin(self, pytester: pytest.Pytester, pool: Path) -> None:
        commit(pool)
        pytester.makeini("[pytest]\nmergegate_baseline = baseline.json")
        assert pytester.runpytest("--mergegate").ret == pytest.ExitCode.OK

    def test_cut_short(self, pytester: pytest.Pytester, pool: Path) -> None:
        cut = commit(pool)[:-200]
        (pytester.path / "baseline.json").write_bytes(cut)
        for update in ((), (UPDATE,)):
            result = pytester.runpytest_subprocess(*ON, *update)
            assert result.ret == 2
            result.stderr.fnmatch_lines(["*mergegate: baseline.json: this is no baseline: *"])
            assert "Traceback" not in result.stderr.str()
        assert mergegate("check", pool, "--baseline=baseline.json", "--update-baseline") == 2
        assert (pytester.path / "baseline.json").read_bytes() == cut

    @pytest.mark.parametrize(
        "options", [("--update-baseline",), ("--baseline=adapters",), ("--baseline",)]
    )
    def test_bad_options(
        self, pytester: pytest.Pytester, pool: Path, options: tuple[str, ...]
    ) -> None:
        assert mergegate("check", pool, *options) == 4
        own = [option.replace("--", "--mergegate-") for option in options]
        assert pytester.runpytest("--mergegate", *own).ret == 4

    def test_other_limits_need_no_model(self, pool: Path) -> None:
        for name in "ab":  # a metric of the user's own is asked anew in every run
            write_jsonl(pool.parent / "data" / f"{name}.jsonl", examples(name, "unlabelled", 30, 5))
        commit(pool)
        edit(pool, budget={"max_mds_increase": 0.5, "max_loss_increase": 1.0})
        code = (
            "import sys; from pytest_mergegate.verdict import judge; "
            "judge.why_vacuous = lambda *_: ''; "  # as the fixture any_base
            "from pytest_mergegate.cli import main; "
            f"code = main(['check', {str(pool)!r}, '--baseline', 'baseline.json']); "
            "assert 'torch' not in sys.modules; sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code], check=False, cwd=pool.parent)
        assert done.returncode == 0
