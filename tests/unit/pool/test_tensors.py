"""Safetensors from strangers: what is sound is read exactly, everything else is one clear error."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.pool.checkpoints import read_checkpoint
from pytest_mergegate.pool.tensor_headers import read_headers
from pytest_mergegate.pool.tensors import StoredTensors

if TYPE_CHECKING:
    from pathlib import Path

ONE = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def write(path: Path, header: Any, data: int = 16) -> Path:
    """A safetensors file of ``header`` (JSON, or the bytes themselves) and ``data`` zero bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(data))
    return path


def entry(dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16), **more: Any) -> Any:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


def two(first: tuple[int, int], second: tuple[int, int]) -> Any:
    spans = {"a": first, "b": second}
    return {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in spans.items()
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "adapter" / "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def folder(file: Path) -> None:
    file.parent.mkdir()


UNSOUND = {
    "unknown type": (entry("F128"), "unknown element type 'F128'"),
    "type no text": (entry(32), "unknown element type"),
    "negative size": (entry(shape=[-2, -2]), "impossible shape"),
    "fraction": (entry(shape=[2.0, 2]), "impossible shape"),
    "boolean": (entry("U8", [True], [0, 1]), "impossible shape"),
    "huge shape": (entry(shape=[2**62, 2**62]), "impossible shape"),
    "beyond 64 bits": (entry(shape=[2**64, 0]), "impossible shape"),
    "many dimensions": (entry(shape=[1] * 17 + [4]), "impossible shape"),
    "shape no list": (entry(shape=4), "impossible shape"),
    "offsets swapped": (entry(offsets=[16, 0]), "impossible data_offsets"),
    "one offset": (entry(offsets=[16]), "impossible data_offsets"),
    "other length": (entry(shape=[3]), "not 16 bytes"),
    "a key more": (entry(more=1), "just a dtype"),
    "entry no object": ({"a": 3}, "just a dtype"),
    "terabytes": (entry(shape=[2**40], offsets=[0, 2**42]), "truncated"),
    "cut": (entry(shape=[5], offsets=[0, 20]), "truncated"),
    "bytes after": (entry(shape=[3], offsets=[0, 12]), "belong to no tensor"),
    "bytes before": (entry(shape=[3], offsets=[4, 16]), "in no tensor"),
    "gap": (two((0, 4), (8, 16)), "gap"),
    "overlap": (two((0, 12), (8, 16)), "overlap"),
    "same place": (two((0, 16), (0, 16)), "overlap"),
    "no tensors, but bytes": ({}, "belong to no tensor"),
    "list": (b"[]", "brace"),
    "space before": (b" " + json.dumps(ONE).encode(), "brace"),
    "not JSON": (b'{"a": ', "not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "malformed"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "crowded": (b'{"a":[' + b"[]," * 2_000_000 + b"[]]}", "too many entries"),
    "huge number": (b'{"a": ' + b"9" * 100_000 + b"}", "100000 digits"),
    "NaN": (b'{"a": NaN}', "no number"),
    "twice": (b'{"a": {}, "a": {}}', "'a' is given twice"),
    "long name": ({"n" * 501: ONE["a"]}, "no name of a tensor"),
    "name of two lines": ({"a\nb": ONE["a"]}, "no name of a tensor"),
    "metadata no text": ({"__metadata__": {"x": 1}, **ONE}, "deserializing header"),
    "half a surrogate": (
        b'{"\\ud800": ' + json.dumps(ONE["a"]).encode() + b"}",
        "no name of a tensor",
    ),
}


@pytest.mark.parametrize(("header", "says"), UNSOUND.values(), ids=UNSOUND)
def test_unsound_header(file: Path, header: Any, says: str) -> None:
    with pytest.raises(PoolError) as caught:
        read_headers(write(file, header), expert="b")
    error = caught.value
    assert says in error.what
    assert (error.code, error.expert, error.where) == ("MG001", "b", f"adapter/{file.name}")
    assert error.fix
    assert len(str(error)) < 800
    assert str(error).isprintable()


