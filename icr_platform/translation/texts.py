"""What is to be translated: the texts of prompts, preferences, outputs or responses, and the rows that their translations make.

Translations go through English, where there is any: English texts into the other languages, and texts in other languages into English.
Prompts, preferences and outputs that have no English are translated as they are. A row that is there in a language already, under the
same id, is kept and not made again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from icr_platform.core.artifacts import completed, open_artifact, own_manifest
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, find_name, is_english
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, PROMPTS, RESPONSES, TRANSLATED_RESPONSES, TableSchema
from icr_platform.core.visible_text import has_visible_character
from icr_platform.data.column_map import refuse_map
from icr_platform.data.prompts import load_prompts
from icr_platform.data.reference_outputs import load_reference_outputs, output_languages
from icr_platform.data.row_fields import ID_FIELDS
from icr_platform.data.sources import open_source
from icr_platform.data.text_pairs import PAIR_LAYOUTS
from icr_platform.data.text_preferences import PREFERENCES_WANTED, read_text_preferences
from icr_platform.engines.identification.language_id import Identified, is_in_another
from icr_platform.engines.sampling.translated_texts import Text
from icr_platform.translation.config import TranslateConfig

K = TypeVar("K")
Row = Mapping[str, Any]
Rows = dict[tuple[str, int], dict[str, Row]]
"""(prompt id, number of the row within its language) -> language -> row."""
Translations = Mapping[str, str]
"""Text -> its translation, for the texts of one row."""


class Item(NamedTuple):
    """A row that is to be made in another language.

    texts: that it takes, each once. make: their translations -> the row, as the table of what is made has it.
    """

    source: str
    target: str
    prompt_id: str
    sample_index: int | None
    texts: tuple[str, ...]
    make: Callable[[Translations], Row]

    def asked(self) -> list[Text]:
        """Its texts, as a translator is given them."""
        return [Text(self.source, self.target, text) for text in self.texts]


@dataclass(frozen=True)
class TextSet:
    """Everything that was read.

    table: of the rows that come in and go out. kept: rows that go out as they came, by language; items: rows to make, in order.
    languages: that texts are translated into. notes: lines for a person to read.
    """

    table: TableSchema
    items: Sequence[Item]
    kept: pa.Table
    languages: tuple[str, ...]
    notes: tuple[str, ...] = ()
    order: Mapping[str, int] = field(default_factory=dict)
    """Place of each prompt among the rows of a language."""


def read_texts(config: TranslateConfig) -> TextSet:
    """Read what is to be translated.

    Raises:
        InputError: it cannot be read, its kind cannot be told, or there is nothing to translate.
    """
    found = _read(config)
    if not found.items:
        raise InputError(
            f"{config.texts}: nothing is left to translate into {', '.join(found.languages)}; give other languages to --into"
        )
    return found


def _read(config: TranslateConfig) -> TextSet:
    folder = Path(config.texts)
    manifest = own_manifest(folder) if folder.is_dir() else None
    table = str(manifest["table"]) if manifest is not None else ""
    if table == RESPONSES.name:
        refuse_map(config.texts, config.columns)
        return _responses(config)
    if not config.into:
        raise InputError("config: field 'into' is missing for translate; give --into LANGUAGES")
    if table == OUTPUTS.name:
        refuse_map(config.texts, config.columns)
        return _outputs(config, _output_rows(config))
    if table == PREFERENCES.name:
        refuse_map(config.texts, config.columns)
        return _preferences(config, _preference_rows(config), ())
    if table and table != PROMPTS.name:
        raise InputError(
            f"{folder}: is a {table} artifact, which has no texts to translate; give prompts, responses, ..."
        )
    kind = PROMPTS.name if table else _kind_of(config)
    if kind == "preferences":
        read = read_text_preferences(config.texts, config.columns)
        # The first rows of an English and a Spanish file have one name, the number, and need not say the same.
        has_ids = not config.columns.keys().isdisjoint(ID_FIELDS)
        is_one_language = has_ids or len({pair.language for pair in read.pairs}) == 1
        rows = (
            {
                "language": pair.language,
                "prompt_id": pair.prompt_id if is_one_language else f"{pair.language}-{pair.prompt_id}",
                "instruction": pair.instruction,
                "english_instruction": pair.instruction if is_english(pair.language) else None,
                "messages": pair.messages,
                "english_messages": pair.messages if is_english(pair.language) else None,
                "chosen": pair.chosen,
                "rejected": pair.rejected,
                "chosen_index": 0,
                "rejected_index": 1,
                "chosen_reward": pair.chosen_reward,
                "rejected_reward": pair.rejected_reward,
                "margin": pair.chosen_reward - pair.rejected_reward,
                "length_penalty_alpha": 0.0,
                "chosen_characters": len(pair.chosen),
                "rejected_characters": len(pair.rejected),
            }
            for pair in read.pairs
        )
        return _preferences(config, table_of(list(rows), PREFERENCES).to_pylist(), read.notes)
    return _outputs(config, _file_outputs(config)) if kind == "outputs" else _prompts(config)


def _kind_of(config: TranslateConfig) -> str:
    """What is in files, by the configuration or the columns of their first row."""
    if config.texts_kind != "auto":
        return config.texts_kind
    if config.prompts:
        return "outputs"
    source = open_source(config.texts, PREFERENCES_WANTED, sorts=False, columns=config.columns)
    first = next((row for name in source.names for row in source.rows(name)), None)
    given = {name for name, value in first.fields.items() if value is not None} if first else set()
    return "preferences" if any(set(layout) <= given for layout in PAIR_LAYOUTS) else "prompts"


# -- which language a row is made from ------------------------------------------------------------------------------------------------


def _directions(
    languages_of: Mapping[K, Sequence[str]], into: Sequence[str], all_into_english: bool = False
) -> Iterator[tuple[K, str, str]]:
    """(key, source, target) of the rows that are to be made; languages_of: those in which each key has a row.

    A target is made from English; English, and what has none, from the first language that there is, or from each of them.

    >>> list(_directions({"a": ["en", "es"]}, ["es", "de", "en"]))
    [('a', 'en', 'de')]
    >>> list(_directions({"a": ["en", "es", "de"]}, ["es", "de", "en"], all_into_english=True))
    [('a', 'en', 'es'), ('a', 'en', 'de'), ('a', 'es', 'en'), ('a', 'de', 'en')]
    """
    for target in into:
        for key, languages in languages_of.items():
            english = find_name(ENGLISH, languages)
            own = find_name(target, languages)
            if all_into_english:
                sources = (
                    [code for code in languages if code != own] if is_english(target) else [english] if english else []
                )
            else:
                sources = [] if own else [english or languages[0]]
            yield from ((key, source, target) for source in sources)


def _asked(instruction: str, messages: str | None, said: Translations) -> tuple[str, str | None]:
    """A conversation's columns `instruction` and `messages` in the language of the translations."""
    conversation = Conversation.of(instruction, messages)
    translated = Conversation(
        said[instruction], tuple((role, said.get(text, text)) for role, text in conversation.history)
    )
    return translated.instruction, translated.json


