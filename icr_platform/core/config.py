"""One frozen, validated configuration per stage. Every field is a command-line flag, a preset key and an MLproject parameter.

A field's *role* says how it enters the identity under which finished work is found again (`identity`): `setting` by value,
where it changes the result, `input` by the rows that are read, `model` by its content, `place` (where and how fast, never what)
not at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from icr_platform.core.errors import InputError
from icr_platform.core.languages import NAMES

Role = Literal["setting", "input", "model", "place"]
RewardKind = Literal["cross-lingual", "multilingual", "translate", "random"]


def setting(default: Any, doc: str, role: Role = "setting", **constraints: Any) -> Any:
    return Field(default, description=doc, json_schema_extra={"role": role}, **constraints)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _known_languages(value: object) -> object:
    codes = _split(value)
    if isinstance(codes, (list, tuple)):
        for code in codes:
            if code not in NAMES:
                near = difflib.get_close_matches(str(code), NAMES, n=1, cutoff=0.3)
                raise ValueError(f"unknown language code {code!r}" + (f", nearest is {near[0]!r}" if near else ""))
    return codes


def _calendar_day(value: object) -> object:
    if isinstance(value, str):
        value = date.fromisoformat(value.strip()) if value.strip()[4:5] == "-" else value
    if not isinstance(value, date) or isinstance(value, datetime):  # pydantic would take 2026 for seconds since 1970
        raise ValueError("not a date, write it as in 2026-01-01")
    return value


def _none(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in ("none", "null", "") else value


Languages = Annotated[tuple[str, ...], BeforeValidator(_known_languages)]
RewardKinds = Annotated[tuple[RewardKind, ...], BeforeValidator(_split)]
OptionalFloat = Annotated[float | None, BeforeValidator(_none)]
OptionalInt = Annotated[int | None, BeforeValidator(_none)]
CalendarDay = Annotated[date, BeforeValidator(_calendar_day)]


class Config(BaseModel):
    """Base of all configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="strings")


class ModelPlace(Config):
    """Where and in what precision models run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "weights' precision; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    device: str = setting(
        "auto", "torch device; auto: the GPU when there is one; balanced: the layers spread over all GPUs", "place"
    )


class ChatSettings(Config):
    """How chat templates are rendered, by every stage that turns messages into tokens.

    A stage's configuration has them beside `policy` and `seed`; `iterate` has them once and hands them to all stages, whose
    sections cannot name others: a policy and a reference that saw different prompts would have no log-ratio.
    """

    template_date: CalendarDay = setting(
        date(2026, 1, 1),
        "the day that chat templates print as today's (Llama 3.2, Mistral Small 3, Granite, gpt-oss, ...)",
    )

    def chat(self) -> dict[str, Any]:
        """These fields alone, to hand on."""
        return {name: getattr(self, name) for name in ChatSettings.model_fields}


CHAT_DEFAULTS = ChatSettings()


class ExecutionSettings(Config):
    """Where a stage's shards are worked on. The tables are the same wherever that is."""

    execution: Literal["local", "ray"] = setting(
        "local",
        "local: in this process, one engine; ray: one engine per worker of a Ray cluster (extra `ray`)",
        "place",
    )
    ray_address: str = setting(
        "", "host:port of the cluster; empty: RAY_ADDRESS, else one on this machine, started if there is none", "place"
    )
    concurrency: int = setting(0, "Ray workers, each with an engine; 0: as many as there is room for", "place", ge=0)
    num_cpus: float = setting(1.0, "CPUs, and torch threads, per Ray worker", "place", gt=0)
    num_gpus: OptionalFloat = setting(
        None,
        "GPUs per Ray worker; none: what its engine spans (tensor_parallel, or 1) where the cluster has any",
        "place",
    )
    shared_folder: str = setting(
        "",
        "where Ray workers hand over finished parts: s3://, gs://, ...; empty: they write to the output folder, at the same "
        "path on every node",
        "place",
    )


