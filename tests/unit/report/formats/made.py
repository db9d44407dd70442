"""Reports made by hand, as small or as large as a test needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_mergegate.report.types import Collected, Report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("rotate", "first_last", "reverse", "shout")
HOSTILE = (
    "<script>alert(1)</script>",
    "a|b `c` @everyone #12",
    "line\nbreak [x](https://evil.example) **bold** 100%",
    "\x1b[31mred\x1b[0m \u202eright www.evil.example GH-7",
)


def verdict(expert: str, status: str = "pass", **given: Any) -> dict[str, Any]:
    """One verdict on the disagreement under ``linear``."""
    value = {"pass": 0.1, "fail": 1.0, "inconclusive": None}[status]
    relation = {"pass": "within", "fail": "over", "inconclusive": "undecided against"}[status]
    made: dict[str, Any] = {
        "budget": "max_disagreement",
        "limit": 0.3,
        "value": value,
        "interval": (0.05, 0.2) if status == "pass" else None,
        "expert": expert,
        "method": "linear",
        "basis": "merged",
        "status": status,
        "message": f"{expert}: disagreement {value} {relation} 0.3 under linear (on 64 inputs)",
        "line": 7,
    }
    return made | given


def merged(name: str, disagreement: float, **given: Any) -> dict[str, Any]:
    """One expert under one merge."""
    made: dict[str, Any] = {
        "name": name,
        "reading": "greedy",
        "inputs": 64,
        "disagreement": disagreement,
        "disagreement_interval": (0.0, 1.0),
        "disagreement_upper": min(disagreement + 0.08, 1.0),
        "kl": 0.1,
        "distortion": 1.0,
        "relative_distortion": 0.1,
        "degenerate": None,
        "score_base": 0.0,
        "score_expert": 1.0,
        "score_merged": 1.0 - disagreement,
        "loss": -100.0 * disagreement,
        "loss_interval": (-100.0 * disagreement - 2, -100.0 * disagreement + 2),
        "retention": 1.0 - disagreement,
    }
    return made | given


def case(**given: Any) -> dict[str, Any]:
    """One input that is answered differently."""
    made = {"input": "in", "expert": "own", "merged": "other", "distance": 1.0, "parts_at": 0}
    return made | {"score_expert": 1.0, "score_merged": 0.0} | given


def with_cases(made: Report, count: int, **given: Any) -> Report:
    """The same, with so many cases of every expert under every merge."""
    data = made.model_dump()
    for merge in data["merges"]:
        for own in merge["experts"]:
            cases = (case(input=f"{own['name']} {k}", **given) for k in range(count))
            own["changed"] = tuple(cases)
    return Report.model_validate(data)


def expert(name: str, **given: Any) -> dict[str, Any]:
    """One expert."""
    made = {"name": name, "ref": f"adapters/{name}", "fingerprint": "sha256:0", "kind": "lora"}
    return {**made, "mds": 1.42, "mds_interval": (1.3, None), **given}


def pairs(names: Sequence[str]) -> list[dict[str, Any]]:
    """All of them, alike by their places."""
    count = len(names)
    return [
        {
            "a": a,
            "b": b,
            "distance": 0.5 + 0.1 * (k - j),
            "hidden_similarity": 1.0 - (k - j - 1) / max(count - 2, 1),
            "layers": {"conflicting_magnitude_ratio": (0.4, None), "sign_change_ratio": (0.5, 0.5)},
        }
        for j, a in enumerate(names)
        for k, b in enumerate(names)
        if j < k
    ]


def report(
    names: Sequence[str] = NAMES, failing: Sequence[str] = ("shout",), **given: Any
) -> Report:
    """A gate that merged under two methods; the experts of ``failing`` are over budget."""
    wrong = {name: name in failing for name in names}
    verdicts = [verdict(name, "fail" if bad else "pass") for name, bad in wrong.items()]
    remedies = [
        {"text": f"leave {name} out: linear then changes 2% of the others' answers"}
        for name in failing[:1]
    ]
    diagnoses = [
        {
            "expert": name,
            "cause": f"interference with {names[0]}: without {names[0]}, 0% (under linear)",
            "kind": f"interference with {names[0]}",
            "figures": f"without {names[0]}, 0%",
            "nearest": names[0],
            "farthest": names[-1],
            "cures": [remedy["text"] for remedy in remedies],
        }
        for name in failing
    ]
    data: dict[str, Any] = {
        "status": "fail" if failing else "pass",
        "gate": "gates/pool.mergegate.yaml",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {"pytest-mergegate": "0.1.0"},
        "device": "cpu",
        "seconds": {"preflight": 0.1, "hidden": 2.0},
        "cache": {"hits": 3, "misses": 4},
        "settings": {},
        "experts": [expert(name) for name in names],
        "pairs": pairs(names),
        "conflicts": {"mode": "exact", "rows": None, "layers": ("layers.0", "layers.1")}
        | {"tensors": ()},
        "forecasts": [_forecast(name, kind) for name in names for kind in ("states", "surrogate")],
        "merges": [_merge("linear", wrong), _merge("ties density=0.5", dict.fromkeys(names, True))],
        "plan": {
            "curve": [{"models": 1, "distortion": 69.66, "groups": (tuple(names),)}],
            "drop": tuple(failing),
        },
        "findings": [
            finding("MG118", "warning", None, "the weights sum to 4"),
            *(finding("MG401", "error", name, "likely cause: interference") for name in failing),
        ],
        "verdicts": verdicts,
        "diagnoses": diagnoses,
        "remedies": remedies,
    }
    return Report.model_validate(data | given)


def finding(code: str, severity: str, about: str | None, message: str) -> dict[str, Any]:
    """One finding."""
    return {
        "code": code,
        "severity": severity,
        "expert": about,
        "message": message,
        "fix": "write smaller weights",
        "line": 6,
    }


def error(message: str = "there is no directory", **given: Any) -> Report:
    """A gate that could not be read."""
    data: dict[str, Any] = {
        "status": "error",
        "gate": "gates/broken.mergegate.yaml",
        "created": "2026-01-02T03:04:05+00:00",
        "versions": {},
        "device": "cpu",
        "seconds": {},
        "settings": {},
        "findings": [finding("MG001", "error", "b", message)],
    }
    return Report.model_validate(data | given)


def run(*reports: Report, complete: bool = True, root: Path | None = None) -> Collected:
    """A run of these gates."""
    return Collected(reports=reports, complete=complete, root=root)


def _merge(method: str, wrong: dict[str, bool]) -> dict[str, Any]:
    experts = [merged(name, 1.0 if bad else 0.03) for name, bad in wrong.items()]
    return {
        "method": method,
        "parameters": {},
        "weights": {},
        "fidelity": 0.0,
        "digest": "sha256:1",
        "experts": experts,
        "worst_loss": min(e["loss"] for e in experts),
    }


def _forecast(name: str, kind: str) -> dict[str, Any]:
    return {
        "method": "linear",
        "expert": name,
        "kind": kind,
        "reading": "greedy",
        "inputs": 5,
        "disagreement": 1.0 if kind == "states" else 0.03,
        "disagreement_upper": 1.0,
        "kl": None,
        "kl_reason": "not_computed",
    }