def _texts_of(instruction: str, messages: str | None, *others: str) -> tuple[str, ...]:
    """The texts of a conversation and others, each once; empty messages stay empty."""
    history = [text for _, text in Conversation.of(instruction, messages).history if has_visible_character(text)]
    return tuple(dict.fromkeys((instruction, *history, *others)))


def _by_language(rows: Iterable[Row]) -> Rows:
    """Rows of one key, by language, in the order in which they come.

    A prompt may have several pairs, or outputs, in a language: the n-th ones of all languages belong together.
    """
    found: Rows = {}
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        own = row["language"], row["prompt_id"]
        found.setdefault((row["prompt_id"], counts[own]), {})[row["language"]] = row
        counts[own] += 1
    return found


def _text_set(
    table: TableSchema,
    config: TranslateConfig,
    rows: Rows,
    make: Callable[[Row, str, str], Item],
    notes: Sequence[str],
    keeps_all: bool = False,
) -> TextSet:
    """Rows to keep and items to make. keeps_all: rows in languages that nothing is translated into are kept, too."""
    directions = _directions({key: list(found) for key, found in rows.items()}, config.into)
    items = [make(rows[key][source], source, target) for key, source, target in directions]
    kept = [
        row
        for found in rows.values()
        for code, row in found.items()
        if keeps_all or find_name(code, config.into) is not None
    ]
    other = sum(len(found) for found in rows.values()) - len(kept)
    notes = [
        *notes,
        *(
            [f"{config.texts}: {other} rows in other languages than those of --into were read and are not kept"]
            if other
            else []
        ),
    ]
    order = {prompt_id: place for place, prompt_id in enumerate(dict.fromkeys(prompt_id for prompt_id, _ in rows))}
    return TextSet(table, items, table_of(kept, table), config.into, tuple(notes), order)


