"""``mergegate convert``: an adapter's files put into the form that PEFT saves and a gate reads."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_mergegate.cli import Parser, run_unpickle
from pytest_mergegate.cli.mlx import MLX, convert_mlx
from pytest_mergegate.common.errors import GateError, PoolError, UsageError
from pytest_mergegate.common.files.repository import check_contained, is_contained
from pytest_mergegate.common.files.writing import make_folder, write_file
from pytest_mergegate.common.plain_text import say, shown
from pytest_mergegate.common.statuses import Exit
from pytest_mergegate.pool.adapters import CONFIG, PREFIX, WEIGHTS, read_adapter_config
from pytest_mergegate.pool.base import Base, read_base
from pytest_mergegate.pool.references import in_ci, locate
from pytest_mergegate.pool.repaired_names import repaired
from pytest_mergegate.pool.tensor_headers import LFS
from pytest_mergegate.pool.tensors import StoredTensors

if TYPE_CHECKING:
    from torch import Tensor

PICKLE = "adapter_model.bin"
KEPT = f"{WEIGHTS}.before"
"""What was there before names were repaired in place."""
_BESIDE = {".json", ".model", ".txt", ".jinja"}
_SECONDS = 600


def add_to(convert: Parser) -> None:
    """Declare the arguments."""
    told = f"the adapter's folder: {CONFIG} and its weights"
    convert.add_argument("folder", type=Path, metavar="DIR", help=told)
    told = "its base, whose names tell how those of the adapter are to be read (default: the "
    told += "folder that the adapter names, where it is there)"
    convert.add_argument("--base", metavar="REF", help=told)
    told = f"a folder to write to (default: DIR; weights that are replaced are kept as {KEPT})"
    convert.add_argument("--output", type=Path, metavar="OUT", help=told)


def run(chosen: argparse.Namespace) -> int:
    """Convert; returns the exit code. Raises UsageError, GateError."""
    folder: Path = chosen.folder
    if not folder.is_dir():
        raise UsageError(f"convert: there is no folder {folder}")
    target: Path = chosen.output or folder
    if target != folder and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"--output: {target} is there already", fix="name another")
    # or what a committed link leads to would be copied beside the weights
    check_contained(folder, root=Path.cwd(), expert=None, where="convert")
    config = read_adapter_config(folder, expert=None)
    if (folder / MLX).is_file() and not (folder / WEIGHTS).is_file():
        return convert_mlx(folder, chosen.output, config, chosen.base)
    base = _base(chosen.base, config, folder)
    with tempfile.TemporaryDirectory(prefix="mergegate-") as work:
        source = folder / WEIGHTS
        done = []
        if not source.is_file():
            source = _unpickled(folder, Path(work))
            done.append(f"{PICKLE} read by torch's weights-only loader, in a process of its own")
        tensors = StoredTensors([source])
        repair = repaired(tensors, base) if base is not None else None
        if repair is not None:
            tensors = repair.tensors
            done.append(repair.told)
        _check_names(tensors, base)
        if not done:
            checked = "" if base else ", as far as can be told without its base (--base REF)"
            say([f"{folder}: nothing to convert{checked}"])
            return Exit.PASSED
        _write(_state(tensors), folder, target)
    say([f"wrote {target / WEIGHTS}: {'; '.join(done)}"])
    return Exit.PASSED


def _base(named: str | None, config: Mapping[str, object], folder: Path) -> Base | None:
    """The base that the user or, where it lies here, the adapter names. Raises PoolError."""
    if named is not None:
        where = "--base"
        return read_base(locate(named, root=Path.cwd(), expert=None, where=where), named, where)
    said = config.get("base_model_name_or_path")
    if not isinstance(said, str) or not said or "\0" in said:
        return None
    for place in (Path.cwd() / said, folder / said):
        try:
            found = (place / "config.json").is_file()
        except OSError:
            return None
        if found and is_contained(place, root=Path.cwd(), own=not in_ci()):
            located = locate(str(place), root=Path.cwd(), expert=None, where=CONFIG)
            return read_base(located, said, CONFIG)
    return None


def _unpickled(folder: Path, work: Path) -> Path:
    """The tensors of a pickle as safetensors. Raises PoolError where torch refuses it."""
    pickle, out = folder / PICKLE, work / WEIGHTS
    if not pickle.is_file():
        what = f"{shown(folder.name)}/ has neither {WEIGHTS} nor {PICKLE}"
        raise PoolError(what, where=folder.name, fix="name the folder that holds the adapter")
    with pickle.open("rb") as file:
        if file.read(len(LFS)) == LFS:
            what = f"{PICKLE} is a Git LFS pointer, not the file itself"
            raise PoolError(what, where=folder.name, fix="fetch it with git lfs pull")
    try:
        done = subprocess.run(
            [sys.executable, "-I", run_unpickle.__file__, str(pickle.resolve()), str(out)],
            cwd=work,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        killed = f"the process that read it ended with {done.returncode}; is memory too small?"
        reason = None if done.returncode == 0 else lines[-1] if done.returncode == 1 else killed
    except subprocess.TimeoutExpired:
        reason = f"it takes more than {_SECONDS} seconds"
    if reason is not None:
        fix = "download it again, or have it saved as safetensors: model.save_pretrained(path)"
        if run_unpickle.PROGRAM in reason:
            fix = "do not load it; ask for safetensors"
        raise PoolError(f"{PICKLE} is not read: {shown(reason, 200)}", where=folder.name, fix=fix)
    return out


def _check_names(tensors: StoredTensors, base: Base | None) -> None:
    """Raise PoolError where names are not PEFT's, and nothing tells what they should be."""
    odd = next((key for key in tensors if not key.startswith("base_model.")), None)
    odd = odd or next((key for key in tensors if ".default." in key.removeprefix(PREFIX)), None)
    if odd is None or "modules_to_save" in odd:
        return
    what = f"tensor {shown(odd)!r} has no name of PEFT's"
    if base is None:
        fix = "name the adapter's base, whose modules tell how it is to be read: --base REF"
    else:
        what += ", and no reading, or more than one, fits all tensors to the base"
        fix = "name the base that it was trained on, or save it again with save_pretrained"
    raise PoolError(what, code="MG102", where=WEIGHTS, fix=fix)


def _state(tensors: StoredTensors) -> "dict[str, Tensor]":
    from safetensors.torch import load_file

    held = {name: tensor for file in tensors.files for name, tensor in load_file(file).items()}
    stored = tensors.stored_names
    return {name: held[stored.get(name, name)] for name in tensors}


def _write(state: "dict[str, Tensor]", folder: Path, target: Path) -> None:
    from safetensors.torch import save

    try:
        if target == folder and (folder / WEIGHTS).is_file():
            write_file(folder / KEPT, (folder / WEIGHTS).read_bytes(), new=True)
        if target != folder:
            make_folder(target)
            for file in sorted(folder.iterdir()):
                if file.suffix in _BESIDE and file.is_file():
                    write_file(target / file.name, file.read_bytes())
        write_file(target / WEIGHTS, save(state, {"format": "pt"}))
    except OSError as error:
        raise GateError(str(error), fix="make room, or choose another folder") from None
