"""Where models run."""

from __future__ import annotations

import torch

from pytest_mergegate.common.errors import GateError


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:i]`` to a device. Raises GateError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise GateError(f"there is no device {name!r}", fix="use auto, cpu or cuda[:i]") from None
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise GateError(f"device {name!r} is not available here", fix="use the device auto or cpu")
    return device
