"""Where a reference leads: beside the gate file, to the hub, or nowhere."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.references import Located, locate

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with an expert, and a secret outside of it."""
    root = tmp_path / "repository"
    (root / ".git").mkdir(parents=True)
    (root / "adapters" / "b").mkdir(parents=True)
    (root / "adapters" / "b" / "adapter_config.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.json").write_text("{}")
    return root


def find(reference: str, root: Path, *, contained: bool = True, own: bool = True) -> Located:
    return locate(reference, root=root, expert="b", where="gate:3", contained=contained, own=own)


def refused(reference: str, root: Path, code: str, **settings: Any) -> str:
    with pytest.raises(PoolError) as caught:
        find(reference, root, **settings)
    error = caught.value
    assert (error.code, error.expert, error.where) == (code, "b", "gate:3")
    assert error.fix
    assert str(error).isprintable()
    return error.what


def test_local_folder(root: Path) -> None:
    for reference in (
        "adapters/b",
        "./adapters/b",
        str(root / "adapters" / "b"),
        "adapters/../adapters/b",
    ):
        located = find(reference, root)
        assert located == Located(path=(root / "adapters" / "b").resolve())
        assert located.pinned


@pytest.mark.parametrize(
    "reference",
    [
        "adapters/c",
        "./org/name",
        "../x",
        "nothing",
        "a/b/c",
        "~nobody/x",
        "\0",
        "x" * 5000,
        "",
        "-o/name",
        "org/../name",
        "org/a..b",
        "$(touch x)/y",
        "a/b;c",
    ],
)
def test_nowhere(root: Path, reference: str) -> None:
    if reference:
        assert refused(reference, root, "MG001")


