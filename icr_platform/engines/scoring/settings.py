"""Which rewards are computed, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator

from icr_platform.core.config import WHERE, setting, split_at_commas
from icr_platform.core.errors import InputError
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS, needs_policy, scalar_kinds
from icr_platform.models.devices import NOT_COMPILED, is_cpu
from icr_platform.models.settings import ModelPlace

if TYPE_CHECKING:
    KindName = str
else:  # Type checkers do not accept a computed Literal; at run time it refuses other names and lists the choices.
    KindName = Literal[tuple(REWARD_KINDS)]

RewardKinds = Annotated[tuple[KindName, ...], BeforeValidator(split_at_commas)]
KINDS = ", ".join(kind.name + (f" ({kind.remark})" if kind.remark else "") for kind in REWARD_KINDS.values())
DRAWN = ", ".join(kind.name for kind in REWARD_KINDS.values() if kind.draw)


class RewardSettings(ModelPlace):
    """How the implicit reward is computed (arXiv 2503.04647, equations 1 and 4), and which model gives the scalar one."""

    heading, place_heading = "rewards", WHERE

    reward_kind: RewardKinds = setting(("cross-lingual",), f"kinds, comma-separated: {KINDS}")
    beta: float = setting(0.1, "scale of the implicit reward beta * (log pi - log pi_ref)", gt=0)
    reward_model: str = setting(
        "", "sequence-classification model that gives the scalar rewards, such as Skywork-Reward-V2", "model"
    )
    reward_label: str = setting(
        "", "label of a reward model with several, by its name or number: its output is the reward", later=True
    )
    torch_compile: bool = setting(
        False,
        "compile the feed-forward blocks and norms of policy and reference on a GPU, which takes some seconds a model: a tenth faster at 8B",
        later=True,
    )
    batch_tokens: int = setting(8192, "tokens scored together, padding included", "place", ge=1)
    cpu_library: Literal["auto", "onednn", "torch"] = setting(
        "auto",
        "library of the scorer's matrix products on a CPU, onednn where it applies; auto: the faster one, by a second of measurement "
        "that the work folder keeps",
        "place",
        later=True,
    )
    cpu_threads: int = setting(0, "threads of the scorer on a CPU; 0: by that measurement", "place", ge=0, later=True)
    pack_tokens: int = setting(
        0, "tokens of a pack on a CPU, at most batch_tokens; 0: by that measurement", "place", ge=0, later=True
    )


def check_kinds(settings: RewardSettings, translator: str) -> None:
    """Raise InputError for kinds that cannot be computed together, or lack the model that translates."""
    kinds = settings.reward_kind
    if not kinds or len(set(kinds)) < len(kinds):
        raise InputError(f"config: field 'reward_kind' is {','.join(kinds)!r}; give one kind or several different ones")
    if any(REWARD_KINDS[kind].of_translation for kind in kinds) and not translator:
        raise InputError(
            "config: field 'translator' is missing for a reward kind that scores translations; give --translator MODEL"
        )
    if (scalar := scalar_kinds(kinds)) and not settings.reward_model:
        raise InputError(
            f"config: field 'reward_model' is missing for the {scalar[0]} reward; give --reward-model MODEL, a sequence-classification model"
        )


def require_policies(settings: RewardSettings, policy: str, reference: str, command: str) -> None:
    """Raise InputError where policy or reference is missing for a reward that they score."""
    missing = [name for name, model in (("policy", policy), ("reference", reference)) if not model]
    if missing and needs_policy(settings.reward_kind):
        flags = " ".join(f"--{name} MODEL" for name in missing)
        raise InputError(f"config: field {missing[0]!r} is missing for {command}; give {flags}")


def unused_notes(settings: RewardSettings, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """A line on each setting that is given and leaves these kinds, or this device, alone."""
    notes = []
    if settings.torch_compile and is_cpu(settings.device):
        notes.append(NOT_COMPILED)
    if not scalar_kinds(kinds):
        notes += [
            f"config: field {name!r} is not used: none of the reward kinds ({','.join(kinds)}) is scalar"
            for name in ("reward_model", "reward_label")
            if getattr(settings, name)
        ]
    return tuple(notes)
