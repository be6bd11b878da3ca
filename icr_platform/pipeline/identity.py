"""What identifies a stage's work: settings, rows, models, judge, device and code, and nothing that leaves its result alone.

Every field of a configuration enters in one of four ways:
- a setting by value, unless the stage as configured does not look at it (the seed of rewards that are not random);
- an input by the rows that the stage reads of it, in any order and file format, so that a prompt that nobody answers, an extra
  language, a README next to the files and the place where they lie change nothing; finished artifacts by their parts' digests;
- a model by its content, the model behind an endpoint by `served_model`;
- a place (where and how fast) not at all, except for the processes of a launch, which share out the batches.
What was left to the machine (`auto`) enters as it was resolved.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import Artifact, open_artifact, own_manifest, text_digest
from icr_platform.core.config import ChatSettings, Config, Role, identifying, leaves, role
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.folder_content import content_files
from icr_platform.core.parts import is_place, module_of
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, RESPONSES, TRANSLATED_RESPONSES
from icr_platform.data.column_map import ColumnNames
from icr_platform.engines.endpoints.served_model import served_model
from icr_platform.engines.identification.language_id import identifier_place, identity_of
from icr_platform.engines.judging.choice import judge_place
from icr_platform.engines.judging.settings import NO_JUDGE
from icr_platform.engines.sampling.choice import sampler_place
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS, needs_policy, needs_translations, scalar_kinds
from icr_platform.engines.segmentation.words import libraries
from icr_platform.evaluation.benchmark_families import asks_in_chat
from icr_platform.evaluation.config import BenchmarksConfig, EvalConfig, InstructionsConfig, MtBenchConfig
from icr_platform.evaluation.confusion import english_words
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.devices import resolve_device, resolve_dtype
from icr_platform.models.model_identity import model_identity
from icr_platform.pipeline.code_digest import Code, code_of
from icr_platform.pipeline.stages import STAGES
from icr_platform.training.config import SftConfig, TrainConfig
from icr_platform.translation.config import TranslateConfig

__all__ = ["ROW_INPUTS", "Code", "Identity", "arm_key", "artifact_identity", "identify", "strict_digest"]

Settings = dict[str, Any]
Known = Mapping[str, str]
_PACKAGE = "icr_platform"
_KEY = ["language", "prompt_id"]
_LATER = ("messages", "thought", "thought_language", "thought_token_count")
"""Columns of outputs that came later: where they are null, an output is what it was before."""
_ASKED = ("instruction", "english_instruction", "messages", "english_messages")
_ROWS_AT_ONCE = 4096
_BY_RESOLUTION = ("dtype", "server_url", "server_model", "server_identity", "judge_identity")
_COLUMNS = (
    "prompt_columns",
    "preference_columns",
    "document_columns",
    "reference_columns",
    "output_columns",
    "pair_columns",
    "corrupt_columns",
    "columns",
)
_BY_ROWS = ("languages", "limit", *_COLUMNS)
ROW_INPUTS = (
    "prompts",
    "documents",
    "chat_template",
    "responses",
    "outputs",
    "reference_outputs",
    "questions",
    "answers",
    "pairs",
    "corrupt",
    "texts",
    "translations",
)
"""Inputs whose rows must be read to say what the work is; others are known by their digest."""
# What only chooses among rewards that are there: a log-probability is the same under all of them.
_SELECTION = frozenset({
    "reward_kind", "beta", "length_control", "alpha_min", "alpha_max", "drop_empty", "drop_truncated", "drop_wrong_language",
    "language_confidence", "near_duplicate", "minimal_margin", "upper_bound", "seed",
})  # fmt: skip
_TRANSLATION = ("translation_max_tokens",)
_OF_REWARD_MODEL = ("reward_label",)
_OF_TEXTS = ("texts_kind", "into", "responses_each")  # which texts there are is said by their rows
_OF_TRANSLATED_PAIRS = (
    "pair_source", "drop_empty", "drop_truncated", "drop_wrong_language", "language_confidence", "near_duplicate", "pairs_per_prompt", "seed",
)  # fmt: skip
_LENGTH_CONTROL = ("lc_cross_validation",)
_SEED_PICKS_ORDERS = ("logprob", "openai")
_POLICYS_OWN = {"chat_template_kwargs", "system_prompt", "system_role"}  # and not the judge's
_ASKING = ("judge_api_model", "judge_answer", "judge_samples")
# The two trainings share a job, which starts either.
_OF_SFT = ("training.sft", "training.documents")
_OF_KTO = ("training.kto", "training.examples", "data.labelled_examples")
_OF_DPO = (
    "training.dpo",
    "training.losses",
    "training.margins",
    "training.reference_logprobs",
    "training.step_means",
    *_OF_KTO,
)
# Of an accelerate configuration: where its processes run and find each other.
_LAUNCH_PLACES = frozenset({
    "compute_environment", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "main_training_function",
    "rdzv_backend", "same_network", "gpu_ids", "enable_cpu_affinity", "debug", "commands", "command_file",
})  # fmt: skip
_SCALAR_SCORER = ("engines.scoring.scalar_scores", "engines.scoring.reward_texts", "models.reward_models")
_SCORING: tuple[str, ...] = (
    "annotation.part_scoring",
    "engines.scoring.model_scores",
    "engines.scoring.logprobs",
    "models.loading",
)


@dataclass(frozen=True)
class Identity:
    """What a stage's result depends on.

    work: digest of the settings that change the result, the rows that are read, models, judge or server, dtype, kind of
        device and processes; no code.
    rows: artifact -> digest of what computes one of its rows: settings, models, judge; no input rows and no code.
    inputs: digest of each input and model that is read, by field.
    code: that makes the stage's numbers. row_code: artifact -> digest of the code that makes one of its rows.
    cut: digest of how the rows are cut into parts: their order and the size of a part. No part of what the work is, but
        parts of one cut are not those of another.
    """

    work: str
    rows: Mapping[str, str]
    inputs: Mapping[str, str]
    code: Code
    row_code: Mapping[str, str] = field(default_factory=dict)
    cut: str = ""

    @property
    def fingerprint(self) -> str:
        """Identity of the work as this code does it."""
        return text_digest(self.work, self.code.digest)


@dataclass(frozen=True)
class _Basis:
    """What an identity is the digest of: see `Identity`. unused: code of engines that the configuration leaves alone."""

    settings: Settings
    inputs: Mapping[str, str]
    rows: Mapping[str, Settings] = field(default_factory=dict)
    row_modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unused: Sequence[str] = ()
    cut: str = ""


def identify(stage: str, config: Config, known: Mapping[str, str] | None = None) -> Identity:
    """The identity of a stage's work. Loads no weights; files are read once and remembered.

    Args:
        config: resolved, that is, with absolute local paths, and valid.
        known: identities of models and preferences that are not on this machine, by the URI that stands in their field.

    Raises:
        InputError: an input that cannot be read, a damaged part, or an endpoint that cannot be told from another.
    """
    basis = _basis(config, known or {})
    unused = frozenset(f"{_PACKAGE}.{name}" for name in basis.unused)
    parts = _part_modules(config)
    row_code = {
        name: code_of((*_full(modules), *parts.get(name, ())), unused).digest
        for name, modules in basis.row_modules.items()
    }
    return Identity(
        work=_digest({"stage": stage, **basis.settings, "inputs": dict(basis.inputs)}),
        rows={name: _digest({"artifact": name, **made_by}) for name, made_by in basis.rows.items()},
        inputs=basis.inputs,
        code=code_of((STAGES[stage].module, *(module for made_by in parts.values() for module in made_by)), unused),
        row_code=row_code,
        cut=basis.cut,
    )


def _full(modules: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{_PACKAGE}.{name}" for name in modules)


def _part_modules(config: Config) -> dict[str, tuple[str, ...]]:
    """By artifact, the modules of the sampler, the language identifier and the judge that make its rows: settings name them, and no
    import shows them."""
    found: dict[str, tuple[str, ...]] = {}
    if isinstance(config, SamplingSettings):
        is_given = getattr(config, "outputs", "") or getattr(config, "answers", "")
        sampler = () if is_given else (module_of(sampler_place(config.sampler)),)
        identifier = module_of(identifier_place(config.language_identifier))
        found |= dict.fromkeys(("responses", "outputs", "ratings", "instruction_outputs"), (*sampler, identifier))
    if isinstance(config, TranslateConfig):
        is_own = is_place(config.translator)
        made_by = module_of(config.translator if is_own else sampler_place(config.sampler))
        found = {"text_translations": (made_by, module_of(identifier_place(config.language_identifier)))}
    if isinstance(config, AnnotateConfig) and needs_translations(config.reward_kind):
        found["translations"] = (module_of(sampler_place("transformers")),)
    if isinstance(config, RewardBenchConfig) and is_place(config.checker):
        found["reward_bench"] = (module_of(config.checker),)
    if isinstance(config, EvalConfig) and (place := judge_place(config.judge)):
        found["judgments"] = (module_of(place),)
    return found


def _digest(values: Settings) -> str:
    return text_digest(json.dumps(values, sort_keys=True, default=repr))


def _settings(config: Config, *without: str) -> Settings:
    """The settings by value, but for those that enter otherwise and those named."""
    left_out = {*_BY_RESOLUTION, *without}
    found = {name: value for name, value in identifying(config).items() if name not in left_out}
    # A model of languages by what is in it, wherever it lies.
    return {name: identity_of(value) if name == "language_identifier" else value for name, value in found.items()}


@singledispatch
def _basis(config: Config, known: Known) -> _Basis:
    """What the work of a stage is known by; of one that says nothing further here: all settings, and inputs by their content."""
    fields = [(name, role(info)) for name, info in leaves(type(config)) if role(info) in ("input", "model")]
    given = {name: (getattr(config, name), kind) for name, kind in fields if getattr(config, name)}
    inputs = {name: _content_of(name, value, kind, known) for name, (value, kind) in given.items()}
    if missing := [name for name, digest in inputs.items() if not digest]:
        raise InputError(
            f"config: field {missing[0]!r}: {given[missing[0]][0]}: no such file or folder; check the path"
        )
    settings = identifying(config)
    return _Basis(settings | _compute_of(config), inputs)


@_basis.register
def _generate(config: GenerateConfig, known: Known) -> _Basis:
    from icr_platform.data.prompts import load_prompts

    prompts = load_prompts(config.prompts, config.languages, config.limit, config.prompt_columns).table
    policy = _model(config.policy, known)
    settings = _settings(config, *_BY_ROWS, *_unused_sampling(config)) | _sampling(config, config.policy)
    return _Basis(
        settings=settings,
        inputs={"policy": policy, "prompts": _rows_digest(_prompt_rows(prompts))},
        rows={"responses": settings | {"policy": policy}},
        row_modules={"responses": ("engines.sampling.response_parts", "models.loading")},
        cut=_cut(_table_rows(prompts.select(_KEY)), config.shard_prompts),
    )


def _sampling(config: SamplingSettings, policy: str) -> Settings:
    """What the engine that samples is."""
    from icr_platform.engines.sampling.sampler import sampling_server

    if config.sampler == "server":
        return {"server": served_model(sampling_server(config, policy))}
    return _compute(config.dtype, "auto" if config.sampler == "vllm" else config.device)


def _unused_sampling(config: SamplingSettings) -> tuple[str, ...]:
    return ("max_model_len",) if config.sampler in ("transformers", "server") else ()


def _compute(dtype: str, device: str) -> Settings:
    """Precision and kind of device, as they come out on this machine."""
    kind = resolve_device(device).partition(":")[0]
    return {"dtype": str(resolve_dtype(dtype, device)).removeprefix("torch."), "device": kind}


def _compute_of(config: Config) -> Settings:
    """`_compute` of a configuration that may leave precision and device open."""
    return _compute(getattr(config, "dtype", "auto"), getattr(config, "device", "auto"))


@_basis.register
def _translate(config: TranslateConfig, known: Known) -> _Basis:
    from icr_platform.translation.texts import distinct_texts, read_texts, what_is_read

    texts = read_texts(config)
    translator = {"translator": _translator(config.translator, known)}
    settings = _settings(config, *_BY_ROWS, *_OF_TEXTS, *_unused_sampling(config))
    if is_place(config.translator):
        checked = ("language_identifier", "language_confidence")
        settings = {name: value for name, value in settings.items() if name in checked}
    else:
        settings |= _sampling(config, config.translator or config.server_model)
    made = settings | translator
    return _Basis(
        settings=settings,
        inputs={
            **({"translator": translator["translator"]} if config.translator else {}),
            "texts": _rows_digest(what_is_read(texts)),
        },
        rows={"text_translations": made},
        row_modules={"text_translations": ("translation.stage", "engines.sampling.translators", "models.loading")},
        cut=_cut(distinct_texts(texts.items), config.shard_prompts),
    )


def _translator(translator: str, known: Known) -> str:
    """A model by its content; anyone's own by its place, for its code counts as the stage's does."""
    return translator if not translator or is_place(translator) else _model(translator, known)


@_basis.register
def _annotate(config: AnnotateConfig, known: Known) -> _Basis:
    responses = open_artifact(Path(config.responses), RESPONSES)
    if config.pair_source == "translation":
        return _translated_pairs(config, responses)
    translates = needs_translations(config.reward_kind)
    draws = any(REWARD_KINDS[kind].draw for kind in config.reward_kind)
    names = ("policy", "reference") if needs_policy(config.reward_kind) else ()
    models = {name: _model(getattr(config, name), known) for name in names}
    scalar = {"reward_model": _model(config.reward_model, known)} if scalar_kinds(config.reward_kind) else {}
    translator = {"translator": _model(config.translator, known)} if translates else {}
    prompts = _rows_digest(_prompt_rows(_answered(config.prompts, responses, config.prompt_columns)))
    unread = (*_COLUMNS, *(() if draws else ("seed",)), *(() if translates else _TRANSLATION))
    settings = _settings(config, *unread, *(() if scalar else _OF_REWARD_MODEL))
    computed = _compute(config.dtype, config.device)
    made = {name: value for name, value in settings.items() if name not in _SELECTION} | computed | translator
    of_policies = {name: value for name, value in made.items() if name not in _OF_REWARD_MODEL}
    rows = {f"{name}-logprobs": of_policies | {"model": identity} for name, identity in models.items()}
    rows |= {"reward-scores": _scalar_made(made, scalar["reward_model"])} if scalar else {}
    row_modules = dict.fromkeys(rows, _SCORING)
    if translates:
        rows["translations"], row_modules["translations"] = made, ("engines.sampling.translation",)
    return _Basis(
        settings=settings | computed,
        inputs={**models, **scalar, **translator, "prompts": prompts, "responses": responses.digest},
        rows=rows,
        row_modules=row_modules,
        unused=[*([] if translates else ["engines.sampling"]), *([] if scalar else _SCALAR_SCORER)],
    )


def _scalar_made(made: Settings, reward_model: str) -> Settings:
    """What the score of a reward model is made with: it reads texts, whichever of their tokens others score, and no translations."""
    unread = ("score", "translator", *_TRANSLATION)
    return {name: value for name, value in made.items() if name not in unread} | {"model": reward_model}


def _translated_pairs(config: AnnotateConfig, responses: Artifact) -> _Basis:
    """Of pairs that no model scores."""
    prompts = _rows_digest(_prompt_rows(_answered(config.prompts, responses, config.prompt_columns)))
    translations = open_artifact(Path(config.translations), TRANSLATED_RESPONSES).digest
    read = {name: getattr(config, name) for name in _OF_TRANSLATED_PAIRS}
    return _Basis(
        settings=read,
        inputs={"prompts": prompts, "responses": responses.digest, "translations": translations},
        unused=["engines.scoring", "annotation.alpha_search", "annotation.length_control"],
    )


def _answered(prompts: str, responses: Artifact, columns: ColumnNames) -> pa.Table:
    """Language, id and both conversations of the prompts that have responses."""
    from icr_platform.data.prompts import load_prompts

    parts = (responses.read_part(index, _KEY) for index in range(len(responses.parts)))
    keys = pa.concat_tables(part.group_by(_KEY, use_threads=False).aggregate([]) for part in parts)
    languages = keys.column("language").unique().to_pylist()
    table = load_prompts(prompts, languages, columns=columns).table.select([*_KEY, *_ASKED])
    return table.join(keys, _KEY, join_type="left semi")


@_basis.register
def _train(config: TrainConfig, known: Known) -> _Basis:
    from icr_platform.data.labelled_examples import read_examples
    from icr_platform.data.text_preferences import is_text, read_text_preferences

    has_texts = is_text(config.preferences)
    if has_texts:
        read = read_examples if config.loss == "kto" else read_text_preferences
        pairs = read(config.preferences, config.preference_columns).digest
    else:
        pairs = known.get(config.preferences) or open_artifact(Path(config.preferences), PREFERENCES).digest
    inputs = {"policy": _model(config.policy, known), "preferences": pairs}
    if config.dpo_reference == "initial":
        inputs["reference"] = _model(config.reference, known)
    settings = _settings(config, *_COLUMNS, *(() if config.lora_rank else ("lora_alpha",)))
    launch = _launch(Path(config.accelerate_config)) if config.accelerate_config else {}
    return _Basis(
        settings=settings | _compute(config.dtype, config.device) | {"launch": launch},
        inputs=inputs,
        unused=[
            *_OF_SFT,
            *([] if has_texts else ["data.text_preferences"]),
            *(("training.dpo", "training.losses") if config.loss == "kto" else _OF_KTO),
        ],
    )


@_basis.register
def _sft(config: SftConfig, known: Known) -> _Basis:
    from icr_platform.data.text_documents import read_text_documents
    from icr_platform.models.checkpoint_files import read_template

    texts = read_text_documents(config.documents, config.document_columns, config.prompts, config.prompt_columns)
    inputs = {"policy": _model(config.policy, known), "documents": texts.digest}
    if config.chat_template:
        inputs["chat_template"] = text_digest(json.dumps(read_template(Path(config.chat_template))))
    settings = _settings(config, *_COLUMNS, *(() if config.lora_rank else ("lora_alpha",)))
    launch = _launch(Path(config.accelerate_config)) if config.accelerate_config else {}
    return _Basis(settings | _compute(config.dtype, config.device) | {"launch": launch}, inputs, unused=_OF_DPO)


def _launch(path: Path) -> Settings:
    """What an accelerate configuration says of the computation. One process without a launcher says the same as none."""
    from icr_platform.training.launch import read_accelerate_config

    said = {
        name: _content(name, value)
        for name, value in read_accelerate_config(path).items()
        if name not in _LAUNCH_PLACES and str(value).lower() not in ("no", "none", "false", "{}")
    }
    return {} if said == {"num_processes": 1} else said


def _content(name: str, value: Any) -> Any:
    """A value of a launch configuration, files that it names by what is in them."""
    if isinstance(value, dict):
        return {inner: _content(inner, item) for inner, item in value.items()}
    is_file = name.endswith("_file") and isinstance(value, str) and Path(value).is_file()
    return remembered_digest(Path(value)) if is_file else value


@_basis.register
def _eval(config: EvalConfig, known: Known) -> _Basis:
    from icr_platform.data.prompts import load_prompts

    table = load_prompts(config.prompts, config.languages, config.limit, config.prompt_columns).table.drop_columns(
        "source"
    )
    instructions: dict[str, dict[str, str]] = {}
    for language, prompt_id, instruction in _table_rows(table.select([*_KEY, "instruction"])):
        instructions.setdefault(language, {})[prompt_id] = instruction
    if config.outputs:
        given = list(
            _output_rows(config.outputs, config.output_columns, instructions, is_whole=True, may_be_empty=True)
        )
        inputs = {"outputs": _rows_digest(given)}
        outputs: Settings = {"given": True, "language_identifier": identity_of(config.language_identifier)}
        # Of a prompt without an output nothing is read further.
        answered = {(language, prompt_id) for language, prompt_id, *_ in given}
    else:
        inputs = {"policy": _model(config.policy, known)}
        outputs = _sampled(config) | inputs
        answered = {(language, prompt_id) for language, ids in instructions.items() for prompt_id in ids}
    inputs["prompts"] = _rows_digest(row for row in _prompt_rows(table) if row[:2] in answered)
    if config.judge != NO_JUDGE:
        references = _output_rows(
            config.reference_outputs, config.reference_columns, instructions, is_whole=False, may_be_empty=False
        )
        inputs["reference_outputs"] = _rows_digest(row for row in references if row[:2] in answered)
    inputs |= _english(config.confusion_words)
    basis = _Basis(
        settings=outputs,
        inputs=inputs,
        rows={"outputs": outputs},
        row_modules={
            "outputs": ("evaluation.outputs",)
            if config.outputs
            else ("engines.sampling.response_parts", "models.loading")
        },
        cut=_cut(_table_rows(table.select(_KEY)), config.shard_prompts),
    )
    return basis if config.judge == NO_JUDGE else _judged(config, basis, known)


def _english(path: str) -> dict[str, str]:
    """A list of words of one's own, by its words; the package's belongs to the code."""
    return {"confusion_words": _rows_digest((word,) for word in english_words(path))} if path else {}


def _judged(config: EvalConfig, basis: _Basis, known: Known) -> _Basis:
    """The basis of an evaluation whose outputs are judged."""
    judged, inputs = _judge(config, known)
    for name in ("difficulty", "anchors"):
        if path := getattr(config, name):
            inputs[name] = _columns_digest(Path(path))
    control = {name: getattr(config, name) for name in _LENGTH_CONTROL}
    return replace(
        basis,
        settings={**basis.settings, **judged, **control},
        inputs={**basis.inputs, **inputs},
        rows={**basis.rows, "judgments": judged},
        row_modules={**basis.row_modules, "judgments": ("models.loading",)},
    )


def _sampled(config: EvalConfig | InstructionsConfig) -> Settings:
    """What outputs are sampled with; nothing where they are given."""
    if config.outputs:
        return {}
    names = {*SamplingSettings.model_fields, *ChatSettings.model_fields, "seed"} - {
        *_unused_sampling(config),
        *_BY_ROWS,
    }
    sampling = {name: value for name, value in _settings(config).items() if name in names}
    return sampling | _sampling(config, config.policy)


def _judge(config: EvalConfig, known: Known) -> tuple[Settings, dict[str, str]]:
    """What a judgment is made with, and the digests of the judge's files."""
    from icr_platform.engines.judging.api_judge import judge_server
    from icr_platform.engines.judging.pairwise import load_template

    unread = {*SamplingSettings.model_fields, *_BY_ROWS, *_LENGTH_CONTROL, "system_prompt"}
    if config.judge in _SEED_PICKS_ORDERS:  # of any other judge it is not known what it looks at
        unread |= {*(("seed",) if config.both_orders else ()), *(() if config.judge == "openai" else _ASKING)}
        unread |= _POLICYS_OWN if config.judge == "openai" else {"system_prompt"}
    judged = {name: value for name, value in _settings(config).items() if name not in unread}
    inputs: dict[str, str] = {}
    judged["wording"] = load_template(config.judge_template).messages
    if config.judge_template:
        inputs["judge_template"] = text_digest(json.dumps(judged["wording"]))
    if config.judge == "openai":
        return judged | {"judge_server": served_model(judge_server(config))}, inputs
    if config.judge_model:
        inputs["judge_model"] = _model(config.judge_model, known)
    judged |= {f"judge_{name}": value for name, value in _compute(config.dtype, config.device).items()}
    judged |= {"judge_model": inputs.get("judge_model", ""), "judge_date": getattr(config, "template_date", None)}
    return judged, inputs


