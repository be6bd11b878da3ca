"""How a policy is sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from icr_platform.core.config import OptionalInt, setting
from icr_platform.core.parts import Named
from icr_platform.engines.execution.settings import ExecutionSettings
from icr_platform.engines.identification.language_id import IDENTIFIERS
from icr_platform.models.settings import ModelPlace


class SamplingSettings(ExecutionSettings, ModelPlace):
    """How responses are sampled. Defaults as in the reference implementation (METHOD: N=10, T=0.9, 2400 tokens)."""

    heading, place_heading = "sampling", "sampling engine"

    samples: int = setting(10, "responses per prompt (N)", ge=1)
    temperature: float = setting(0.9, "sampling temperature; 0 is greedy", ge=0)
    top_p: float = setting(1.0, "nucleus: smallest set of tokens with this probability", gt=0, le=1)
    top_k: int = setting(0, "only the k likeliest tokens; 0 switches it off", ge=0)
    max_tokens: int = setting(2400, "new tokens at most", ge=1)
    sampler: Literal["transformers", "vllm", "server"] = setting("transformers", "engine that samples")
    server_url: str = setting("", "base URL of an OpenAI-compatible endpoint, for the server sampler", "place")
    server_model: str = setting("", "model name at the endpoint; empty: the policy's name")
    server_identity: str = setting(
        "", "what tells the endpoint's model from another of its name; empty: what it says of it, or else its address"
    )
    server_concurrency: int = setting(
        32, "requests under way at once per worker, for the server sampler", "place", ge=1
    )
    language_identifier: Annotated[str, Named(tuple(IDENTIFIERS))] = setting(
        "langid",
        "offline library that tells a response's language; MODULE:NAME: your own, importable from the folder you call from: "
        "NAME(codes) gives the codes that it can tell and a function from a text to (code, probability)",
    )
    batch_size: int = setting(64, "sequences decoded together, for the transformers sampler", "place", ge=1)
    shard_prompts: int = setting(64, "prompts of one language per shard, the unit of resume", "place", ge=1)
    tensor_parallel: int = setting(1, "GPUs one engine spans, for vllm", "place", ge=1)
    data_parallel: int = setting(1, "copies of the engine, each on tensor_parallel GPUs, for vllm", "place", ge=1)
    gpu_memory: float = setting(0.9, "share of GPU memory the engine takes, for vllm", "place", gt=0, le=1)
    max_model_len: OptionalInt = setting(
        None, "tokens of prompt and response together, for vllm; none: the model's own"
    )
