"""Preflight of an `iterate` configuration: every input checked, the work counted, time, memory and disk predicted."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa

from icr_platform.core.config import ChatSettings, Config, require
from icr_platform.core.errors import InputError
from icr_platform.core.parts import Worlds
from icr_platform.core.writable import check_writable_folder
from icr_platform.engines.scoring.reward_kinds import needs_policy, needs_translations, scalar_kinds
from icr_platform.models.devices import resolve_dtype
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.runner import logged_params
from icr_platform.pipeline.session import RunOptions, Session, open_session
from icr_platform.pipeline.stages import STAGES
from icr_platform.planning.capacity import (
    DECODE_EFFICIENCY,
    DEVICES,
    SCORE_MFU,
    TRAIN_MFU,
    Device,
    ModelShape,
    Prompts,
    Rates,
    StagePlan,
    TrainingFiles,
    Work,
    bench_work,
    disk_of,
    disk_of_iterations,
    idle_parameters,
    instructions_work,
    memory_of,
    model_shape,
    most_pairs,
    rates_on_paper,
    sampling_of_stage,
    seconds_of,
    training_files,
    training_memory,
    works,
)
from icr_platform.planning.model_facts import JUDGE, POLICY, REFERENCE, REWARD_MODEL, TRANSLATOR, Use, show_models
from icr_platform.planning.pair_work import NO_PAIRS_WORK, PairsWork, given_work, mean_tokens, pairs_work
from icr_platform.planning.rehearsal import NO_REHEARSAL, Rehearsal, rehearse
from icr_platform.planning.scratch import scratch_folder
from icr_platform.planning.units import duration, size
from icr_platform.training.config import TrainSettings

T = TypeVar("T")
_PROMPTS_TOKENISED = 200  # per language; the mean over them stands for all
_CALIBRATION_PROMPTS = 64
_SHARDED = ("FSDP", "DEEPSPEED")


@dataclass(frozen=True)
class Prediction:
    """What to predict for, other than the machine at hand.

    calibrate: seconds of measuring the machine at hand; 0 measures nothing.
    gpus, gpu: so many devices of that name (`capacity.DEVICES`); 0: those of the machine at hand.
    response_tokens: mean length of a response; None: as long as the configuration allows.
    verbose: show whole prompts.
    """

    calibrate: float = 0.0
    gpus: int = 0
    gpu: str = ""
    response_tokens: float | None = None
    verbose: bool = False


@dataclass(frozen=True)
class PromptCount:
    """Prompts of one purpose by language, the mean length of a rendered prompt in tokens, some of them, and the first in each language."""

    by_language: dict[str, int]
    mean_tokens: float
    some: list[tuple[str, str]]
    first: pa.Table

    @property
    def prompts(self) -> Prompts:
        return Prompts(sum(self.by_language.values()), self.mean_tokens, max(self.by_language.values(), default=0))


class Preflight:
    """Collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.remarks: list[str] = []

    def attempt(self, action: Callable[[], T]) -> T | None:
        """The action's result, or None when it found bad input."""
        try:
            return action()
        except InputError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def check(
    config: IterateConfig,
    options: RunOptions,
    prediction: Prediction,
    worlds: Worlds | None = None,
    rehearsal: Rehearsal = NO_REHEARSAL,
) -> int:
    """Check `config`, print the plan, and rehearse it if that is asked for.

    Returns: the exit status: 0, or 2 when something must be fixed first, or that of a stage that failed when it was rehearsed.

    Raises:
        InputError: the prediction is for devices of an unknown name, or what is to be rehearsed could not run.
    """
    if prediction.gpus and prediction.gpu not in DEVICES:
        raise InputError(f"icr check: --gpu is {prediction.gpu!r}; give one of {', '.join(DEVICES)}")
    preflight = Preflight()
    # A rehearsal logs nothing, and merely to open a store that does not exist yet would make it.
    is_tracked = options.tracking and (not rehearsal.prompts or names_store(config))
    opened = preflight.attempt(lambda: open_session(options.model_copy(update={"tracking": is_tracked}), worlds))
    if opened is not None:
        with ExitStack() as stack:
            stack.callback(opened.close)
            session = replace(opened, options=options)
            if rehearsal.prompts:
                scratch = stack.enter_context(scratch_folder(session.base / config.output, "icr-rehearsal"))
                if (
                    not session.work.exists()
                ):  # where there is one, inputs that the run needs too are made in it, and stay
                    session = replace(session, work=scratch / "work")
            if preflight.attempt(lambda: require(config, "iterate")) is None and not preflight.problems:
                checked = _check_inputs(preflight, session, config, prediction)
                if rehearsal.prompts and checked is not None:
                    return rehearse(session, checked.config, rehearsal, checked.plans, scratch, checked.checker)
    for problem in preflight.problems:
        print(f"icr: {problem}", file=sys.stderr)
    return 2 if preflight.problems else 0