@_basis.register
def _mt_bench(config: MtBenchConfig, known: Known) -> _Basis:
    from icr_platform.engines.judging.api_judge import judge_server
    from icr_platform.evaluation.mt_bench import languages_in, load_answers, load_questions

    languages = config.languages or languages_in(config.questions)
    questions = load_questions(config.questions, languages, config.reference_answers)
    inputs = {"questions": _rows_digest((*q.key, q.category, q.turns, q.reference) for q in questions)}
    settings = _settings(config, *_BY_ROWS, *_unused_sampling(config))
    if config.answers:
        asked = {question.key for question in questions}
        given = load_answers(config.answers, languages)
        inputs["answers"] = _rows_digest((*key, turns) for key, turns in given.items() if key in asked)
        unsampled = {*SamplingSettings.model_fields, "category_temperatures", "seed"}
        settings = {name: value for name, value in settings.items() if name not in unsampled}
    else:
        inputs["policy"] = _model(config.policy, known)
        settings |= _sampling(config, config.policy) | {"policy": inputs["policy"]}
    settings |= {"judge_server": served_model(judge_server(config))}
    return _Basis(
        settings=settings,
        inputs=inputs,
        rows={"ratings": settings},
        row_modules={"ratings": ("evaluation.mt_bench_stage",)},
        cut=_cut((question.key for question in questions), 0),
    )


