"""Translators: how a model is asked, models made for translation against a naive loop, and a server that fails three requests in ten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.config import CHAT_DEFAULTS
from icr_platform.core.errors import InputError
from icr_platform.core.languages import too_short
from icr_platform.core.schemas import DROPS, PROMPTS, TEXT_TRANSLATIONS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo import IDENTIFIER
from icr_platform.demo.translator import translate
from icr_platform.demo.world import tasks, write_prompts
from icr_platform.engines.sampling.seq2seq_translator import (
    LanguageTokens,
    Seq2SeqTranslator,
    check_languages,
    language_tokens,
)
from icr_platform.engines.sampling.settings import TRANSLATION_TEMPLATE, TextTranslation
from icr_platform.engines.sampling.translated_texts import Text, asked_in, check_template
from icr_platform.engines.sampling.translators import make_translator
from icr_platform.translation import stage
from icr_platform.translation.config import TranslateConfig
from tests.support.fault_server import FAULTS, KEY, Behaviour, fault_servers

# -- the request ----------------------------------------------------------------------------------------------------------------------

TEMPLATES: list[tuple[str, str, str]] = [
    (TRANSLATION_TEMPLATE, "Hi.",
     "Translate the following text from English into Spanish. Answer with the translation only.\n\nHi."),
    ("Translate the following text from {source} into {target}.\n{source}: {text}\n{target}:", "Hi.",  # TowerInstruct
     "Translate the following text from English into Spanish.\nEnglish: Hi.\nSpanish:"),
    ("Translate this from {source} to {target}:\n{source}: {text}\n{target}:", "a\nb",  # GemmaX2, ALMA
     "Translate this from English to Spanish:\nEnglish: a\nb\nSpanish:"),
    ("<2{target_code}> {text}", "Hi.", "<2es> Hi."),
    ("{text} ({source_code}-{target_code})", "{target} {text} {0} {", "{target} {text} {0} { (en-es)"),
    ('{"to": "{target}", "text": "{text}"}', "Hi.", '{"to": "Spanish", "text": "Hi."}'),
]  # fmt: skip


@pytest.mark.parametrize(("template", "text", "right"), TEMPLATES)
def test_a_template_is_filled_once(template: str, text: str, right: str) -> None:
    check_template(template)
    assert asked_in(template, Text("en", "es", text)) == right


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("Translate: {txt} into {target}", "{txt} is not one of {text}, {source}, {target}"),
        ("Translate {text}", "it must have {text}, and {target} or {target_code}, in it"),
        ("Into {target}, please", "it must have {text}"),
        ("", "it must have {text}"),
    ],
)
def test_a_template_that_asks_nothing_is_refused(template: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_template(template)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# -- models made for translation ------------------------------------------------------------------------------------------------------


def tokens_in(*vocabulary: str) -> Any:
    """A tokenizer of which only the vocabulary is looked at; its last tokens are special."""
    return SimpleNamespace(
        get_vocab=lambda: dict.fromkeys(("▁a", "en", "▁de", *vocabulary), 0),
        all_special_tokens=["</s>", *vocabulary],
        get_added_vocab=dict,
    )


# (family, vocabulary, names of the model, (source, target) -> the language that it lacks, '' for none)
FAMILIES: list[tuple[str, Any, tuple[str, ...], dict[tuple[str, str], str]]] = [
    ("NLLB-200", tokens_in("eng_Latn", "spa_Latn", "zho_Hans", "zho_Hant", "pbt_Arab"), (),
     {("en", "es"): "", ("en", "zh-Hant"): "", ("en", "ps"): "", ("spa_Latn", "eng_Latn"): "", ("en", "fr"): "fr"}),
    ("M2M100", tokens_in("__en__", "__es__", "__zh__"), (),
     {("en", "es"): "", ("eng_Latn", "zh"): "", ("sw", "es"): "sw"}),
    ("mBART-50", tokens_in("en_XX", "es_XX", "zh_CN", "ro_RO"), (),
     {("en", "es"): "", ("en", "ro"): "", ("zh", "en"): "", ("en", "de"): "de"}),
    ("MADLAD-400", tokens_in("<2en>", "<2es>", "<2zh_Hant>"), (), {("de", "es"): "", ("en", "fr"): "fr", ("en", "zh-Hant"): ""}),
    ("OPUS-MT of several", tokens_in(">>spa<<", ">>fra<<"), ("Helsinki-NLP/opus-mt-en-roa",), {("en", "es"): "", ("en", "de"): "de"}),
    ("OPUS-MT of two", tokens_in(), ("Helsinki-NLP/opus-mt-en-es",), {("en", "es"): "", ("es", "en"): "es", ("en", "de"): "de"}),
    ("OPUS-MT in a folder", tokens_in(), ("/models/opus-mt-en-es/",), {("en", "es"): "", ("en", "de"): "de"}),
    ("a T5 that says nothing", tokens_in(), ("my/translator",), {("en", "es"): "", ("sw", "de"): ""}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tokenizer", "names", "lacking"), [row[1:] for row in FAMILIES], ids=[row[0] for row in FAMILIES]
)
def test_languages_are_read_off_the_tokenizer(
    tokenizer: Any, names: tuple[str, ...], lacking: dict[tuple[str, str], str]
) -> None:
    tokens = language_tokens(tokenizer, names)
    assert {pair: tokens.lacks(*pair) for pair in lacking} == lacking


def test_a_word_that_looks_like_a_code_is_a_word() -> None:
    plain = SimpleNamespace(
        get_vocab=lambda: {"eng_Latn": 0, "__en__": 1}, all_special_tokens=["</s>"], get_added_vocab=dict
    )
    assert language_tokens(plain) == LanguageTokens({}, {}, None)  # type: ignore[arg-type]


def tokenizer_with(folder: Path, special: Sequence[str]) -> Any:
    """A byte-level tokenizer with these special tokens, which ends every text with `</s>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<pad>", "</s>", *special, *alphabet]
    core = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", additional_special_tokens=list(special)
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def translators(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of two families: M2M100 with a token of each language (NLLB's), and T5 with a prefix (MADLAD's)."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, T5Config, T5ForConditionalGeneration

    root = tmp_path_factory.mktemp("translators")
    shape: dict[str, Any] = {"d_model": 16, "decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    layers: dict[str, Any] = {
        f"{side}_{name}": size
        for side in ("encoder", "decoder")
        for name, size in {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()
    }
    nllb = M2M100Config(vocab_size=260, max_position_embeddings=64, bos_token_id=1, **shape, **layers)
    t5 = T5Config(vocab_size=260, d_kv=8, d_ff=16, num_layers=1, num_heads=2, **shape)
    for name, model, special in (
        ("nllb", M2M100ForConditionalGeneration(nllb), ["eng_Latn", "spa_Latn"]),
        ("madlad", T5ForConditionalGeneration(t5), ["<2en>", "<2es>"]),
    ):
        model.save_pretrained(root / name)
        tokenizer_with(root / name, special)
    return {"nllb": root / "nllb", "madlad": root / "madlad"}


TEXTS = ("Hello.", "A longer text, of two lines.\nIt ends here.", "spa_Latn <2en> </s> is text", "¡Hola!", "x" * 80)


@pytest.mark.parametrize("family", ["nllb", "madlad"])
def test_a_batch_says_what_each_text_says_alone(family: str, translators: dict[str, Path]) -> None:
    """Against transformers' own generate, a text at a time, with inputs that are put together by hand."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = translators[family]
    settings = TextTranslation(translator=str(folder), max_tokens=12, batch_size=3, dtype="float32", device="cpu")
    texts = [Text("en", "es", text) for text in TEXTS] + [Text("es", "en", TEXTS[0])]
    translator = make_translator(settings, CHAT_DEFAULTS)
    assert isinstance(translator, Seq2SeqTranslator)
    counted: list[int] = []
    found = [
        one
        for shard in translator.translate([texts[:4], texts[4:]], lambda rows, _: counted.append(rows))
        for one in shard
    ]
    assert sum(counted) == len(texts)

    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = {"nllb": {"en": "eng_Latn", "es": "spa_Latn"}, "madlad": {"en": "<2en>", "es": "<2es>"}}[family]
    for text, translated in zip(texts, found, strict=True):
        code = plain[text.source if family == "nllb" else text.target]
        # By bytes: what a person typed is no special token.
        letters = [
            tokenizer.convert_tokens_to_ids(token)
            for token in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text.text)
            for token in token[0]
        ]
        ids = [tokenizer.convert_tokens_to_ids(code), *letters, 1]
        if family == "nllb" and len(ids) > 64:
            assert (translated.text, translated.outcome) == (None, "too-long")
            continue
        forced = (
            {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(plain[text.target])} if family == "nllb" else {}
        )
        with torch.inference_mode():
            alone = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, num_beams=1, **forced)[
                0
            ].tolist()
        is_cut = 1 not in alone[1:]
        assert translated.outcome == ("truncated" if is_cut else "empty" if translated.text is None else "ok")
        if translated.text is not None:
            assert translated.text == tokenizer.decode(alone, skip_special_tokens=True)


def test_a_language_that_the_model_lacks_is_said_before_it_is_loaded(translators: dict[str, Path]) -> None:
    settings = TextTranslation(translator=str(translators["nllb"]))
    assert check_languages(settings, CHAT_DEFAULTS, ("en", "es")) == ()
    with pytest.raises(
        InputError, match=r"has no token for 'de', 'fr'; it knows 2 languages, such as eng_Latn, spa_Latn"
    ):
        check_languages(settings, CHAT_DEFAULTS, ("en", "de", "fr"))
    with pytest.raises(InputError, match=r"field 'sampler' is 'vllm'.*give --sampler transformers"):
        check_languages(settings.model_copy(update={"sampler": "vllm"}), CHAT_DEFAULTS, ("en", "es"))


# -- the demo's lexicon ---------------------------------------------------------------------------------------------------------------


def test_the_lexicon_translates_every_sentence_of_the_world_there_and_back() -> None:
    for task in tasks():
        for source, target in (("en", "es"), ("es", "en"), ("de", "ru"), ("fr", "en")):
            for index, question in enumerate(task.questions[source]):
                assert translate(question, source, target) == task.questions[target][index]
            for index, answer in enumerate(task.wrong[source]):
                told = translate(f"{answer} {task.fact.in_language(source)}", source, target)
                assert told == f"{task.wrong[target][index]} {task.fact.in_language(target)}"
    assert translate("The sun are yellow.", "en", "es") is None


# -- a server that fails --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Behaviour, str]]]:
    with fault_servers() as serve:
        yield serve


LANGUAGE = {"Spanish": "es", "German": "de"}


def reply(message: str) -> str:
    """What a middling model answers: usually the translation, now and then English, nothing, or only a thought."""
    head, _, text = message.partition("\n\n")
    said = translate(text, "en", LANGUAGE[head.partition("into ")[2].partition(".")[0]]) or ""
    kind = hashlib.sha256(message.encode()).digest()[0] % 10
    return {0: text, 1: " ", 2: f"<think>Easy.</think>\n\n{said}", 3: "<think>What would"}.get(kind, said)


def test_a_served_translator_that_fails_loses_nothing(
    start: Callable[..., tuple[Behaviour, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_prompts(tmp_path / "all", "icr")
    english = (tmp_path / "all" / "en.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    (tmp_path / "prompts").mkdir()
    again = [json.dumps(json.loads(line) | {"id": f"again-{n}"}) for n, line in enumerate(english[:10])]
    (tmp_path / "prompts" / "en.jsonl").write_text("\n".join([*english, *again]) + "\n", encoding="utf-8")
    faults = tuple(fault for fault in FAULTS if fault != "hang")
    found = []
    for rate in (0.0, 0.3):
        behaviour, url = start(fault_rate=rate, faults=faults, reply=reply)
        config = TranslateConfig(
            texts=str(tmp_path / "prompts"), into=("es", "de"), sampler="server", server_url=url, server_model="gpt-x",
            server_identity="a middling model", server_concurrency=16, language_identifier=IDENTIFIER, shard_prompts=30,
        )  # fmt: skip
        result = stage.run(stage.read(config), StageContext(tmp_path / f"out-{rate}", "fingerprint"))
        rows = open_artifact(result.artifacts["translated"], PROMPTS).read().to_pylist()
        drops = open_artifact(result.artifacts["translation_drops"], DROPS).read().to_pylist()
        texts = open_artifact(result.artifacts["text_translations"], TEXT_TRANSLATIONS).read().to_pylist()
        assert len([row for row in rows if row["language"] != "en"]) + len(drops) == 2 * 50
        assert (
            behaviour.requests == 2 * 40 if rate == 0.0 else behaviour.requests > 2 * 40
        )  # equal texts are asked for once
        found.append((rows, drops, texts))
        other = [row for row in rows if row["language"] != "en" and row["instruction"] != translate_of(row)]
        assert all(too_short(row["instruction"]) for row in other)  # English that nobody can tell from Spanish
    assert found[0] == found[1]
    reasons = {row["reason"] for row in found[0][1]}
    assert reasons == {"wrong-language", "empty", "truncated"}


def translate_of(row: dict[str, Any]) -> str | None:
    return translate(row["english_instruction"], "en", row["language"])
