"""What is known of each model before its weights are loaded: its kind, its chat template, how it will be sampled and scored."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from icr_platform.core.config import ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import InputError
from icr_platform.engines.judging.judge_chat import JudgeChat, load_judge_chat
from icr_platform.engines.judging.pairwise import Pair, load_template, orders_of
from icr_platform.engines.sampling.choice import unfollowed_advice
from icr_platform.engines.sampling.sampler import requests_of
from icr_platform.engines.scoring.reward_kinds import scored_kinds, scoring_conversation
from icr_platform.models.adapters import base_of
from icr_platform.models.chat import stop_ids
from icr_platform.models.context import context_of
from icr_platform.models.loading import generation_eos, load_config, load_tokenizer, on_meta_device
from icr_platform.models.multimodal import is_multimodal, leave_out_towers, towers
from icr_platform.models.quantised import quantisation
from icr_platform.models.settings import ModelPlace
from icr_platform.pipeline.config import IterateConfig
from icr_platform.planning.capacity import idle_parameters
from icr_platform.planning.habits import habits, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from icr_platform.engines.sampling.settings import SamplingSettings

_WIDEST = 160
_SHOWN_OF_A_MESSAGE = 130  # characters: the reward instruction's language among them
_LINES_OF_A_PROMPT = 3
_MARGIN = 16
_MEASURED = 20 * 10**6  # parameters of a model whose precision is worth a measurement
_ROWS = 256  # tokens of it
_WORTH_SAYING = 1.2  # times as fast

POLICY, REFERENCE, TRANSLATOR, JUDGE, REWARD_MODEL = "policy", "reference", "translator", "judge", "reward model"
PROMPTS = "prompts"
_AS_IT_IS: dict[str, Any] = {
    "break_on_hyphens": False,
    "replace_whitespace": False,
    "drop_whitespace": False,
    "expand_tabs": False,
}

Facts = dict[str, list[str]]
"""Lines by what they are about."""


@dataclass(frozen=True)
class Opened:
    """A model without its weights. unused: modules that no text passes, which are left out of it."""

    name: str
    config: Any
    skeleton: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    unused: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, chat: ChatSettings, tokenizer: PreTrainedTokenizerBase | None = None) -> Opened:
        """Open a model's config and, unless that is given, its tokenizer.

        Raises:
            InputError: it has none, or they do not fit each other.
        """
        config = load_config(name, chat.trust_remote_code)
        skeleton = on_meta_device(base_of(name), config, chat.trust_remote_code)
        unused = towers(skeleton) if is_multimodal(config) else []
        if unused:
            leave_out_towers(skeleton)
        return cls(name, config, skeleton, tokenizer or load_tokenizer(name, chat), unused)


def reward_facts(config: IterateConfig, use: Use) -> Facts:
    """All that is said of a reward model: how it is told which text is the response, and what shares a batch."""
    from icr_platform.engines.scoring.reward_texts import RewardTexts
    from icr_platform.engines.scoring.scalar_scores import find_batching
    from icr_platform.models.reward_models import context_of_reward_model, ensure_pad, plan_of

    plan, texts = plan_of(use.model, use.chat.trust_remote_code), RewardTexts(use.model, use.chat)
    skeleton = on_meta_device(base_of(use.model), plan.config, use.chat.trust_remote_code, plan.auto)
    ensure_pad(skeleton, plan)
    model = Opened(use.model, plan.config, skeleton, texts.tokenizer)
    length, batching = context_of_reward_model(skeleton), find_batching(skeleton)
    shared = {"equal": "only with responses of its length", "alone": "one response at a time"}
    how = f"in batches of up to {config.annotate.batch_tokens:,} tokens, padded on the {batching.sharing}"
    if batching.why:
        how = f"{shared[batching.sharing]}: {batching.why}"
    pair = "no chat template: conversation and response are two texts, between its own separators"
    return {
        "kind": kind_of(model),
        "context": [f"{length:,} tokens" if length else "without a limit"],
        "memory": list(use.memory),
        "chat": [pair] if texts.is_pair else habits(texts.tokenizer, use.model),
        "annotate": [how],
    }


def kind_of(model: Opened) -> list[str]:
    """Its family and class, its size, and the precision of its files."""
    text = model.config.get_text_config()
    parameters = {id(one): one.numel() for one in model.skeleton.parameters()}
    total = sum(parameters.values())
    active = total - idle_parameters(model.skeleton)
    line = f"{model.config.model_type} ({type(model.skeleton).__name__}), {_millions(total)} parameters"
    if active < total:
        line += f", of which {_millions(active)} work on a token"
    stored = getattr(model.config, "dtype", None) or getattr(text, "dtype", None) or "float32"
    found = [f"{line}, files in {str(stored).removeprefix('torch.')}"]
    if model.unused:
        found.append(f"used as a model of text, without {', '.join(model.unused)}")
    if method := quantisation(model.config):
        name = method.get("quant_method") if isinstance(method, dict) else getattr(method, "quant_method", "?")
        found.append(f"its weights are quantised ({name})")
    return found


def sampling_of(model: Opened, settings: SamplingSettings) -> list[str]:
    """How it is sampled: the engine, what shares a batch, what ends a response, and the values that its makers recommend."""
    found = [_engine(model, settings)]
    ends = stop_ids(model.tokenizer, generation_eos(model.name))
    names = model.tokenizer.convert_ids_to_tokens(ends)
    found.append(
        "a response ends at " + ", ".join(f"{name} ({index})" for name, index in zip(names, ends, strict=True))
    )
    if advice := unfollowed_advice(settings, model.name):
        found.append(advice)
    return found


def _engine(model: Opened, settings: SamplingSettings) -> str:
    from icr_platform.engines.sampling.block_rows import why_no_blocks
    from icr_platform.models.left_padding import find_batching
    from icr_platform.models.small_copy import NoCopyError, small_copy

    if settings.sampler == "server":
        return f"by the server at {settings.server_url or 'server_url'}"
    if settings.sampler != "transformers":
        return f"by {settings.sampler}"
    try:
        small_copy(model.skeleton)
    except NoCopyError as error:
        return f"one row at a time ({error})"
    if why_no_blocks(model.skeleton) is None:
        return f"{settings.batch_size} rows at a time, each replaced as soon as it ends"
    batching = find_batching(model.skeleton)
    if batching.cache is not None:
        return f"one row at a time, each token computed anew: {batching.cache}"
    if batching.rows is not None:
        return f"one row at a time: {batching.rows}"
    stay = "; finished rows stay in the batch" if batching.leaving == "stay" else ""
    upto = f"; prompts above {batching.longest} tokens alone" if batching.longest is not None else ""
    return f"in batches of up to {settings.batch_size} rows{stay}{upto}"


def scoring_of(model: Opened, batch_tokens: int) -> str:
    """How responses are scored under it: in packs, or in batches and why."""
    from icr_platform.engines.scoring.batch_forward import longest_of_frequencies
    from icr_platform.engines.scoring.logprobs import batched_how, find_sharing, why_not_packed

    if why := why_not_packed(model.skeleton):
        return f"{batched_how(find_sharing(model.skeleton))}: {why}"
    longest = longest_of_frequencies(model.skeleton)
    beyond = f"; responses that end beyond {longest:,} tokens with those of their length" if longest else ""
    return f"in packs of up to {batch_tokens:,} tokens, without padding{beyond}"


def faster_dtype(model: Opened, settings: ModelPlace) -> list[str]:
    """A line where this CPU multiplies faster in another precision than responses are scored in, as a moment's measurement shows."""
    from icr_platform.engines.scoring.machine_choice import speedup_of_bfloat16
    from icr_platform.models.devices import resolve_device, resolve_dtype

    text = model.config.get_text_config()
    parameters = sum(one.numel() for one in model.skeleton.parameters())
    inner = getattr(text, "intermediate_size", None)
    if not isinstance(inner, int) or settings.quantization != "none":
        return []
    if parameters < _MEASURED or resolve_device(settings.device) != "cpu":
        return []
    ratio = speedup_of_bfloat16(_ROWS, text.hidden_size, inner)
    now = str(resolve_dtype(settings.dtype, settings.device)).removeprefix("torch.")
    other, gain = ("bfloat16", ratio) if now == "float32" else ("float32", 1 / ratio)
    if now == "float16" or gain < _WORTH_SAYING:
        return []
    rounding = ", and rounds scores more coarsely" if other == "bfloat16" else ", and more exactly"
    return [f"this CPU multiplies {gain:.1f} times as fast in {other} as in {now}{rounding}: annotate.dtype"]


