"""One pickle of tensors read by torch's weights-only loader, in a process of its own.

Started as ``python -I run_unpickle.py PICKLE SAFETENSORS``; imports nothing of this package. What
goes wrong is the last line of stderr.
"""

import errno
import re
import sys
from pathlib import Path

PROGRAM = "such a pickle is a program"
_NAMED = re.compile(r"(?:add_safe_globals\(\[|Unsupported (?:global|class): (?:GLOBAL )?)([\w.]+)")


class _NoTensors(Exception):
    """A file that could be read, and is no adapter."""


def main(pickle: str, target: str) -> None:
    """Read the tensors in ``pickle`` and write them to ``target``."""
    import torch
    from safetensors.torch import save_file

    held = torch.load(pickle, map_location="cpu", weights_only=True)
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in held.items()
    ):
        raise _NoTensors("it holds something else than tensors by name")
    # a tensor may be a view of another, which safetensors does not know
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in held.items()},
        target,
        {"format": "pt"},
    )


def _why(error: Exception, pickle: str) -> str:
    """One line for people; torch's own are its advice to load the file nonetheless, or a number."""
    torn = isinstance(error, OSError) and error.errno == errno.EINVAL  # a seek beyond the end
    if isinstance(error, (_NoTensors, OSError, MemoryError)) and not torn:
        return " ".join(str(error).split()) or type(error).__name__
    if (named := _NAMED.search(str(error))) is not None:
        return f"it holds more than tensors ({named[1]}), and {PROGRAM}"
    size = Path(pickle).stat().st_size
    return f"its {size} bytes are nothing that torch.save wrote, or not all of it"


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except Exception as error:  # torch raises whatever the file makes it raise
        sys.stderr.write(f"\n{_why(error, sys.argv[1])}\n")
        sys.exit(1)
