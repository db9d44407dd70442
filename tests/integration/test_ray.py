"""The executor ``ray``, on a cluster of two nodes of one CPU each."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pools import write_adapter, write_gate
from reports import same
from warm import commands

from pytest_mergegate.engine.running import ray_cluster, ray_executor
from pytest_mergegate.engine.running.ray_cluster import Worker, WorkerEntry
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.gate.options import Options
from pytest_mergegate.report.gating import run_gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_mergegate.common.errors import GateError
    from pytest_mergegate.engine.running.executors import Errand, Job
    from pytest_mergegate.report.types import Report

pytestmark = [  # not imported here: every worker of pytest-xdist collects this file, one runs it
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
]

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
HEAD = NODE | {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, and this process connected to them."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        cluster.add_node(**NODE)
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"py_executable": str(commands() / "python")},  # see warm.py
        )
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def assess(gate: Path, cache: Path, executor: str = "ray", **options: Any) -> Report:
    settings = {"stage": "hidden", "device": "cpu", "cache": cache, "executor": executor}
    return run_gate(load_gate(gate), Options(**settings | options))


def report(gate: Path, cache: Path, executor: str = "ray", **options: Any) -> dict[str, Any]:
    text = assess(gate, cache, executor, **options).to_json()
    return json.loads(text)


def settled(report: dict[str, Any]) -> dict[str, Any]:
    return report | {"settings": {**report["settings"], "executor": None}}


@pytest.fixture(scope="module")
def local(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the local executor says of the pool."""
    return report(tiny_pool, tmp_path_factory.mktemp("local"), "local")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run on the cluster with nothing kept, and what its workers did."""

    cache: Path
    report: dict[str, Any]
    done: list[list[str]]
    """Process, engine, kind and model of every job, in the order in which they ended."""


@pytest.fixture(scope="module")
def cold(cluster: Any, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Each worker is a process that imports all that a model takes: one run for several tests."""
    folder = tmp_path_factory.mktemp("cold")
    log = folder / "log"

    class Logging(Worker):
        def run(self, job: Job) -> WorkerEntry | GateError:
            answer = super().run(job)
            with log.open("a") as file:
                engine = id(self._workspace.engine)
                file.write(f"{os.getpid()} {engine} {job.kind} {job.model}\n")
            return answer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray_executor, "Worker", Logging)
        found = report(tiny_pool, folder / "cache")
    done = [line.split() for line in log.read_text().splitlines()]
    return Run(cache=folder / "cache", report=found, done=done)


class TestResults:
    def test_as_the_local_executor_s(self, cold: Run, local: dict[str, Any]) -> None:
        assert cold.report["status"] != "error"
        assert len(cold.report["pairs"]) == 3
        assert len(cold.report["forecasts"]) == len(local["forecasts"]) > 0
        same(settled(cold.report), settled(local))

    def test_a_second_run_takes_no_worker(
        self, cold: Run, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ray_cluster, "import_ray", None)  # not even Ray
        second = report(tiny_pool, cold.cache)
        assert cold.report["cache"]["misses"] > 0
        assert second["cache"]["misses"] == 0
        same(second, cold.report)

    def test_the_local_executor_takes_them_from_the_cache(self, cold: Run, tiny_pool: Path) -> None:
        assert report(tiny_pool, cold.cache, "local")["cache"]["misses"] == 0

    def test_a_worker_loads_the_base_once_and_each_model_s_tasks_follow_each_other(
        self, cold: Run
    ) -> None:
        done = cold.done
        # two blocks of a, b and c each: answered by their own expert, read under four models
        assert len(done) == 3 * 2 + 4 * 3 * 2
        workers = {process for process, *_ in done}
        assert len(workers) <= 2  # the other may start too late to find any left
        assert len({(process, engine) for process, engine, *_ in done}) == len(workers)
        for worker in workers:
            models = [(kind, model) for process, _, kind, model in done if process == worker]
            turns = [model for model, _ in groupby(models)]
            assert len(turns) == len(set(turns))


