"""What is kept between runs is used, and only as long as it is what a run would compute."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pools import Adapter, apart, read_jsonl, write_jsonl, write_pool
from reports import lasting, same
from safetensors.numpy import load, load_file, save_file

from plugin.gates import Gates
from pytest_mergegate.cli import main
from pytest_mergegate.engine.running.cache import FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PROBES: dict[str, Any] = {"per_task": 3, "max_answer_tokens": 6}
"""One block of probes per task."""
BUDGET = {"max_mds": 1e9}
"""Held by any pool, however far its experts are from each other."""
SPY = """
import sys

def pytest_unconfigure():
    loaded = {"torch", "transformers", "peft", "mergekit"} & set(sys.modules)
    print("loaded:", *sorted(loaded), file=sys.__stdout__, flush=True)
"""


class Runs:
    """Runs the gates of a folder against a cache of their own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.folder = pytester.path / "kept"

    def report(self, *options: str, cache: bool = True) -> dict[str, Any]:
        """The report of a run in this process."""
        self._options(self.pytester.runpytest, options, cache=cache)
        return self._read()

    def in_process_of_its_own(self, *options: str) -> tuple[dict[str, Any], str]:
        """The report of a run in a fresh interpreter, and which heavy packages it loaded."""
        self.pytester.makepyfile(spy=SPY)
        result = self._options(
            self.pytester.runpytest_subprocess, ("-p", "spy", *options), cache=True
        )
        line = next(line for line in result.outlines if line.startswith("loaded:"))
        return self._read(), line.removeprefix("loaded:").strip()

    def entries(self) -> set[Path]:
        return set(self.folder.rglob("*.safetensors"))

    def _options(self, run: Callable[..., Any], options: tuple[str, ...], *, cache: bool) -> Any:
        (self.pytester.path / "report.json").unlink(missing_ok=True)
        where = f"--mergegate-cache={self.folder}" if cache else "--mergegate-no-cache"
        return run("--mergegate", "--mergegate-report=json:report.json", where, *options)

    def _read(self) -> dict[str, Any]:
        text = (self.pytester.path / "report.json").read_text("utf-8")
        report: dict[str, Any] = json.loads(text)
        return report