def context(model: Opened) -> str:
    """How many tokens it reads and writes."""
    length = context_of(model.config)
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    seen = f", some layers see the last {window:,}" if window and "sliding_attention" in kinds else ""
    return (f"{length:,} tokens" if length else "without a limit") + seen


def shown_prompt(model: Opened, messages: list[dict[str, str]], width: int | None) -> str:
    """A rendered prompt on one line, with its last message, and then all of it, cut in the middle; width None: whole."""
    try:
        text = rendered(model.tokenizer, messages)
    except InputError as error:
        return f"({error})"
    asked = messages[-1]["content"]
    if width is not None:
        text = text.replace(asked, cut_in_the_middle(asked, _SHOWN_OF_A_MESSAGE))
    line = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return line if width is None else cut_in_the_middle(line, width)


def cut_in_the_middle(text: str, width: int) -> str:
    """
    >>> cut_in_the_middle("abcdefghijklmnop", 11)
    'abc ... nop'
    """
    if len(text) <= width:
        return text
    kept = max(2, width - 5)
    return f"{text[: kept - kept // 2]} ... {text[-(kept // 2) :]}"


def terminal_width() -> int:
    """Characters of a line that a person can read."""
    return max(60, min(_WIDEST, shutil.get_terminal_size((120, 24)).columns))