class GenerateSettings(ExecutionSettings, ModelPlace):
    """How responses are sampled. Defaults as in the reference implementation (METHOD: N=10, T=0.9, 2400 tokens)."""

    samples: int = setting(10, "responses per prompt (N)", ge=1)
    temperature: float = setting(0.9, "sampling temperature; 0 is greedy", ge=0)
    top_p: float = setting(1.0, "nucleus: smallest set of tokens with this probability", gt=0, le=1)
    top_k: int = setting(0, "only the k likeliest tokens; 0 switches it off", ge=0)
    max_tokens: int = setting(2400, "new tokens at most", ge=1)
    sampler: Literal["transformers", "vllm", "server"] = setting("transformers", "engine that samples")
    server_url: str = setting("", "base URL of an OpenAI-compatible endpoint, for the server sampler", "place")
    server_model: str = setting("", "model name at the endpoint; empty: the policy's name")
    server_identity: str = setting(
        "", "what tells the endpoint's model from another of its name; empty: what it says of it, or else its address"
    )
    server_concurrency: int = setting(
        32, "requests under way at once per worker, for the server sampler", "place", ge=1
    )
    language_identifier: Literal["langid", "fasttext", "lingua", "demo"] = setting(
        "langid", "offline library that tells a response's language; demo: the demo world's exact one"
    )
    batch_size: int = setting(64, "sequences decoded together, for the transformers sampler", "place", ge=1)
    shard_prompts: int = setting(64, "prompts of one language per shard, the unit of resume", "place", ge=1)
    tensor_parallel: int = setting(1, "GPUs one engine spans, for vllm", "place", ge=1)
    data_parallel: int = setting(1, "copies of the engine, each on tensor_parallel GPUs, for vllm", "place", ge=1)
    gpu_memory: float = setting(0.9, "share of GPU memory the engine takes, for vllm", "place", gt=0, le=1)
    max_model_len: OptionalInt = setting(
        None, "tokens of prompt and response together, for vllm; none: the model's own"
    )


class GenerateConfig(ChatSettings, GenerateSettings):
    """generate: prompts -> responses."""

    policy: str = setting("", "model that responds: folder, hub name, runs:/ or models:/ URI", "model")
    prompts: str = setting("", "folder of LANG.json(l), one Parquet file, hub data set, or runs:/ URI", "input")
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "prompts per language, the first ones; none: all")
    seed: int = setting(42, "seed of every sample, with language and prompt id", ge=0)
    output: str = setting("", "folder of the artifacts; empty: a work folder, emptied once MLflow holds them", "place")


class AnnotateSettings(ExecutionSettings, ModelPlace):
    """How responses are scored and pairs are selected (arXiv 2503.04647, section 3)."""

    reward_kind: RewardKinds = setting(
        ("cross-lingual",), "cross-lingual, multilingual, translate, random (a control); the first makes the pairs"
    )
    beta: float = setting(0.1, "scale of the implicit reward beta * (log pi - log pi_ref)", gt=0)
    length_control: bool = setting(True, "take alpha * characters off the reward, alpha fitted per language")
    alpha_min: float = setting(-1.0, "lower bound of alpha, reward per character")
    alpha_max: float = setting(1.0, "upper bound of alpha, reward per character")
    drop_empty: bool = setting(True, "drop responses without a visible character")
    drop_truncated: bool = setting(True, "drop responses that reached max_tokens")
    drop_wrong_language: bool = setting(True, "drop responses identified as another language than the prompt's")
    language_confidence: float = setting(0.5, "below it the language counts as unknown, which is not wrong", ge=0, le=1)
    near_duplicate: OptionalFloat = setting(
        None, "drop pairs whose texts are at least this similar (0 to 1, edit similarity); none: only identical texts"
    )
    minimal_margin: float = setting(0.0, "drop pairs whose margin is not above it", ge=0)
    upper_bound: float = setting(float("inf"), "a chosen response must have a length-controlled reward below it")
    translator: str = setting("", "model that translates responses into English, for the translate kind", "model")
    translation_max_tokens: int = setting(2400, "new tokens of a translation at most", ge=1)
    batch_tokens: int = setting(8192, "tokens scored together, padding included", "place", ge=1)


