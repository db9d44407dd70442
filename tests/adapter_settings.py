"""Random settings of LoRA, as PEFT itself trains, saves and loads them."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

if TYPE_CHECKING:
    import random
    from pathlib import Path

LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
    "mixtral": ["q_proj", "k_proj", "v_proj", "o_proj"],
}
LAYERS = {"gpt2": "h"}
WHOLE = {
    "llama": ["norm", "lm_head", "input_layernorm", "up_proj"],
    "qwen2": ["norm", "lm_head", "input_layernorm"],
    "gpt2": ["ln_f", "ln_1"],
    "opt": ["final_layer_norm"],
    "mixtral": ["norm", "gate"],
}
EMBEDDING = {"gpt2": "wte"}
STARTS = (
    *(True, True, True, False, "gaussian", "orthogonal", "mica", "pissa", "olora"),
    *("pissa_niter_2", "eva", "corda", "loftq", "lora_ga"),
)


def draw(rng: random.Random, architecture: str) -> dict[str, Any]:
    """Settings of a LoraConfig; PEFT may refuse them."""
    linear = LINEAR[architecture]
    chosen = rng.sample(linear, rng.randint(1, len(linear)))
    settings: dict[str, Any] = {
        "r": rng.choice([1, 2, 3, 4, 8]),
        "lora_alpha": rng.choice([1, 4, 7, 8, 16]),
        "target_modules": chosen,
    }

    def maybe(share: float, **more: Any) -> None:
        if rng.random() < share:
            settings.update(more)

    layers, first = LAYERS.get(architecture, "layers"), chosen[0]
    maybe(0.15, target_modules="all-linear")
    maybe(0.15, target_modules=rf".*\.{layers}\.[01]\..*({'|'.join(chosen)})")
    maybe(0.1, target_modules=[*chosen, EMBEDDING.get(architecture, "embed_tokens")])
    maybe(0.07, target_modules=[*chosen, "lm_head"])
    maybe(0.15, exclude_modules=rng.choice([[f"0.{first}"], rf".*\.0\..*{first}", [first]]))
    maybe(0.15, layers_to_transform=rng.choice([0, 1, [0], [0, 1]]))
    if "layers_to_transform" in settings:
        maybe(0.5, layers_pattern=layers)
    maybe(0.25, rank_pattern={rng.choice([first, rf".*\.1\..*{first}", f"^{first}"]): 5})
    maybe(0.25, alpha_pattern={rng.choice([first, rf".*\.0\..*{first}", "nothing"]): 3})
    maybe(0.25, use_rslora=True)
    maybe(0.2, use_dora=True)
    maybe(0.12, lora_bias=True)
    maybe(0.2, bias=rng.choice(["all", "lora_only"]))
    whole = WHOLE[architecture]
    maybe(0.25, modules_to_save=rng.sample(whole, rng.randint(1, len(whole))))
    maybe(0.1, trainable_token_indices=rng.sample(range(30), 3))
    maybe(0.5, init_lora_weights=rng.choice(STARTS))
    maybe(0.1, fan_in_fan_out=True)
    maybe(0.1, lora_dropout=0.1)
    maybe(0.04, layer_replication=[(0, 2), (1, 2)])
    maybe(0.03, use_qalora=True)
    maybe(0.05, ensure_weight_tying=True)
    maybe(0.5, task_type="CAUSAL_LM")
    if architecture == "mixtral":
        maybe(0.7, target_parameters=rng.choice([["experts.gate_up_proj"], ["experts.down_proj"],
              ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"], ["gate.weight"]]))  # fmt: skip
    return settings


IDS = torch.tensor([[5, 9, 3, 12, 7], [4, 2, 8, 11, 6]])


def train(base: Any, folder: Path, settings: dict[str, Any], seed: int) -> torch.Tensor | None:
    """Write an adapter of ``base`` with these settings, every trainable number moved; its logits as
    PEFT loads it, or None where PEFT does not take them."""
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(deepcopy(base), LoraConfig(**settings))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn_like(parameter)
            model.save_pretrained(folder)
            loaded = PeftModel.from_pretrained(deepcopy(base), folder).eval()
            with torch.no_grad():
                trained = model.eval()(input_ids=IDS).logits
                found: torch.Tensor = loaded(input_ids=IDS).logits
    except Exception:  # whatever PEFT raises: such an adapter is nowhere to be found
        return None
    # what it loads is not what it trained: a fault of PEFT's, not ours to read
    close = torch.allclose(found, trained, rtol=1e-3, atol=1e-3 * float(trained.abs().max()))
    return found if close else None
