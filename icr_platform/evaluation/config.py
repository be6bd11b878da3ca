"""What `icr eval`, `icr mt-bench` and `icr benchmarks` can be asked for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator

from icr_platform.core.config import (
    INPUTS,
    WHERE,
    ChatSettings,
    Config,
    Languages,
    OptionalInt,
    PinnedInputs,
    setting,
    split_at_commas,
)
from icr_platform.core.mappings import ColumnMap
from icr_platform.engines.judging.settings import JudgeSettings, PairwiseJudgeSettings, PairwiseJudging
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.settings import ModelPlace


class ConfusionSettings(Config):
    """What language confusion is measured with."""

    heading = "language confusion"

    confusion_words: str = setting(
        "",
        "file of English words, one a line, that word_pass_rate looks for; empty: the built-in list of 63,072 (SCOWL)",
        "input",
    )


class EvalSettings(PairwiseJudgeSettings, SamplingSettings, ConfusionSettings):
    """How a policy is evaluated. Decoding as in the paper: temperature 0.6, top-p 0.9, 2048 tokens."""

    heading = "win rates"

    samples: int = setting(1, "outputs per prompt", ge=1)
    temperature: float = setting(0.6, "sampling temperature; 0 is greedy", ge=0)
    top_p: float = setting(0.9, "nucleus: smallest set of tokens with this probability", gt=0, le=1)
    max_tokens: int = setting(2048, "new tokens at most", ge=1)
    difficulty: str = setting(
        "",
        "CSV of difficulties for length control: AlpacaEval's index, instruction_difficulty; or prompt_id, instruction_difficulty (and language, "
        "without which it is English)",
        "input",
    )
    anchors: str = setting("", "CSV of AlpacaEval's gamed baselines, which anchor the length coefficient", "input")
    lc_cross_validation: bool = setting(
        False, "choose the penalty of length control by cross-validation, as AlpacaEval does; else C = 10"
    )


class EvalConfig(PairwiseJudging, EvalSettings, PinnedInputs):
    """eval: policy -> outputs, judgments, scores."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("prompts",)

    policy: str = setting("", "model to evaluate", "model")
    prompts: str = setting("", "evaluation prompts", "input")
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction": "prompt"}', later=True)
    outputs: str = setting(
        "", "outputs to judge instead of sampling any: artifact, or files as reference_outputs", "input"
    )
    reference_outputs: str = setting(
        "", "outputs to compare with: folder of LANG.json(l), path with {language} in it, or outputs artifact", "input"
    )
    output_columns: ColumnMap = setting({}, 'columns to read, as in {"output": "response"}', later=True)
    reference_columns: ColumnMap = setting({}, 'columns to read, as in {"output": "response"}', later=True)
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "prompts per language, the first ones; none: all")
    dry_run: bool = setting(False, "print what judging would ask and cost, and stop", "place")
    seed: int = setting(42, "seed of every output, with language and prompt id", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )


class MtBenchSettings(JudgeSettings, SamplingSettings):
    """How two turns are answered. Decoding as in FastChat."""

    heading = "sampling"

    samples: int = setting(1, "answers per question; the benchmark has one", ge=1, le=1)
    temperature: float = setting(0.7, "sampling temperature where the category names none; 0 is greedy", ge=0)
    category_temperatures: bool = setting(
        True, "FastChat's: writing and roleplay 0.7, stem and humanities 0.1, the other four greedy; else temperature"
    )
    max_tokens: int = setting(1024, "new tokens of a turn at most", ge=1)