class AnnotateConfig(ChatSettings, AnnotateSettings):
    """annotate: responses -> rewards, preferences, drops."""

    policy: str = setting("", "English-aligned model pi_t", "model")
    reference: str = setting("", "its reference pi_ref", "model")
    prompts: str = setting("", "the prompts the responses answer", "input")
    responses: str = setting("", "responses artifact", "input")
    seed: int = setting(42, "seed of the random kind", ge=0)
    output: str = setting("", "folder of the artifacts; empty: a work folder, emptied once MLflow holds them", "place")


class TrainSettings(ModelPlace):
    """How the policy is trained: L_DPO(beta) + gamma * L_NLL(chosen) (METHOD, step 5)."""

    beta: float = setting(0.1, "beta of the DPO loss", gt=0)
    gamma: float = setting(1.0, "weight of the likelihood of the chosen response", ge=0)
    likelihood: Literal["pairs", "tokens"] = setting(
        "pairs",
        "mean of the likelihood term; pairs: over a step's pairs of the mean over the response's tokens, as the paper's "
        "implementation; tokens: over the tokens of batch_size pairs, as TRL's, which depends on batch_size",
    )
    router_loss: float = setting(0.0, "weight of the load-balancing loss of a mixture of experts' router; 0: off", ge=0)
    dpo_reference: Literal["policy", "initial"] = setting(
        "policy", "reference of the DPO loss: the policy at the start of training, or the given reference"
    )
    learning_rate: float = setting(1e-7, "peak learning rate", gt=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "learning rate after warm-up")
    warmup: float = setting(0.1, "share of steps that warm up, never all of them", ge=0, lt=1)
    epochs: float = setting(1.0, "passes over the pairs", gt=0)
    batch_size: int = setting(1, "pairs per device and step", ge=1)
    accumulation: int = setting(32, "steps whose gradients are added up", ge=1)
    max_length: int = setting(4096, "tokens of prompt and response; longer pairs are left out and counted", ge=2)
    lora_rank: int = setting(0, "rank of LoRA adapters, merged at the end; 0 trains all weights", ge=0)
    lora_alpha: float = setting(32.0, "LoRA scale", gt=0)
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    save_dtype: Literal["trained", "stored"] = setting(
        "trained",
        "precision of the checkpoint; trained: float32, in which weights are trained; stored: that of the policy's files, half "
        "the size in bfloat16, which rounds small changes away",
    )
    precompute_reference: Literal["auto", "yes", "no"] = setting(
        "auto",
        "score the pairs under the reference once, before training, which needs no second model in memory; auto: unless "
        "several training processes do it sooner in every step",
    )
    save_steps: int = setting(100, "optimizer steps between checkpoints to resume from", "place", ge=1)
    accelerate_config: str = setting("", "accelerate config file: train through `accelerate launch`", "place")


class TrainConfig(ChatSettings, TrainSettings):
    """train: preferences -> checkpoint."""

    policy: str = setting("", "model to start from, pi_t", "model")
    reference: str = setting("", "pi_ref; needed for dpo_reference=initial", "model")
    preferences: str = setting("", "preferences artifact", "input")
    seed: int = setting(42, "seed of data order and adapters", ge=0)
    output: str = setting("", "folder of the checkpoint; empty: a work folder, emptied once MLflow holds it", "place")


