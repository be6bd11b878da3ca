"""How a judge is reached."""

from __future__ import annotations

from typing import Literal

from icr_platform.core.config import Config, setting


class JudgeSettings(Config):
    """The endpoint of an LLM judge: any that speaks the OpenAI protocol. Its key stays in the environment."""

    heading, place_heading = "judge", "judge's endpoint"

    judge_api_model: str = setting("", "model name at the endpoint, for the openai judge")
    judge_url: str = setting("", "base URL of the endpoint; empty: OPENAI_BASE_URL, or OpenAI's own", "place")
    judge_identity: str = setting(
        "", "what tells the endpoint's model from another of its name; empty: what it says of it, or else its address"
    )
    judge_key_variable: str = setting("OPENAI_API_KEY", "environment variable that holds the endpoint's key", "place")
    judge_concurrency: int = setting(32, "requests under way at once, over all workers", "place", ge=1)
    judge_timeout: float = setting(120.0, "seconds until a request counts as hanging", "place", gt=0)
    judge_retries: int = setting(12, "tries after the first, with exponential backoff", "place", ge=0)
    judge_max_failures: float = setting(
        2.0, "percent of judgments that may fail before the run does, after everything is kept", "place", ge=0, le=100
    )
    judge_cache: str = setting("", "folder of the judge's answers; empty: ~/.cache/icr/judge", "place")
    judge_input_price: float = setting(0.0, "US dollars per million input tokens, for the estimate", "place", ge=0)
    judge_output_price: float = setting(0.0, "US dollars per million output tokens, for the estimate", "place", ge=0)
    judge_tokenizer: str = setting(
        "",
        "counts the judge's tokens for the estimate: model folder, hub name, or tiktoken:ENCODING; empty: by size",
        "place",
    )


class PairwiseJudgeSettings(JudgeSettings):
    """Who compares two outputs, and how it is asked."""

    heading = "judge"

    judge: Literal["none", "demo", "logprob", "openai"] = setting(
        "none",
        "demo: the demo world's grader; logprob: label probabilities of the local judge_model; openai: judge_api_model at "
        "any OpenAI-compatible endpoint; none: fidelity and lengths only",
    )
    judge_model: str = setting("", "local model that judges, for the logprob judge", "model")
    judge_template: str = setting("", "YAML list of {role, content} messages; empty: the built-in wording", "input")
    judge_answer: Literal["logprobs", "structured"] = setting(
        "logprobs",
        "logprobs: the label's probability as first token; structured: sampled JSON, for reasoning models and endpoints "
        "without log-probabilities",
    )
    judge_samples: int = setting(1, "answers sampled per pair and order, for structured answers", ge=1)
    judge_min_mass: float = setting(
        0.1, "with logprobs: probability both labels must hold together, or the judgment is a failure", ge=0, le=1
    )
    both_orders: bool = setting(True, "judge each pair in both orders and average; else a seeded coin picks one")