class MtBenchConfig(ChatSettings, MtBenchSettings, PinnedInputs):
    """mt_bench: policy -> two-turn answers, graded 1 to 10 by the judge behind judge_url (arXiv 2306.05685)."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("questions", "judge_api_model")

    policy: str = setting("", "model to evaluate", "model")
    questions: str = setting("", "folder of LANG.jsonl in FastChat's layout, or a path with {language}", "input")
    reference_answers: str = setting(
        "", "right answers to math, reasoning and coding questions, in FastChat's layout", "input"
    )
    answers: str = setting("", "the model's answers in FastChat's layout, instead of sampling any", "input")
    languages: Languages = setting((), "language codes, comma-separated; empty: every file of the folder")
    seed: int = setting(42, "seed of every answer, with language, question and turn", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )


class InstructionsSettings(SamplingSettings, ConfusionSettings):
    """How answers to verifiable instructions are sampled: greedily, as IFEval does."""

    heading = "sampling"

    samples: int = setting(1, "answers per prompt", ge=1)
    temperature: float = setting(0.0, "sampling temperature; 0 is greedy", ge=0)
    max_tokens: int = setting(2048, "new tokens of a turn at most", ge=1)


class InstructionsConfig(ChatSettings, InstructionsSettings, PinnedInputs):
    """instructions: policy -> answers, and which verifiable instructions they follow (arXiv 2311.07911)."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("prompts",)

    policy: str = setting("", "model to evaluate", "model")
    prompts: str = setting(
        "",
        "prompts of IFEval, Marco-Bench-MIF or Multi-IF as they are: folder, file, path with {language}, hub data set",
        "input",
    )
    prompt_columns: ColumnMap = setting({}, 'columns to read, as in {"instruction_id_list": "constraints"}')
    outputs: str = setting("", "answers to check instead of sampling any: artifact, or files of rows", "input")
    output_columns: ColumnMap = setting({}, 'columns to read, as in {"output": "response"}')
    baseline: str = setting(
        "",
        "instruction_checks of an earlier run, as a folder or runs:/RUN/instruction_checks: differences are paired by prompt",
        "input",
    )
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "prompts per language, the first ones; none: all")
    seed: int = setting(42, "seed of every answer, with language and prompt id", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )


def _named(value: object) -> object:
    """Names of families in whatever spelling papers have: Global-MMLU, MultiBLiMP."""
    names = split_at_commas(value)
    return (
        tuple(name.lower().replace("-", "_") if isinstance(name, str) else name for name in names)
        if isinstance(names, (list, tuple))
        else names
    )


FamilyNames = Annotated[tuple[str, ...], BeforeValidator(_named)]


def _yes_or_no(value: object) -> object:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # as YAML reads the words


class BenchmarksSettings(ModelPlace):
    """Which of lm-eval's tasks are asked, and how."""

    heading, place_heading = "tasks", WHERE

    families: FamilyNames = setting(
        ("arc", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2"),
        "task families, comma-separated; also global_mmlu, global_mmlu_full, include, belebele, mgsm, mgsm_direct, mgsm_en_cot, "
        "multiblimp, xcopa",
    )
    tasks: Annotated[tuple[str, ...], BeforeValidator(split_at_commas)] = setting(
        (),
        "lm-eval tasks, groups or tags by name, for instance of your own files; they come on top of the families",
    )
    task_folder: str = setting("", "folder of task YAML files of your own (dataset_path: json works offline)", "input")
    shots: OptionalInt = setting(None, "examples in the prompt; none: as each task says")
    chat: Annotated[Literal["auto", "yes", "no"], BeforeValidator(_yes_or_no)] = setting(
        "auto",
        "ask with the chat template; auto: the families that ask a question (global_mmlu, include, belebele, mgsm), where the model has "
        "one",
        later=True,
    )
    max_tokens: OptionalInt = setting(
        None, "tokens of a generated answer at most, its thought included; none: as each task says", later=True, ge=1
    )
    batch_size: int = setting(8, "requests scored together", "place", ge=1)


class BenchmarksConfig(ChatSettings, BenchmarksSettings):
    """benchmarks: what the policy knows, by lm-eval's multilingual tasks (extra `benchmarks`)."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("policy",)

    policy: str = setting("", "model to evaluate", "model")
    baseline: str = setting("", "benchmarks artifact of another policy: paired differences from it", "input")
    languages: Languages = setting(("en", "es", "ru", "de", "fr"), "language codes, comma-separated")
    limit: OptionalInt = setting(None, "documents per task, the first ones; none: all")
    seed: int = setting(42, "seed of the choice of examples", ge=0)
    output: str = setting(
        "", "folder of the artifacts; empty: a work folder, which is emptied once MLflow has them", "place"
    )
