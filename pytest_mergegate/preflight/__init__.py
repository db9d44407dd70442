"""The rules of the first stage, one file per coded finding; headers and numpy, no torch.

A rule is a module ``mgNNN_name.py`` with a function ``find(pool)``, which yields what ``told``
makes: errors, warnings and notes. They are told under the code in the name of the module. Where it
has ``ABOUT_MAKING``, it is left out beside a finished merge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.findings import Finding
from pytest_mergegate.pool.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What looks for one coded finding."""

    code: str
    module: ModuleType

    @property
    def about_making(self) -> bool:
        """Whether it says nothing of a merge that is finished already."""
        return getattr(self.module, "ABOUT_MAKING", False)

    def apply(self, pool: Pool) -> Iterator[Finding]:
        """What the rule finds; files that it cannot read are a finding too, and stop no other
        rule."""
        try:
            for found in self.module.find(pool):
                yield found if found.code else replace(found, code=self.code)
        except PoolError as error:
            yield Finding.of(error)


RULES = tuple(
    Rule(code=name.partition("_")[0].upper(), module=import_module(f"{__name__}.{name}"))
    for _, name, _ in iter_modules(__path__)
    if name.startswith("mg")
)
"""In the order of their codes."""
