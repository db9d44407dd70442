"""A gate's numbers the slow way: PEFT's own forward, one input at a time, in float64.

No batch, no padding, no cache, nothing shared with the package but the inputs. What a whole
report is compared with.
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mergekit.merge_methods.api import merge_state_dicts
from peft import PeftModel
from pools import read_gate, read_jsonl
from scipy.optimize import minimize
from scipy.stats import beta
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

TIE = 1e-5
"""Two best options nearer than this are a tie that float32 may break the other way."""


class Tie(Exception):
    """An answer hangs on round-off: such a pool has no one right report."""


def best(scores: Tensor) -> int:
    """Index of the highest score."""
    first, second = scores.topk(2).values.tolist()
    if first - second < TIE:
        raise Tie
    return int(scores.argmax())


class Naive:
    """A pool, read and run without the package."""

    def __init__(self, gate: Path) -> None:
        self.root = gate.parent
        self.gate = read_gate(gate)
        self.names = list(self.gate["experts"])
        self.max_tokens = self.gate["probes"]["max_answer_tokens"]
        self.tokenizer = AutoTokenizer.from_pretrained(self.root / "base")
        self.base = self._base()
        self.experts = {
            name: PeftModel.from_pretrained(self._base(), self._folder(name)).double().eval()
            for name in self.names
        }
        self.rows = {
            name: read_jsonl(self.root / self.gate["experts"][name]["examples"])
            for name in self.names
        }
        self.prompts = {
            name: [self.tokenizer(row["input"])["input_ids"] for row in self.rows[name]]
            for name in self.names
        }
        self.answers = {
            name: [self.answer(self.experts[name], name, k) for k in range(len(self.rows[name]))]
            for name in self.names
        }

    def _base(self) -> Any:
        return AutoModelForCausalLM.from_pretrained(self.root / "base").double().eval()

    def _folder(self, name: str) -> Path:
        folder: Path = self.root / self.gate["experts"][name]["path"]
        return folder

    # One model on one input

    @torch.no_grad()
    def run(self, model: Any, tokens: list[int]) -> tuple[Tensor, Tensor]:
        """Last hidden states and logits of a whole sequence."""
        out = model(input_ids=torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
        return out.hidden_states[-1][0], out.logits[0]

    def answer(self, model: Any, name: str, k: int) -> list[int]:
        """The greedy answer to an input of ``name``, running everything again for every token."""
        answer: list[int] = []
        while len(answer) < self.max_tokens and not self.ended(answer, name):
            answer.append(best(self.run(model, self.prompts[name][k] + answer)[1][-1]))
        return answer

    def ended(self, answer: list[int], name: str) -> bool:
        """Whether an answer reached the end of the text, or holds a stop string."""
        letters = self.tokenizer.decode(answer, skip_special_tokens=True)
        stopped = any(stop in letters for stop in self.stops(name))
        return stopped or self.tokenizer.eos_token_id in answer

    def stops(self, name: str) -> list[str]:
        """The stop strings of expert ``name``."""
        return list(self.gate["experts"][name].get("stop", []))

    def text(self, answer: list[int], name: str) -> str:
        """An answer in letters, without what stops it."""
        letters = str(self.tokenizer.decode(answer, skip_special_tokens=True))
        for stop in self.stops(name):
            letters = letters.partition(stop)[0]
        return letters.strip()

    def at_answer(self, model: Any, name: str, k: int) -> tuple[Tensor, Tensor]:
        """States and logits where expert ``name``'s own answer to its input k is predicted."""
        prompt, answer = self.prompts[name][k], self.answers[name][k]
        states, logits = self.run(model, prompt + answer[:-1])
        return states[len(prompt) - 1 :], logits[len(prompt) - 1 :]

    def choose(self, model: Any, name: str, k: int) -> tuple[Tensor, int]:
        """Log-likelihood of every choice of input k, and the likeliest."""
        prompt, sums = self.prompts[name][k], []
        unit = self.gate["experts"][name].get("length_normalization", "none")
        for choice in self.rows[name][k]["choices"]:
            tokens = self.tokenizer(choice)["input_ids"]
            logs = self.run(model, prompt + tokens)[1].log_softmax(-1)
            total = sum(logs[len(prompt) - 1 + t, token] for t, token in enumerate(tokens))
            length = {"none": 1, "tokens": len(tokens), "bytes": len(choice.encode())}[unit]
            sums.append(total / length)
        scores = torch.stack(sums)
        return scores, best(scores)

    def by_choices(self, name: str) -> bool:
        """Whether expert ``name``'s answers are read as choices."""
        return bool(self.gate["experts"][name].get("metric") == "accuracy")

    def output(self, model: Any, name: str, k: int) -> str:
        """What ``model`` answers to input k of expert ``name``."""
        if self.by_choices(name):
            return str(self.rows[name][k]["choices"][self.choose(model, name, k)[1]])
        return self.text(self.answer(model, name, k), name)

    # Hidden states

    def inputs(self) -> list[tuple[str, int]]:
        """All inputs of all experts."""
        return [(name, k) for name in self.names for k in range(len(self.rows[name]))]

    def states(self, model: Any, positions: str = "answer") -> list[np.ndarray]:
        """States of all inputs, [positions, width] each."""
        found = []
        for name, k in self.inputs():
            prompt = self.run(model, self.prompts[name][k])[0].numpy()
            found.append(
                {
                    "answer": lambda name=name, k=k: self.at_answer(model, name, k)[0].numpy(),
                    "last": lambda prompt=prompt: prompt[-1:],
                    "mean": lambda prompt=prompt: prompt.mean(axis=0, keepdims=True),
                }[positions]()
            )
        return found

    def distances(
        self, positions: str = "answer", normalize: str = "unit"
    ) -> dict[tuple[str, str], tuple[float, float]]:
        """d_ij of normalised states, and the mean squared distance of the states as they are."""
        states = {name: self.states(self.experts[name], positions) for name in self.names}
        base = self.states(self.base, positions)
        sizes = {
            "unit": lambda x, h: np.linalg.norm(x),
            "none": lambda x, h: 1.0,
            "base": lambda x, h: np.linalg.norm(h),
        }
        size = sizes[normalize]
        found = {}
        for a, b in combinations(self.names, 2):
            scaled, squared = [], []
            for rows in zip(states[a], states[b], base, strict=True):
                triples = list(zip(*rows, strict=True))
                gaps = [np.linalg.norm(u / size(u, h) - v / size(v, h)) for u, v, h in triples]
                scaled.append(np.mean(gaps))
                squared.append(np.mean([np.sum((u - v) ** 2) for u, v, _ in triples]))
            found[a, b] = float(np.mean(scaled)), float(np.mean(squared))
        return found

    def squared_distances(self) -> np.ndarray:
        """D2 as a matrix."""
        matrix = np.zeros((len(self.names), len(self.names)))
        for (a, b), (_, value) in self.distances().items():
            i, j = self.names.index(a), self.names.index(b)
            matrix[i, j] = matrix[j, i] = value
        return matrix

    def shift(self, name: str) -> float:
        """rms‖h_i − h_0‖ / rms‖h_0‖."""
        own, base = self.states(self.experts[name]), self.states(self.base)
        moved = [x - y for x, y in zip(own, base, strict=True)]
        return math.sqrt(mean_square(moved) / mean_square(base))

    # Weights

    def dense(self, name: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """All parameters of an expert, its adapter merged in by PEFT."""
        base = AutoModelForCausalLM.from_pretrained(self.root / "base").to(dtype)
        model = PeftModel.from_pretrained(base, self._folder(name)).to(dtype).merge_and_unload()
        return {key: value.detach() for key, value in model.state_dict().items()}

    @cached_property
    def task_vectors(self) -> dict[str, dict[str, Tensor]]:
        """θ_i − θ_0 of every expert, by parameter, where it is not zero."""
        base = self.base.state_dict()
        return {
            name: {
                key: value - base[key]
                for key, value in self.dense(name).items()
                if not torch.equal(value, base[key])
            }
            for name in self.names
        }

    def merged(self, scales: dict[str, float]) -> Any:
        """θ_0 + Σ λ_j τ_j as a model."""
        weights = dict(self.base.state_dict())
        for name, tau in self.task_vectors.items():
            for key, value in tau.items():
                weights[key] = weights[key] + scales[name] * value
        return self.loaded(weights)

    def mergekit(self, method: str, *, with_base: bool = True, **parameters: Any) -> Any:
        """The merge of the dense experts by mergekit, as a model."""
        dense = {name: self.dense(name, torch.float32) for name in self.names}
        base = {key: value.float() for key, value in self.base.state_dict().items()}
        models = {"": base, **dense} if with_base else dense
        merged = merge_state_dicts(models, method, parameters=parameters, base=next(iter(models)))
        return self.loaded(merged)

    def loaded(self, weights: dict[str, Tensor]) -> Any:
        """A model with these weights."""
        model = self._base()
        model.load_state_dict({key: value.double() for key, value in weights.items()})
        return model

    def least_squares_scale(self, model: Any) -> float:
        """The λ for which λ Σ τ_j is nearest to a model's task vector."""
        base, weights, vectors = self.base.state_dict(), model.state_dict(), self.task_vectors
        dot = square = 0.0
        for key in base:
            total = sum(tau[key] for tau in vectors.values() if key in tau)
            if isinstance(total, torch.Tensor):
                dot += float(((weights[key] - base[key]) * total).sum())
                square += float((total**2).sum())
        return dot / square

    # One model against one expert

    def differing(self, model: Any, name: str) -> list[bool]:
        """Per own input, whether ``model`` answers otherwise than the expert."""
        own = self.experts[name]
        return [
            self.output(model, name, k) != self.output(own, name, k)
            if self.by_choices(name)
            else self.answer(model, name, k) != self.answers[name][k]
            for k in range(len(self.rows[name]))
        ]

    def by_rouge(self, name: str) -> bool:
        """Whether expert ``name``'s answers are compared by ROUGE-L."""
        return bool(self.gate["experts"][name].get("metric") == "rouge_l")

    def apart(self, model: Any, name: str) -> np.ndarray:
        """Distances of the answers to own inputs [3, n]: as seen, at least and at most."""
        found = []
        for k, differs in enumerate(self.differing(model, name)):
            own = self.answers[name][k]
            if self.by_choices(name):
                found.append((differs, differs, differs))
            elif not self.by_rouge(name):
                found.append((differs, differs, differs or not self.ended(own, name)))
            else:
                found.append(self._apart_by_rouge(own, self.answer(model, name, k), name))
        return np.array(found, dtype=np.float64).T

    def _apart_by_rouge(self, *args: Any) -> tuple[float, float, float]:
        *answers, name = args
        said = [self.text(answer, name) for answer in answers]
        texts = [words(text) for text in said]
        cut = [not self.ended(answer, name) for answer in answers]
        seen = rouge_distance(common_words(*texts), *map(len, texts))
        if not any(texts):  # signs alone, which ROUGE does not see
            seen = float(said[0] != said[1])
        if not any(cut):
            return seen, seen, seen
        if all(cut):
            return seen, 0.0, 1.0
        whole, begun = (texts[0], texts[1][:-1]) if cut[1] else (texts[1], texts[0][:-1])
        common = common_words(whole, begun)
        least = min(  # whatever it may go on to say: some words that are missing, and no others
            rouge_distance(common + more, len(whole), len(begun) + more)
            for more in range(len(whole) - common + 1)
        )
        return seen, min(least, seen), 1.0

    def divergence(self, model: Any, name: str) -> float:
        """Mean KL(expert ‖ model) over own inputs."""
        return float(np.mean(self.divergences(model, name)))

    def divergences(self, model: Any, name: str) -> list[float]:
        """KL(expert ‖ model) per own input, of choices or of next tokens."""
        own, found = self.experts[name], []
        for k in range(len(self.rows[name])):
            if self.by_choices(name):
                p, q = (self.choose(m, name, k)[0].log_softmax(-1) for m in (own, model))
                found.append(float((p.exp() * (p - q)).sum()))
            else:
                p, q = (self.at_answer(m, name, k)[1].log_softmax(-1) for m in (own, model))
                found.append(float((p.exp() * (p - q)).sum(-1).mean()))
        return found

    def tokens(self, model: Any, name: str) -> tuple[float, float]:
        """Share of the tokens of the expert's own answers that are ``model``'s first choice as
        well, and total variation of the distributions there; of each answer, then over answers."""
        own, agreeing, apart = self.experts[name], [], []
        for k in range(len(self.rows[name])):
            p, q = (self.at_answer(m, name, k)[1].double().softmax(-1) for m in (own, model))
            agreeing.append(
                np.mean([int(a.argmax() == b.argmax()) for a, b in zip(p, q, strict=True)])
            )
            apart.append(
                np.mean([float((a - b).clip(min=0).sum()) for a, b in zip(p, q, strict=True)])
            )
        return float(np.mean(agreeing)), float(np.mean(apart))

    def distortion(self, model: Any, name: str) -> tuple[float, float]:
        """δ² on own inputs, and the mean square of the expert's own states."""
        states = [
            [self.at_answer(m, name, k)[0].numpy() for k in range(len(self.rows[name]))]
            for m in (model, self.experts[name])
        ]
        moved = [x - y for x, y in zip(*states, strict=True)]
        return mean_square(moved), mean_square(states[1])

    def forecast(self, name: str, scales: dict[str, float]) -> tuple[int, float]:
        """Answers that differ, and the KL, when the stored states are mixed instead."""
        differing, found = 0, []
        heads = {n: self.head_shift(n) for n in self.names}
        head = self.base.state_dict()["lm_head.weight"] + sum(
            scales[n] * heads[n] for n in self.names
        )
        for k in range(len(self.rows[name])):
            base = self.at_answer(self.base, name, k)[0]
            mixed = base + sum(
                scales[n] * (self.at_answer(self.experts[n], name, k)[0] - base) for n in self.names
            )
            own, mix = self.at_answer(self.experts[name], name, k)[1], mixed @ head.T
            if self.by_choices(name):
                first = [self.tokenizer(c)["input_ids"][0] for c in self.rows[name][k]["choices"]]
                own, mix = own[:1, first], mix[:1, first]
            p, q = own.log_softmax(-1), mix.log_softmax(-1)
            differing += any(best(a) != best(b) for a, b in zip(p, q, strict=True))
            found.append(float((p.exp() * (p - q)).sum(-1).mean()))
        return differing, float(np.mean(found))

    def head_shift(self, name: str) -> Tensor:
        """An expert's task vector of the vocabulary projection."""
        key = "lm_head.weight"
        return self.task_vectors[name].get(key, torch.zeros_like(self.base.state_dict()[key]))


def mean_square(states: list[np.ndarray]) -> float:
    """Mean over inputs of the mean over positions of ‖h‖²."""
    return float(np.mean([np.mean(np.sum(np.square(state), axis=1)) for state in states]))


def squared_radius(squared: np.ndarray) -> float:
    """R²: the largest ½ αᵀ D2 α over the simplex, by a general solver from several starts."""
    n = len(squared)
    if n == 1:
        return 0.0
    starts = [np.full(n, 1 / n), *np.random.default_rng(0).dirichlet(np.ones(n), size=5)]
    unit = squared / squared.max()
    found = [
        minimize(
            lambda a: -0.5 * a @ unit @ a,
            start,
            jac=lambda a: -unit @ a,
            bounds=[(0, 1)] * n,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        for start in starts
    ]
    return float(max(-result.fun for result in found)) * float(squared.max())


def clopper_pearson_upper(differing: int, n: int, confidence: float) -> float:
    """The textbook bound."""
    return 1.0 if differing == n else float(beta.ppf(confidence, differing + 1, n - differing))


def words(text: str) -> list[str]:
    """What ROUGE-L counts, of a text without digits."""
    return re.findall("[a-z]+", text)


def common_words(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, by the definition."""
    table = np.zeros((len(a) + 1, len(b) + 1))
    for i, j in np.ndindex(len(a), len(b)):
        table[i + 1, j + 1] = (
            table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
        )
    return int(table[-1, -1])


def rouge_l(output: str, target: str) -> float:
    """F1 of the longest common subsequence of words, by the definition."""
    a, b = words(output), words(target)
    common = common_words(a, b)
    return 0.0 if not common else float(2 * common / (len(a) + len(b)))


def rouge_distance(common: int, first: int, second: int) -> float:
    """4D / (1 + 3D) for D = 1 - F1."""
    missing = 1 - 2 * common / (first + second) if first + second else 0.0
    return 4 * missing / (1 + 3 * missing)


def partitions(items: list[int]) -> list[list[list[int]]]:
    """All ways to split ``items`` into groups."""
    if not items:
        return [[]]
    first, found = items[0], []
    for rest in partitions(items[1:]):
        found.append([[first], *rest])
        found += [[*rest[:k], [first, *group], *rest[k + 1 :]] for k, group in enumerate(rest)]
    return found
