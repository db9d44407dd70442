"""Functions of the team's own that a gate file names as ``package.module:function``."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any


class Unusable(Exception):
    """A function that cannot be had: ``why``, and the ``fix`` where there is one."""

    def __init__(self, why: str, fix: str | None = None) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


def load_function(reference: str, root: Path) -> Callable[..., Any]:
    """The function; a module beside the gate file, in ``root``, comes first.

    Raises Unusable, also for a module that raises or exits when it is imported.
    """
    module_name, _, name = reference.partition(":")
    sys.path.insert(0, str(root))
    try:
        function = getattr(_module(module_name, root), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit and pytest.skip must not end or skip the gate
        raise Unusable(
            f"cannot be imported ({type(error).__name__}: {error})",
            "write package.module:function; modules beside the gate file are found too",
        ) from None
    finally:
        with suppress(ValueError):  # the module may have taken it out itself
            sys.path.remove(str(root))
    if not callable(function):
        raise Unusable("is not callable")
    return function  # type: ignore[no-any-return]  # checked to be callable, that is all


def _module(name: str, root: Path) -> ModuleType:
    """Import a module, once as it is written; two gates may each have one of the same name beside
    them."""
    beside = root.joinpath(*name.split(".")).with_suffix(".py")
    if not beside.is_file():
        return importlib.import_module(name)
    if "." in name:
        module = importlib.import_module(name)
        if getattr(module, "__file__", None) != str(beside):
            raise ImportError(f"{name} is {module.__file__} already, not {beside}")
        return module
    # under a name of its own: sys.modules would hand the second gate the first one's function, and
    # the standard library's module of that name would come before both
    digest = hashlib.sha256(str(beside).encode() + b"\0" + beside.read_bytes()).hexdigest()
    own = f"_mergegate_{digest[:12]}_{name}"
    if own in sys.modules:  # what it has worked out for one model serves the next
        return sys.modules[own]
    spec = importlib.util.spec_from_file_location(own, beside)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[own]
        raise
    return module