class JudgeSettings(Config):
    """The endpoint of an LLM judge: any that speaks the OpenAI protocol. Its key stays in the environment."""

    judge_api_model: str = setting("", "model name at the endpoint, for the openai judge")
    judge_url: str = setting("", "base URL of the endpoint; empty: OPENAI_BASE_URL, or OpenAI's own", "place")
    judge_identity: str = setting(
        "", "what tells the endpoint's model from another of its name; empty: what it says of it, or else its address"
    )
    judge_key_variable: str = setting("OPENAI_API_KEY", "environment variable that holds the endpoint's key", "place")
    judge_concurrency: int = setting(32, "requests under way at once, over all workers", "place", ge=1)
    judge_timeout: float = setting(120.0, "seconds until a request counts as hanging", "place", gt=0)
    judge_retries: int = setting(12, "tries after the first, with exponential backoff", "place", ge=0)
    judge_max_failures: float = setting(
        2.0, "percent of judgments that may fail before the run does, after everything is kept", "place", ge=0, le=100
    )
    judge_cache: str = setting("", "folder of the judge's answers; empty: ~/.cache/icr/judge", "place")
    judge_input_price: float = setting(0.0, "US dollars per million input tokens, for the estimate", "place", ge=0)
    judge_output_price: float = setting(0.0, "US dollars per million output tokens, for the estimate", "place", ge=0)
    judge_tokenizer: str = setting(
        "",
        "counts the judge's tokens for the estimate: model folder, hub name, or tiktoken:ENCODING; empty: by size",
        "place",
    )


class EvalSettings(JudgeSettings, GenerateSettings):
    """How a policy is evaluated. Decoding as in the paper: temperature 0.6, top-p 0.9, 2048 tokens."""

    samples: int = setting(1, "outputs per prompt", ge=1)
    temperature: float = setting(0.6, "sampling temperature; 0 is greedy", ge=0)
    top_p: float = setting(0.9, "nucleus: smallest set of tokens with this probability", gt=0, le=1)
    max_tokens: int = setting(2048, "new tokens at most", ge=1)
    judge: Literal["none", "demo", "logprob", "openai"] = setting(
        "none",
        "demo: the demo world's grader; logprob: label probabilities of the local judge_model; openai: judge_api_model at "
        "any OpenAI-compatible endpoint; none: fidelity and lengths only",
    )
    judge_model: str = setting("", "local model that judges, for the logprob judge", "model")
    judge_template: str = setting("", "YAML list of {role, content} messages; empty: the built-in wording", "input")
    judge_answer: Literal["logprobs", "structured"] = setting(
        "logprobs",
        "logprobs: the label's probability as first token; structured: sampled JSON, for reasoning models and endpoints "
        "without log-probabilities",
    )
    judge_samples: int = setting(1, "answers sampled per pair and order, for structured answers", ge=1)
    judge_min_mass: float = setting(
        0.1, "with logprobs: probability both labels must hold together, or the judgment is a failure", ge=0, le=1
    )
    both_orders: bool = setting(True, "judge each pair in both orders and average; else a seeded coin picks one")
    difficulty: str = setting(
        "",
        "CSV for length control: AlpacaEval's index, instruction_difficulty; or prompt_id, instruction_difficulty (and language; "
        "else English)",
        "input",
    )
    anchors: str = setting("", "CSV of AlpacaEval's gamed baselines, which anchor the length coefficient", "input")
    lc_cross_validation: bool = setting(
        False, "choose the penalty of length control by cross-validation, as AlpacaEval does; else C = 10"
    )