def table_of(rows: Sequence[Row], table: TableSchema) -> pa.Table:
    """Rows in the columns of a table; what a row does not say is null."""
    loose = pa.schema([column.with_nullable(True) for column in table.schema])
    return completed(pa.Table.from_pylist(list(rows), schema=loose), table)


# -- prompts --------------------------------------------------------------------------------------------------------------------------


def _prompts(config: TranslateConfig) -> TextSet:
    read = load_prompts(config.texts, config.languages, config.limit, config.columns)
    notes = [note for note in read.notes if "there is no English" not in note]

    def make(row: Row, source: str, target: str) -> Item:
        def translated(said: Translations) -> Row:
            instruction, messages = _asked(row["instruction"], row["messages"], said)
            english = (
                (instruction, messages) if is_english(target) else (row["english_instruction"], row["english_messages"])
            )
            return {
                **row, "language": target, "instruction": instruction, "messages": messages,
                "english_instruction": english[0], "english_messages": english[1],
            }  # fmt: skip

        texts = _texts_of(row["instruction"], row["messages"])
        return Item(source, target, row["prompt_id"], None, texts, translated)

    return _text_set(PROMPTS, config, _by_language(read.table.to_pylist()), make, notes, keeps_all=True)


# -- preferences ----------------------------------------------------------------------------------------------------------------------


def _preference_rows(config: TranslateConfig) -> Iterator[Row]:
    artifact = open_artifact(Path(config.texts), PREFERENCES)
    for part in range(len(artifact.parts)):
        yield from artifact.read_part(part).to_pylist()


def _preferences(config: TranslateConfig, rows: Iterable[Row], notes: Sequence[str]) -> TextSet:
    """Pairs of texts; the ids of sampled ones are of their own language and are not those of a translation."""

    def make(row: Row, source: str, target: str) -> Item:
        def translated(said: Translations) -> Row:
            instruction, messages = _asked(row["instruction"], row["messages"], said)
            is_made_of_english = is_english(source)
            english = (
                (row["instruction"], row["messages"])
                if is_made_of_english
                else (row["english_instruction"], row["english_messages"])
            )
            if is_english(target):
                english = instruction, messages
            ends: dict[str, Any] = {}
            for end in ("chosen", "rejected"):
                text = said[row[end]]
                ends |= {
                    end: text, f"{end}_characters": len(text), f"{end}_language": None,
                    f"{end}_translated_from": row.get(f"{end}_language") or source,
                    f"{end}_token_ids": None, f"{end}_answer_start": None, f"{end}_thought": None,
                }  # fmt: skip
            return {
                **row, **ends, "language": target, "instruction": instruction, "messages": messages,
                "english_instruction": english[0], "english_messages": english[1],
            }  # fmt: skip

        texts = _texts_of(row["instruction"], row["messages"], row["chosen"], row["rejected"])
        return Item(source, target, row["prompt_id"], None, texts, translated)

    return _text_set(PREFERENCES, config, _by_language(_only(config, rows)), make, notes)


