"""`docs/validation.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from card.alarms import (
    DISAGREEMENT,
    alarms_part,
    certificate_part,
    default_alarms,
    thresholds_part,
)
from card.bands import bands_part, bands_text, deciding_part
from card.beds import beds_part, collapses_part, count_text
from card.exact import exact_part, exact_text
from card.losses import losses_part, summary
from card.merges import merges_part, short_lines
from card.promises import promises_part
from card.ranks import RESAMPLES, rank, ranks_part, within_part
from card.replication import Replication, replication_part
from card.scores import scores_of
from card.targets import targets_part
from pytest_mergegate.history.calibration.observations import COLLAPSE
from pytest_mergegate.history.registry.lines import SCORES as NEEDS
from pytest_mergegate.metrics.resampling import PERMUTATIONS, SEED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from card.beds import Evidence
    from card.losses import Predictions


def page(command: str, protocol: Path, found: Evidence, predictions: Predictions) -> str:
    """All of it."""
    replication = Replication(found)
    parts = [
        _head(command, found),
        targets_part(found, predictions),
        _short(found, predictions),
        _reading(),
        beds_part(found),
        collapses_part(found),
        ranks_part(found),
        exact_part(found),
        within_part(found),
        alarms_part(found),
        bands_part(found),
        merges_part(found),
        thresholds_part(found),
        losses_part(predictions),
        deciding_part(predictions),
        certificate_part(found),
        promises_part(),
        replication_part(replication),
        _made(found),
        _protocol(protocol),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(command: str, found: Evidence) -> str:
    return f"""# Validation card
Written by `{command}` from the recorded merges that ship with the package.

Which score predicts a collapse, and does a predicted loss hold? The evidence: {count_text(found)}.
A point is one expert under one merge; it *collapsed* if the expert lost more than
{-COLLAPSE:.0f} % of its score. Every pool was gated twice: the scores come from one set of
examples, the loss that they have to predict from 100 others, so that no score has seen the inputs
that it is judged by."""


def _short(found: Evidence, predictions: Predictions) -> str:
    lines = ["## In short"]
    for needs in ("the merge", "the factors", "the experts' states", "the weights"):
        lines.append(
            f"- From {needs}, AUROC on {', '.join(found.columns)}: {_ranked(found, needs)}."
        )
    known = default_alarms(found.every)
    lines.append(
        f"- A gate without a budget catches {1 - known.missed:.1%} of the collapses and raises "
        f"{known.false_rate:.1%} false alarms, expert by expert."
    )
    more = [*short_lines(found), bands_text(found), exact_text(found)]
    lines += [f"- {line}" for line in more if line]
    for split in ("beds", "experts", "pools"):
        of = predictions.of(split, DISAGREEMENT.field)
        if of:
            told = summary(of)
            lines.append(
                f"- Losses predicted from the disagreement, {split} left out: off by "
                f"{told.error:.1f} points in the mean (a constant: {told.constant:.1f}); the 90 % "
                f"intervals, {told.width:.0f} points wide, cover {told.coverage:.1%}."
            )
    return "\n".join(lines)


def _ranked(found: Evidence, needs: str) -> str:
    told = []
    for score in scores_of(found.every):
        if NEEDS[score.field] == needs:
            values = [rank(score, points) for points in found.columns.values()]
            shown = " / ".join("-" if value is None else f"{value:.2f}" for value in values)
            told.append(f"{score.label} {shown}")
    return "; ".join(told)


def _reading() -> str:
    return """## How to read it
- The disagreement is no forecast: the merge has been made, and its answers are compared with the
  expert's. A metric that forgives other answers would make it cry wolf more often.
- MDS, the distances, the ratios, the norm and the cosine are one number for an expert in a pool,
  whatever the method. Over all methods they cannot tell one from another: compare them with the
  other scores method by method.
- The ratios, the cosine and the hidden distance are means over an expert's partners. MDS needs
  three experts.
- These are small models, trained for this. What carries over, if anything does, is the order of the
  scores and not the digits."""


def _made(found: Evidence) -> str:
    lines = ["## How it was made"]
    for bed, about in found.about.items():
        versions = ", ".join(f"{name} {of}" for name, of in about.get("versions", {}).items())
        pools = ", ".join(f"{count} of {size}" for size, count in about.get("pools", {}).items())
        told = [f"pools: {pools}", versions, *_facts(about)]
        lines.append(f"- {bed}: {'; '.join(part for part in told if part)}.")
    lines += [
        "- `python benchmarks/validation.py --train DIR` trains the beds in DIR, gates their pools "
        "and writes what ships; without `--train` the page is computed from that, without a model.",
        f"- Bootstraps draw {RESAMPLES} times, permutation tests {PERMUTATIONS} times, both with "
        f"seed {SEED}.",
    ]
    return "\n".join(lines)


def _facts(about: Mapping[str, Any]) -> list[str]:
    training, gating = about.get("made", {}).get("seconds"), about.get("gating_seconds")
    sources = about.get("made", {}).get("base", {}).get("sources", {})
    told = [f"{training:.0f} s of training"] if training is not None else []
    told += [f"{gating:.0f} s of gating"] if gating is not None else []
    if sources:
        told.append(f"texts from {', '.join(f'{name} {of}' for name, of in sources.items())}")
    return told


def _protocol(path: Path) -> str:
    if not path.exists():
        return ""
    lines = path.read_text("utf-8").strip().splitlines()
    told = (f"**{line.lstrip('# ')}**\n>" if line.startswith("#") else line for line in lines)
    quoted = "\n".join(f"> {line}".rstrip() for line in told)
    return (
        f"## The protocol\n\nWritten before the pools were gated, and quoted as it is:\n\n{quoted}"
    )