@_basis.register
def _reward_bench(config: RewardBenchConfig, known: Known) -> _Basis:
    from icr_platform.evaluation.reward_pairs import read_pairs

    pairs = read_pairs(config).pairs
    translates, draws = needs_translations(config.kinds), any(REWARD_KINDS[kind].draw for kind in config.kinds)
    names = ("policy", "reference") if pairs and needs_policy(config.kinds) else ()
    inputs = {name: _model(getattr(config, name), known) for name in names}
    models = dict(inputs)
    scalar = _model(config.reward_model, known) if pairs and scalar_kinds(config.kinds) else ""
    if scalar:
        inputs["reward_model"] = scalar
    if translates:
        inputs["translator"] = _model(config.translator, known)
    inputs["pairs"] = _rows_digest((pair.digest.hex(),) for pair in pairs)
    if config.checker:
        # Samples and rewards by all that they are; of prompts also the instructions that they carry.
        annotated = ("responses", "rewards", "preferences", "prompts")
        inputs |= {n: _content_of(n, getattr(config, n), "input", known) for n in annotated if getattr(config, n)}
    is_seeded = draws or bool(config.corrupt)
    unread = (*_BY_ROWS, *(() if is_seeded else ("seed",)), *(() if translates else _TRANSLATION))
    computed = _compute(config.dtype, config.device)
    settings = _settings(config, *unread, *(() if scalar else _OF_REWARD_MODEL)) | {"reward_kind": config.kinds}
    translator = {"translator": inputs["translator"]} if translates else {}
    made = {name: value for name, value in settings.items() if name not in _SELECTION} | computed | translator
    of_policies = {name: value for name, value in made.items() if name not in _OF_REWARD_MODEL}
    rows = {f"pairs-{name}-logprobs": of_policies | {"model": identity} for name, identity in models.items()}
    rows |= {"pairs-reward-scores": _scalar_made(made, scalar)} if scalar else {}
    row_modules: dict[str, Sequence[str]] = dict.fromkeys(rows, ("evaluation.reward_bench_stage",))
    if translates:
        rows["translations"], row_modules["translations"] = made, ("engines.sampling.translation",)
    return _Basis(
        settings=settings | computed,
        inputs=inputs,
        rows=rows,
        row_modules=row_modules,
        unused=[*([] if translates else ["engines.sampling"]), *([] if scalar else _SCALAR_SCORER)],
        cut=_cut(((pair.language, pair.pair_id) for pair in pairs), config.shard_pairs),
    )