def names_store(config: IterateConfig) -> bool:
    """Whether an input lies in MLflow's store."""
    return any(str(value).startswith(("runs:/", "models:/")) for value in logged_params(config).values())


class Checked(NamedTuple):
    """A configuration with its inputs resolved, nothing of which must be fixed, and the plan of its stages."""

    config: IterateConfig
    plans: list[StagePlan]
    checker: str


class _Inputs(NamedTuple):
    """What a configuration names, looked at. training: None where nothing is trained. told: lines about what else is measured, and
    measuring: what that takes, of one policy."""

    config: IterateConfig
    shape: ModelShape
    training: PromptCount | None
    evaluation: PromptCount | None
    checker: str
    told: list[str]
    measuring: list[Work]


def problems_of(session: Session, config: IterateConfig) -> list[str]:
    """What must be fixed before `config` can run, a line each. Prints nothing.

    Reads the inputs, and loads no weights.
    """
    preflight = Preflight()
    if preflight.attempt(lambda: require(config, "iterate")) is None and not preflight.problems:
        _look_at_inputs(preflight, session, config, Prediction())
    return preflight.problems


def _look_at_inputs(
    preflight: Preflight, session: Session, config: IterateConfig, prediction: Prediction
) -> _Inputs | None:
    """Check everything that a configuration names; None where something must be fixed."""
    from icr_platform.pipeline.iterate import check_english
    from icr_platform.pipeline.measures import check_something_is_done, checker_of
    from icr_platform.pipeline.model_checks import check_models
    from icr_platform.pipeline.stopping import check_stop

    resolved = preflight.attempt(lambda: session.resolver.resolve(config, config.seed))
    if resolved is None:
        return None
    place = Path(resolved.output) if resolved.output else session.work
    preflight.attempt(lambda: check_writable_folder(place, f"{place}: the folder of all artifacts"))
    preflight.remarks += preflight.attempt(lambda: check_models(session, resolved)) or ()
    preflight.attempt(lambda: check_english(resolved))
    preflight.attempt(lambda: check_something_is_done(resolved))
    preflight.attempt(lambda: check_stop(resolved))
    shape = preflight.attempt(lambda: _shape(resolved.policy, resolved))
    training = evaluation = read = None
    if resolved.iterations:
        _check_stages(preflight, session, resolved, prediction)
        training = preflight.attempt(lambda: _count(preflight, resolved.policy, resolved.prompts, resolved, False))
    if resolved.eval_prompts:
        read = preflight.attempt(lambda: STAGES["eval"].load().read(resolved.eval_config(resolved.policy)))
        evaluation = preflight.attempt(
            lambda: _count(preflight, resolved.policy, resolved.eval_prompts, resolved, True)
        )
    checker = preflight.attempt(lambda: checker_of(config, resolved, session.worlds)) or ""
    measured, measuring = _measures(preflight, session, resolved, prediction)
    preflight.remarks += getattr(read, "notes", ())  # what the evaluation reads beside its prompts has notes of its own
    if shape is None or preflight.problems:
        return None
    return _Inputs(resolved, shape, training, evaluation, checker, measured, measuring)


