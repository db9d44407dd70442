"""MG111 and MG114: embeddings that are tied here and not there, and heads that do not combine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .files import EMBEDDING, HEAD, LLAMA, PREFIX, RANK, ROWS, WIDTH, Files

if TYPE_CHECKING:
    from collections.abc import Callable

EMBEDDING_A = f"{PREFIX}model.embed_tokens.lora_embedding_A"
CLASSIFIER = "score.weight"


def tie(files: Files) -> None:
    files.edit_config("base", tie_word_embeddings=True)
    files.edit_tensors("base", lambda t: t.pop(HEAD))


class TestTiedEmbeddings:
    def test_base_with_two_weights(self, files: Files) -> None:
        files.edit_config("base", tie_word_embeddings=True)
        found = files.only("MG111")
        assert (found.severity, found.expert) == ("error", None)
        assert f"'{EMBEDDING}' and '{HEAD}'" in found.message

    def test_base_with_the_same_weight_twice(self, files: Files) -> None:
        files.edit_config("base", tie_word_embeddings=True)
        files.edit_tensors("base", lambda t: t.update({HEAD: t[EMBEDDING]}))
        assert files.findings() == []

    def test_checkpoint_with_two_weights(self, files: Files) -> None:
        tie(files)
        files.write_checkpoint("b", lambda t: t.update({HEAD: files.draw(ROWS, WIDTH)}))
        found = files.only("MG111")
        assert found.expert == "b"
        assert "the checkpoint ties its embeddings, but stores two" in found.message

    def test_checkpoint_that_is_untied(self, files: Files) -> None:
        tie(files)
        files.write_checkpoint("b", tie_word_embeddings=False)
        assert "does not tie its embeddings, the base does" in files.only("MG111").message

    @pytest.mark.parametrize("odd", [None, "no", 0])
    def test_checkpoint_without_a_flag(self, files: Files, odd: object) -> None:
        tie(files)
        files.write_checkpoint("b", tie_word_embeddings=odd)
        assert files.findings() == []

    @pytest.mark.parametrize("side", ["embed_tokens", "lm_head"])
    def test_factors_on_one_side(self, files: Files, side: str) -> None:
        tie(files)
        adapt(files, side)
        found = files.only("MG111")
        assert (found.severity, found.expert) == ("error", "b")
        assert side in found.message
        assert "merged, it changes both" in found.message

    @pytest.mark.parametrize("side", ["embed_tokens", "lm_head"])
    def test_factors_where_nothing_is_tied(self, files: Files, side: str) -> None:
        adapt(files, side)
        assert files.findings() == []

    def test_ensured_by_peft(self, files: Files) -> None:
        tie(files)
        adapt(files, "embed_tokens")
        files.edit_config("b", ensure_weight_tying=True)
        assert files.findings() == []

    def test_a_copy_of_the_base(self, files: Files) -> None:
        """PEFT adds one where the vocabulary was touched; it changes nothing."""
        tie(files)
        copied: dict[str, Any] = {}
        files.edit_tensors("base", copied.update)
        files.edit_tensors("b", lambda t: t.update({PREFIX + EMBEDDING: copied[EMBEDDING]}))
        assert files.findings() == []

    def test_trained_copy(self, files: Files) -> None:
        tie(files)
        files.edit_config("b", modules_to_save=["embed_tokens"])
        files.edit_tensors("b", lambda t: t.update({PREFIX + EMBEDDING: files.draw(ROWS, WIDTH)}))
        assert "embed_tokens" in files.only("MG111").message

    def test_trained_tokens(self, files: Files) -> None:
        tie(files)
        key = f"{PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"
        files.edit_config("b", trainable_token_indices={"embed_tokens": [1, 2]})
        files.edit_tensors("b", lambda t: t.update({key: files.draw(2, WIDTH)}))
        assert files.findings() == []


def adapt(files: Files, side: str) -> None:
    """Give expert b factors on the embedding or on the output layer."""
    files.edit_config("b", target_modules=["q_proj", "v_proj", side])
    if side == "lm_head":
        names = (f"{PREFIX}lm_head.lora_A.weight", f"{PREFIX}lm_head.lora_B.weight")
        shapes = ((RANK, WIDTH), (ROWS, RANK))
    else:
        names = (EMBEDDING_A, EMBEDDING_A.replace("_A", "_B"))
        shapes = ((RANK, ROWS), (WIDTH, RANK))
    files.edit_tensors(
        "b",
        lambda t: t.update({n: 0.3 * files.draw(*s) for n, s in zip(names, shapes, strict=True)}),
    )


@pytest.fixture
def classifier(files: Files) -> Files:
    """The same pool on a classifier of three labels."""
    tensors = files.base_tensors()
    del tensors[HEAD]
    tensors[CLASSIFIER] = files.draw(3, WIDTH)
    settings = {"architectures": ["LlamaForSequenceClassification"], "id2label": labels("xyz")}
    files.write_model(files.base, tensors, LLAMA | settings)
    for name in "abc":
        files.edit_config(name, task_type="SEQ_CLS")
    return files


def labels(names: str) -> dict[str, str]:
    return {str(k): name for k, name in enumerate(names)}


def give_head(files: Files, *experts: str, change: Callable[[], Any]) -> None:
    for name in experts:
        files.edit_config(name, modules_to_save=["classifier", "score"])
        files.edit_tensors(name, lambda t: t.update({PREFIX + CLASSIFIER: change()}))


class TestHeads:
    def test_trained_apart(self, classifier: Files) -> None:
        give_head(classifier, "a", "c", change=lambda: classifier.draw(3, WIDTH))
        found = classifier.only("MG114")
        assert (found.severity, found.expert) == ("error", None)
        assert "a, c each trained a head 'score' of their own" in found.message
        assert classifier.only("MG114", ignore={"MG114": "one task"}).severity == "warning"

    def test_trained_by_one(self, classifier: Files) -> None:
        give_head(classifier, "b", change=lambda: classifier.draw(3, WIDTH))
        assert classifier.findings() == []

    def test_one_shared_head(self, classifier: Files) -> None:
        shared = classifier.draw(3, WIDTH)
        give_head(classifier, *"abc", change=lambda: shared)
        assert classifier.findings() == []

    def test_the_base_s_own(self, classifier: Files) -> None:
        own: dict[str, Any] = {}
        classifier.edit_tensors("base", own.update)
        give_head(classifier, *"abc", change=lambda: own[CLASSIFIER])
        assert classifier.findings() == []

    def test_unknown_to_the_base(self, files: Files) -> None:
        give_head(files, "b", change=lambda: files.draw(3, WIDTH))
        found = files.only("MG114", ignore={"MG114": "no"})
        assert (found.severity, found.expert) == ("error", "b")
        assert "'score.weight'" in found.message
        assert "cannot be ignored" in found.fix

    def test_other_number_of_labels(self, classifier: Files) -> None:
        classifier.write_checkpoint("b", id2label=labels("xyzw"))
        found = classifier.only("MG114")
        assert found.expert == "b"
        assert "has 4 labels, the base has 3" in found.message

    def test_other_order_of_labels(self, classifier: Files) -> None:
        classifier.write_checkpoint("b", id2label=labels("xzy"))
        assert "output 1 is 'z', 'y' in the base" in classifier.only("MG114").message

    def test_unnamed_labels_of_the_base(self, classifier: Files) -> None:
        unnamed = {str(k): f"LABEL_{k}" for k in range(3)}
        classifier.edit_config("base", id2label=unnamed)
        classifier.write_checkpoint("a", id2label=labels("xyz"))
        classifier.write_checkpoint("b", id2label=labels("xyz"))
        assert classifier.findings() == []
        (classifier.folder / "c" / "config.json").unlink(missing_ok=True)
        classifier.write_checkpoint("c", id2label=labels("zyx"))
        assert "output 0 is 'z', 'x' in a" in classifier.only("MG114").message

    def test_the_same_labels(self, classifier: Files) -> None:
        classifier.write_checkpoint("b")
        assert classifier.findings() == []

    @pytest.mark.parametrize("odd", [None, {"0": [], "1": {}, "2": 3}], ids=str)
    def test_odd_labels(self, classifier: Files, odd: object) -> None:
        classifier.write_checkpoint("b", id2label=odd)
        assert {f.code for f in classifier.findings()} <= {"MG114"}

    def test_labels_of_a_language_model_mean_nothing(self, files: Files) -> None:
        files.write_checkpoint("b", id2label=labels("xy"))
        assert files.findings() == []
