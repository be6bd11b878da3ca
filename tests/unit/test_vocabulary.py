"""Two models tokenise alike where they agree on every id that can be produced, however many others their tokenizers list."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icr_platform.core.errors import InputError
from icr_platform.models.loading import check_same_tokenisation, load_tokenizer

Content = dict[str, Any]


def changed(folder: Path, where: Path, change: Callable[[Content], object], rows: int | None = None) -> str:
    """A copy of a model with another tokenizer.json, and an embedding of `rows`, as far as its config says."""
    shutil.copytree(folder, where)
    content = json.loads((where / "tokenizer.json").read_text())
    change(content)
    (where / "tokenizer.json").write_text(json.dumps(content))
    if rows is not None:
        config = json.loads((where / "config.json").read_text())
        (where / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    return str(where)


def added(token: str, token_id: int, special: bool) -> Callable[[Content], None]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    row = {"id": token_id, "content": token, "special": special, **flags}
    return lambda content: content["added_tokens"].append(row)


def swapped(content: Content) -> None:
    """Two ordinary tokens change ids."""
    vocab = content["model"]["vocab"]
    first, second = (token for token, token_id in vocab.items() if token_id in (300, 301))
    vocab[first], vocab[second] = vocab[second], vocab[first]


def other_merges(content: Content) -> None:
    """The vocabulary stays, and the way to one of its tokens is gone."""
    del content["model"]["merges"][-1]


ALIKE: dict[str, tuple[Callable[[Content], object], int | None]] = {
    "the same": (lambda content: None, None),
    "an image token beyond the embedding, as Gemma 3 has": (added("<image_soft_token>", 400, True), None),
    "a padding token of its own, with an embedding": (added("[PAD]", 400, True), 401),
    "rows of the embedding that no token has": (lambda content: None, 448),
}
DIFFERENT: dict[str, tuple[Callable[[Content], object], int | None, str]] = {
    "an ordinary token more": (added("pineapple", 400, False), 401, "differs in tokens that texts can contain: 'pineapple'"),
    "two ids exchanged": (swapped, None, "differs in tokens that texts can contain"),
    "other merges": (other_merges, None, "merges or the normaliser differ on"),
    "another normaliser": (
        lambda content: content.update(normalizer={"type": "Lowercase"}), None, "the merges differ on 'Name three fruits.'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ALIKE)
def test_what_no_text_produces_may_differ(case: str, tiny_model: Path, tmp_path: Path) -> None:
    change, rows = ALIKE[case]
    model = changed(tiny_model, tmp_path / "other", change, rows)
    for pair in ((str(tiny_model), model), (model, str(tiny_model))):
        notes = check_same_tokenisation(*pair)
        if "token" in case.split(",")[0] and "no token" not in case:
            assert "special tokens that no text produces differ" in notes[0]
        else:
            assert notes == ()


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_texts_produce_may_not(case: str, tiny_model: Path, tmp_path: Path) -> None:
    change, rows, said = DIFFERENT[case]
    model = changed(tiny_model, tmp_path / "other", change, rows)
    for pair in ((str(tiny_model), model), (model, str(tiny_model))):
        with pytest.raises(InputError, match="must share one tokenizer") as caught:
            check_same_tokenisation(*pair)
        assert said in str(caught.value)


def test_a_template_may_not_write_a_token_without_an_embedding(tiny_model: Path, tmp_path: Path) -> None:
    """The commonest slip of fine-tuning: a template with new special tokens, and an embedding that was not resized."""
    model = changed(tiny_model, tmp_path / "model", added("<|turn|>", 400, True))
    load_tokenizer(model)
    path = Path(model) / "chat_template.jinja"
    path.write_text("{{ '<|turn|>' }}" + path.read_text())
    with pytest.raises(InputError, match=r"token '<\|turn\|>' has id 400, .* has 400 rows; resize the embedding"):
        load_tokenizer(model)
