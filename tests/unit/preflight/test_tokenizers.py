"""MG109, MG110 and MG116: files beside an expert that say it was trained on other text."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mergegate.pool import tokenizer_files

from .files import EMBEDDING, ROWS, TOKENS, WIDTH, Files, write_json

if TYPE_CHECKING:
    from pathlib import Path

IDS = {token: k for k, token in enumerate(TOKENS)}
SWAPPED = IDS | {"t3": 4, "t4": 3}


def edit_tokenizer(folder: Path, **changes: Any) -> None:
    file = folder / "tokenizer.json"
    write_json(file, json.loads(file.read_text()) | changes)


class TestTokenizerMismatch:
    def test_permuted(self, files: Files) -> None:
        """Of equal size, and so it merges without a word."""
        files.write_tokenizer(files.folder / "b", SWAPPED)
        found = files.only("MG109")
        assert (found.severity, found.expert) == ("error", "b")
        assert "token 't3' has id 3 in the base and 4 in the expert" in found.message

    def test_replaced(self, files: Files) -> None:
        other = {("new" if token == "t5" else token): k for token, k in IDS.items()}
        files.write_tokenizer(files.folder / "b", other)
        assert (
            "id 5 is token 't5' in the base and 'new' in the expert" in files.only("MG109").message
        )

    def test_smaller(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b", {t: k for t, k in IDS.items() if k < 26})
        found = files.only("MG109")
        assert "has 26 tokens, the base's 28; it lacks 't26', 't27'" in found.message

    def test_the_same(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b")
        assert files.findings() == []

    def test_the_same_in_another_order(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b", dict(reversed(IDS.items())))
        assert files.findings() == []

    def test_the_same_as_a_list(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b")
        unigram = {"type": "Unigram", "vocab": [[token, -1.0] for token in TOKENS]}
        edit_tokenizer(files.folder / "b", model=unigram)
        assert files.findings() == []
        unigram["vocab"][3:5] = unigram["vocab"][4:2:-1]
        edit_tokenizer(files.folder / "b", model=unigram)
        assert "'t3' has id 3 in the base and 4" in files.only("MG109").message

    @pytest.mark.parametrize("name", ["vocab.json", "vocab.txt"])
    def test_other_formats(self, files: Files, name: str) -> None:
        def write(vocabulary: dict[str, int]) -> None:
            ordered = sorted(vocabulary, key=lambda token: vocabulary[token])
            text = json.dumps(vocabulary) if name == "vocab.json" else "\n".join(ordered)
            (files.folder / "b" / name).write_text(text)

        write(IDS)
        assert files.findings() == []
        write(SWAPPED)
        assert "'t3' has id 3 in the base and 4" in files.only("MG109").message

    def test_tokens_beside_the_vocabulary(self, files: Files) -> None:
        few = {token: k for token, k in IDS.items() if k < 25}
        write_json(files.folder / "b" / "vocab.json", few)
        write_json(files.folder / "b" / "added_tokens.json", {"t25": 25, "t26": 26})
        decoder = {"27": {"content": "t27"}, "x": {"content": "y"}, "9": None}
        settings = {"added_tokens_decoder": decoder}
        write_json(files.folder / "b" / "tokenizer_config.json", settings)
        assert files.findings() == []

    def test_other_rules(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b")
        edit_tokenizer(files.folder / "b", normalizer={"type": "Lowercase"})
        found = files.only("MG109")
        assert found.severity == "warning"
        assert "differs from the base's in: normalizer" in found.message

    def test_merges_in_both_notations(self, files: Files) -> None:
        model = {"type": "BPE", "vocab": IDS}
        files.write_tokenizer(files.folder / "b")
        edit_tokenizer(files.base, model=model | {"merges": ["t 1", "t 2"]})
        edit_tokenizer(files.folder / "b", model=model | {"merges": [["t", "1"], ["t", "2"]]})
        assert files.findings() == []
        edit_tokenizer(files.folder / "b", model=model | {"merges": [["t", "2"], ["t", "1"]]})
        assert "merges" in files.only("MG109").message

    def test_sentencepiece(self, files: Files) -> None:
        (files.base / "tokenizer.json").unlink()
        for folder in (files.base, files.folder / "b"):
            (folder / "tokenizer.model").write_bytes(b"pieces")
        assert files.findings() == []
        (files.folder / "b" / "tokenizer.model").write_bytes(b"other pieces")
        found = files.only("MG109")
        assert found.severity == "warning"
        assert "could not compare tokenizer.model" in found.message

    def test_told_once_and_read_once(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Path] = []
        own = tokenizer_files.read_json_object

        def noted(path: Path, **settings: Any) -> dict[str, Any]:
            if path.name == "tokenizer.json":
                read.append(path)
            return own(path, **settings)

        monkeypatch.setattr(tokenizer_files, "read_json_object", noted)
        for name in "abc":
            files.write_tokenizer(files.folder / name, SWAPPED)
        edit_tokenizer(files.base, version=str(files.folder))  # as no other test has it
        found = files.only("MG109")
        assert found.expert is None
        assert found.message.startswith("a, b, c: token 't3'")
        assert len(read) <= 2

    @pytest.mark.parametrize("text", ["", "{", "[]", "version https://git-lfs.github.com/spec/v1"])
    def test_no_json(self, files: Files, text: str) -> None:
        (files.folder / "b" / "tokenizer.json").write_text(text)
        found = files.only("MG001")
        assert found.expert == "b"
        assert "b/tokenizer.json" in str(found)

    def test_base_without_json(self, files: Files) -> None:
        (files.base / "tokenizer.json").write_text("{")
        assert files.findings() == []
        for name in "ab":
            files.write_tokenizer(files.folder / name)
        assert files.only("MG001").expert is None

    @pytest.mark.parametrize(
        "odd",
        [
            {"model": 3},
            {"model": {"vocab": 3}},
            {"model": {"vocab": {"a": "b", "c": True}}},
            {"model": {"vocab": [3, [], [3]]}, "added_tokens": 3},
            {"added_tokens": [3, {"id": []}, {"content": [], "id": 3}]},
            {"model": {"merges": [3, {}]}},
        ],
        ids=str,
    )
    def test_odd_types(self, files: Files, odd: dict[str, Any]) -> None:
        write_json(files.folder / "b" / "tokenizer.json", odd)
        found = files.only("MG109")
        assert (found.severity, found.expert) == ("warning", "b")
        assert "could not compare" in found.message


class TestResizedVocabulary:
    def test_tokens_beyond_the_embedding(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b")
        added = [{"id": ROWS, "content": "<tool>"}, {"id": 28, "content": "<pad>"}]
        edit_tokenizer(files.folder / "b", added_tokens=added)
        found = files.only("MG110")
        assert (found.severity, found.expert) == ("error", "b")
        assert "2 tokens are not the base's, such as '<tool>' with id 32" in found.message
        assert "has 32 rows" in found.message

    def test_tokens_on_spare_rows(self, files: Files) -> None:
        files.write_tokenizer(files.folder / "b")
        edit_tokenizer(files.folder / "b", added_tokens=[{"id": ROWS - 1, "content": "<pad>"}])
        assert files.only("MG110").severity == "warning"

    def test_trained_embedding_of_another_size(self, files: Files) -> None:
        key = f"base_model.model.{EMBEDDING}"
        files.edit_config("b", modules_to_save=["embed_tokens"])
        files.edit_tensors("b", lambda t: t.update({key: files.draw(ROWS + 1, WIDTH)}))
        files.write_tokenizer(files.folder / "b")
        edit_tokenizer(files.folder / "b", added_tokens=[{"id": ROWS, "content": "<tool>"}])
        found = files.only("MG110")
        assert found.final
        assert "has 33 rows, 32 in the base" in found.message

    def test_trained_embedding_of_the_same_size(self, files: Files) -> None:
        key = f"base_model.model.{EMBEDDING}"
        files.edit_config("b", modules_to_save=["embed_tokens"])
        files.edit_tensors("b", lambda t: t.update({key: files.draw(ROWS, WIDTH)}))
        assert files.findings() == []


class TestSideFiles:
    @pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
    @pytest.mark.parametrize(
        "eos", ["<|im_end|>", {"content": "<|im_end|>"}], ids=["name", "object"]
    )
    def test_another_end_of_text(self, files: Files, file: str, eos: object) -> None:
        write_json(files.base / "tokenizer_config.json", {"eos_token": "</s>", "pad_token": "p"})
        write_json(files.folder / "a" / "tokenizer_config.json", {"eos_token": "</s>"})
        write_json(files.folder / "b" / file, {"eos_token": eos, "pad_token": "p"})
        found = files.only("MG116")
        assert (found.severity, found.expert) == ("warning", "b")
        assert "eos_token is '<|im_end|>', in the base '</s>'" in found.message
        assert "pad_token" not in found.message

    def test_chat_template_of_its_own(self, files: Files) -> None:
        write_json(files.folder / "b" / "tokenizer_config.json", {"chat_template": "{{ m }}"})
        found = files.only("MG116")
        assert (found.severity, found.expert) == ("warning", "b")
        assert "the base has none" in found.message
        (files.base / "chat_template.jinja").write_text("{{ n }}")
        assert "not the base's" in files.only("MG116").message

    @pytest.mark.parametrize(
        "template",
        [
            "{{ m }}",
            [{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ m }}"}],
        ],
        ids=type,
    )
    def test_the_same_chat_template(self, files: Files, template: object) -> None:
        write_json(files.folder / "b" / "tokenizer_config.json", {"chat_template": template})
        (files.base / "chat_template.jinja").write_text("{{ m }}\n")
        assert files.findings() == []

    def test_generation_settings(self, files: Files) -> None:
        settings = {"eos_token_id": 2, "transformers_version": "4.0"}
        write_json(files.base / "generation_config.json", settings)
        write_json(
            files.folder / "b" / "generation_config.json", settings | {"eos_token_id": [2, 3]}
        )
        assert "differs from the base's in: eos_token_id" in files.only("MG116").message
        settings["transformers_version"] = "5.0"
        write_json(files.folder / "b" / "generation_config.json", settings)
        assert files.findings() == []

    def test_told_once(self, files: Files) -> None:
        write_json(files.folder / "a" / "tokenizer_config.json", {"chat_template": "x"})
        shutil.copy(files.folder / "a" / "tokenizer_config.json", files.folder / "b")
        assert files.only("MG116").message.startswith("a, b: ")

    @pytest.mark.parametrize("text", ["{", "[]", '{"chat_template": 3}', '{"chat_template": [3]}'])
    def test_odd_files_say_nothing(self, files: Files, text: str) -> None:
        for name in ("tokenizer_config.json", "generation_config.json"):
            (files.folder / "b" / name).write_text(text.replace("chat_template", "eos_token_id"))
        write_json(files.base / "generation_config.json", {"eos_token_id": 2})
        assert {f.severity for f in files.findings()} <= {"warning"}