def _check_inputs(
    preflight: Preflight, session: Session, config: IterateConfig, prediction: Prediction
) -> Checked | None:
    inputs = _look_at_inputs(preflight, session, config, prediction)
    if inputs is None:
        return None
    resolved, shape, training, evaluation, checker, measured, measuring = inputs
    for name, counts in (("training", training), ("evaluation", evaluation)):
        if counts is not None:
            listed = ", ".join(f"{language} {n:,}" for language, n in counts.by_language.items())
            print(f"{name} prompts: {listed}; {counts.mean_tokens:.0f} tokens each")
    for line in (
        *measured,
        *([f"own samples: {checker} says which are right, before each training"] if checker else []),
    ):
        print(line)
    for remark in dict.fromkeys(preflight.remarks):
        print(f"note: {remark}")
    if training is None:
        print("iterations is 0: pi_0 is measured, and nothing else")
        return None
    rates, source = _rates(resolved, shape, training, prediction)
    rewarding = _reward_shape(session, resolved)
    pairs = pairs_work(session, resolved, training.by_language, prediction.response_tokens)
    plans = plan(
        resolved,
        shape,
        training.prompts,
        evaluation.prompts if evaluation else None,
        rates,
        prediction,
        rewarding,
        pairs,
    )
    start = _start_plan(session, resolved, shape, rates, prediction) if resolved.start_preferences else None
    show_models(resolved, _uses(session, resolved, plans, prediction), training.first, prediction.verbose)
    print()
    _print(session, resolved, plans, start, source, prediction)
    if start is not None:
        print(_start_line(start))
    for work in measuring:
        print(_measuring_line(resolved, work, rates))
    return Checked(resolved, plans, checker)


def _start_plan(
    session: Session, config: IterateConfig, shape: ModelShape, rates: Rates | None, prediction: Prediction
) -> StagePlan:
    """The training that makes pi_0. shape: of the model that it starts from."""
    starting = session.resolver.resolve(Arm(config, config, None, [config.policy]).starting(), config.seed)
    work = given_work(starting, config)
    device, count = _devices(prediction)
    accelerate = _accelerate_settings(starting)
    busy = count if accelerate else 1
    weight_bytes = 2 if prediction.gpus else int(resolve_dtype(starting.dtype, "auto").itemsize)
    shards = busy if _is_sharded(accelerate) else 1
    kept, peak = disk_of(work, _training_files(config, starting, shape, work.rows, accelerate))
    return StagePlan(
        work=work,
        devices=busy,
        seconds=seconds_of(work, rates, busy, 1) if rates else None,
        memory_bytes=training_memory(starting, work.prompt_tokens, work.longest, shape, weight_bytes, device, shards),
        disk_bytes=kept,
        disk_peak_bytes=peak,
    )


def _start_line(start: StagePlan) -> str:
    """What the training of pi_0 takes."""
    taken = f"{start.work.tokens:,} tokens, "
    if start.seconds is not None:
        taken += f"{duration(start.seconds)} on {start.devices if start.devices > 1 else 'one'} device{'s' * (start.devices > 1)}, "
    memory = f"{size(start.memory_bytes or 0)} of memory at its peak"
    return f"start: {start.work.rows:,} rows, {taken}{memory}, {size(start.disk_bytes)} on the disk; once, for pi_0"


def _measuring_line(config: IterateConfig, work: Work, rates: Rates | None) -> str:
    """What a measurement without a judge takes, of one policy and of all."""
    taken = f"{work.tokens:,} tokens, "
    if rates is not None:
        taken += f"{duration(seconds_of(work, rates, 1, 1))} on one device, "
    disk = disk_of(work, TrainingFiles(0, 0, 0, 0))[0]
    return f"{work.stage}: {work.rows:,} rows, {taken}{size(disk)}; {config.iterations + 1} times, of every policy"


def _measures(
    preflight: Preflight, session: Session, config: IterateConfig, prediction: Prediction
) -> tuple[list[str], list[Work]]:
    """Check what else every policy is measured on, and count it: a line each, and what it takes of one policy."""
    from icr_platform.pipeline.measures import check_measures

    arm, told = Arm(config, config, None, [config.policy]), []
    measuring: list[Work] = []
    known = len(preflight.problems)
    preflight.attempt(lambda: check_measures(config))
    if len(preflight.problems) > known:
        return [], []

    def read(stage: str, stage_config: Config) -> Any:
        found = preflight.attempt(
            lambda: STAGES[stage].load().read(session.resolver.resolve(stage_config, config.seed))
        )
        preflight.remarks += getattr(found, "notes", ())
        return found

    def counted(name: str, languages: Iterable[str]) -> None:
        listed = ", ".join(f"{language} {n:,}" for language, n in Counter(languages).items())
        told.append(f"{name}: {listed}; of every policy")

    if config.reward_pairs and (bench := read("reward_bench", arm.benching(0))) is not None:
        counted("reward pairs", (pair.language for pair in bench.pairs))
        measuring += [work for work in [preflight.attempt(lambda: _bench_work(config, bench))] if work is not None]
    if config.instruction_prompts and (follow := read("instructions", arm.following(0))) is not None:
        counted("instruction prompts", (prompt.language for prompt in follow.asked.prompts))
        turns = [turn.text for prompt in follow.asked.prompts for turn in prompt.turns]
        if (mean := preflight.attempt(lambda: mean_tokens(config.policy, config, turns, are_prompts=True))) is not None:
            prompts = Prompts(len(turns), mean)
            measuring.append(instructions_work(config.instructions, prompts, prediction.response_tokens))
    if config.benchmarks.are_asked and (asked := read("benchmarks", arm.asking(0))) is not None:
        counted("benchmark tasks", (work.task.language for work in asked.work))
    return told, measuring


