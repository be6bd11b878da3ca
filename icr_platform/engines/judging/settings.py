"""Which judges there are, and how one is asked. To add a judge, write its module and give it a row in `JUDGES`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from icr_platform.core.config import ChatSettings, Config, setting
from icr_platform.core.parts import Named, Part
from icr_platform.core.template_arguments import TemplateArguments
from icr_platform.models.settings import ModelPlace

NO_JUDGE = "none"


class BuiltInJudge(NamedTuple):
    """A judge that ships with the platform.

    part: called with (settings, template, seed), see `choice.make_judge`; its module identifies the judgments' code.
    check: MODULE:NAME, called with (settings, template); raises InputError when the judge cannot work, and loads no weights; may give
        notes.
    """

    part: Part
    check: str


JUDGES = {
    "logprob": BuiltInJudge(
        Part(
            "icr_platform.engines.judging.local_judge:LocalJudge.from_settings",
            "label probabilities of the local judge_model",
        ),
        "icr_platform.engines.judging.local_judge:check",
    ),
    "openai": BuiltInJudge(
        Part(
            "icr_platform.engines.judging.api_judge:ApiJudge.from_settings",
            "judge_api_model at any OpenAI-compatible endpoint",
        ),
        "icr_platform.engines.judging.api_judge:check",
    ),
}


class JudgeSettings(Config):
    """The endpoint of an LLM judge: any that speaks the OpenAI protocol. Its key stays in the environment."""

    heading, place_heading = "judge", "judge's endpoint"

    judge_api_model: str = setting("", "model name at the endpoint, for the openai judge")
    judge_url: str = setting("", "base URL of the endpoint; empty: OPENAI_BASE_URL, or OpenAI's own", "place")
    judge_identity: str = setting(
        "",
        "identifies the endpoint's model; empty: what the endpoint says, or its address",
    )
    judge_chat_template_kwargs: TemplateArguments = setting(
        {},
        "arguments of the judge's chat template; an endpoint is sent them as chat_template_kwargs (vLLM, SGLang); a local judge is asked "
        "with thinking off unless they say otherwise",
        later=True,
    )
    judge_key_variable: str = setting("OPENAI_API_KEY", "environment variable that holds the endpoint's key", "place")
    judge_concurrency: int = setting(32, "requests that may run at once, over all workers", "place", ge=1)
    judge_timeout: float = setting(120.0, "seconds until a request hangs", "place", gt=0)
    judge_retries: int = setting(12, "tries after the first, with exponential backoff", "place", ge=0)
    judge_max_failures: float = setting(
        2.0, "percent of judgments that may fail before the run does", "place", ge=0, le=100
    )
    judge_cache: str = setting("", "folder of its answers; empty: ~/.cache/icr/judge", "place")
    judge_input_price: float = setting(0.0, "US dollars per million input tokens", "place", ge=0)
    judge_output_price: float = setting(0.0, "US dollars per million output tokens, for the estimate", "place", ge=0)
    judge_tokenizer: str = setting(
        "",
        "counts the judge's tokens for the estimate: model folder, hub name, or tiktoken:ENCODING; empty: by size",
        "place",
    )

    @property
    def cache_folder(self) -> Path:
        """Where the judge's replies are kept."""
        from icr_platform.engines.endpoints.reply_cache import default_cache

        return Path(self.judge_cache).expanduser() if self.judge_cache else default_cache()


class PairwiseJudgeSettings(JudgeSettings):
    """Who compares two outputs, and how it is asked."""

    heading = "judge"

    judge: Annotated[str, Named((NO_JUDGE, *JUDGES))] = setting(
        NO_JUDGE,
        "".join(f"{name}: {judge.part.doc}; " for name, judge in JUDGES.items())
        + "none: fidelity and lengths only; MODULE:NAME: "
        "your own, importable from the folder you call from: NAME(settings, template, seed) gives an object whose "
        "judge(parts) yields the judgments of each part (see engines/judging/pairwise.py)",
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


class PairwiseJudging(ChatSettings, PairwiseJudgeSettings, ModelPlace):
    """All that a pairwise judge is made from: how it is asked, where its model runs, how its chat template is rendered."""
