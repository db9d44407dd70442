"""What PEFT calls the files and tensors of an adapter."""

from __future__ import annotations

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Every tensor's name begins with it."""