def _bench_work(config: IterateConfig, bench: Any) -> Work:
    instructions = [pair.asked.instruction for pair in bench.pairs]
    prompts = Prompts(len(bench.pairs), mean_tokens(config.policy, config, instructions, are_prompts=True))
    responses = [side.text for pair in bench.pairs for side in (pair.chosen, pair.rejected)]
    return bench_work(bench.config.kinds, prompts, mean_tokens(config.policy, config, responses))


def _shape(model: str, chat: ChatSettings) -> ModelShape:
    from icr_platform.models.adapters import base_of
    from icr_platform.models.loading import load_config, on_meta_device, parameter_count

    config = load_config(model, chat.trust_remote_code)
    skeleton = on_meta_device(base_of(model), config, chat.trust_remote_code)
    return model_shape(config, parameter_count(model, chat.trust_remote_code), idle_parameters(skeleton))


def _reward_shape(session: Session, config: IterateConfig) -> ModelShape | None:
    """The shape of the reward model; None where none of the kinds asks one."""
    from icr_platform.models.adapters import base_of
    from icr_platform.models.loading import on_meta_device
    from icr_platform.models.reward_models import plan_of

    if not (config.ranks_by_rewards and scalar_kinds(config.annotate.reward_kind)):
        return None
    model = session.resolver.local(config.annotate.reward_model, config.seed)
    found = plan_of(model, config.trust_remote_code)
    skeleton = on_meta_device(base_of(model), found.config, config.trust_remote_code, found.auto)
    count = sum({id(one): one.numel() for one in skeleton.parameters()}.values())
    return model_shape(found.config, count, idle_parameters(skeleton))


def _uses(session: Session, config: IterateConfig, plans: list[StagePlan], prediction: Prediction) -> list[Use]:
    """The models of a run, and the memory that each takes at the peak of its stages."""
    from icr_platform.models.loading import chat_of_helper, parameter_count

    device, _ = _devices(prediction)

    def bytes_each(dtype: str) -> int:
        return 2 if prediction.gpus else int(resolve_dtype(dtype, "auto").itemsize)

    def weights(model: str, dtype: str) -> str:
        count = parameter_count(model, config.trust_remote_code)
        return f"{size(count * bytes_each(dtype))} of weights"

    of_policy = [f"{plan.work.stage} {size(plan.memory_bytes)}" for plan in plans if plan.memory_bytes is not None]
    uses = [Use(POLICY, config.policy, config, [f"{', '.join(of_policy)} at their peak"])]
    if config.ranks_by_rewards:
        scoring = next(plan for plan in plans if plan.work.stage == "annotate")
        shape = _shape(config.reference, config)
        taken = memory_of(scoring.work, config, shape, bytes_each(config.annotate.dtype), device, 1)
        uses.append(Use(REFERENCE, config.reference, config, [f"annotate {size(taken)} at its peak"]))
        if rewarding := _reward_shape(session, config):
            model = session.resolver.local(config.annotate.reward_model, config.seed)
            taken = memory_of(scoring.work, config, rewarding, bytes_each(config.annotate.dtype), device, 1)
            uses.append(Use(REWARD_MODEL, model, config, [f"annotate {size(taken)} at its peak"]))
    helpers = {}
    if config.ranks_by_rewards and needs_translations(config.annotate.reward_kind):
        helpers[TRANSLATOR] = (config.annotate.translator, config.annotate.dtype)
    if config.eval_prompts and config.eval.judge == "logprob":
        helpers[JUDGE] = (config.eval.judge_model, config.eval.dtype)
    for purpose, (name, dtype) in helpers.items():
        model = session.resolver.local(name, config.seed)
        chat = config if purpose == JUDGE else chat_of_helper(model, config)  # a judge's is found from its template
        uses.append(Use(purpose, model, chat, [weights(model, dtype)]))
    return uses


