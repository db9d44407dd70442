"""One pickle of tensors read by torch's weights-only loader, in a process of its own.

Started as ``python -I run_unpickle.py PICKLE SAFETENSORS``; imports nothing of this package. What
goes wrong is the last line of stderr.
"""

import sys


def main(pickle: str, target: str) -> None:
    """Read the tensors in ``pickle`` and write them to ``target``."""
    import torch
    from safetensors.torch import save_file

    held = torch.load(pickle, map_location="cpu", weights_only=True)
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in held.items()
    ):
        raise ValueError("it holds something else than tensors by name")
    # a tensor may be a view of another, which safetensors does not know
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in held.items()},
        target,
        {"format": "pt"},
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except Exception as error:  # torch raises whatever the file makes it raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.stderr.write(f"\n{lines[0] if lines else type(error).__name__}\n")
        sys.exit(1)
