"""Through which tokenizer and chat template an expert is asked its inputs."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from pytest_mergegate.common.plain_text import shown
from pytest_mergegate.engine.models.language_models import GenerativeModel
from pytest_mergegate.engine.models.loading import load_tokenizer
from pytest_mergegate.engine.models.model import Model
from pytest_mergegate.pool.experts import Expert
from pytest_mergegate.pool.finished import has_tokenizer
from pytest_mergegate.pool.pool import Pool
from pytest_mergegate.pool.tokenizer_files import default_template


class Asker(NamedTuple):
    """What makes prompts of inputs."""

    tokenizer: Any
    whose: str
    """In messages."""


def own_askers(pool: Pool, tokenizer: Any) -> dict[str, Asker]:
    """The tokenizers and templates in experts' own folders, by expert; ``tokenizer`` is the base's.

    They count beside a finished merge alone, which brings its own as well: a merge that is made has
    the base's. Raises PoolError for a tokenizer that does not load.
    """
    if pool.merged is None:
        return {}
    found = {expert.name: _own(expert, tokenizer) for expert in pool.experts}
    return {name: asker for name, asker in found.items() if asker is not None}


def end_as_experts_do(model: Model, askers: Mapping[str, Asker]) -> None:
    """Have answers end at the end-of-text tokens of the experts' own tokenizers as well."""
    ends = {asker.tokenizer.eos_token_id for asker in askers.values()} - {None}
    if ends and isinstance(model, GenerativeModel):
        model.end_also_at(ends)


def _own(expert: Expert, tokenizer: Any) -> Asker | None:
    whose = f"expert {shown(expert.name)}"
    if has_tokenizer(expert.path):
        return Asker(load_tokenizer(expert.path, called=whose), whose)
    template = default_template(expert.path)
    if template is None:
        return None
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return Asker(tokenizer, whose)