def _check_stages(preflight: Preflight, session: Session, config: IterateConfig, prediction: Prediction) -> None:
    """Check what each stage of an iteration says before it works, without the artifacts of the stages before it."""
    from icr_platform.annotation.stage import check_settings as check_annotation
    from icr_platform.engines.execution.map_parts import check_execution
    from icr_platform.engines.identification.language_id import make_identifier
    from icr_platform.engines.sampling.choice import check_policy
    from icr_platform.pipeline.iterate import check_losses, check_pairs_source
    from icr_platform.training.stage import check_settings as check_training

    arm = Arm(config, config, None, [config.policy])
    training = session.resolver.resolve(arm.training(1, ""), config.seed)
    elsewhere = {"device": "auto", "dtype": "auto", "accelerate_config": ""}
    if prediction.gpus:  # the devices and their libraries are elsewhere
        training = training.model_copy(update=elsewhere)
    else:
        preflight.attempt(lambda: check_execution(config.generate))
        preflight.attempt(lambda: check_policy(config.generate, config.policy, config))
    preflight.attempt(lambda: make_identifier(config.generate.language_identifier))
    preflight.attempt(lambda: check_annotation(arm.annotating(1, "")))
    preflight.remarks += preflight.attempt(lambda: check_pairs_source(session, config)) or ()
    known = len(preflight.problems)
    preflight.attempt(lambda: check_losses(config))
    if len(preflight.problems) > known:
        return
    preflight.attempt(lambda: check_training(training))
    if config.start_preferences:
        starting = session.resolver.resolve(arm.starting(), config.seed)
        if prediction.gpus:
            starting = starting.model_copy(update=elsewhere)
        if preflight.attempt(lambda: STAGES["train"].load().read(starting)) is not None:
            preflight.remarks.append(
                f"pi_0 is trained first, on {config.start_preferences} with loss={config.start.loss}"
            )


def _count(preflight: Preflight, policy: str, path: str, config: IterateConfig, is_eval: bool) -> PromptCount:
    from icr_platform.annotation.pair_notes import impossible_pairs
    from icr_platform.data.prompts import load_prompts
    from icr_platform.engines.sampling.prompt_checks import check_prompts
    from icr_platform.engines.sampling.sampler import requests_of
    from icr_platform.models.chat import encode_prompt, prints_date, refusal_of_roles
    from icr_platform.models.loading import load_tokenizer

    languages, limit = (config.eval_languages, config.eval_limit) if is_eval else (config.languages, config.limit)
    columns = config.eval_prompt_columns if is_eval else config.prompt_columns
    prompts = load_prompts(path, languages, limit, columns)
    preflight.remarks.extend(prompts.notes)
    rows = prompts.table.to_pandas()
    tokenizer = load_tokenizer(policy, config)
    if not is_eval:
        # Filters aside: what annotate would say when every response is there is said before any is.
        sampled = {
            str(code): Counter(dict.fromkeys(own, config.generate.samples))
            for code, own in rows.groupby("language")["prompt_id"]
        }
        preflight.remarks.extend(impossible_pairs(config.annotate, sampled))
    if prints_date(tokenizer) and not is_eval:
        preflight.remarks.append(
            f"the chat template of {policy} prints the day's date; every prompt says {config.template_date} (template_date)"
        )
    sampling = config.eval if is_eval else config.generate
    requests = requests_of(prompts.table, config)
    found = check_prompts(sampling, policy, config, requests, sampling.max_dropped)
    preflight.remarks.extend((*found.notes, *found.dropped_notes))
    some = rows.groupby("language", sort=False).head(_PROMPTS_TOKENISED)
    # Of a kind of conversation that the template refuses nothing is known; the samplers drop it.
    asked = [requests[row].conversation for row in some.index]
    sizes = [len(encode_prompt(tokenizer, each)) for each in asked if not refusal_of_roles(tokenizer, each.roles)]
    mean = sum(sizes) / max(len(sizes), 1)
    counts = rows.groupby("language", sort=False).size()
    shuffled = some.sample(min(len(some), _CALIBRATION_PROMPTS), random_state=0)
    pairs = list(zip(shuffled["language"], shuffled["instruction"], strict=True))
    first = prompts.table.take(pa.array(rows.drop_duplicates("language").index))
    return PromptCount({str(language): int(n) for language, n in counts.items()}, mean, pairs, first)


