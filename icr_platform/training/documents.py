"""Sequences to train on out of documents: prompts through the chat template, and the responses, which alone are learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from icr_platform.core.errors import InputError
from icr_platform.data.text_documents import TextDocuments, read_text_documents
from icr_platform.models.chat import (
    Encoded,
    RefusedTextError,
    encode_turns,
    prompt_notes,
    refusal_of_roles,
    settings_of,
)
from icr_platform.training.config import SftConfig
from icr_platform.training.dataset import longest_sequence, require_few_refused
from icr_platform.training.weights import policy_tokenizer


@dataclass(frozen=True)
class TrainingDocuments:
    """S sequences in the order of the documents; nothing in them is truncated.

    languages: [S] language code of each sequence.
    sequences: [S] token ids, and a mask that is 1 on the tokens of responses.
    left_out: documents with a sequence longer than the limit, or which the chat template refuses, counted per language.
    notes: for people.
    digest: of the documents as they were read.
    """

    languages: Sequence[str]
    sequences: Sequence[Encoded]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.sequences)


def read_documents(config: SftConfig) -> TrainingDocuments:
    """Read the documents that a training is configured with, and encode them.

    Raises:
        InputError: as `read_text_documents` does; every document is too long, or the chat template refuses too many.
    """
    return encode_documents(texts_of(config), config)


def texts_of(config: SftConfig) -> TextDocuments:
    """The configured documents as texts; raises InputError as `read_text_documents` does."""
    return read_text_documents(config.documents, config.document_columns, config.prompts, config.prompt_columns)


def epoch_rows(config: SftConfig, documents: TrainingDocuments) -> int:
    """How many sequences an epoch has; with packing, about."""
    if not config.packing:
        return len(documents)
    tokens = sum(len(one.token_ids) for one in documents.sequences)
    return max(1, -(-tokens // longest_sequence(config)))


def encode_documents(texts: TextDocuments, config: SftConfig) -> TrainingDocuments:
    """Encode documents; raises InputError as `read_documents` does."""
    tokenizer, longest = policy_tokenizer(config), longest_sequence(config)
    refusal = cache(lambda roles: refusal_of_roles(tokenizer, roles))
    languages: list[str] = []
    sequences: list[Encoded] = []
    too_long: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    conversations = []
    for language, conversation, answer in texts.documents:
        asked = settings_of(tokenizer).asked(conversation, language)
        conversations.append(asked)
        if why := refusal(asked.roles):
            refused[why] += 1
            left_out[language] += 1
            continue
        try:
            encoded = encode_turns(tokenizer, asked, answer, last_only=config.turns == "last")
        except InputError as error:
            why = error.reason if isinstance(error, RefusedTextError) else ""
            refused[f"the chat template refuses a text of theirs ({why})" if why else str(error)] += 1
            left_out[language] += 1
            continue
        if any(len(one.token_ids) > longest for one in encoded):
            too_long[language] += 1
            left_out[language] += 1
            continue
        sequences += encoded
        languages += [language] * len(encoded)
    require_few_refused(refused, len(texts.documents), config.documents, "documents")
    name = "max_length" if longest == config.max_length else "the policy's max_position_embeddings"
    if not sequences:
        raise InputError(
            f"{config.documents}: each of its {len(texts.documents):,} documents is longer than {longest} tokens ({name}); "
            "raise --max-length, or choose a model with a longer context"
        )
    notes = [*texts.notes, *prompt_notes(tokenizer, conversations)]
    notes += [f"{count:,} documents were left out: {why}" for why, count in refused.items()]
    if too_long:
        by_language = ", ".join(f"{language} {count:,}" for language, count in sorted(too_long.items()))
        notes.append(
            f"{too_long.total():,} documents are longer than {longest} tokens ({name}) and were left out: {by_language}"
        )
    return TrainingDocuments(languages, sequences, dict(sorted(left_out.items())), tuple(notes), texts.digest)
