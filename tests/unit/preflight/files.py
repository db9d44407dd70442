"""A tiny base and LoRA adapters written file by file, sound until a test spoils them; no torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from pytest_mergegate.gate.gatefile import gate_from
from pytest_mergegate.stages.preflight import run_preflight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from pytest_mergegate.common.findings import Finding

    Tensors = dict[str, NDArray[Any]]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
WIDTH, ROWS, RANK = 8, 32, 2
TOKENS = [f"t{k}" for k in range(28)]
Q = "model.layers.0.self_attn.q_proj"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PREFIX = "base_model.model."
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "dtype": "float32",
    "tie_word_embeddings": False,
}


class Files:
    """The folder of a gate: a base, and experts ``a``, ``b`` and ``c``."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.base = folder / "base"
        self.write_model(self.base, self.base_tensors(), LLAMA)
        self.write_tokenizer(self.base)
        for name in "abc":
            self.write_adapter(name)

    def draw(self, *shape: int) -> NDArray[Any]:
        return self.rng.normal(size=shape).astype(np.float32)

    def base_tensors(self) -> Tensors:
        tensors = {EMBEDDING: self.draw(ROWS, WIDTH), HEAD: self.draw(ROWS, WIDTH)}
        for layer in range(2):
            for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"):
                tensors[f"model.layers.{layer}.{part}.weight"] = self.draw(WIDTH, WIDTH)
            tensors[f"model.layers.{layer}.input_layernorm.weight"] = self.draw(WIDTH)
        return tensors

    def write_model(self, folder: Path, tensors: Tensors, config: dict[str, Any]) -> Path:
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / "model.safetensors")
        write_json(folder / "config.json", config)
        return folder

    def write_checkpoint(
        self, name: str, change: Callable[[Tensors], Any] = len, **config: Any
    ) -> Path:
        """Make expert ``name`` a full checkpoint near the base."""
        for file in (CONFIG, WEIGHTS):
            (self.folder / name / file).unlink()
        tensors = load_file(self.base / "model.safetensors")
        moved = {key: value + 0.3 * self.draw(*value.shape) for key, value in tensors.items()}
        change(moved)
        settings = json.loads((self.base / "config.json").read_text()) | config
        return self.write_model(self.folder / name, moved, settings)

    def write_tokenizer(self, folder: Path, vocabulary: dict[str, int] | None = None) -> None:
        """A tokenizer.json of single words."""
        numbered = vocabulary or {token: k for k, token in enumerate(TOKENS)}
        tokenizer = {
            "added_tokens": [],
            "normalizer": None,
            "model": {"type": "WordLevel", "vocab": numbered},
        }
        write_json(folder / "tokenizer.json", tokenizer)

    def write_adapter(self, name: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        modules = [f"model.layers.{k}.self_attn.{p}_proj" for k in range(2) for p in "qv"]
        tensors = {}
        for module in modules:
            tensors[f"{PREFIX}{module}.lora_A.weight"] = 0.3 * self.draw(RANK, WIDTH)
            tensors[f"{PREFIX}{module}.lora_B.weight"] = 0.3 * self.draw(WIDTH, RANK)
        save_file(tensors, folder / WEIGHTS)
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "base",
            "r": RANK,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "v_proj"],
        }
        write_json(folder / CONFIG, settings)

    def write_examples(self, name: str, *rows: dict[str, Any]) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (self.folder / f"{name}.jsonl").write_text(lines)

    def edit_config(self, name: str, **changes: Any) -> None:
        """Replace settings of an adapter's, or the base's, configuration."""
        file = self.folder / name / (CONFIG if name != "base" else "config.json")
        write_json(file, json.loads(file.read_text()) | changes)

    def edit_tensors(self, name: str, change: Callable[[Tensors], Any]) -> None:
        """Change the tensors of an adapter, or of the base, in place."""
        file = self.folder / name / (WEIGHTS if name != "base" else "model.safetensors")
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    def findings(
        self, experts: str = "abc", settings: dict[str, dict[str, Any]] | None = None, **gate: Any
    ) -> list[Finding]:
        """What the first stage finds in the folder as it is now, with ``settings`` of experts."""
        asked: dict[str, dict[str, Any]] = {}
        for name in experts:
            asked[name] = {"path": name, **(settings or {}).get(name, {})}
            if (self.folder / f"{name}.jsonl").exists():
                asked[name]["examples"] = f"{name}.jsonl"
        made = gate_from({"base": "base", "experts": asked} | gate, root=self.folder)
        return [*run_preflight(made).findings]

    def only(self, code: str, experts: str = "abc", **gate: Any) -> Finding:
        """The one finding there is, which says what is wrong and what to do."""
        findings = self.findings(experts, **gate)
        assert [finding.code for finding in findings] == [code], [str(f) for f in findings]
        assert findings[0].message
        assert findings[0].fix
        assert "\n" not in str(findings[0])
        return findings[0]


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