def _rates(
    config: IterateConfig, shape: ModelShape, training: PromptCount, prediction: Prediction
) -> tuple[Rates | None, str]:
    """Rates of one device, and where they are from."""
    length = prediction.response_tokens or config.generate.max_tokens
    if prediction.calibrate:
        from icr_platform.planning.calibration import calibrate

        rates = calibrate(config, training.some, length, prediction.calibrate)
        return rates, "measured on this machine just now"
    if prediction.gpus:
        context = training.mean_tokens + length / 2
        rates = rates_on_paper(shape, DEVICES[prediction.gpu], context, config.train.gradient_checkpointing)
        return rates, (
            f"from the data sheet of {prediction.gpu}, assuming {SCORE_MFU:.0%} MFU in annotate, {TRAIN_MFU:.0%} in train, "
            f"{DECODE_EFFICIENCY:.0%} of the memory-bound decoding rate"
        )
    return None, ""


def plan(
    config: IterateConfig,
    shape: ModelShape,
    training: Prompts,
    evaluation: Prompts | None,
    rates: Rates | None,
    prediction: Prediction,
    rewarding: ModelShape | None = None,
    pairs: PairsWork = NO_PAIRS_WORK,
) -> list[StagePlan]:
    """The stages of one iteration: tokens, seconds, peak memory of each device, disk.

    rewarding: the shape of the reward model, where there is one. Of a translator that is not the policy, time and memory are not known.
    """
    device, count = _devices(prediction)
    weight_bytes = 2 if prediction.gpus else int(resolve_dtype(config.generate.dtype, "auto").itemsize)
    accelerate = _accelerate_settings(config.train)
    is_sharded = _is_sharded(accelerate)
    trained_on = pairs.train.rows if pairs.train else most_pairs(config, training)
    files = _training_files(config, config.train, shape, trained_on, accelerate)
    if rates and rewarding:
        rates = replace(rates, reward=rates.score * shape.matmul / rewarding.matmul)
    plans = []
    for work in works(config, training, evaluation, prediction.response_tokens, *pairs):
        is_known = work.stage != "translate" or _translates_itself(config)
        busy = _busy(config, work, count)
        kept, peak = disk_of(work, files)
        # One model is in memory at a time: annotate takes what the largest of them takes.
        shapes = [shape]
        if work.stage == "annotate" and rewarding:
            shapes = [*([shape] if needs_policy(config.annotate.reward_kind) else []), rewarding]
        plans.append(
            StagePlan(
                work=work,
                devices=busy,
                seconds=seconds_of(work, rates, busy, config.eval.judge_concurrency) if rates and is_known else None,
                memory_bytes=max(
                    memory_of(work, config, one, weight_bytes, device, busy if is_sharded else 1) for one in shapes
                )
                if is_known
                else None,
                disk_bytes=kept,
                disk_peak_bytes=peak,
            )
        )
    return plans


def _translates_itself(config: IterateConfig) -> bool:
    """Whether the policy of each iteration is its translator."""
    return config.translate.translator in ("", config.policy) and not config.translate.server_model


def _accelerate_settings(train: TrainSettings) -> Mapping[str, Any]:
    """Those that a training is launched with; empty where it runs in this process."""
    from icr_platform.training.launch import read_accelerate_config

    return read_accelerate_config(Path(train.accelerate_config)) if train.accelerate_config else {}


def _is_sharded(accelerate: Mapping[str, Any]) -> bool:
    return str(accelerate.get("distributed_type", "NO")) in _SHARDED


def _training_files(
    config: IterateConfig, train: TrainSettings, shape: ModelShape, pairs: int, accelerate: Mapping[str, Any]
) -> TrainingFiles:
    """What a training of a model of the policy's shape writes."""
    from icr_platform.training.weights import adapter_parameters, stored_dtype

    rank, trusts = train.lora_rank, config.trust_remote_code
    adapters = adapter_parameters(config.policy, rank, trusts) if rank else 0
    stored = stored_dtype(config.policy, trusts).itemsize
    return training_files(train, pairs, shape.parameters, adapters, stored, accelerate)