@_basis.register
def _instructions(config: InstructionsConfig, known: Known) -> _Basis:
    from icr_platform.data.verifiable import load_verifiable
    from icr_platform.evaluation.instructions_stage import load_given

    asked = load_verifiable(config.prompts, config.languages, config.limit, config.prompt_columns)
    said = ((*prompt.key, prompt.source, prompt.history, prompt.turns) for prompt in asked.prompts)
    prompts = ([json.dumps(row, sort_keys=True, default=str)] for row in said)
    inputs = {"prompts": _rows_digest(prompts)} | _english(config.confusion_words)
    if config.baseline:
        inputs["baseline"] = known.get(config.baseline) or artifact_identity(
            Path(config.baseline), "instruction_checks"
        )
    if config.outputs:
        given = load_given(config, asked)
        rows = ((*key, given.samples(*key)) for key in given.outputs)
        inputs["outputs"] = _rows_digest([json.dumps(row, sort_keys=True, default=repr)] for row in rows)
        outputs: Settings = {"given": True, "language_identifier": identity_of(config.language_identifier)}
    else:
        inputs["policy"] = _model(config.policy, known)
        outputs = _sampled(config) | {"policy": inputs["policy"]}
    words = {name: number for code in asked.languages for name, number in libraries(code).items()}
    return _Basis(
        settings=outputs | {"words": words},
        inputs=inputs,
        rows={"instruction_outputs": outputs},
        row_modules={"instruction_outputs": ("evaluation.instruction_outputs", "models.loading")},
        cut=_cut((prompt.key for prompt in asked.prompts), config.shard_prompts),
    )


