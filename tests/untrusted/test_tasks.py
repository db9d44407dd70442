"""Tasks of lm-evaluation-harness: their files are code, and come from one folder alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pools import read_gate, write_gate

from pytest_mergegate.evaluation import harness
from pytest_mergegate.gate.gatefile import load_gate
from pytest_mergegate.pool.pool import read_pool
from untrusted.suite import checked, expert

if TYPE_CHECKING:
    from pytest_mergegate.common.errors import PoolError

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: x.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: !function evil.touch
doc_to_choice: ["a", "b"]
doc_to_target: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def write_task(folder: Path, marker: Path, name: str) -> None:
    """A task whose YAML has a stranger's function run as soon as it is loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.jsonl").write_text('{"x": 1}\n')
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\ndef touch(doc): return 'x'\n")
    (folder / "task.yaml").write_text(TASK.format(name=name))


@pytest.fixture
def small_harness(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness with a single task, ``arc_easy``: to index all of its own takes many seconds."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("harness")
    (folder / "own.yaml").write_text("task: arc_easy\ndataset_path: no/such\ntest_split: test\n")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(harness, "_harness_tasks", lambda: manager)


def ask(gate: Path, name: str, **more: Any) -> Path:
    settings = read_gate(gate) | {"budget": {"max_loss": 50}} | more
    settings["experts"]["b"]["metric"] = f"lm_eval:{name}"
    return write_gate(gate, settings)


@pytest.mark.parametrize("place", ["adapters/b", "adapters", "data", "", "tasks", "base"])
def test_a_task_file_that_nobody_named(gate: Path, marker: Path, place: str) -> None:
    """Also beside the gate file, and under a name that the harness has itself."""
    for number, name in enumerate(("arc_easy", "own_task")):
        write_task(gate.parent / place / f"{number}", marker, name)
    with harness._place_of("arc_easy", None, "b") as own:
        assert own is None
        assert not list(Path.cwd().iterdir())


@pytest.mark.usefixtures("small_harness")
def test_the_harness_finds_its_own(gate: Path, marker: Path) -> None:
    """From the gate file down to the harness: the task beside the expert is never looked at."""
    write_task(expert(gate), marker, "arc_easy")
    write_task(gate.parent / "more", marker, "own_task")
    settings = ask(gate, "arc_easy")
    report = checked(settings, device="cpu")
    assert report.status == "error"
    found = next(f for f in report.findings if f.severity == "error")
    assert (found.code, found.expert) == ("MG301", "b")  # its data are not here
    report = checked(ask(gate, "own_task"))
    assert "no task of that name in the harness or in the folder lm_eval_tasks" in (
        report.findings[-1].message
    )


def test_the_task_is_live(gate: Path, marker: Path) -> None:
    """The YAML of the tests here does what it is meant to, in the folder that the gate names."""
    write_task(gate.parent / "tasks", marker, "own_task")
    checked(ask(gate, "own_task", lm_eval_tasks="tasks"))
    assert marker.exists()
    marker.unlink()


@pytest.mark.usefixtures("small_harness")
def test_a_name_in_both_places(gate: Path, marker: Path) -> None:
    write_task(gate.parent / "tasks", marker, "arc_easy")
    report = checked(ask(gate, "arc_easy", lm_eval_tasks="tasks"))
    found = report.findings[-1]
    assert (report.status, found.code) == ("error", "MG301")
    assert "is a task in tasks/, and one that the harness brings" in found.message
    assert "another name" in str(found.fix)


@pytest.mark.parametrize(
    "folder",
    [
        *("adapters", "adapters/b", "adapters/b/tasks", "adapters/tasks", "data", "data/tasks"),
        *(".", "./", "adapters/../adapters/b", "linked", "tasks/../adapters"),
    ],
)
def test_folders_of_strangers_hold_no_tasks(gate: Path, marker: Path, folder: str) -> None:
    (gate.parent / "tasks").mkdir()
    (gate.parent / "linked").symlink_to("adapters/b")
    write_task(gate.parent / folder, marker, "own_task")
    (found,) = errors(ask(gate, "own_task", lm_eval_tasks=folder))
    assert found.code == "MG301"
    assert "could write one" in found.what
    assert str(found.where).startswith("mergegate.yaml:")
    assert "a folder of their own" in str(found.fix)


@pytest.mark.parametrize("target", ["../adapters/b", "../adapters", "../data/b.jsonl", ".."])
def test_links_in_the_folder_of_tasks(gate: Path, marker: Path, target: str) -> None:
    write_task(gate.parent / "tasks", marker, "own_task")
    (gate.parent / "tasks" / "deep").mkdir()
    link = gate.parent / "tasks" / "deep" / "more"
    link.symlink_to(f"../{target}")
    (found,) = errors(ask(gate, "own_task", lm_eval_tasks="tasks"))
    assert found.code == "MG301"
    assert "more" in found.what


def test_links_out_of_the_repository(gate: Path, marker: Path) -> None:
    write_task(marker.parent / "secret", marker, "own_task")
    (gate.parent / "tasks").mkdir()
    (gate.parent / "tasks" / "out").symlink_to(marker.parent / "secret")
    (found,) = errors(ask(gate, "own_task", lm_eval_tasks="tasks"))
    assert found.code == "MG003"


@pytest.mark.parametrize("folder", ["nowhere", "mergegate.yaml", "~/tasks"])
def test_no_such_folder(gate: Path, folder: str) -> None:
    (found,) = errors(ask(gate, "own_task", lm_eval_tasks=folder))
    assert "there is no folder" in found.what
    assert str(found.where).startswith("mergegate.yaml:")


@pytest.mark.parametrize("experts", ["linked from elsewhere", "beside the gate file"])
def test_where_an_expert_really_lies(gate: Path, marker: Path, experts: str) -> None:
    """A link's place and its target are both a stranger's; the gate file's own folder is not."""
    write_task(gate.parent / "tasks", marker, "own_task")
    settings = read_gate(ask(gate, "own_task", lm_eval_tasks="tasks"))
    if experts == "linked from elsewhere":
        shutil.move(expert(gate), gate.parent / "tasks" / "b")
        expert(gate).symlink_to("../tasks/b")
        (found,) = errors(gate)
        assert found.code == "MG301"
    else:
        shutil.move(expert(gate), gate.parent / "b")
        settings["experts"]["b"]["path"] = "b"
        assert not errors(write_gate(gate, settings))


@pytest.mark.parametrize("metric", ["brier", "exact_match", "squad_v2"])
def test_a_metric_of_evaluate_in_an_experts_folder(gate: Path, marker: Path, metric: str) -> None:
    """evaluate runs ``NAME/NAME.py`` of the working directory where a task asks for NAME."""
    import evaluate

    shutil.move(expert(gate), gate.parent / metric)
    (gate.parent / metric / f"{metric}.py").write_text(f"open({str(marker)!r}, 'w')\n")
    write_task(gate.parent / "tasks", gate.parent / "other", "own_task")
    for tasks, name in ((None, "own_task"), (gate.parent / "tasks", "own_task")):
        with harness._place_of(name, tasks, "b"), pytest.raises((OSError, ImportError)):
            evaluate.load(metric)


def errors(gate: Path) -> tuple[PoolError, ...]:
    return read_pool(load_gate(gate))[1]
