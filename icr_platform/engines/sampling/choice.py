"""Which sampler the settings ask for. To add one, write a `Sampler` in a module of its own, and name it here and in the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings
from icr_platform.core.errors import InputError
from icr_platform.engines.sampling.sampler import Sampler
from icr_platform.models.chat import USER, Roles, require_roles
from icr_platform.models.loading import check_weights, generation_eos, load_model, load_tokenizer

if TYPE_CHECKING:
    from icr_platform.engines.sampling.settings import SamplingSettings


def make_sampler(settings: SamplingSettings, policy: str, chat: ChatSettings = CHAT_DEFAULTS) -> Sampler:
    """Load the engine that `settings.sampler` names.

    chat: what the policy's chat template is rendered with.

    Raises:
        InputError: the policy cannot be loaded, the engine is not installed, or the endpoint is not named.
    """
    check_sampler(settings)
    tokenizer = load_tokenizer(policy, chat)
    if settings.sampler == "vllm":
        from icr_platform.engines.sampling.vllm_sampler import VllmSampler

        sampler = VllmSampler(settings, policy, tokenizer, generation_eos(policy))
        # Again: of a tensor that it fuses with others, vLLM does not notice the lack, and what it fetched is here now.
        check_weights(policy, is_loaded_by_vllm=True)
        return sampler
    if settings.sampler == "server":
        from icr_platform.engines.sampling.server_sampler import ServerSampler

        return ServerSampler(settings, policy, tokenizer)
    from icr_platform.engines.sampling.transformers_sampler import TransformersSampler

    model = load_model(policy, settings.dtype, settings.device)
    return TransformersSampler(model, tokenizer, settings, generation_eos(policy))


def check_sampler(settings: SamplingSettings) -> None:
    """Raise InputError when the chosen engine cannot work here; loads nothing."""
    if settings.sampler == "vllm":
        from importlib.util import find_spec

        if find_spec("vllm") is None:
            raise InputError(
                "config: field 'sampler' is 'vllm', which is not installed; pip install 'icr-platform[vllm]'"
            )
    if settings.sampler == "server" and not settings.server_url.startswith(("http://", "https://")):
        raise InputError(
            f"config: field 'server_url' is {settings.server_url!r}; give the endpoint's base URL, such as "
            "http://localhost:8000/v1"
        )


def check_policy(settings: SamplingSettings, policy: str, chat: ChatSettings, roles: Sequence[Roles] = (USER,)) -> None:
    """Check that the policy can be sampled from here, without its weights: engine, tokenizer, chat template, weight files.

    roles: the conversations that it will be given.

    Raises:
        InputError: what is wrong and the fix.
    """
    check_sampler(settings)
    tokenizer = load_tokenizer(policy, chat)
    for each in roles:
        require_roles(tokenizer, each)
    if settings.sampler != "server":
        check_weights(policy, is_loaded_by_vllm=settings.sampler == "vllm")


def engine_notes(settings: SamplingSettings, policy: str, chat: ChatSettings) -> tuple[str, ...]:
    """What a person should know of how the engine will see prompts; asks a server for one token.

    Raises:
        InputError, IcrError: see `server_sampler.server_notes`.
    """
    if settings.sampler != "server":
        return ()
    from icr_platform.engines.sampling.server_sampler import server_notes

    return server_notes(settings, policy, chat)
