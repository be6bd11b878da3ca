"""What identifies a stage's work: settings, rows, models, judge, device and code; nothing that leaves its result alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icr_platform.artifacts import text_digest
from icr_platform.config import Config


@dataclass(frozen=True)
class Code:
    """The code that makes a stage's numbers.

    digest: of its modules' syntax trees, without docstrings, comments and positions.
    commit: what `git describe` says of a checkout, else "version X.Y.Z": for people, never compared.
    """

    digest: str
    commit: str


@dataclass(frozen=True)
class Identity:
    """What a stage's result depends on.

    work: digest of the settings that change the result, the rows that are read, models, judge or server, dtype, kind of
        device and processes; no code.
    rows: artifact -> digest of what computes one of its rows: settings, models, judge; no input rows and no code.
    inputs: digest of each input and model, by field.
    """

    work: str
    rows: Mapping[str, str]
    inputs: Mapping[str, str]
    code: Code

    @property
    def fingerprint(self) -> str:
        """Identity of the work as this code does it."""
        return text_digest(self.work, self.code.digest)


def identify(stage: str, config: Config) -> Identity:
    """The identity of a stage's work.

    Args:
        config: resolved, that is, with absolute local paths. Weights are not loaded.

    Raises:
        InputError: an input that cannot be read, a damaged part, or a judge that cannot be told from another.
    """
    from icr_platform.inputs import fingerprint, input_digests  # the skeleton's: replaced below

    digests = input_digests(config)
    work = fingerprint(stage, config, digests)
    artifacts = {
        "generate": ("responses",),
        "annotate": ("policy-logprobs", "reference-logprobs", "translations"),
        "eval": ("outputs", "judgments"),
    }
    rows = {name: text_digest(work, name) for name in artifacts.get(stage, ())}
    return Identity(work, rows, digests, Code("", "version"))