@_basis.register
def _benchmarks(config: BenchmarksConfig, known: Known) -> _Basis:
    inputs = {"policy": _model(config.policy, known)}
    if config.task_folder:
        files = content_files(Path(config.task_folder))
        inputs["task_folder"] = text_digest(
            *(part for name, path in files for part in (str(name), remembered_digest(path)))
        )
    framing = ("chat", *ChatSettings.model_fields)
    asked = _settings(config, *framing) | _compute(config.dtype, config.device) | {"lm_eval": _tasks_version()}
    rows = {name: value for name, value in asked.items() if name not in ("families", "tasks", "languages")} | inputs
    if asks_in_chat(
        config
    ):  # else a template leaves the result alone, and it is that of before there were these settings
        asked |= {name: value for name, value in _settings(config).items() if name in framing} | {"chat": config.chat}
    if config.baseline:
        inputs |= {"baseline": _content_of("baseline", config.baseline, "input", known)}
    return _Basis(asked, inputs, {"benchmarks": rows}, {"benchmarks": ("evaluation.benchmarks",)})


def _tasks_version() -> str:
    """Of the package whose tasks, and their prompts, the benchmarks are."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return ""


def _model(model: str, known: Known) -> str:
    return known.get(model) or model_identity(model)


def artifact_identity(folder: Path, name: str) -> str:
    """Identity of a stage's artifact as the input of another stage; '' for what is not an artifact."""
    if name == "checkpoint":
        return model_identity(str(folder))
    manifest = own_manifest(folder)
    return str(manifest["digest"]) if manifest is not None else ""


