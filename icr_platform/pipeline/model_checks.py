"""Checks of an arm's models before its first stage, which models that have not changed since pass once.

Loading two tokenizers and comparing them takes longer than all else that a command does over finished work.
"""

from __future__ import annotations

import contextlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.artifacts import text_digest
from icr_platform.core.config import ChatSettings
from icr_platform.core.errors import IcrError
from icr_platform.engines.scoring.reward_kinds import needs_translations, scalar_kinds
from icr_platform.models.model_identity import model_identity
from icr_platform.pipeline.code_digest import code_of
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.session import Session

PASSED = "checked"  # folder of empty files, one for what passed
_CODE = ("icr_platform.models.loading", "icr_platform.engines.scoring.reward_texts")
_LIBRARIES = ("transformers", "tokenizers")


def check_models_once(session: Session, config: IterateConfig) -> None:
    """`check_models`, unless these models, all of them folders, passed it before, with these settings and this code.

    Raises:
        InputError: as `check_models`.
    """
    folder = session.work / PASSED
    if folder.is_dir() and (name := _name(session, config)) and (folder / name).exists():
        return
    check_models(session, config)
    # Only now: the digest of weights that were never read takes longer than to refuse them.
    if name := _name(session, config):
        with contextlib.suppress(OSError):  # a folder that nothing can be written to is refused by the stages
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()


def check_models(session: Session, config: IterateConfig) -> tuple[str, ...]:
    """Check what the first stage does not look at, so that its hours are not wasted; loads no weights.

    Returns: lines for a person to read.

    Raises:
        InputError: policy and reference tokenise differently, or one of the models lacks tensors; the reward model cannot score.
    """
    from icr_platform.engines.scoring.reward_texts import RewardLimits
    from icr_platform.models.loading import check_same_tokenisation, check_weights, load_tokenizer

    models = _models(session, config)
    notes = check_same_tokenisation(config.policy, config.reference, config) if config.reference else ()
    if models.translator:
        load_tokenizer(models.translator, config)
    if models.scorer:
        notes += RewardLimits(config.annotate.model_copy(update={"reward_model": models.scorer}), config).notes
    weighty = (model for model in (config.policy, config.reference, models.translator) if model)
    return (
        *notes,
        *(note for model in dict.fromkeys(weighty) for note in check_weights(model, config.trust_remote_code)),
    )


class _Models(NamedTuple):
    """Where they are. translator, scorer: '' where nothing is translated, or scored by a reward model."""

    policy: str
    reference: str
    translator: str
    scorer: str


def _models(session: Session, config: IterateConfig) -> _Models:
    ranks, settings = config.ranks_by_rewards, config.annotate
    translator = settings.translator if ranks and needs_translations(settings.reward_kind) else ""
    scorer = settings.reward_model if config.iterations and ranks and scalar_kinds(settings.reward_kind) else ""
    local = session.resolver.local
    return _Models(
        config.policy,
        config.reference,
        local(translator, config.seed) if translator else "",
        local(scorer, config.seed) if scorer else "",
    )


def _name(session: Session, config: IterateConfig) -> str:
    """Digest of all that `check_models` looks at; '' where that is unknown: a model's own code, the hub, what is no model."""
    try:
        models = [model for model in _models(session, config) if model]
        if config.trust_remote_code or not all(Path(model).is_dir() for model in models):
            return ""
        identities = [model_identity(model) for model in models]
    except IcrError:  # the check says it better
        return ""
    chat = ChatSettings.model_validate({name: getattr(config, name) for name in ChatSettings.model_fields})
    settings = [config.annotate.model_dump_json(), chat.model_dump_json()]
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    return text_digest(json.dumps([identities, settings, libraries]), code_of(_CODE).digest)[:32]