METHODS = ["linear", "ties", {"method": "dare_ties", "density": 0.5}]


@pytest.fixture(scope="module")
def merging(tiny_pool: Path) -> Path:
    """The pool's gate with three merges, certified and scored."""
    settings = yaml.safe_load(tiny_pool.read_text())
    settings |= {"merge": {"methods": METHODS, "select": "all"}}
    settings |= {"budget": {"max_disagreement": 1, "max_loss": 90}}
    return write_gate(tiny_pool.parent / "merging.yaml", settings)


@pytest.fixture(scope="module")
def merged_here(merging: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return report(merging, tmp_path_factory.mktemp("here"), "local", stage=None)


class TestMerges:
    @pytest.mark.usefixtures("cluster")
    def test_are_made_and_scored_by_workers_as_here_though_one_is_lost(
        self,
        merging: Path,
        merged_here: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        log, death = tmp_path / "log", tmp_path / "death"
        death.touch()

        class Logging(Worker):
            def run(self, job: Job | Errand) -> WorkerEntry | GateError:
                if job.label == "merge 'ties'" and death.exists():
                    death.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                answer = super().run(job)
                with log.open("a") as file:
                    file.write(f"{job.label}\n")
                return answer

        monkeypatch.setattr(ray_executor, "Worker", Logging)
        found = report(merging, tmp_path / "cache", stage=None)
        assert not death.exists()
        done = [line for line in log.read_text().splitlines() if line.startswith("merge")]
        made = {"merge 'linear'", "merge 'ties'", "merge 'dare_ties density=0.5'"}
        assert (set(done), len(done)) == (made, len(made))  # each once, those lost apart
        same(settled(found), settled(merged_here))
        again = report(merging, tmp_path / "cache", "local", stage=None)
        assert again["cache"]["misses"] == 0
        same(settled(again), settled(merged_here))

    @pytest.mark.usefixtures("cluster")
    def test_twice_lost_is_an_error_that_names_the_merge(
        self, merging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Dying(Worker):
            def run(self, job: Job | Errand) -> WorkerEntry | GateError:
                if job.label == "merge 'ties'":
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().run(job)

        monkeypatch.setattr(ray_executor, "Worker", Dying)
        found = report(merging, tmp_path / "cache", stage=None)
        assert found["status"] == "error"
        (finding,) = (f for f in found["findings"] if f["severity"] == "error")
        assert "merge 'ties' has lost 2 Ray workers" in finding["message"]
        assert [merge["method"] for merge in found["merges"]] == ["linear"]  # found before it


class TestLostWorkers:
    @pytest.fixture
    def deaths(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder; for every file in it, a worker that works on expert b is killed."""
        folder = tmp_path / "deaths"
        folder.mkdir()

        class Dying(Worker):
            def run(self, job: Job) -> WorkerEntry | GateError:
                left = sorted(folder.iterdir())
                if job.model == "b" and left:
                    left[0].unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().run(job)

        monkeypatch.setattr(ray_executor, "Worker", Dying)
        return folder

    @pytest.mark.usefixtures("cluster")
    def test_once_is_made_good(
        self, tiny_pool: Path, local: dict[str, Any], deaths: Path, tmp_path: Path
    ) -> None:
        (deaths / "1").touch()
        found = report(tiny_pool, tmp_path / "cache")
        assert not list(deaths.iterdir())
        same(settled(found), settled(local))

    @pytest.mark.usefixtures("cluster")
    def test_twice_is_an_error_that_names_the_expert(
        self, tiny_pool: Path, deaths: Path, tmp_path: Path
    ) -> None:
        (deaths / "1").touch()
        (deaths / "2").touch()
        found = report(tiny_pool, tmp_path / "cache")
        assert found["status"] == "error"
        (finding,) = (f for f in found["findings"] if f["severity"] == "error")
        assert "expert 'b' has lost 2 Ray workers" in finding["message"]
        assert "\n" not in finding["message"]
        assert finding["fix"]

    def test_a_lost_node_is_made_good_by_those_that_are_left(
        self,
        cluster: Any,
        tiny_pool: Path,
        local: dict[str, Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (node,) = cluster.worker_nodes
        doomed, marker = node.node_id, tmp_path / "marker"

        class Hanging(Worker):
            def run(self, job: Job) -> WorkerEntry | GateError:
                import ray

                if ray.get_runtime_context().get_node_id() == doomed:
                    marker.touch()
                    time.sleep(600)
                return super().run(job)

        def remove() -> None:
            deadline = time.monotonic() + 180
            while not marker.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            cluster.remove_node(node, allow_graceful=False)

        monkeypatch.setattr(ray_executor, "Worker", Hanging)
        remover = threading.Thread(target=remove)
        remover.start()
        found = report(tiny_pool, tmp_path / "cache")
        remover.join()
        cluster.add_node(**NODE)  # for the tests that follow
        assert marker.exists()
        same(settled(found), settled(local))


@pytest.mark.usefixtures("cluster")
class TestErrors:
    def test_an_expert_that_the_worker_cannot_read(
        self, pool_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Blind(Worker):
            def run(self, job: Job) -> WorkerEntry | GateError:
                shutil.rmtree(pool_copy.parent / "adapters" / "b", ignore_errors=True)
                return super().run(job)

        monkeypatch.setattr(ray_executor, "Worker", Blind)
        found = report(pool_copy, tmp_path / "cache")
        assert found["status"] == "error"
        errors = [f for f in found["findings"] if f["severity"] == "error"]
        assert [(f["code"], f["expert"]) for f in errors] == [("MG001", "b")]

    def test_a_node_with_other_files(
        self,
        pool_copy: Path,
        tiny_pool: Path,
        tmp_path: Path,
        seed: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        other = load_gate(tiny_pool)
        folder = pool_copy.parent
        shutil.rmtree(folder / "adapters" / "c")
        write_adapter(folder / "base", folder / "adapters" / "c", seed + 1000)
        for name in "ab":  # nothing of these is to differ, down to the base that they name
            config = Path("adapters", name, "adapter_config.json")
            shutil.copyfile(tiny_pool.parent / config, folder / config)

        class Elsewhere(Worker):
            def __init__(self, gate: Any, *more: Any) -> None:
                super().__init__(other, *more)

        monkeypatch.setattr(ray_executor, "Worker", Elsewhere)
        found = report(pool_copy, tmp_path / "cache")
        assert found["status"] == "error"
        (finding,) = (f for f in found["findings"] if f["severity"] == "error")
        assert finding["expert"] == "c"
        assert "sees other files or versions" in finding["message"]
        assert "expert 'c' differs in model" in finding["message"]

    def test_a_bug_in_the_worker_is_one_here(
        self, tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(Worker):
            def run(self, job: Job) -> WorkerEntry | GateError:
                raise ZeroDivisionError("worker")

        monkeypatch.setattr(ray_executor, "Worker", Broken)
        found = report(tiny_pool, tmp_path / "cache")
        assert found["status"] == "error"
        assert any("ZeroDivisionError: worker" in f["message"] for f in found["findings"])


def test_without_ray(tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    found = report(tiny_pool, tmp_path)
    assert found["status"] == "error"
    finding = found["findings"][-1]
    assert "the ray executor needs ray" in finding["message"]
    assert finding["fix"] == "pip install 'pytest-mergegate[ray]'"


def test_the_report_says_what_ran(local: dict[str, Any]) -> None:
    assert local["settings"]["executor"] == "local"
    assert Options().executor == "local"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "nowhere.invalid:6379"])
def test_no_cluster_at_the_address(
    tiny_pool: Path, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    start = time.monotonic()
    found = report(tiny_pool, tmp_path, f"ray:{address}")
    assert time.monotonic() - start < 60
    assert found["status"] == "error"
    assert f"no Ray cluster at '{address}'" in found["findings"][-1]["message"]
