"""MG122: patterns of ranks or scales that match no adapted module, and so say nothing."""

from collections.abc import Iterator, Sequence

from pytest_mergegate.common.errors import PoolError
from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.pool.changes import ExpertFactors, Factors
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.patterns import pattern_value
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, warning

_GENERAL = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
_SHOWN, _TRIED = 3, 100
_OF_PEFT = r".*\.gate_up_proj"
"""What PEFT itself writes for mixtures of experts, whether they are adapted or not."""
_FIX = (
    "PEFT matches a whole name or its end after a dot, so ^q_proj means no module: check whether "
    "the adapter was trained as it was meant"
)


def find(pool: Pool) -> Findings:
    """PEFT trains and merges with the general setting then, whatever was meant."""
    for expert in pool.experts:
        changes = expert.changes.values()
        modules = [c.parameter.removesuffix(".weight") for c in changes if isinstance(c, Factors)]
        modules += [c.parameter for c in changes if isinstance(c, ExpertFactors)]
        for setting, general in _GENERAL.items() if modules else ():
            try:
                odd = list(_unmatched(expert, setting, modules))
            except PoolError:  # what cannot be matched is refused where it counts
                continue
            if odd:
                told = ", ".join(f"'{shown(key, 60)}'" for key in odd[:_SHOWN])
                more = f" and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
                said = f"{setting}: {told}{more} matches none of the {len(modules)} adapted modules"
                yield warning(f"{said}, which have the general {general}", _FIX, expert.name)


def _unmatched(expert: Expert, setting: str, modules: Sequence[str]) -> Iterator[str]:
    patterns = expert.config.get(setting)
    if not isinstance(patterns, dict):
        return
    names = [module.split(".") for module in modules]
    endings = {".".join(parts[k:]) for parts in names for k in range(len(parts))}
    # names, as PEFT writes them, are looked up; the few others are matched one by one
    known = {*endings, _OF_PEFT}
    others = [key for key in patterns if isinstance(key, str) and key not in known]
    for key in others[:_TRIED]:
        found = (pattern_value(module, {key: True}, expert=expert.name) for module in modules)
        if not any(found):
            yield key
