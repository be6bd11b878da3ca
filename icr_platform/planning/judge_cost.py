"""What judging will ask and cost, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from icr_platform.core.errors import InputError
from icr_platform.engines.endpoints.chat_client import Message
from icr_platform.engines.endpoints.reply_cache import input_bytes, request_key
from icr_platform.engines.judging.api_judge import ApiJudge
from icr_platform.engines.judging.pairwise import Pair
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.inputs import EvaluationInputs, read_inputs

_BYTES_PER_TOKEN = 4.5  # English text under current byte-level vocabularies; replaced by what the cache has seen
_STRUCTURED_TOKENS = 8  # {"winner": "m"}; a reasoning model's thoughts come on top

Count = Callable[[list[Message]], float]


@dataclass(frozen=True)
class Estimate:
    """Requests left to send and their tokens. price: US dollars at the configured prices.

    counted_by: how input tokens were counted.
    notes: what the figures do not know.
    """

    prompts: int
    requests: int
    cached: int
    input_tokens: int
    output_tokens: int
    price: float
    counted_by: str
    notes: tuple[str, ...]


def estimate(config: EvalConfig) -> Estimate:
    """Count every question that the openai judge would be asked; those answered in the cache cost nothing.

    Outputs that are still to be sampled are taken to be as long as the reference outputs.

    Raises:
        InputError: bad input, or a judge that costs nothing.
    """
    if config.judge != "openai":
        raise InputError(f"config: field 'dry_run' needs the openai judge, not {config.judge!r}; others cost nothing")
    inputs = read_inputs(config)
    judge = ApiJudge.from_settings(config, inputs.template, config.seed, is_asked=False)
    count, counted_by = _counter(config, judge)
    pairs = list(_pairs(config, inputs))
    requests = cached = 0
    tokens = 0.0
    for pair in pairs:
        for _, messages in judge.questions(pair):
            for sample in range(max(judge.samples, 1)):
                known = request_key(judge.endpoint.identity, judge.parameters, messages, sample)
                if config.outputs and judge.cache.get(known) is not None:
                    cached += 1
                else:
                    requests += 1
                    tokens += count(messages)
    output = requests * (_STRUCTURED_TOKENS if judge.samples else 1)
    price = (tokens * config.judge_input_price + output * config.judge_output_price) / 1e6
    keys = {(pair.language, pair.prompt_id) for pair in pairs}
    return Estimate(len(keys), requests, cached, round(tokens), output, price, counted_by, _notes(config, judge))


def _pairs(config: EvalConfig, inputs: EvaluationInputs) -> Iterator[Pair]:
    rows = inputs.prompts.table.select(["language", "prompt_id", "instruction"]).to_pylist()
    for row in rows:
        key = (row["language"], row["prompt_id"])
        given = (
            [(index, text) for index, text, _ in inputs.outputs.samples(*key)]
            if inputs.outputs is not None
            else [(index, None) for index in range(config.samples)]
        )
        for index, candidate in given:
            reference = inputs.references.get(*key, index) if inputs.references is not None else None
            if reference is not None:
                yield Pair(*key, index, row["instruction"], reference if candidate is None else candidate, reference)


def _counter(config: EvalConfig, judge: ApiJudge) -> tuple[Count, str]:
    name = config.judge_tokenizer
    if name.startswith("tiktoken:"):
        return _tiktoken(name.removeprefix("tiktoken:")), name
    if name:
        from icr_platform.models.chat import encode_messages
        from icr_platform.models.loading import load_tokenizer

        tokenizer = load_tokenizer(name, config)
        return lambda messages: len(encode_messages(tokenizer, messages)), f"the tokenizer of {name}"
    encoding = _own_encoding(config.judge_api_model)
    if encoding:
        return _tiktoken(encoding), f"tiktoken:{encoding}"
    seen = judge.cache.bytes_per_token(config.judge_api_model)
    rate = seen or _BYTES_PER_TOKEN
    how = "what this judge's earlier replies reported" if seen else "a rule of thumb"
    return lambda messages: input_bytes(messages) / rate, f"{how} ({rate:.2f} bytes per token)"


def _own_encoding(model: str) -> str | None:
    """The encoding of a model that tiktoken knows and can load here: it fetches vocabularies once, from OpenAI."""
    import tiktoken

    try:
        name = tiktoken.encoding_name_for_model(model)
        tiktoken.get_encoding(name)
    except (KeyError, OSError, ValueError):
        return None
    return name


def _tiktoken(encoding: str) -> Count:
    import tiktoken

    try:
        encoder = tiktoken.get_encoding(encoding)
    except (ValueError, OSError) as error:
        raise InputError(
            f"config: field 'judge_tokenizer': tiktoken:{encoding} is not usable ({' '.join(str(error).split())}); "
            "leave the field empty"
        ) from error
    # Four tokens frame a message and three open the answer in OpenAI's chat format.
    return lambda messages: 3 + sum(4 + len(encoder.encode_ordinary(message["content"])) for message in messages)


def _notes(config: EvalConfig, judge: ApiJudge) -> tuple[str, ...]:
    notes = []
    if not config.outputs:
        notes.append("outputs are not sampled yet: each is taken to be as long as its reference output")
    if judge.samples:
        notes.append("a reasoning model's hidden tokens are not in the output tokens")
    if config.judge_tokenizer or _own_encoding(config.judge_api_model):
        pass
    elif judge.cache.bytes_per_token(config.judge_api_model):
        notes.append(
            "input tokens hold for languages like those of the earlier replies; give judge_tokenizer to count them"
        )
    else:
        notes.append(
            "without judge_tokenizer input tokens are a guess from the size of English text: other languages have been seen to "
            "take up to 80% more"
        )
    if not config.judge_input_price and not config.judge_output_price:
        notes.append("give judge_input_price and judge_output_price, in US dollars per million tokens, for a price")
    return tuple(notes)


def print_estimate(config: EvalConfig) -> None:
    """The estimate as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    found = estimate(config)
    table = Table(title=f"Dry run: {config.judge_api_model}, nothing was sent", title_justify="left", show_header=False)
    for name, value in (
        ("prompts", f"{found.prompts:,}"),
        ("requests", f"{found.requests:,} ({found.cached:,} more are in the cache)"),
        ("input tokens", f"{found.input_tokens:,}, by {found.counted_by}"),
        ("output tokens", f"{found.output_tokens:,}"),
        ("price", f"{found.price:,.2f} US dollars" if found.price else "-"),
    ):
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for note in found.notes:
        console.print(note, markup=False)