CONTENTS = {
    "empty": (b"", "empty or truncated"),
    "seven bytes": (b"1234567", "empty or truncated"),
    "no header": ((2**63).to_bytes(8, "little"), "bytes long, of 8"),
    "length beyond the file": ((100).to_bytes(8, "little") + b"{}", "truncated"),
    "length beyond the limit": ((40 << 20).to_bytes(8, "little") + bytes(41 << 20), "32 MiB"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "zip": (b"PK\3\4" + bytes(100), "pickle"),
    "pickle": (b"\x80\x04\x95" + b"\xff" * 100, "pickle"),
}


@pytest.mark.parametrize(("content", "says"), CONTENTS.values(), ids=CONTENTS)
def test_no_safetensors(file: Path, content: bytes, says: str) -> None:
    file.write_bytes(content)
    with pytest.raises(PoolError, match=says):
        StoredTensors([file])


def test_lfs_pointer_says_how_to_fetch(file: Path) -> None:
    file.write_bytes(CONTENTS["LFS"][0])
    with pytest.raises(PoolError) as caught:
        read_headers(file)
    assert caught.value.fix == "fetch it with git lfs pull"


@pytest.mark.parametrize("cut", [1, 8, 9, 40, -1], ids=str)
def test_truncated(file: Path, cut: int) -> None:
    content = write(file, ONE).read_bytes()
    file.write_bytes(content[:cut])
    with pytest.raises(PoolError, match="truncated"):
        read_headers(file)


def test_no_regular_file(file: Path) -> None:
    with pytest.raises(PoolError, match="No such file"):
        read_headers(file)
    with pytest.raises(PoolError, match="is a folder"):
        read_headers(file.parent)
    os.mkfifo(file)
    with pytest.raises(PoolError, match="FIFO"):
        read_headers(file)


TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@given(
    dtype=st.sampled_from(TYPES),
    shape=st.lists(st.integers(0, 5), max_size=4),
    elements=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(
    max_examples=80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_reads_what_torch_wrote(
    file: Path, dtype: torch.dtype, shape: list[int], elements: int, seed: int
) -> None:
    """Every bit pattern: NaN, infinities, subnormals."""
    width = torch.empty((), dtype=dtype).element_size()
    rng = np.random.default_rng(seed)
    raw = bytearray(rng.bytes(width * (1 + int(np.prod(shape)))))
    tensor = torch.frombuffer(raw, dtype=dtype)[1:].reshape(shape)
    save_file({"other": torch.ones(3), "x": tensor}, file)
    expected = tensor.to(torch.float32).numpy()
    stored = StoredTensors([file])
    found = stored.floats("x")
    assert found.dtype == np.float32
    assert stored["x"].shape == found.shape == expected.shape
    assert stored["x"].size == expected.size
    np.testing.assert_array_equal(found, expected)
    blocks = [block.copy() for block in stored.blocks("x", elements)]
    assert all(len(block) == elements for block in blocks[:-1])
    joined = np.concatenate([*blocks, np.empty(0, np.float32)])
    np.testing.assert_array_equal(joined, expected.ravel())
    sample = stored.sample("x", elements)
    assert len(sample) <= elements
    np.testing.assert_array_equal(sample, stored.sample("x", elements))
    assert np.isin(sample[~np.isnan(sample)], expected).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn], ids=str)
def test_other_types_are_refused(file: Path, dtype: torch.dtype) -> None:
    save_file({"x": torch.zeros(4, dtype=dtype)}, file)
    stored = StoredTensors([file], expert="b")
    assert stored["x"].shape == (4,)
    for read in (stored.floats, lambda n: list(stored.blocks(n)), lambda n: stored.sample(n, 9)):
        with pytest.raises(PoolError, match="cannot be checked or merged"):
            read("x")


@pytest.mark.parametrize("shape", [(300, 700), (210_000,), (70_000, 3), (3, 70_000)], ids=str)
def test_sample_estimates_the_norm(file: Path, shape: tuple[int, ...]) -> None:
    tensor = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    tensor *= torch.linspace(0.2, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    save_file({"x": tensor}, file)
    sample = StoredTensors([file]).sample("x", 20_000)
    assert 15_000 < len(sample) <= 20_000
    estimate = np.linalg.norm(sample) * np.sqrt(tensor.numel() / len(sample))
    assert estimate == pytest.approx(float(tensor.norm()), rel=0.05)


def test_threads_share_a_file(file: Path) -> None:
    tensors = {f"t{k}": torch.full((1000,), float(k)) for k in range(50)}
    save_file(tensors, file)
    stored = StoredTensors([file])
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda k: stored.floats(f"t{k}"), range(50)))
    assert [set(values.tolist()) for values in found] == [{float(k)} for k in range(50)]


def test_file_that_shrinks(file: Path) -> None:
    save_file({"x": torch.ones(1000)}, file)
    stored = StoredTensors([file])
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(PoolError, match="was written to"):
        stored.floats("x")


# Checkpoints


def shards(folder: Path, weight_map: Any = None) -> Path:
    """Two shards of one tensor each, and their index."""
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.ones(2)}, folder / "two.safetensors")
    weight_map = weight_map or {"a": "one.safetensors", "b": "two.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def test_checkpoint_files(tmp_path: Path) -> None:
    names = [path.name for path in read_checkpoint(shards(tmp_path)).files]
    assert names == ["one.safetensors", "two.safetensors"]
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(PoolError, match="transformers would load the one"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert [path.name for path in read_checkpoint(tmp_path).files] == ["model.safetensors"]


ELSEWHERE = ["../secret.safetensors", "/etc/x.safetensors", "x/y.safetensors", "..", "", 3]


@pytest.mark.parametrize("name", [*ELSEWHERE, "a\\b.safetensors", "one.bin", None], ids=repr)
def test_index_names_another_place(tmp_path: Path, name: object) -> None:
    with pytest.raises(PoolError, match="is not the name of a file beside it"):
        read_checkpoint(shards(tmp_path, {"a": name}), expert="b")


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    one, two = "one.safetensors", "two.safetensors"
    for weight_map, says in [
        ({"a": one}, None),
        ({"a": one, "b": two, "c": two}, "'c' is in no shard"),
        ({"a": one, "b": "three.safetensors"}, "three.safetensors is missing"),
        ({"a": two, "b": one}, "'a' is in one.safetensors, not in two"),
        ({"a": one, "x": two}, "'b' is in two.safetensors only"),
    ]:
        folder = shards(tmp_path, weight_map)
        if says is None:
            assert len(read_checkpoint(folder).files) == 1
            continue
        with pytest.raises(PoolError, match=says):
            read_checkpoint(folder)
    folder = shards(tmp_path)
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, folder / two)
    with pytest.raises(PoolError, match="'a' is in two shards"):
        read_checkpoint(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "{"])
def test_malformed_index(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(PoolError):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.pt", "consolidated.00.pth", "m.ckpt"])
def test_pickles_are_never_loaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(PoolError, match="has no weights"):
        read_checkpoint(tmp_path)
    (tmp_path / "training_args.bin").touch()
    (tmp_path / name).touch()
    with pytest.raises(PoolError) as caught:
        read_checkpoint(tmp_path, expert="b")
    assert f"{name}, a pickle, which is never loaded" in caught.value.what
    assert "save_pretrained" in (caught.value.fix or "")
