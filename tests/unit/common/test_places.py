"""Where a reference lies, and what a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_mergegate.common.files.places import is_apart, model_file_in, place_of


def test_place_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert place_of(tmp_path, "adapters/b") == tmp_path / "adapters/b"
    assert place_of(tmp_path, "~/b") == Path("/home/somebody/b")
    assert place_of(tmp_path, "./~/b") == tmp_path / "~/b"
    assert place_of(tmp_path, "~nobody-here/b") == tmp_path / "~nobody-here/b"


def test_is_apart(tmp_path: Path) -> None:
    (tmp_path / "own" / "bin").mkdir(parents=True)
    (tmp_path / "own" / "pyvenv.cfg").touch()
    for name in ("build", "venv", "node_modules", "__pycache__", ".git", "own"):
        assert is_apart(tmp_path / name)
        assert is_apart(tmp_path / name, hidden=True)
    assert is_apart(tmp_path / ".github")
    assert not is_apart(tmp_path / ".github", hidden=True)
    assert not is_apart(tmp_path / "adapters")
    assert not is_apart(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["adapter_config.json", "x"], "adapter_config.json"),
        (["adapter_model.bin", "config.json"], "adapter_model.bin"),
        (["config.json", "model.safetensors"], "model.safetensors"),
        (["config.json"], None),
        (["model.safetensors"], None),
        ([], None),
    ],
)
def test_model_file_in(tmp_path: Path, files: list[str], found: str | None) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert model_file_in(tmp_path) == found