def strict_digest(stage: str, config: Config, known: Known) -> str:
    """Identity of a stage's work by its inputs as they lie there, rows that it does not read included.

    Equal ones do the same work. It is told without the inputs that a remote store holds (`known`, by URI).

    Returns:
        '' where what is behind an input can be told by its rows only: a hub data set, a path with {language} in it, an
        endpoint.
    """
    contents: dict[str, str] = {}
    for name, info in leaves(type(config)):
        value = getattr(config, name)
        if value and role(info) in ("input", "model"):
            contents[name] = _content_of(name, value, role(info), known)
    if "" in contents.values():
        return ""
    if getattr(config, "sampler", "") == "server" or any(
        getattr(config, name, "") for name in ("judge_api_model", "accelerate_config")
    ):
        return ""
    settings = identifying(config)
    code = code_of(
        (STAGES[stage].module, *(module for made_by in _part_modules(config).values() for module in made_by))
    ).digest
    settings |= {"lm_eval": _tasks_version()} if stage == "benchmarks" else {}
    return _digest({"stage": stage, **settings, "computed": _compute_of(config), "inputs": contents, "code": code})


def _content_of(name: str, value: str, kind: Role, known: Known) -> str:
    """Digest of all that is in an input or a model; '' where it cannot be told: a hub data set, a path with {language} in it."""
    path = Path(value)
    if value in known or kind == "model":
        return _translator(value, known) if name == "translator" else _model(value, known)
    if path.is_dir():
        files = (part for where, file in content_files(path) for part in (str(where), remembered_digest(file)))
        return artifact_identity(path, name) or text_digest(*files)
    return remembered_digest(path) if path.is_file() else ""