def test_file_is_no_folder(root: Path) -> None:
    assert "is a file" in refused("adapters/b/adapter_config.json", root, "MG001")


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """A hub that has everything; returns what was asked of it."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(repository: str, **settings: Any) -> str:
        asked.append({"repository": repository, **settings})
        return str(tmp_path / "snapshots" / COMMIT)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    ("revision", "pinned"),
    [
        (None, False),
        ("main", False),
        ("refs/pr/1", False),
        ("v1.0", False),
        (COMMIT, True),
        (COMMIT[:7], False),
    ],
)
def test_hub(root: Path, hub: list[dict[str, Any]], revision: str | None, pinned: bool) -> None:
    located = find(f"org/name@{revision}" if revision else "org/name", root)
    assert (located.repository, located.revision, located.commit) == ("org/name", revision, COMMIT)
    assert located.pinned is pinned
    assert [(a["repository"], a["revision"]) for a in hub] == [("org/name", revision)]


@pytest.mark.parametrize(
    "revision",
    [
        "",
        "-x",
        "../../x",
        "a/../b",
        "/etc",
        ".hidden",
        "a//b",
        "a b",
        "a@b",
        "--upload-pack=x",
        "a/",
        "é",
    ],
)
def test_revision_that_is_none(root: Path, hub: list[dict[str, Any]], revision: str) -> None:
    refused(f"org/name@{revision}", root, "MG001")
    assert not hub


def test_misspelled_path_is_never_fetched(root: Path, hub: list[dict[str, Any]]) -> None:
    (root / "dangling").symlink_to("nowhere")
    for reference in ("adapters/c", "adapters/c@main", "dangling/c"):
        refused(reference, root, "MG001")
    assert not hub


def test_pickles_and_code_are_not_downloaded(root: Path, hub: list[dict[str, Any]]) -> None:
    from huggingface_hub.utils import filter_repo_objects

    find("org/name", root)
    wanted = {
        "adapter_model.safetensors",
        "adapter_config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.model",
        "merges.txt",
        "vocab.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    }
    unwanted = {
        "adapter_model.bin",
        "pytorch_model.pt",
        "x.pth",
        "modeling.py",
        "README.md",
        "original/consolidated.safetensors",
        "onnx/config.json",
        "consolidated.safetensors",
        "checkpoint-5/adapter_model.safetensors",
    }
    kept = filter_repo_objects(
        wanted | unwanted,
        allow_patterns=hub[0]["allow_patterns"],
        ignore_patterns=hub[0]["ignore_patterns"],
    )
    assert set(kept) == wanted


def test_offline(root: Path) -> None:
    what = refused("org-of-nobody/name", root, "MG001")
    assert "nor to be had from the hub" in what


# Symlinks


def test_expert_is_a_link_out(root: Path) -> None:
    (root / "adapters" / "c").symlink_to("../../secret")
    what = refused("adapters/c", root, "MG003")
    assert "adapters/c leaves the repository" in what
    assert "../../secret" in what
    assert find("adapters/c", root, contained=False).path == root.parent / "secret"


def test_parent_is_a_link_out(root: Path) -> None:
    (root.parent / "secret" / "back").symlink_to(root / "adapters")
    (root / "out").symlink_to(root.parent / "secret")
    (root / "hop").symlink_to("out")
    for reference in ("out/back/b", "hop/back/b", f"{root}/out/back/b", "adapters/../out/back/b"):
        refused(reference, root, "MG003")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("target", ["key.json", "", "missing"])
def test_link_out_inside(root: Path, target: str, nested: bool) -> None:
    folder = root / "adapters" / "b" / ("deep/er" if nested else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").symlink_to(root.parent / "secret" / target)
    assert "tokenizer.json leaves" in refused("adapters/b", root, "MG003")


def test_link_through_another_link(root: Path) -> None:
    (root / "step").symlink_to(root.parent / "secret")
    (root / "adapters" / "b" / "x.json").symlink_to("../../step/key.json")
    refused("adapters/b", root, "MG003")


def test_links_within_the_repository(root: Path) -> None:
    (root / "shared.json").write_text("{}")
    (root / "adapters" / "b" / "x.json").symlink_to("../../shared.json")
    (root / "adapters" / "b" / "missing.json").symlink_to("../../missing.json")
    (root / "adapters" / "c").symlink_to("b")
    assert find("adapters/c", root).path == root / "adapters" / "b"


def test_repository_is_that_of_the_gate(root: Path) -> None:
    """The gate may lie in a subfolder; without a repository, its folder is the boundary."""
    gates = root / "gates"
    gates.mkdir()
    (gates / "c").symlink_to("../adapters/b")
    assert find("c", gates).path == root / "adapters" / "b"
    (root / ".git").rmdir()
    refused("c", gates, "MG003")
    assert find("../adapters/b", gates).path == root / "adapters" / "b"


@pytest.mark.parametrize("absolute", [False, True])
def test_folder_outside_is_the_gate_files_decision(root: Path, absolute: bool) -> None:
    outside = root.parent / "secret"
    reference = str(outside) if absolute else "../secret"
    assert find(reference, root).path == outside
    (outside / "inner.json").symlink_to("key.json")
    assert find(reference, root).path == outside
    (outside / "x.json").symlink_to(root / "adapters" / "b" / "adapter_config.json")
    refused(reference, root, "MG003")


def test_reference_from_an_adapter_stays_inside(root: Path) -> None:
    assert find("adapters/b", root, own=False)
    for reference in ("../secret", str(root.parent / "secret")):
        what = refused(reference, root, "MG003", own=False)
        assert "outside of the repository" in what


def test_git_itself_is_outside(root: Path) -> None:
    (root / ".git" / "config").write_text("token")
    (root / ".git" / "annex").mkdir()
    (root / ".git" / "annex" / "object").write_text("{}")
    (root / "adapters" / "b" / "x.json").symlink_to("../../.git/annex/object")
    assert find("adapters/b", root)
    (root / "adapters" / "b" / "y.json").symlink_to("../../.git/config")
    refused("adapters/b", root, "MG003")


def test_snapshot_links_to_its_own_blobs(root: Path, tmp_path: Path) -> None:
    for name in ("models--a", "models--b"):
        (tmp_path / name / "blobs").mkdir(parents=True)
        (tmp_path / name / "blobs" / "x").write_text("{}")
    folder = tmp_path / "models--a" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").symlink_to("../../blobs/x")
    assert find(str(folder), root).path == folder
    (folder / "other.json").symlink_to("../../../models--b/blobs/x")
    refused(str(folder), root, "MG003")


def test_links_in_a_circle(root: Path) -> None:
    (root / "adapters" / "b" / "x.json").symlink_to("y.json")
    (root / "adapters" / "b" / "y.json").symlink_to("x.json")
    refused("adapters/b", root, "MG001")
    (root / "loop").symlink_to("loop")
    refused("loop/b", root, "MG001")


def test_no_regular_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "adapters" / "b" / "weights.safetensors")
    assert "FIFO" in refused("adapters/b", root, "MG001")
    (root / "adapters" / "b" / "weights.safetensors").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)  # the path of a socket is short
        server.bind("adapters/b/s")
        refused("adapters/b", root, "MG001")
