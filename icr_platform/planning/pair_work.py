"""What an iteration does to get pairs that no reward ranks, in tokens: pairs that are given, and translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.config import ChatSettings
from icr_platform.core.language_tags import is_english
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.session import Session
from icr_platform.planning.capacity import Work, training_work
from icr_platform.training.config import TrainConfig

_COUNTED = 400  # texts that are tokenised; their mean stands for all


class PairsWork(NamedTuple):
    """translate: None where nothing is translated. train: on given pairs; None where pairs are made of samples."""

    translate: Work | None = None
    train: Work | None = None


NO_PAIRS_WORK = PairsWork()


def pairs_work(
    session: Session, config: IterateConfig, asked: Mapping[str, int], response_tokens: float | None
) -> PairsWork:
    """Count what is translated in an iteration, and the given pairs that it trains on.

    Args:
        config: as it is resolved.
        asked: training prompts by language.
        response_tokens: mean length of a response; None: as long as the policy may answer, an upper bound.
    """
    arm = Arm(config, config, None, [config.policy])
    if config.preferences:
        given = given_work(session.resolver.resolve(arm.training(1, config.preferences), config.seed), config)
        return _translated(session, arm, given) if config.translate.into else PairsWork(train=given)
    if not config.pairs_are_translated or not any(map(is_english, asked)):
        return PairsWork()
    # The English answers go into every other language, and the answers in these into English.
    others = sum(count for language, count in asked.items() if not is_english(language))
    texts = 2 * others * (config.translate.responses_each or 1)
    length = min(response_tokens or config.generate.max_tokens, config.generate.max_tokens, config.translate.max_tokens)
    return PairsWork(Work("translate", texts, length, decoded=int(texts * length)))


def _translated(session: Session, arm: Arm, given: Work) -> PairsWork:
    """The given pairs, all of them in all languages. A translation is taken to be as long as its text."""
    from icr_platform.translation.texts import distinct_texts, read_texts

    config = arm.config
    texts = read_texts(session.resolver.resolve(arm.translating(1, config.preferences), config.seed))
    asked = distinct_texts(texts.items)
    length = min(mean_tokens(config.policy, config, [each.text for each in asked]), config.translate.max_tokens)
    rows = len(texts.items) + texts.kept.num_rows
    times = rows / given.rows
    train = replace(given, rows=rows, scored=int(times * given.scored), trained=int(times * given.trained))
    return PairsWork(Work("translate", len(asked), length, decoded=int(len(asked) * length)), train)


def given_work(training: TrainConfig, chat: ChatSettings) -> Work:
    """A training on preferences that are given, in the tokens of the model that is trained."""
    instructions, answers = _texts_of(training)
    sizes = token_counts(training.policy, chat, answers)
    prompt_tokens = mean_tokens(training.policy, chat, instructions, are_prompts=True)
    work = training_work(training, prompt_tokens, sum(sizes) / len(sizes), len(instructions), len(answers))
    return replace(work, longest=max(sizes))


def _texts_of(training: TrainConfig) -> tuple[list[str], list[str]]:
    """Instructions, and all responses to them, of the preferences that a training names."""
    from icr_platform.core.artifacts import open_artifact
    from icr_platform.core.schemas import PREFERENCES
    from icr_platform.data.labelled_examples import read_examples
    from icr_platform.data.text_preferences import is_text, read_text_preferences

    source, columns = training.preferences, training.preference_columns
    if not is_text(source):
        table = open_artifact(Path(source), PREFERENCES).read(["instruction", "chosen", "rejected"])
        instructions, chosen, rejected = (column.to_pylist() for column in table.columns)
        return instructions, [*chosen, *rejected]
    if training.loss == "kto":
        rows = read_examples(source, columns).rows
        return [row.instruction for row in rows], [row.response for row in rows]
    pairs = read_text_preferences(source, columns).pairs
    return [pair.instruction for pair in pairs], [text for pair in pairs for text in (pair.chosen, pair.rejected)]


def mean_tokens(model: str, chat: ChatSettings, texts: Sequence[str], are_prompts: bool = False) -> float:
    """Mean of `token_counts`."""
    sizes = token_counts(model, chat, texts, are_prompts)
    return sum(sizes) / max(1, len(sizes))


def token_counts(model: str, chat: ChatSettings, texts: Sequence[str], are_prompts: bool = False) -> list[int]:
    """Lengths in a model's tokens of texts that lie evenly among all of them: of responses, or of prompts in the chat template."""
    from icr_platform.models.chat import encode_prompt, encode_response
    from icr_platform.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model, chat)
    encode = encode_prompt if are_prompts else encode_response
    return [len(encode(tokenizer, text)) for text in texts[:: max(1, len(texts) // _COUNTED)]]
