"""Registry lines without a gate."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_mergegate.history.registry.lines import SCHEMA, RegistryLine, line_id

if TYPE_CHECKING:
    from collections.abc import Mapping


@cache
def _versions() -> dict[str, str]:
    """Read once: the metadata of a package take longer to parse than all else of a line."""
    return {name: version(name) for name in ("pytest-mergegate", "mergekit")}


def made(
    pool: str = "ab",
    method: str = "linear",
    *,
    losses: Mapping[str, float | None] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    infinite: tuple[str, ...] = (),
    metric: str = "exact_match",
    reading: str | None = None,
    compared: int | None = None,
    compared_by: str | None = None,
    shared: int | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    **changes: Any,
) -> RegistryLine:
    """A line; every letter of ``pool`` is an expert of that name and fingerprint."""
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "base": "base",
        "method": method.split(" ")[0],
        "label": method,
        "parameters": {},
        "weights": dict.fromkeys(pool, 0.5),
        "settings": {"seed": 0},
        "versions": dict(_versions()),
        "distances": [],
        "experts": [
            {
                "name": name,
                "fingerprint": name,
                "examples": None,
                "metric": metric,
                "reading": reading,
                "compared": compared,
                **({"compared_by": compared_by} if compared_by else {}),
                "scored": None,
                "shared": shared,
                "scores": dict((scores or {}).get(name, {"disagreement": 0.0})),
                "infinite": list(infinite),
                "score_base": 0.0,
                "score_expert": 1.0,
                "score_merged": 1.0,
                "loss": (losses or {}).get(name, 0.0),
                "loss_interval": None,
            }
            for name in pool
        ],
    } | changes
    identified = {**data, "id": line_id(data), "created": created, "gate": "mergegate.yaml"}
    return RegistryLine.model_validate_json(json.dumps(identified))