def _only(config: TranslateConfig, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows in the languages that are read, of each no more than the limit."""
    counts: dict[str, int] = {}
    for row in rows:
        language = row["language"]
        counts[language] = counts.get(language, 0) + 1
        if config.languages and find_name(language, config.languages) is None:
            continue
        if config.limit is None or counts[language] <= config.limit:
            yield row


# -- outputs --------------------------------------------------------------------------------------------------------------------------


def _output_rows(config: TranslateConfig) -> Iterator[Row]:
    artifact = open_artifact(Path(config.texts), OUTPUTS)
    for part in range(len(artifact.parts)):
        yield from artifact.read_part(part).to_pylist()


def _file_outputs(config: TranslateConfig) -> Iterator[Row]:
    """Rows of OUTPUTS of the outputs in files, joined to the prompts that they answer."""
    if not config.prompts:
        raise InputError(
            "config: field 'prompts' is missing: files of outputs are joined to the prompts that they answer; give --prompts"
        )
    there = config.languages or tuple(output_languages(config.texts, config.columns)) or (ENGLISH,)
    prompts = load_prompts(config.prompts, there, config.limit, config.prompt_columns).table.to_pylist()
    instructions: dict[str, dict[str, str]] = {}
    asked = {(row["language"], row["prompt_id"]): row for row in prompts}
    for (language, prompt_id), row in asked.items():
        instructions.setdefault(language, {})[prompt_id] = row["instruction"]
    read = load_reference_outputs(config.texts, instructions, may_be_empty=True, columns=config.columns)
    for key, row in asked.items():
        for sample_index, text, fact in read.samples(*key):
            yield {
                "language": key[0], "prompt_id": key[1], "sample_index": sample_index, "instruction": row["instruction"],
                "messages": row["messages"], "output": text, "character_count": len(text),
                "finish_reason": fact.get("finish_reason"), "thought": fact.get("thought"),
                "detected_language": "und", "language_confidence": 0.0,
            }  # fmt: skip


def _outputs(config: TranslateConfig, rows: Iterable[Row]) -> TextSet:
    def make(row: Row, source: str, target: str) -> Item:
        def translated(said: Translations) -> Row:
            instruction, messages = _asked(row["instruction"], row["messages"], said)
            return {
                **row, "language": target, "instruction": instruction, "messages": messages, "output": said[row["output"]],
                "character_count": len(said[row["output"]]), "token_count": None, "input_digest": None, "thought": None,
                "thought_language": None, "thought_token_count": None, "detected_language": "und", "language_confidence": 0.0,
            }  # fmt: skip

        texts = _texts_of(row["instruction"], row["messages"], row["output"])
        return Item(source, target, row["prompt_id"], row["sample_index"], texts, translated)

    return _text_set(OUTPUTS, config, _by_language(_only(config, rows)), make, ())


# -- responses ------------------------------------------------------------------------------------------------------------------------

_OF_RESPONSES = (
    "language", "prompt_id", "sample_index", "response", "finish_reason", "token_count", "detected_language", "language_confidence",
)  # fmt: skip


def _responses(config: TranslateConfig) -> TextSet:
    """Responses of a policy: English ones into each language, and those of each language into English."""
    artifact = open_artifact(Path(config.texts), RESPONSES)
    by_prompt: dict[str, dict[str, list[Row]]] = {}
    left_out = 0
    for part in range(len(artifact.parts)):
        for row in _only_languages(config, artifact.read_part(part, list(_OF_RESPONSES)).to_pylist()):
            samples = by_prompt.setdefault(row["prompt_id"], {}).setdefault(row["language"], [])
            is_wanted = config.responses_each is None or (
                len(samples) < config.responses_each and _is_whole(row, config.language_confidence)
            )
            left_out += not is_wanted
            if is_wanted:
                samples.append(row)
    languages = dict.fromkeys(code for found in by_prompt.values() for code in found)
    into = config.into or tuple(languages)
    whole = {key: [code for code, rows in found.items() if rows] for key, found in by_prompt.items()}
    items = []
    for prompt_id, source, target in _directions(
        {key: codes for key, codes in whole.items() if codes}, into, all_into_english=True
    ):
        items += [_response_item(row, source, target) for row in by_prompt[prompt_id][source]]
    notes = []
    if left_out:
        each = config.responses_each
        notes.append(
            f"{config.texts}: {left_out} responses are not translated: responses_each is {each}, the first that are neither empty, cut off "
            "nor in another language"
        )
    return TextSet(TRANSLATED_RESPONSES, items, TRANSLATED_RESPONSES.schema.empty_table(), tuple(into), tuple(notes))


def _only_languages(config: TranslateConfig, rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if not config.languages or find_name(row["language"], config.languages) is not None)


def _is_whole(row: Row, confidence: float) -> bool:
    """Whether a response may be half of a pair: what annotate drops by default is not."""
    found = Identified(row["detected_language"], row["language_confidence"])
    return (
        row["finish_reason"] != "length"
        and row["token_count"] > 0
        and has_visible_character(row["response"])
        and not is_in_another(row["language"], row["response"], found, confidence)
    )


def _response_item(row: Row, source: str, target: str) -> Item:
    text = row["response"]

    def translated(said: Translations) -> Row:
        return {
            "language": target, "source_language": source, "prompt_id": row["prompt_id"], "sample_index": row["sample_index"],
            "translation": said[text], "input_digest": Text(source, target, text).digest,
        }  # fmt: skip

    return Item(source, target, row["prompt_id"], row["sample_index"], (text,), translated)


def distinct_texts(items: Iterable[Item]) -> list[Text]:
    """The texts that a translator is asked for: each once for a pair of languages, in the order in which rows need them."""
    return list(dict.fromkeys(text for item in items for text in item.asked()))


def what_is_read(texts: TextSet) -> Iterator[Sequence[Any]]:
    """Everything that the result depends on, for its identity: rows that are made, with their texts, and rows that are kept."""
    for item in texts.items:
        yield item[:-1]
    for row in texts.kept.to_pylist():
        yield (json.dumps(row, sort_keys=True, default=repr),)
