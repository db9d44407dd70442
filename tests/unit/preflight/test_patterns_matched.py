"""MG122: patterns of ranks or scales that match no adapted module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .files import Files


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("key", ["^q_proj", "up_proj", r"layers\.7\..*", "proj"])
def test_one_that_matches_nothing(files: Files, setting: str, key: str) -> None:
    files.edit_config("b", **{setting: {key: 100}})
    found = files.only("MG122")
    assert (found.severity, found.expert) == ("warning", "b")
    assert repr(key) in found.message.replace("\\\\", "\\") or key in found.message
    assert setting in found.message


@pytest.mark.parametrize(
    "key", ["q_proj", "self_attn.q_proj", "model.layers.0.self_attn.q_proj", r".*\.1\..*v_proj"]
)
def test_those_that_do(files: Files, key: str) -> None:
    files.edit_config("b", alpha_pattern={key: 3})
    assert files.findings() == []


def test_an_expression_that_is_refused_is_told_once(files: Files) -> None:
    files.edit_config("b", alpha_pattern={"(q": 3})
    assert [f.code for f in files.findings()] == ["MG001"]
