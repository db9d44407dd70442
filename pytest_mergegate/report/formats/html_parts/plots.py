"""What plots are made of; the page's script draws them, and its templates say what they are."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One figure of a plot that can show several."""

    key: str
    label: str
    data: dict[str, Any]
    """What the script draws from."""
    extremes: tuple[float, float] = (0.0, 0.0)
    """The smallest and the largest number of a grid."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A plot with what it can be switched between."""

    key: str
    variants: tuple[Variant, ...]
    toggle: str = ""
    """What the variants differ in."""
    absent: tuple[tuple[str, str], ...] = ()
    """Variants that have no number, and why."""


def literal(text: str) -> str:
    """``text`` so that Plotly, which reads tags, entities and formulas, shows it as it is."""
    return html.escape(text, quote=False).replace("$", "&#36;")


def short(text: str, longest: int = 20) -> str:
    """``text`` for an axis."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return literal(cut) or "(unnamed)"
