"""What the folder of a finished merge holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from pools import write_base
from safetensors.torch import load_file, save_file

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.finished import FinishedMerge, read_finished, rounded
from pytest_mergegate.pool.references import Located

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("dtype", "known"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)]
)
def test_rounding_is_torch_s(dtype: str, known: torch.dtype, seed: int) -> None:
    numbers = torch.randn(5000, generator=torch.Generator().manual_seed(seed)) * 10
    ties = torch.arange(-300, 300, dtype=torch.float32) / 256 + 1
    numbers = torch.cat([numbers, ties, torch.tensor([0.0, -0.0, 1e-30, 3e38, 65519.0, 65520.0])])
    own = rounded(numbers.numpy(), dtype)
    assert np.array_equal(own, numbers.to(known).to(torch.float32).numpy())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Base:
    folder = write_base(tmp_path_factory.mktemp("pool") / "base", seed)
    return read_base(Located(path=folder), "base", "base")


def written(base: Base, folder: Path, stored: torch.dtype, **config: object) -> FinishedMerge:
    """The base, in another precision, as a merge."""
    folder.mkdir()
    tensors: dict[str, Tensor] = load_file(base.path / "model.safetensors")
    save_file({n: t.to(stored) for n, t in tensors.items()}, folder / "model.safetensors")
    said = json.loads((base.path / "config.json").read_text(encoding="utf-8")) | config
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return read_finished(Located(path=folder), "out", "gate:1", base, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_base_s_own_weight_in_another_precision(
    base: Base, tmp_path: Path, dtype: torch.dtype
) -> None:
    merged = written(base, tmp_path / "out", dtype)
    assert merged.holds_base_weight(base, NAME)
    before = merged.fingerprint
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    tensors[NAME][-1, -1] += 1
    save_file(tensors, file)
    again = read_finished(Located(path=tmp_path / "out"), "out", "gate:1", base, {})
    assert not again.holds_base_weight(base, NAME)
    assert again.holds_base_weight(base, NAME.replace("1", "0"))
    assert again.fingerprint != before


def test_the_precision_is_the_configuration_s_else_that_of_most_numbers(
    base: Base, tmp_path: Path
) -> None:
    assert written(base, tmp_path / "a", torch.bfloat16, dtype="float16").dtype == "float16"
    assert written(base, tmp_path / "b", torch.bfloat16, dtype=None).dtype == "bfloat16"
    old = written(base, tmp_path / "c", torch.bfloat16, dtype=None, torch_dtype="float32")
    assert old.dtype == "float32"


@pytest.mark.parametrize(
    "config", [{"architectures": ["GPT2LMHeadModel"]}, {"num_hidden_layers": 1}]
)
def test_another_architecture_is_not_compared_tensor_by_tensor(
    base: Base, tmp_path: Path, config: dict[str, object]
) -> None:
    merged = written(base, tmp_path / "out", torch.float32, **config)
    assert merged.tensors is None
    assert not merged.holds_base_weight(base, NAME)


def test_without_a_tokenizer_it_is_the_only_expert_s_or_the_base_s(
    base: Base, tmp_path: Path
) -> None:
    merged = written(base, tmp_path / "out", torch.float32)
    assert not merged.has_tokenizer
    assert merged.tokenizer == base.path
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}", encoding="utf-8")
    one, two = (Located(path=tmp_path / name) for name in "ab")
    place = Located(path=tmp_path / "out")
    assert read_finished(place, "out", "", base, {"expert a": one}).tokenizer == one.path
    assert (
        read_finished(place, "out", "", base, {"expert a": one, "expert b": two}).tokenizer
        == base.path
    )


def test_the_folder_of_what_goes_into_it_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="is the folder of the base") as caught:
        read_finished(base.located, "base", "gate:7", base, {"the base": base.located})
    assert (caught.value.code, caught.value.where) == ("MG131", "gate:7")
    own = Located(path=tmp_path)
    with pytest.raises(PoolError, match="is the folder of expert x"):
        read_finished(own, "x", "gate:7", base, {"expert x": own})
