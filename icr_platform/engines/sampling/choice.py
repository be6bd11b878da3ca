"""The sampler that the settings name: one of `SAMPLERS`, or anyone's own as MODULE:NAME."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.core.parts import load_part
from icr_platform.engines.sampling.sampler import Sampler
from icr_platform.engines.sampling.settings import SAMPLERS
from icr_platform.engines.sampling.thoughts import ThoughtfulSampler
from icr_platform.models.chat import USER, Roles, require_roles
from icr_platform.models.loading import load_tokenizer, recommended_sampling
from icr_platform.models.thinking import markers_of

if TYPE_CHECKING:
    from icr_platform.engines.sampling.settings import SamplingSettings

_ADVISED = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


def sampler_place(name: str) -> str:
    """MODULE:NAME of what loads the sampler that goes by this name.

    >>> sampler_place("server"), sampler_place("mine:load")
    ('icr_platform.engines.sampling.server_sampler:load', 'mine:load')
    """
    return SAMPLERS[name].part.place if name in SAMPLERS else name


def make_sampler(settings: SamplingSettings, policy: str, chat: ChatSettings = CHAT_DEFAULTS) -> Sampler:
    """Load the engine that `settings.sampler` names. The text of its samples is the answer, whatever the model thinks before it.

    chat: what the policy's chat template is rendered with.

    Raises:
        InputError: the policy cannot be loaded, the engine is not installed, or the endpoint is not named.
    """
    load = load_part("sampler", sampler_place(settings.sampler), "settings", "policy", "chat")
    sampler: Sampler = load(settings, policy, chat)
    if not callable(getattr(sampler, "sample_shards", None)):
        raise InputError(
            f"config: field 'sampler' is {settings.sampler!r}, which gives a {type(sampler).__name__} without a method "
            "sample_shards; let it be a Sampler (see engines/sampling/sampler.py)"
        )
    tokenizer = load_tokenizer(policy, chat)
    return ThoughtfulSampler(sampler, tokenizer) if markers_of(tokenizer) else sampler


def check_policy(settings: SamplingSettings, policy: str, chat: ChatSettings, roles: Sequence[Roles] = (USER,)) -> None:
    """Check that the policy can be sampled from here, without its weights: engine, tokenizer, chat template, weight files.

    roles: the conversations that it will be given.

    Raises:
        InputError: what is wrong and the fix.
    """
    tokenizer = load_tokenizer(policy, chat)
    for each in roles:
        require_roles(tokenizer, each)
    if settings.sampler in SAMPLERS:
        load_part("sampler", SAMPLERS[settings.sampler].check, "settings", "policy", "chat")(settings, policy, chat)
    else:
        load_part("sampler", settings.sampler, "settings", "policy", "chat")


def engine_notes(settings: SamplingSettings, policy: str, chat: ChatSettings) -> tuple[str, ...]:
    """What a person should know of how the engine will see prompts. A server is asked for one token.

    Raises:
        InputError, IcrError: see `server_sampler.server_notes`.
    """
    unfollowed = unfollowed_advice(settings, policy)
    advised = (f"{policy}: {unfollowed}",) if unfollowed else ()
    notes = SAMPLERS[settings.sampler].notes if settings.sampler in SAMPLERS else ""
    if not notes:
        return advised
    said: tuple[str, ...] = load_part("sampler", notes, "settings", "policy", "chat")(settings, policy, chat)
    return (*advised, *said)


def unfollowed_advice(settings: SamplingSettings, policy: str) -> str:
    """Say which values of the policy's generation config, its makers' advice, the settings do not follow; '' where they follow all."""
    advised = {name: value for name, value in recommended_sampling(policy).items() if name in _ADVISED}
    apart = {name: value for name, value in advised.items() if value != getattr(settings, name)}
    if not apart:
        return ""
    theirs = ", ".join(f"{name} {value:g}" for name, value in apart.items())
    ours = ", ".join(f"{name} {getattr(settings, name):g}" for name in apart)
    return f"its generation_config.json recommends {theirs}; the settings decide: {ours}"
