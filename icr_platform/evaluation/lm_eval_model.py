"""The policy as lm-eval asks it, its prompts framed by the chat template as every other stage frames them.

lm-eval would render a template with today's date and without the settings, drop a system message that the template refuses, and tokenise
the text anew; it would move white space at a prompt's end to the choice, score a choice where a thought is to begin, and stop at a
blank line within a thought. Here a prompt has its ids from `models.chat`, a choice is scored where the answer begins, and what is
generated is cut at the task's stop texts behind the thought. Prompts without a template are lm-eval's own affair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from icr_platform.core.artifacts import text_digest
from icr_platform.core.conversations import ASSISTANT, Conversation
from icr_platform.engines.sampling.decoding import Decoder, Row
from icr_platform.engines.sampling.sampler import Dropped, token_budget
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.chat import RefusedTextError, encode_prompt, encode_response, stop_ids
from icr_platform.models.context import context_of
from icr_platform.models.loading import generation_eos
from icr_platform.models.thinking import encode_answer_prompt, read_response

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings

REFUSED = "prompts that the chat template refuses were asked without it"
CUT_PROMPT = "requests were longer than the model's context, and lost the beginning of their prompt"
TOO_LONG = "prompts were longer than the model's context, and count as not answered"
CUT_THOUGHT = "answers never began, since the thought did not end in time (max_tokens)"
NOT_FINITE = "answers are empty, since the policy's logits are not finite numbers"
_OWN_STEPS = frozenset({"until", "max_gen_toks", "do_sample", "temperature"})
_TAKEN = frozenset({"top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"})


class Framed(str):
    """A prompt framed by the chat template: the text that lm-eval sees and records, and the conversation that it came from.

    asked: None where the template refuses it: the text is asked as it is.
    begun: of the answer, which the model is to go on with (lm-eval's gen_prefix).
    """

    asked: Conversation | None
    begun: str

    @classmethod
    def of(cls, text: str, asked: Conversation | None, begun: str) -> Framed:
        framed = cls(text)
        framed.asked, framed.begun = asked, begun
        return framed


class PolicyModel(HFLM):  # type: ignore[misc]  # lm_eval has no types
    """lm-eval's transformers model, with the platform's prompts where a task is asked in the chat template.

    tokenizer: whose template the settings are bound to; None where no task is asked so.
    faults: how many requests were not asked, or not answered, as they should be, by reason.
    unused: lm-eval's options of a generation that have no effect here.
    """

    def __init__(
        self, policy: str, framing: PreTrainedTokenizerBase | None, chat: ChatSettings, seed: int, **options: Any
    ) -> None:
        super().__init__(**options)
        self._policy, self._framing, self._chat, self._seed = policy, framing, chat, seed
        self.faults: Counter[str] = Counter()
        self.unused: set[str] = set()

    @property
    def framing(self) -> PreTrainedTokenizerBase:
        assert self._framing is not None  # lm-eval asks for a template only where it is told to
        return self._framing

    def notes(self) -> list[str]:
        """What a person should know of how answers were generated."""
        if not self.unused:
            return []
        return [f"{', '.join(sorted(self.unused))} of generation_kwargs has no effect with the chat template"]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Frame a conversation; a last message of the assistant is the beginning of the answer."""
        *before, last = [(message["role"], message["content"]) for message in chat_history]
        begun = ""
        if last[0] == ASSISTANT and before:
            begun = last[1]
            *before, last = before
        asked = Conversation(last[1], tuple(before))
        try:
            ids = encode_prompt(self.framing, asked)
        except RefusedTextError:
            self.faults[REFUSED] += 1
            return Framed.of("\n\n".join(text for _, text in (*before, last)), None, begun)
        text = self.framing.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return Framed.of(f"{text}{begun}", asked, begun)

    def _ids(self, prompt: Framed, is_answered_at_once: bool) -> list[int]:
        if prompt.asked is None:
            return [int(token) for token in self.framing(str(prompt))["input_ids"]]
        encode = encode_answer_prompt if is_answered_at_once else encode_prompt
        begun = encode_response(self.framing, prompt.begun, finished=False) if prompt.begun else []
        return encode(self.framing, prompt.asked) + begun

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """The ids of a prompt and of the choice behind it, at the place where an answer begins: nothing can be thought before it."""
        if isinstance(context, Framed):
            before = self._ids(context, is_answered_at_once=True)
            scored = encode_response(self.framing, continuation, finished=False)
        else:
            before, scored = super()._encode_pair(context, continuation)
        self.faults[CUT_PROMPT] += len(before) + len(scored) > self.max_length + 1
        return before, scored

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate answers, and cut each at the first of the task's stop texts that stands in it; a thought may contain them."""
        if not any(isinstance(request.args[0], Framed) for request in requests):
            plain: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
            return plain
        answers = [""] * len(requests)
        by_options: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_options.setdefault(repr(request.args[1]), []).append(index)
        for indices in by_options.values():
            options = normalize_gen_kwargs(requests[indices[0]].args[1], self.max_gen_toks)
            found = self._answers([requests[index].args[0] for index in indices], options)
            for index, answer in zip(indices, found, strict=True):
                answers[index] = answer
        return answers

    def _answers(self, prompts: Sequence[Framed], options: Mapping[str, Any]) -> list[str]:
        """What the policy answers to each prompt, with the options of one task; '' where the prompt does not fit its context."""
        settings, context = _sampling(options), context_of(self.model.config)
        self.unused |= set(options) - _OWN_STEPS - _TAKEN
        answers = [""] * len(prompts)
        asked: list[int] = []
        rows: list[Row] = []
        for index, prompt in enumerate(prompts):
            ids = self._ids(prompt, is_answered_at_once=False)
            budget = token_budget(len(ids), settings.max_tokens, context)
            if isinstance(budget, Dropped):
                self.faults[TOO_LONG] += 1
            else:
                seed = int(text_digest(str(self._seed), prompt, str(index))[:16], 16)
                asked.append(index)
                rows.append(Row(tuple(ids), seed, budget, settings.temperature))

        def done(number: int, token_ids: list[int]) -> None:
            found = read_response(self.framing, rows[number].prompt_ids, token_ids)
            self.faults[CUT_THOUGHT] += found.is_cut
            self.faults[NOT_FINITE] += not token_ids
            answers[asked[number]] = cut_at(found.answer, options["until"])

        stops = stop_ids(self.framing, generation_eos(self._policy, self._chat.trust_remote_code))
        if rows:
            Decoder(self.model, settings, stops).decode(rows, int(self.batch_size), done)
        return answers


def cut_at(answer: str, until: Sequence[str]) -> str:
    """The answer up to the first of the stop texts.

    >>> cut_at("12\\nQuestion: next", ["Question:", ""])
    '12\\n'
    """
    for text in filter(None, until):
        answer = answer.split(text)[0]
    return answer


def _sampling(options: Mapping[str, Any]) -> SamplingSettings:
    """lm-eval's options of a generation as the platform's sampler takes them."""
    taken = {name: value for name, value in options.items() if name in _TAKEN and value is not None}
    temperature = float(options.get("temperature") or 0.0) if options.get("do_sample") else 0.0
    return SamplingSettings(max_tokens=int(options["max_gen_toks"]), temperature=temperature, top_p=1.0).model_copy(
        update=taken
    )
