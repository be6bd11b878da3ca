"""The kinds of reward, one row each; everything that depends on the kind is read from its row.

An implicit reward is `r(u, y) = beta * (log pi(y | u) - log pi_ref(y | u))` (arXiv 2503.04647, equations 1 and 4). Its kinds differ
in the instruction u after which a response is scored, in the language of the messages before u, if there are any, and in the text that
is scored: the response, or its English translation. A scalar reward is the score that a reward model, which somebody trained on preferences,
gives to the response to u. A drawn reward is scored by no model; it is the control against which the effect of the others is measured.

To add a kind, add its row to `_ROWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from icr_platform.core.config import ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.language_tags import ENGLISH
from icr_platform.core.languages import reward_instruction


@dataclass(frozen=True)
class RewardKind:
    """One kind: either `instruction` or `draw` is given.

    name: in settings, tables and metrics.
    instruction: (language, native instruction, English instruction) -> the instruction u that policy and reference score after, or that
        the reward model is told the response answers.
    is_scalar: a reward model scores the response's text, in place of policy and reference.
    of_translation: the English translation of the response is scored in its place; English responses stand for themselves.
    draw: (seed, language, prompt id, sample index) -> the reward, without a model.
    remark: what the help of the setting adds to the name.
    """

    name: str
    instruction: Callable[[str, str, str], str] | None = None
    is_scalar: bool = False
    of_translation: bool = False
    draw: Callable[[int, str, str, int], float] | None = None
    remark: str = ""

    @property
    def needs_english(self) -> bool:
        """Whether the instruction u has the English instruction in it, and so follows the English messages."""
        return self.instruction is not None and _PROBE in self.instruction("es", "", _PROBE)


_PROBE = "an English instruction"


def random_reward(seed: int, language: str, prompt_id: str, sample_index: int) -> float:
    """A standard normal number that the seed and the sample's key determine, whatever was annotated with it."""
    from icr_platform.core.artifacts import text_digest  # brings pyarrow, and the help of the command line needs none

    digest = int(text_digest("random reward", str(seed), language, prompt_id, str(sample_index)), 16)
    # The upper 52 bits of 256, the middle of their interval: never 0 or 1, where the normal quantile is infinite.
    return NormalDist().inv_cdf(((digest >> 204) + 0.5) / 2**52)


_ROWS = (
    RewardKind("cross-lingual", instruction=lambda language, native, english: reward_instruction(language, english)),
    RewardKind("multilingual", instruction=lambda language, native, english: native),
    RewardKind("translate", instruction=lambda language, native, english: english, of_translation=True),
    RewardKind("random", draw=random_reward, remark="a control"),
    RewardKind(
        "scalar",
        instruction=lambda language, native, english: native,
        is_scalar=True,
        remark="of reward_model, after the native instruction",
    ),
    # With the sentence that names the language: a reward model knows English instructions, and without it a response that slips into
    # English would answer the instruction better than one in the language that was asked for.
    RewardKind(
        "scalar-english",
        instruction=lambda language, native, english: reward_instruction(language, english),
        is_scalar=True,
        remark="the same, after the English one",
    ),
)
REWARD_KINDS = {kind.name: kind for kind in _ROWS}


def scored_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds among `names` that policy and reference score.

    >>> scored_kinds(["random", "multilingual", "scalar"])
    ('multilingual',)
    """
    return tuple(
        name for name in names if REWARD_KINDS[name].instruction is not None and not REWARD_KINDS[name].is_scalar
    )


def scalar_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """The kinds among `names` that the reward model scores.

    >>> scalar_kinds(["random", "multilingual", "scalar"])
    ('scalar',)
    """
    return tuple(name for name in names if REWARD_KINDS[name].is_scalar)


def needs_policy(names: Sequence[str]) -> bool:
    """Whether policy and reference take part in the rewards: not where a reward model scores, and they score nothing beside it.

    >>> needs_policy(["scalar", "random"]), needs_policy(["scalar", "multilingual"]), needs_policy(["random"])
    (False, True, True)
    """
    return bool(scored_kinds(names)) or not scalar_kinds(names)


def needs_translations(names: Sequence[str]) -> bool:
    """Whether a kind among `names` scores translations."""
    return any(REWARD_KINDS[name].of_translation for name in names)


def scoring_instruction(name: str, language: str, instruction: str, english_instruction: str) -> str:
    """The instruction u of a reward kind.

    Raises:
        ValueError: the kind scores nothing.

    >>> scoring_instruction("cross-lingual", "es", "Di hola.", "Say hello.").endswith("language.\\n\\nSay hello.")
    True
    >>> scoring_instruction("multilingual", "es", "Di hola.", "Say hello.")
    'Di hola.'
    >>> scoring_instruction("translate", "es", "Di hola.", "Say hello.")
    'Say hello.'
    """
    instruction_of = REWARD_KINDS[name].instruction
    if instruction_of is None:
        raise ValueError(f"reward kind {name!r} scores no text")
    return instruction_of(language, instruction, english_instruction)


def scoring_conversation(
    name: str, language: str, native: Conversation, english: Conversation | None, chat: ChatSettings
) -> Conversation:
    """The conversation that policy and reference score a response after: u, and what comes before it.

    Raises:
        ValueError: the kind scores nothing.

    >>> system = (("system", "Be brief."),)
    >>> prompt = Conversation("Di hola.", (("system", "Sé breve."),)), Conversation("Say hello.", system)
    >>> scoring_conversation("cross-lingual", "es", *prompt, ChatSettings()).history == system
    True
    """
    u = scoring_instruction(name, language, native.instruction, english.instruction if english else "")
    if english is None or not REWARD_KINDS[name].needs_english:
        return chat.asked(native._replace(instruction=u), language)
    return chat.asked(english._replace(instruction=u), ENGLISH)
