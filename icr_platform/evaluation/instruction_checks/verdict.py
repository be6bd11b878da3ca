"""What a check of a verifiable instruction says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Whether a text follows an instruction.

    followed: None where that cannot be verified: never counted as failed.
    reason: why it cannot be verified, without the text, so that reasons can be counted; '' where it can.
    """

    followed: bool | None
    reason: str = ""


class UnverifiedError(Exception):
    """Raised within a checker: the instruction, its kwargs or the language leaves open whether the text follows it."""


@dataclass(frozen=True)
class Answer:
    """A text to check, with what its checkers need to know.

    language: code that its prompt is in, as 'zh', whatever its script or region.
    prompt: that it answers; '' where it is not at hand.
    """

    text: str
    language: str
    prompt: str = ""

    @property
    def is_english(self) -> bool:
        return self.language == "en"