@dataclass(frozen=True)
class Use:
    """What a model is used for. purpose: one of the four above. memory: what it takes, by stage."""

    purpose: str
    model: str
    chat: ChatSettings
    memory: Sequence[str]


def show_models(config: IterateConfig, uses: Sequence[Use], prompts: pa.Table, is_whole: bool) -> None:
    """Print the facts of every model of a run; what is the same as of one before is not said again.

    prompts: (schemas.PROMPTS) one in each language. is_whole: print whole prompts, however long they are.
    """
    known: list[Facts] = []
    for use in uses:
        facts = facts_of(config, use, prompts, is_whole)
        print_facts(f"{use.purpose}: {use.model}", facts, known)
        known.append(facts)


def facts_of(config: IterateConfig, use: Use, prompts: pa.Table, is_whole: bool) -> Facts:
    """All that is said of one model.

    Raises:
        InputError: its config or its tokenizer cannot be opened.
    """
    if use.purpose == REWARD_MODEL:
        return reward_facts(config, use)
    asked = _judge_chat(config, use) if use.purpose == JUDGE else None
    model = Opened.of(use.model, use.chat, asked.tokenizer if asked else None)
    facts: Facts = {"kind": kind_of(model), "context": [context(model)], "memory": list(use.memory)}
    facts["chat"] = habits(model.tokenizer, model.name)
    width = None if is_whole else _LINES_OF_A_PROMPT * (terminal_width() - _MARGIN)
    if use.purpose == POLICY and not config.preferences:
        facts["generate"] = sampling_of(model, config.generate)
    is_evaluated = use.purpose == POLICY and bool(config.eval_prompts)
    if is_evaluated and (evaluated := sampling_of(model, config.eval)) != facts.get("generate"):
        facts["eval"] = evaluated
    if use.purpose in (POLICY, REFERENCE):
        if config.ranks_by_rewards:
            facts["annotate"] = [scoring_of(model, config.annotate.batch_tokens), *faster_dtype(model, config.annotate)]
        facts[PROMPTS] = _prompts(model, config, prompts, width)
    if asked is not None:
        opening = str(model.tokenizer.decode(asked.opening))
        facts[PROMPTS] = [_question(model, config, prompts, width) + opening]
    return facts


def _judge_chat(config: IterateConfig, use: Use) -> JudgeChat:
    roles = tuple(role for role, _ in load_template(config.eval.judge_template).messages)
    return load_judge_chat(use.model, roles, use.chat, config.eval.judge_chat_template_kwargs)


def _prompts(model: Opened, config: IterateConfig, prompts: pa.Table, width: int | None) -> list[str]:
    """A prompt in each language, and what the responses to it are scored after where that is another one."""
    found, scored = [], []
    column = max(3, *(len(language) for language in prompts["language"].to_pylist()))
    kind = next(iter(scored_kinds(config.annotate.reward_kind)), None) if config.ranks_by_rewards else None
    for request, row in zip(requests_of(prompts, config), prompts.to_pylist(), strict=True):
        asked = shown_prompt(model, request.messages, width)
        found.append(f"{request.language:<{column}} {asked}")
        if kind is not None:
            native = Conversation.of(row["instruction"], row["messages"])
            english = Conversation.of(row["english_instruction"], row["english_messages"])
            u = scoring_conversation(kind, request.language, native, english, config)
            after = shown_prompt(model, u.messages, width)
            if after != asked:
                scored.append(f"{request.language:<{column}} {after}")
    return [*found, *([f"responses are scored after ({kind}):", *scored] if scored else [])]


def _question(model: Opened, config: IterateConfig, prompts: pa.Table, width: int | None) -> str:
    """What the local judge is asked of the first prompt, with words in place of both outputs."""
    row = prompts.slice(0, 1).to_pylist()[0]
    asked = Conversation.of(row["instruction"], row["messages"]).text
    pair = Pair(row["language"], row["prompt_id"], 0, asked, "(the output of the policy)", "(the reference output)")
    (order, *_) = orders_of(pair, config.eval.both_orders, config.seed)
    return shown_prompt(model, load_template(config.eval.judge_template).render(pair, order), width)


def print_facts(heading: str, facts: Facts, known: Sequence[Facts]) -> None:
    """Print a model's facts, those of earlier models (`known`) only by a word."""
    print(f"\n{heading}")
    width, same = terminal_width(), list[str]()
    for name, lines in facts.items():
        if any(other.get(name) == lines for other in known):
            same.append(name)
            continue
        for number, line in enumerate(lines):
            label = f"  {name if number == 0 else '':<10}"
            indent = " " * (len(label) + 4 * (name == PROMPTS))  # behind the language
            print(textwrap.fill(line, width, initial_indent=label, subsequent_indent=indent, **_AS_IT_IS))
    if same:
        print(f"  {', '.join(same)}: as above")


def _millions(count: int) -> str:
    """
    >>> _millions(8_030_261_248), _millions(270_000_000), _millions(720_000)
    ('8.03 billion', '270 million', '0.72 million')
    """
    return f"{count / 1e9:.3g} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"