def _cut(keys: Iterable[Sequence[str]], size: int) -> str:
    return text_digest(str(size), *(part for key in keys for part in key))


def _rows_digest(rows: Iterable[Sequence[Any]]) -> str:
    """Digest of rows in any order: how many they are, and the sum of their digests."""
    total = count = 0
    for row in rows:
        text = json.dumps(list(row)).encode()
        total = (total + int.from_bytes(hashlib.sha256(text).digest())) % 2**256
        count += 1
    return text_digest(str(count), f"{total:x}")


def _table_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(_ROWS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _prompt_rows(prompts: pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows of prompts whose last columns are `messages` and `english_messages`; a single turn is what it was before there were these."""
    for row in _table_rows(prompts):
        yield row[:-2] if row[-2:] == (None, None) else row


def _output_rows(
    source: str,
    columns: ColumnNames,
    instructions: Mapping[str, Mapping[str, str]],
    is_whole: bool,
    may_be_empty: bool,
) -> Iterator[tuple[Any, ...]]:
    """(language, prompt id, ...) of the outputs that answer these instructions.

    is_whole: of an artifact, with what it says of each output in addition to the text, which an evaluation of it keeps.
    """
    from icr_platform.data.reference_outputs import load_reference_outputs

    if own_manifest(Path(source)) is None:
        read = load_reference_outputs(source, instructions, None, may_be_empty, columns=columns)
        for key, texts in read.outputs.items():
            thoughts = (fact["thought"] for fact in read.facts.get(key, ()) if is_whole and fact["thought"])
            yield (*key, *texts, *thoughts)
        return
    artifact = open_artifact(Path(source), OUTPUTS)
    text = (*_KEY, "sample_index", "output")
    told = [name for name in OUTPUTS.schema.names if name not in (*text, *_LATER, "instruction", "input_digest")]
    wanted = [*text, *told, *_LATER] if is_whole else list(text)
    for index in range(len(artifact.parts)):
        for row in _table_rows(artifact.read_part(index, wanted)):
            if is_whole and not any(row[-len(_LATER) :]):
                row = row[: -len(_LATER)]
            if row[1] in instructions.get(row[0], {}):
                yield row


def _columns_digest(path: Path) -> str:
    """Digest of a file's rows, by column."""
    from icr_platform.data.row_files import file_rows

    rows = (row.fields.items() for row in file_rows(path, "numbers by column"))
    return _rows_digest(sorted((str(name), str(value)) for name, value in fields) for fields in rows)


def arm_key(config: Config, places: Mapping[str, str], known: Known, *more: str) -> str:
    """Digest of everything that the work of a whole arm depends on: settings, the content of inputs and models, and code.

    It is stricter than the identities of the arm's stages: a file that no stage reads, or a batch size, makes another key.

    Args:
        config: of iterate, as it was given.
        places: where each input and model lies, by dotted name.

    Returns: '' where the content of an input cannot be told.
    """
    contents = []
    for name, info in leaves(type(config)):
        if place := places.get(name, ""):
            if "{language}" in place:  # a file, or a folder, for each language
                found = sorted(str(path) for path in Path("/").glob(place.lstrip("/").replace("{language}", "*")))
            else:
                found = [place]
            on_hub = re.search(r"@[0-9a-f]{40}(?=:|$)", place) is not None  # a commit is content
            digests = found if on_hub else [_content_of(name, each, role(info), known) for each in found]
            if not digests or not all(digests):
                return ""
            contents += [name, *digests]
    settings = config.model_dump_json(exclude={"output"})
    parts = (module_of(text) for text in re.findall(r"[\w.]+:[\w.]+", settings) if is_place(text))
    own = tuple(part for part in parts if importlib.util.find_spec(part.partition(".")[0]))
    code = code_of((*(row.module for row in STAGES.values()), *own))
    return text_digest(settings, *contents, code.digest, *more)
