"""Everything an evaluation reads, checked before anything is loaded or written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from icr_platform.core.errors import InputError
from icr_platform.data.opened_files import open_text
from icr_platform.data.prompts import InstructionsOf, PromptSet, load_prompts
from icr_platform.data.reference_outputs import ReferenceOutputs, load_reference_outputs
from icr_platform.data.row_files import file_rows
from icr_platform.engines.execution.map_parts import check_execution
from icr_platform.engines.identification.language_id import Identifier, make_identifier
from icr_platform.engines.judging.choice import check_judge
from icr_platform.engines.judging.pairwise import Template, load_template
from icr_platform.engines.judging.settings import NO_JUDGE
from icr_platform.engines.sampling.choice import check_policy
from icr_platform.engines.sampling.prompt_checks import check_prompts
from icr_platform.engines.sampling.sampler import TableRequests
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.confusion import english_words, notes_on
from icr_platform.evaluation.difficulty import Instructions, read_difficulty
from icr_platform.evaluation.scores import LengthControl
from icr_platform.evaluation.win_rate import check_anchors

_ANCHORS = ("preference", "std_delta_len", "instruction_difficulty")


@dataclass(frozen=True)
class EvaluationInputs:
    """All that an evaluation reads.

    references: outputs to compare with; None without a judge. outputs: to be judged, where they are given and not sampled.
    template: the judge's wording. unused: notes on what was given and is not used, or not as it is meant.
    """

    config: EvalConfig
    prompts: PromptSet
    identify: Identifier
    references: ReferenceOutputs | None
    outputs: ReferenceOutputs | None
    template: Template
    control: LengthControl
    english: frozenset[str]
    unused: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        read = [source.notes for source in (self.outputs, self.references) if source is not None]
        unknown = self.identify.notes(self.prompts.languages) + notes_on(self.prompts.languages)
        return (*self.prompts.notes, *unknown, *(note for notes in read for note in notes), *self.unused)


def read_inputs(config: EvalConfig) -> EvaluationInputs:
    """Read and check every input; loads no model weights and writes nothing.

    Raises:
        InputError: anything missing, unreadable or of the wrong kind, in one line.
    """
    check_execution(config)
    if not (config.policy or config.outputs):
        raise InputError("config: field 'policy' is missing for eval; give --policy, or --outputs that exist already")
    if not config.outputs:
        check_policy(config, config.policy, config)
    template = load_template(config.judge_template)
    if config.judge != NO_JUDGE and not config.reference_outputs:
        raise InputError(
            f"config: field 'reference_outputs' is missing for the {config.judge} judge; give --reference-outputs"
        )
    asked = check_judge(config, template)
    prompts = load_prompts(config.prompts, config.languages, config.limit, config.prompt_columns)
    said: tuple[str, ...] = ()
    if not config.outputs:
        requests = TableRequests(prompts.table, config)
        said = check_prompts(config, config.policy, config, requests, config.max_dropped).notes
    identify = make_identifier(config.language_identifier)
    instructions = InstructionsOf(prompts)
    # A file of outputs is looked at as one of any language, which for those of rare ones says another language.
    unchecked = [*identify.unknown(prompts.languages), *identify.among_all(prompts.languages)]
    references = (
        load_reference_outputs(
            config.reference_outputs,
            instructions,
            identify,
            unknown=unchecked,
            columns=config.reference_columns,
        )
        if config.reference_outputs
        else None
    )
    # The model's own outputs may well be in a wrong language or empty: that is measured, not refused.
    outputs = None
    if config.outputs:
        outputs = load_reference_outputs(config.outputs, instructions, may_be_empty=True, columns=config.output_columns)
    control, unused = _read_control(config, instructions)
    if outputs and outputs.identifier not in (None, identify.name):
        by = f"by {identify.name} instead of {outputs.identifier}"
        unused += (f"{config.outputs}: its languages are not used, they are identified again {by}",)
    return EvaluationInputs(
        config=config,
        prompts=prompts,
        identify=identify,
        references=references,
        outputs=outputs,
        template=template,
        control=control,
        english=english_words(config.confusion_words),
        unused=said + asked + unused,
    )


def _read_control(config: EvalConfig, instructions: Instructions) -> tuple[LengthControl, tuple[str, ...]]:
    """Difficulty and anchors, and notes on what of them is not used."""
    found = read_difficulty(Path(config.difficulty), instructions) if config.difficulty else None
    notes = found.notes if found else ()
    anchors = None
    if config.anchors:
        anchors = read_anchors(Path(config.anchors))
        missing = [name for name in _ANCHORS if name not in anchors.columns]
        if missing:
            raise InputError(f"{config.anchors}: column {missing[0]!r} is missing; give {', '.join(_ANCHORS)}")
        try:
            check_anchors(anchors)
        except InputError as error:
            raise InputError(f"{config.anchors}: {error}") from error
        if found is None:
            notes += (
                f"{config.anchors}: not used: anchors apply where every prompt has a difficulty; give --difficulty",
            )
    return LengthControl(found.by_prompt if found else None, anchors, config.lc_cross_validation), notes


def read_anchors(path: Path) -> pd.DataFrame:
    """The columns of a file of anchors; raises InputError where it cannot be read."""
    if not path.name.lower().rpartition(".csv")[1]:
        return pd.DataFrame([row.fields for row in file_rows(path, ", ".join(_ANCHORS))])
    for _ in file_rows(path, ", ".join(_ANCHORS)):
        pass  # what pandas would take in silence, such as a row of too few fields, or name in its own words, is refused here
    with open_text(path, newline="") as text:
        return pd.read_csv(text)