class EvalConfig(ChatSettings, EvalSettings):
    """eval: policy -> outputs, judgments, scores."""

    policy: str = setting("", "model to evaluate", "model")
    prompts: str = setting("", "evaluation prompts", "input")
    outputs: str = setting(
        "", "outputs to judge instead of sampling any: artifact, or files as reference_outputs", "input"
    )
    reference_outputs: str = setting(
        "", "outputs to compare with: folder of LANG.json(l), path with {language} in it, or outputs artifact", "input"
    )
    languages: Languages = setting((), "language codes, comma-separated; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "prompts per language, the first ones; none: all")
    dry_run: bool = setting(False, "print what judging would ask and cost, and stop", "place")
    seed: int = setting(42, "seed of every output, with language and prompt id", ge=0)
    output: str = setting("", "folder of the artifacts; empty: a work folder, emptied once MLflow holds them", "place")


class MtBenchConfig(ChatSettings, JudgeSettings, GenerateSettings):
    """mt_bench: policy -> two-turn answers, graded 1 to 10 by the judge behind judge_url (arXiv 2306.05685)."""

    samples: int = setting(1, "answers per question; the benchmark has one", ge=1, le=1)
    temperature: float = setting(0.7, "sampling temperature where the category names none; 0 is greedy", ge=0)
    category_temperatures: bool = setting(
        True, "FastChat's: writing and roleplay 0.7, stem and humanities 0.1, the other four greedy; else temperature"
    )
    max_tokens: int = setting(1024, "new tokens of a turn at most", ge=1)
    policy: str = setting("", "model to evaluate", "model")
    questions: str = setting("", "folder of LANG.jsonl in FastChat's layout, or a path with {language}", "input")
    reference_answers: str = setting(
        "", "right answers to math, reasoning and coding questions, in FastChat's layout", "input"
    )
    answers: str = setting("", "the model's answers in FastChat's layout, instead of sampling any", "input")
    languages: Languages = setting((), "language codes, comma-separated; empty: every file of the folder")
    seed: int = setting(42, "seed of every answer, with language, question and turn", ge=0)
    output: str = setting("", "folder of the artifacts; empty: a work folder, emptied once MLflow holds them", "place")


class BenchmarksConfig(ModelPlace):
    """benchmarks: what the policy knows, by lm-eval's multilingual tasks (extra `benchmarks`)."""

    policy: str = setting("", "model to evaluate", "model")
    families: Annotated[tuple[str, ...], BeforeValidator(_split)] = setting(
        ("arc", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2"), "task families, comma-separated"
    )
    tasks: Annotated[tuple[str, ...], BeforeValidator(_split)] = setting(
        (), "lm-eval tasks by name, for instance of your own files; they come on top of the families"
    )
    task_folder: str = setting("", "folder of task YAML files of your own (dataset_path: json works offline)", "input")
    languages: Languages = setting(("en", "es", "ru", "de", "fr"), "language codes, comma-separated")
    shots: OptionalInt = setting(None, "examples in the prompt; none: as each task says")
    limit: OptionalInt = setting(None, "documents per task, the first ones; none: all")
    batch_size: int = setting(8, "requests scored together", "place", ge=1)
    seed: int = setting(42, "seed of the choice of examples", ge=0)
    output: str = setting("", "folder of the artifacts; empty: a work folder, emptied once MLflow holds them", "place")


class IterateConfig(ChatSettings):
    """iterate: T times generate, annotate, train, eval."""

    arm: str = setting("icr", "name of this arm of the experiment, for charts and tables", "place")
    iterations: int = setting(2, "iterations T", ge=1)
    policy: str = setting("", "pi_0: the reference aligned on English preferences only", "model")
    reference: str = setting("", "pi_ref: the SFT model", "model")
    prompts: str = setting("", "training prompts", "input")
    languages: Languages = setting((), "training languages; empty: every language of the prompts")
    limit: OptionalInt = setting(None, "training prompts per language, the first ones; none: all")
    reward_reference: Literal["initial", "previous"] = setting(
        "initial", "reference of the reward: pi_ref, or the policy before (an ablation of the paper)"
    )
    eval_prompts: str = setting("", "evaluation prompts; empty: no evaluation", "input")
    reference_outputs: str = setting("", "outputs that the policy is compared with", "input")
    eval_languages: Languages = setting((), "evaluation languages; empty: every language of the evaluation prompts")
    eval_limit: OptionalInt = setting(None, "evaluation prompts per language; none: all")
    seed: int = setting(42, "seed of everything; each iteration derives its own", ge=0)
    output: str = setting("", "folder of all artifacts; empty: a work folder", "place")
    stage_processes: bool = setting(
        False, "run each stage in a process of its own, which surely frees GPU memory", "place"
    )
    keep_checkpoints: Literal["all", "last", "best"] = setting(
        "all",
        "trained weights to keep, the others are removed once nothing in this command needs them; best: of the highest mean win "
        "rate, or the last where nothing was judged",
        "place",
    )
    generate: GenerateSettings = setting(GenerateSettings(), "settings of generate")
    annotate: AnnotateSettings = setting(AnnotateSettings(), "settings of annotate")
    train: TrainSettings = setting(TrainSettings(), "settings of train")
    eval: EvalSettings = setting(EvalSettings(), "settings of eval")


STAGES: dict[str, type[Config]] = {
    "generate": GenerateConfig,
    "annotate": AnnotateConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "mt_bench": MtBenchConfig,
    "benchmarks": BenchmarksConfig,
    "iterate": IterateConfig,
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "generate": ("policy", "prompts"),
    "annotate": ("policy", "reference", "prompts", "responses"),
    "train": ("policy", "preferences"),
    "eval": ("prompts",),
    "mt_bench": ("questions", "judge_api_model"),
    "benchmarks": ("policy",),
    "iterate": ("policy", "reference", "prompts"),
}
C = TypeVar("C", bound=Config)


def leaves(config: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field of a configuration as (dotted name, field), nested settings flattened."""
    for name, info in config.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def role(info: FieldInfo) -> Role:
    """How the field enters the fingerprint."""
    extra = info.json_schema_extra
    return extra["role"] if isinstance(extra, dict) else "setting"  # type: ignore[return-value]


def load_preset(path: Path, stage: str) -> dict[str, Any]:
    """Nested values of a YAML preset for `stage`.

    A preset of `iterate` serves the single stages too: its section of that name, and the shared keys the stage has.

    Raises:
        InputError: no such file, no valid YAML, no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such preset; give a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: no valid YAML ({' '.join(str(error).split())}); mend it") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no mapping of fields; write `field: value` lines")
    is_iterate = stage != "iterate" and any(isinstance(values.get(name), dict) for name in STAGES)
    return _section(values, stage, str(path)) if is_iterate else values


def _section(values: dict[str, Any], stage: str, source: str) -> dict[str, Any]:
    validate(IterateConfig, values, source)
    names = STAGES[stage].model_fields
    shared = {key: value for key, value in values.items() if key in names and key not in STAGES}
    if stage == "eval":
        renamed = {"prompts": "eval_prompts", "languages": "eval_languages", "limit": "eval_limit"}
        shared = {key: value for key, value in shared.items() if key not in renamed}
        shared |= {name: values[key] for name, key in renamed.items() if key in values}
    return shared | dict(values.get(stage) or {})


def validate(config: type[C], values: Mapping[str, Any], source: str) -> C:
    """Build a configuration; raises InputError with every wrong key of `source` in one line, unknown ones with the nearest."""
    try:
        return config.model_validate(dict(values))
    except ValidationError as error:
        names = [name for name, _ in leaves(config)] + list(config.model_fields)
        problems = [_explain(problem["loc"], problem, names) for problem in error.errors(include_url=False)]
        raise InputError(f"{source}: " + "; ".join(problems)) from None


def _explain(location: tuple[int | str, ...], problem: Any, names: list[str]) -> str:
    name = ".".join(str(part) for part in location if not str(part).startswith("function-"))
    if problem["type"] == "extra_forbidden":
        section, _, field = name.rpartition(".")
        if section and field in names:
            return f"unknown field {name!r}; give {field!r} beside the sections, once for all of them"
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        return f"unknown field {name!r}" + (f", nearest is {near[0]!r}" if near else "; remove it")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"field {name!r}: {message}, got {problem['input']!r}"


def require(config: Config, stage: str, source: str = "config") -> None:
    """Raise InputError naming every required field of `stage` that is empty."""
    missing = [name for name in REQUIRED[stage] if not getattr(config, name)]
    if missing:
        flags = " ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise InputError(f"{source}: field {missing[0]!r} is missing for {stage}; give {flags}")


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'train.beta': 1} -> {'train': {'beta': 1}}."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split(".")
        target = nested
        for folder in folders:
            target = target.setdefault(folder, {})
        target[leaf] = value
    return nested


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` put over it, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def kind_name(info: FieldInfo) -> str:
    """'float' for numbers, 'string' for everything else, numbers that can be none included: the types MLproject knows."""
    kinds = {info.annotation, *get_args(info.annotation)}
    if get_origin(info.annotation) is Literal or kinds & {bool, type(None)}:
        return "string"
    return "float" if kinds & {int, float} else "string"