@pytest.fixture
def runs(pytester: pytest.Pytester) -> Runs:
    return Runs(pytester)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A pool of four."""
    return write_pool(tmp_path_factory.mktemp("four"), seed, apart("abcd"))


def gate(gates: Gates, **more: Any) -> Path:
    return gates.write(**{"budget": BUDGET, "probes": PROBES, **more})


def kinds(entries: set[Path]) -> dict[str, int]:
    """How many entries hold states, answers or plain data."""
    found = {"states": 0, "answers": 0, "json": 0}
    for entry in entries:
        arrays = load(entry.read_bytes())
        if "rows" not in arrays:
            found["json"] += 1
        else:
            found["states" if arrays["rows"].dtype == np.float32 else "answers"] += 1
    return found


class TestAWarmRun:
    @pytest.mark.slow
    def test_has_only_hits_and_loads_no_model(self, gates: Gates, runs: Runs) -> None:
        gate(gates)
        cold, loaded = runs.in_process_of_its_own()
        assert "torch" in loaded.split()
        assert cold["status"] == "pass"
        assert cold["cache"]["misses"] == len(runs.entries()) > 0
        warm, loaded = runs.in_process_of_its_own()
        assert loaded == ""
        assert warm["cache"] == {"hits": cold["cache"]["misses"], "misses": 0}
        gate(gates, budget={"max_mds": 1e8})
        other, loaded = runs.in_process_of_its_own()
        assert loaded == ""
        assert other["cache"] == warm["cache"]
        assert other["verdicts"][0]["limit"] == 1e8

    def test_says_the_same(self, gates: Gates, runs: Runs) -> None:
        gate(gates)
        cold, warm, none = runs.report(), runs.report(), runs.report(cache=False)
        assert cold["cache"]["misses"] > 0
        assert warm["cache"]["misses"] == 0
        assert none["cache"]["hits"] == 0
        assert lasting(cold) == lasting(warm) == lasting(none)

    def test_says_the_same_of_a_failure(self, gates: Gates, runs: Runs) -> None:
        gate(gates, budget={"max_mds": 0.5})
        cold, warm, none = runs.report(), runs.report(), runs.report(cache=False)
        assert cold["status"] == "fail"
        assert (cold["cache"]["misses"] > 0, warm["cache"]["misses"]) == (True, 0)
        assert lasting(cold) == lasting(warm) == lasting(none)

    def test_says_the_same_of_a_merge(self, gates: Gates, runs: Runs) -> None:
        gate(gates, budget={"max_mds": 1e9, "max_disagreement": 1.0, "max_loss": 100.0})
        cold, warm, none = runs.report(), runs.report(), runs.report(cache=False)
        assert cold["merges"]
        assert (cold["cache"]["misses"] > 0, warm["cache"]["misses"]) == (True, 0)
        assert lasting(cold) == lasting(warm) == lasting(none)


READINGS: list[dict[str, Any]] = [
    {"stop": ["a", "e", "i", "o", "u", "="]},
    {"metric": "accuracy"},
    {"metric": "accuracy", "length_normalization": "bytes"},
    {"metric": "accuracy", "length_normalization": "tokens"},
]


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    """A pool whose examples have choices of one to four letters."""
    adapters = {name: Adapter(examples="choices") for name in "abc"}
    return write_pool(tmp_path_factory.mktemp("choices"), seed, adapters, count=12)


@pytest.mark.parametrize("first", range(len(READINGS)))
def test_another_reading_is_noticed(
    gates: Gates, pytester: pytest.Pytester, runs: Runs, choices: Path, first: int
) -> None:
    """What was kept under one reading is not served for another."""
    of_choices = Gates(shared=choices, folder=pytester.path)
    budget = {"max_disagreement": 1.0, "max_loss": 100.0}
    for reading in (READINGS[first - 1], READINGS[first]):
        experts = {name: of_choices.expert(name, **reading) for name in "abc"}
        gate(of_choices, experts=experts, budget=budget)
        report = runs.report()
    assert report["merges"]
    same(report, runs.report(cache=False))


class TestAChangedPool:
    def test_a_new_expert_is_all_that_runs(
        self, gates: Gates, four: Path, runs: Runs, pytester: pytest.Pytester
    ) -> None:
        of_four = Gates(shared=four, folder=pytester.path)
        gate(of_four, names="abc")
        runs.report()
        before = runs.entries()
        assert kinds(before) | {"json": 0} == {"answers": 3, "states": 4 * 3, "json": 0}
        gate(of_four, names="abcd")
        more = runs.report()
        new = runs.entries() - before
        # d's own answers; the base and a, b, c on d's inputs; d on all inputs
        assert kinds(new) | {"json": 0} == {"answers": 1, "states": 4 + 4, "json": 0}
        assert more["cache"]["misses"] == len(new)
        same(more, runs.report(cache=False))

    def test_one_less_runs_nothing(
        self, gates: Gates, four: Path, runs: Runs, pytester: pytest.Pytester
    ) -> None:
        of_four = Gates(shared=four, folder=pytester.path)
        gate(of_four, names="abcd")
        runs.report()
        before = runs.entries()
        gate(of_four, names="abd")
        less = runs.report()
        new = runs.entries() - before
        assert kinds(new) | {"json": 0} == {"answers": 0, "states": 0, "json": 0}
        assert less["cache"]["misses"] == len(new)
        same(less, runs.report(cache=False))

    def test_a_name_does_not_matter(self, gates: Gates, runs: Runs) -> None:
        """Nor does it identify: what was a's is not served as b's."""
        gate(gates)
        runs.report()
        before = runs.entries()
        swapped = {"a": "b", "b": "a", "c": "c"}
        paths = {name: gates.expert(other)["path"] for name, other in swapped.items()}
        gate(gates, experts={name: gates.expert(name, path=paths[name]) for name in "abc"})
        report = runs.report()
        assert kinds(runs.entries() - before)["answers"] == 2
        same(report, runs.report(cache=False))


def change_tensors(file: Path) -> None:
    tensors = load_file(file)
    save_file({k: v * np.float32(1.3) for k, v in tensors.items()}, file, {"format": "pt"})


def change_adapter(pool: Path) -> dict[str, Any]:
    change_tensors(pool / "adapters" / "b" / "adapter_model.safetensors")
    return {}


def change_adapter_settings(pool: Path) -> dict[str, Any]:
    from pools import edit_adapter_config

    edit_adapter_config(pool / "adapters" / "b", lora_alpha=3)
    return {}


def change_base(pool: Path) -> dict[str, Any]:
    change_tensors(pool / "base" / "model.safetensors")
    return {}


def change_base_settings(pool: Path) -> dict[str, Any]:
    file = pool / "base" / "config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(config | {"rms_norm_eps": 0.3}), encoding="utf-8")
    return {}


def change_tokenizer(pool: Path) -> dict[str, Any]:
    file = pool / "base" / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["="] = vocabulary["="], vocabulary["a"]
    file.write_text(json.dumps(tokenizer), encoding="utf-8")
    return {}


def change_input(pool: Path) -> dict[str, Any]:
    file = pool / "data" / "b.jsonl"
    rows = read_jsonl(file)
    for row in rows:
        row["input"] = row["input"].replace("=", "z=")
    write_jsonl(file, rows)
    return {}


def fewer_inputs(pool: Path) -> dict[str, Any]:
    file = pool / "data" / "b.jsonl"
    write_jsonl(file, read_jsonl(file)[:2])
    return {}


CHANGES: list[Callable[[Path], dict[str, Any]]] = [
    change_adapter,
    change_adapter_settings,
    change_base,
    change_base_settings,
    change_tokenizer,
    change_input,
    lambda _: {"probes": PROBES | {"max_answer_tokens": 2}},
    lambda _: {"probes": PROBES | {"positions": "mean"}},
    lambda _: {"probes": PROBES | {"per_task": 2}},
    lambda _: {"probes": PROBES | {"seed": 5}},
    lambda _: {"probes": PROBES | {"normalize": "none"}},
    fewer_inputs,
]
NAMES = (
    "adapter, adapter's settings, base, base's settings, tokenizer, input, max_answer_tokens, "
    "positions, per_task, seed, normalize, fewer inputs"
)


@pytest.mark.parametrize("change", CHANGES, ids=NAMES.split(", "))
def test_a_change_is_noticed(
    gates: Gates,
    pool_copy: Path,
    pytester: pytest.Pytester,
    runs: Runs,
    change: Callable[[Path], dict[str, Any]],
) -> None:
    of_copy = Gates(shared=pool_copy, folder=pytester.path)
    gate(of_copy)
    before = runs.report()
    gate(of_copy, **change(pool_copy.parent))
    assert_noticed(runs, before)


def assert_noticed(runs: Runs, before: dict[str, Any]) -> None:
    after = runs.report()
    assert before["status"] == after["status"] == "pass"
    assert after["pairs"] != before["pairs"]
    same(after, runs.report(cache=False))


class TestWhereNoAnswerIsForced:
    """There the answers do not tell one entry from another."""

    def test_changed_inputs_are_noticed(
        self, gates: Gates, pool_copy: Path, pytester: pytest.Pytester, runs: Runs
    ) -> None:
        of_copy = Gates(shared=pool_copy, folder=pytester.path)
        gate(of_copy, probes=PROBES | {"positions": "mean"})
        before = runs.report()
        assert kinds(runs.entries())["answers"] == 0
        change_input(pool_copy.parent)
        assert_noticed(runs, before)

    def test_other_positions_are_noticed(self, gates: Gates, runs: Runs) -> None:
        gate(gates, probes=PROBES | {"positions": "mean"})
        before = runs.report()
        gate(gates, probes=PROBES | {"positions": "last"})
        assert_noticed(runs, before)
        assert kinds(runs.entries())["answers"] == 0


class TestDamage:
    def test_is_told_of_and_mended(self, gates: Gates, runs: Runs, seed: int) -> None:
        gate(gates)
        cold = runs.report()
        rng = np.random.default_rng(seed)
        for entry in runs.entries():
            file = bytearray(entry.read_bytes())
            file[int(rng.integers(8, len(file)))] ^= 1 << int(rng.integers(8))
            entry.write_bytes(file)
        poisoned = runs.report()
        told = [f for f in poisoned["findings"] if f["code"] == "MG501"]
        assert told
        assert {f["severity"] for f in told} == {"warning"}
        assert poisoned["cache"] == cold["cache"]
        assert lasting(poisoned) == lasting(cold)
        mended = runs.report()
        assert mended["cache"]["misses"] == 0
        assert mended["findings"] == cold["findings"]

    def test_swapped_entries(self, gates: Gates, runs: Runs) -> None:
        gate(gates)
        cold = runs.report()
        states = sorted(e for e in runs.entries() if "rows" in load(e.read_bytes()))
        contents = [entry.read_bytes() for entry in states]
        for entry, content in zip(states, contents[1:] + contents[:1], strict=True):
            entry.write_bytes(content)
        poisoned = runs.report()
        (told,) = [f for f in poisoned["findings"] if f["code"] == "MG501"]
        assert "it belongs to another key" in told["message"]
        assert lasting(poisoned) == lasting(cold)

    def test_a_folder_in_the_way(self, gates: Gates, runs: Runs) -> None:
        gate(gates)
        runs.folder.mkdir()
        (runs.folder / FORMAT).write_text("mine", encoding="utf-8")
        report = runs.report()
        assert {f["code"] for f in report["findings"]} >= {"MG501"}
        assert report["status"] == "pass"
        assert lasting(report) == lasting(runs.report(cache=False))


class TestOptions:
    def test_the_folder_by_ini_is_from_the_rootdir(
        self, pytester: pytest.Pytester, gates: Gates
    ) -> None:
        gates.passing("deep/mergegate.yaml")
        pytester.makeini("[pytest]\nmergegate_cache = by-ini")
        gate(gates, names="abc")
        assert pytester.runpytest("--mergegate", "mergegate.yaml").ret == 0
        assert list((pytester.path / "by-ini").rglob("*.safetensors"))

    def test_the_option_comes_before_the_ini(
        self, pytester: pytest.Pytester, gates: Gates, runs: Runs
    ) -> None:
        pytester.makeini("[pytest]\nmergegate_cache = by-ini")
        gate(gates)
        runs.report()
        assert runs.entries()
        assert not (pytester.path / "by-ini").exists()

    @pytest.mark.parametrize("how", ["option", "ini"])
    def test_no_cache_leaves_nothing(
        self, pytester: pytest.Pytester, gates: Gates, runs: Runs, how: str
    ) -> None:
        pytester.makeini(f"[pytest]\nmergegate_no_cache = {str(how == 'ini').lower()}")
        gate(gates)
        more = ["--mergegate-no-cache"] if how == "option" else []
        assert runs.report(*more)["cache"]["hits"] == 0
        assert not runs.folder.exists()

    def test_the_size_holds(self, pytester: pytest.Pytester, gates: Gates, runs: Runs) -> None:
        pytester.makeini("[pytest]\nmergegate_cache_size = 20 KB")
        gate(gates)
        report = runs.report()
        assert report["status"] == "pass"
        assert 0 < sum(entry.stat().st_size for entry in runs.entries()) <= 20 << 10
        assert lasting(report) == lasting(runs.report(cache=False))

    @pytest.mark.parametrize("size", ["lots", "5", "-5GB", "0GB", "5 PB", "nan MB", "", "GB"])
    def test_a_size_that_is_none(self, pytester: pytest.Pytester, gates: Gates, size: str) -> None:
        gates.passing()
        pytester.makeini(f"[pytest]\nmergegate_cache_size = {size}")
        result = pytester.runpytest("--mergegate")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*the size of the cache must be like 500MB or 5GB*"])

    @pytest.mark.parametrize("how", ["option", "ini"])
    def test_a_file_for_a_folder(self, pytester: pytest.Pytester, gates: Gates, how: str) -> None:
        gates.passing()
        pytester.maketxtfile(taken="mine")
        more = ["--mergegate-cache=taken.txt"] if how == "option" else []
        if how == "ini":
            pytester.makeini("[pytest]\nmergegate_cache = taken.txt")
        result = pytester.runpytest("--mergegate", *more)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*taken.txt is a file; name a folder*"])


class TestTheCommand:
    def test_shows_and_clears(
        self, gates: Gates, runs: Runs, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gate(gates)
        runs.report()
        entries = runs.entries()
        capsys.readouterr()
        assert main(["cache", "--cache", str(runs.folder)]) == 0
        assert f"{runs.folder}: {len(entries)} entries, 0." in capsys.readouterr().out
        assert runs.entries() == entries
        assert main(["cache", "--cache", str(runs.folder), "--clear"]) == 0
        assert f": removed {len(entries)} entries, 0." in capsys.readouterr().out
        assert runs.entries() == set()
        assert main(["cache", "--cache", str(runs.folder)]) == 0
        assert ": 0 entries, 0.0 MB" in capsys.readouterr().out

    def test_a_file_for_a_folder(
        self, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = pytester.maketxtfile(taken="mine")
        with pytest.raises(SystemExit) as raised:
            main(["cache", "--clear", "--cache", str(file)])
        assert raised.value.code == pytest.ExitCode.USAGE_ERROR
        assert "is a file; name a folder" in capsys.readouterr().err
        assert file.read_text("utf-8") == "mine"

    def test_a_folder_that_cannot_be_looked_into(
        self, pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (pytester.mkdir("kept") / FORMAT).write_text("mine", encoding="utf-8")
        assert main(["cache", "--cache", "kept"]) == 2
        assert "cannot be used" in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_compute_each_model_once(
    pytester: pytest.Pytester, gates: Gates, runs: Runs
) -> None:
    gate(gates, name="a.mergegate.yaml")
    gate(gates, name="b.mergegate.yaml", budget={"max_mds": 1e8})
    pytester.makeconftest(
        """
        import os
        import time
        from pathlib import Path

        from pytest_mergegate.engine.running import executors

        run = executors.LocalExecutor.run
        run_job = executors.run_job

        def together(*arguments):
            Path(f"here-{os.getpid()}").touch()
            give_up = time.monotonic() + 60
            while len(list(Path().glob("here-*"))) < 2 and time.monotonic() < give_up:
                time.sleep(0.01)
            return run(*arguments)

        def spied(workspace, job):
            with Path("jobs").open("a") as file:
                for block in job.blocks:
                    file.write(f"{job.kind} {job.model} {block.task}\\n")
            return run_job(workspace, job)

        def pytest_configure(config):
            if hasattr(config, "workerinput"):  # not in the process that runs all other tests
                executors.run_job = spied
                executors.LocalExecutor.run = together
        """
    )
    report = runs.report("-n2", "--dist=loadfile")
    assert [r["status"] for r in report["reports"]] == ["pass", "pass"]
    assert len(list(pytester.path.glob("here-*"))) == 2
    jobs = (pytester.path / "jobs").read_text("utf-8").splitlines()
    assert len(jobs) == len(set(jobs)) == 3 + 4 * 3