def _devices(prediction: Prediction) -> tuple[Device | None, int]:
    """The device that is predicted for, None for a CPU, and how many there are."""
    import torch

    if prediction.gpus:
        return DEVICES[prediction.gpu], prediction.gpus
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        return Device(flops=0.0, bandwidth=0.0, memory=float(memory)), torch.cuda.device_count()
    return None, 1


def _busy(config: IterateConfig, work: Work, count: int) -> int:
    """Devices that a stage keeps busy, of `count`."""
    if work.stage == "train":
        return count if config.train.accelerate_config else 1
    if work.stage == "annotate":
        on_ray, spanned = config.annotate, 1
    else:
        sampling = sampling_of_stage(work, config)
        on_ray, spanned = sampling, sampling.tensor_parallel * sampling.data_parallel
    workers = on_ray.concurrency or count if on_ray.execution == "ray" else 1
    return max(1, min(count, workers * spanned))


def _print(
    session: Session,
    config: IterateConfig,
    plans: list[StagePlan],
    start: StagePlan | None,
    source: str,
    prediction: Prediction,
) -> None:
    from rich.console import Console
    from rich.table import Table

    bound = "" if prediction.response_tokens else " at most"
    device, count = _devices(prediction)
    table = Table(title=f"arm {config.arm}: {config.iterations} iterations of", title_justify="left")
    columns = (
        "stage",
        "rows",
        f"tokens{bound}",
        "devices",
        f"time{bound}",
        "memory",
        f"disk{bound}",
        "disk at its peak",
    )
    for column in columns:
        is_name = column == "stage"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for item in plans:
        time = duration(item.seconds) if item.seconds is not None else "-"
        cells = [f"{item.work.rows:,}", f"{item.work.tokens:,}", str(item.devices), time]
        sizes = (item.memory_bytes, item.disk_bytes, item.disk_peak_bytes)
        table.add_row(item.work.stage, *cells, *("-" if count is None else size(count) for count in sizes))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    if source:
        total = config.iterations * sum(item.seconds or 0 for item in plans)
        sooner = "; stop: no-gain may end it sooner" if config.stop != "none" else ""
        console.print(
            f"all iterations: {duration(total)}{bound}, loading not counted; tokens per second {source}{sooner}"
        )
    else:
        console.print("time: --calibrate 30 measures this machine; --gpus 8 --gpu H100 predicts from data sheets")
    if not prediction.response_tokens:
        console.print(
            "every response counts as long as max_tokens; --response-tokens N says how long they are on average"
        )
    if any(item.memory_bytes is None for item in plans):
        console.print("translate: by another model than the policy, whose time and memory are not predicted")
    idle = [item.work.stage for item in plans if item.devices < count]
    if idle:
        console.print(
            f"{', '.join(idle)}: not all of {count} GPUs; execution: ray with concurrency, or accelerate_config"
        )
    console.print(_capacity(session, config, plans, start, device))


def _capacity(
    session: Session, config: IterateConfig, plans: list[StagePlan], start: StagePlan | None, device: Device | None
) -> str:
    """Two lines that set the prediction against the disk and the memory that there are."""
    import psutil

    copies = 2 if session.options.tracking and session.options.artifacts == "copy" else 1
    disk, end = disk_of_iterations(config, plans, copies)
    place = Path(config.output) if config.output else session.base
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    peak = max(item.memory_bytes or 0 for item in (*plans, *([start] if start else [])))
    memory = int(device.memory) if device else int(psutil.virtual_memory().total)
    copied = "artifacts are copied to MLflow; --artifacts=reference halves it" if copies == 2 else "one copy"
    smaller = "--train-save-steps above the number of steps, --keep-checkpoints last, --train-save-dtype stored or LoRA"
    return (
        f"disk: {size(disk)} at the peak, {size(end)} at the end ({copied}), {size(free)} free in {place}"
        f"{'' if disk < free else f': TOO LITTLE, use {smaller}'}\n"
        f"{'each GPU' if device else 'memory'}: {size(peak)} at the peak of {size(memory)}"
        f"{'' if peak < memory else ': TOO LITTLE, use LoRA, gradient_checkpointing or more devices'}"
    )
