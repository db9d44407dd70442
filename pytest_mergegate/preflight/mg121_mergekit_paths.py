"""MG121: paths that mergekit itself reads in another way than they are meant."""

from pathlib import Path

from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.preflight.told import Findings, note, warning


def find(pool: Pool) -> Findings:
    """The gate finds these models; ``mergekit-yaml`` may not, or may find others."""
    if pool.mergekit is None:
        return
    local: dict[str, str | None] = {}
    if pool.base.located.repository is None:
        local[pool.base.reference] = None
    local |= {e.reference: e.name for e in pool.experts if e.located.repository is None}
    for path, name in local.items():
        if {"+", "@"} & {*path}:
            said = f"{path}: mergekit takes '+' and '@' in a path for its own syntax"
            yield warning(said, "rename the folder, or name a link to it", name)
    relative = [path for path in local if not path.startswith("~") and not Path(path).is_absolute()]
    texts = pool.mergekit.written
    moved = [e.reference for e in pool.experts if e.reference not in texts.get(e.name, "")]
    if here := [path for path in relative if path in moved]:
        yield note(
            f"nothing lies beside the configuration under the paths that it names: they were found "
            f"from the working folder, as mergekit reads them ({here[0]})",
            "gate it from the folder where mergekit is started, or write absolute paths",
        )
    elif relative:
        yield note(
            f"mergekit looks for relative paths ({relative[0]}) from the folder where it "
            "is started, and then on the hub; the gate from the configuration's own, and then so",
            "start mergekit in the configuration's folder, or write absolute paths",
        )
    for expert in pool.experts:
        written = pool.mergekit.written.get(expert.name)
        if expert.is_adapter and written == expert.reference:
            said = f"{written} is an adapter, which mergekit takes for a whole model"
            yield warning(said, f"write {pool.base.reference}+{written}", expert.name)
