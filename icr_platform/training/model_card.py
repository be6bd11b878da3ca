"""The README.md of a checkpoint: from which policy, reference, pairs and settings it was made, by names and digests, not paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from icr_platform import __version__
from icr_platform.core.config import role
from icr_platform.training.config import TrainConfig

_ENGINES = ("trl", "transformers", "torch", "peft")
_CITATION = """\
@misc{icr2025,
  title         = {Implicit Cross-Lingual Rewarding for Efficient Multilingual Preference Alignment},
  year          = {2025},
  eprint        = {2503.04647},
  archivePrefix = {arXiv}
}
"""


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint was made from. Identities and digests are hex sha256.

    reference: name and identity; None when the policy at the start of training was the DPO reference.
    pairs, left_out: numbers of pairs per language, those trained on and those left out because they are too long.
    """

    policy: str
    policy_identity: str
    reference: str | None
    reference_identity: str | None
    preferences_digest: str
    pairs: Mapping[str, int]
    left_out: Mapping[str, int]
    fingerprint: str


def public_name(model: str) -> str:
    """A model's hub name, or its folder's own name: the path to it says something about a machine, not about the model."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def model_card(config: TrainConfig, provenance: Provenance, figures: Mapping[str, float]) -> str:
    """Write Markdown with a header for the hub. The same training gives the same card, byte for byte."""
    languages = "".join(f"\n- {language}" for language in sorted(provenance.pairs))
    settings = [name for name, info in TrainConfig.model_fields.items() if role(info) == "setting"]
    reference = provenance.reference
    reference_line = (
        f"| DPO reference | `{reference}` | `{provenance.reference_identity}` |"
        if reference
        else "| DPO reference | the policy at the start of training | |"
    )
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags:",
            "- dpo",
            "- trl",
            f"language:{languages}",
            "---",
            "",
            "# A policy aligned by implicit cross-lingual rewarding",
            "",
            "Trained with DPO and a likelihood term on the chosen responses, "
            "`L_DPO(beta) + gamma * L_NLL(chosen)` ([arXiv 2503.04647](https://arxiv.org/abs/2503.04647), "
            "[arXiv 2305.18290](https://arxiv.org/abs/2305.18290)).",
            "",
            "## Made from",
            "| | name | sha256 |",
            "|---|---|---|",
            f"| policy | `{provenance.policy}` | `{provenance.policy_identity}` |",
            reference_line,
            f"| preferences | {sum(provenance.pairs.values())} pairs | `{provenance.preferences_digest}` |",
            f"| training | fingerprint | `{provenance.fingerprint}` |",
            "",
            "| language | pairs | left out (too long) |",
            "|---|---|---|",
            *(
                f"| {language} | {provenance.pairs.get(language, 0)} | {provenance.left_out.get(language, 0)} |"
                for language in sorted({*provenance.pairs, *provenance.left_out})
            ),
            "",
            "## Settings",
            "| field | value |",
            "|---|---|",
            *(f"| {name} | `{getattr(config, name)}` |" for name in settings),
            "",
            "## Figures",
            "Means over the last tenth of the logged steps, on the training pairs.",
            "",
            "| figure | value |",
            "|---|---|",
            *(f"| {name} | {value:.6g} |" for name, value in sorted(figures.items())),
            "",
            "## Software",
            ", ".join([f"icr-platform {__version__}", *(f"{name} {version(name)}" for name in _ENGINES)]),
            "",
            "## Citation",
            "```bibtex",
            _CITATION + "```",
            "",
        ]
    )
