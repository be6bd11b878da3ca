"""Capacity on paper: tokens, time, peak memory and disk of every stage, from a model's shape and tokens per second.

Arithmetic: a token costs 2 FLOPs per weight that multiplies it, forward, and three times that in training (Kaplan et al.
2020, arXiv 2001.08361, section 2.1); a decoding step reads all weights and the keys and values of every sequence once.
Rates come from a calibration on the machine at hand (`calibration`), or from a device's data sheet and the efficiencies
below, which are assumptions and named as such wherever they are used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from icr_platform.engines.execution.forks import fork_count
from icr_platform.engines.scoring.reward_kinds import scalar_kinds, scored_kinds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCORE_MFU = 0.5
TRAIN_MFU = 0.35
DECODE_EFFICIENCY = 0.5  # of the time that memory and arithmetic would need
_SEQUENCES = 256  # decoded together by an engine, at most
_RECOMPUTE = 4 / 3  # gradient checkpointing runs the forward pass twice
_TRAIN_BYTES = 16  # per trained parameter: weight, gradient and two moments, float32
_RESUME_BYTES = 12  # per trained parameter in a resume point: weight and two moments, float32
_RESUME_BYTES_TWICE = 16  # where the engine also writes the gathered weights: DeepSpeed, FSDP with FULL_STATE_DICT
_GPU_PACK = 8192  # tokens that are scored at once where nobody says otherwise
_TRL_ROWS = 4096  # tokens of a tile of trl.kernels, which computes log-probabilities on GPUs
_BYTES_PER_RESPONSE_TOKEN = 9  # Parquet, zstd: id and text, measured on X-AlpacaEval outputs
_BYTES_PER_REWARD = 40
FORK_BYTES = 100 * 10**6  # of memory that a fork changes, and has for itself thereby
PROCESS_BYTES = 800 * 10**6  # Python with torch, transformers and a language identifier
_LONG_PROMPT = 4  # times the mean length
_JUDGE_SECONDS = 2.0  # of one answer
# What configs call the experts of a layer, those of them that a token goes to, and models the experts that are chosen among.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")
_OF_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")  # of Gemma 2, Cohere and Granite
_IS_ROUTED = re.compile(r"(^|\.)experts\.")


@dataclass(frozen=True)
class ModelShape:
    """What decides cost. matmul: parameters that multiply a token: all but a separate input embedding, and experts it does not go to.

    key_value: numbers kept per token and layer for the attention of later tokens. changes_logits: whether logits are more than the
    products of the LM head, which a CPU then scores in one piece.
    """

    parameters: int
    matmul: int
    layers: int
    hidden: int
    intermediate: int
    key_value: int
    vocabulary: int
    changes_logits: bool = False


@dataclass(frozen=True)
class Device:
    """flops: dense bfloat16 FLOP/s; bandwidth: bytes/s; memory: bytes. From the makers' data sheets."""

    flops: float
    bandwidth: float
    memory: float


DEVICES = {
    "A100-40GB": Device(312e12, 1.555e12, 40e9),
    "A100-80GB": Device(312e12, 2.039e12, 80e9),
    "L40S": Device(362e12, 0.864e12, 48e9),
    "H100": Device(989e12, 3.35e12, 80e9),
    "H200": Device(989e12, 4.8e12, 141e9),
    "B200": Device(2250e12, 8.0e12, 180e9),
    "MI300X": Device(1307e12, 5.3e12, 192e9),
}


@dataclass(frozen=True)
class Rates:
    """Tokens per second of one device: decoded by generate, scored under policy or reference, trained on, and scored by the reward model."""

    decode: float
    score: float
    train: float
    reward: float = math.inf


@dataclass(frozen=True)
class Work:
    """What one stage of one iteration does, in tokens; a stage does only some of these.

    decoded: tokens sampled. scored: tokens through one model's forward pass. rewarded: the same, of the reward model. trained: tokens
    through a training step.
    prompt_tokens: mean length of a prompt. requests: answers asked of a judge's endpoint. longest: tokens of the longest response of a
    training; 0: as long as the policy may answer.
    """

    stage: Literal["generate", "translate", "annotate", "train", "eval", "reward_bench", "instructions"]
    rows: int
    prompt_tokens: float
    decoded: int = 0
    scored: int = 0
    rewarded: int = 0
    trained: int = 0
    requests: int = 0
    longest: int = 0

    @property
    def tokens(self) -> int:
        return self.decoded + self.scored + self.rewarded + self.trained


@dataclass(frozen=True)
class StagePlan:
    """A stage's cost. devices: those it keeps busy. seconds: None without rates. memory: peak bytes on each device; None: not known.

    disk_bytes: of the artifacts that stay. disk_peak_bytes: of them and of whatever else the stage has on the disk while it works.
    """

    work: Work
    devices: int
    seconds: float | None
    memory_bytes: int | None
    disk_bytes: int
    disk_peak_bytes: int


@dataclass(frozen=True)
class TrainingFiles:
    """Bytes of what a training writes.

    resume_point: weights and optimizer states of one. resume_points: of them on the disk at once, 0 to 2: the one before goes
    when the next is whole. handed_over: weights that launched processes leave for the process that saves them. checkpoint: the
    finished model.
    """

    resume_point: int
    resume_points: int
    handed_over: int
    checkpoint: int

    @property
    def peak(self) -> int:
        """With two resume points on the disk, or with the last one and the checkpoint that is being written."""
        saving = min(1, self.resume_points) * self.resume_point + self.handed_over + self.checkpoint
        return max(self.resume_points * self.resume_point, saving)


@dataclass(frozen=True)
class Prompts:
    """Prompts in all languages, and the mean length of a rendered one in tokens. prompt_ids: how many, each in several languages; 0: `rows`."""

    rows: int
    mean_tokens: float
    prompt_ids: int = 0


def model_shape(config: Any, parameters: int, idle: int = 0) -> ModelShape:
    """The shape of a transformers config whose model has `parameters` parameters, `idle` of which a token does not go through."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    embedding = 0 if getattr(text, "tie_word_embeddings", False) else text.vocab_size * text.hidden_size
    return ModelShape(
        parameters=parameters,
        matmul=parameters - embedding - idle,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        key_value=2 * (getattr(text, "num_key_value_heads", None) or heads) * head,
        vocabulary=text.vocab_size,
        changes_logits=any(getattr(text, name, None) not in (None, 1.0) for name in _OF_LOGITS),
    )


def idle_parameters(model: PreTrainedModel) -> int:
    """Parameters of a mixture's experts that a token does not go through, from a model without weights; 0 of other models."""
    text = model.config.get_text_config()
    experts, used = (
        next((value for name in names if isinstance(value := getattr(text, name, None), int)), 0)
        for names in (_EXPERTS, _EXPERTS_OF_A_TOKEN)
    )
    if not 0 < used < experts:
        return 0
    size = sum(one.numel() for name, one in model.named_parameters() if _IS_ROUTED.search(name))
    return size - size * used // experts


def rates_on_paper(shape: ModelShape, device: Device, context: float, checkpointing: bool) -> Rates:
    """Rates of one data-sheet device, in bfloat16. context: tokens that a decoded token attends to, on average."""
    weights = 2.0 * shape.parameters
    per_sequence = 2.0 * shape.layers * shape.key_value * context
    sequences = max(1.0, min(_SEQUENCES, (0.9 * device.memory - weights) / per_sequence))
    reading = (weights + sequences * per_sequence) / device.bandwidth
    computing = 2 * shape.matmul * sequences / device.flops
    return Rates(
        decode=DECODE_EFFICIENCY * sequences / max(reading, computing),
        score=SCORE_MFU * device.flops / (2 * shape.matmul),
        train=TRAIN_MFU * device.flops / (6 * shape.matmul * (_RECOMPUTE if checkpointing else 1)),
    )


def most_pairs(config: Any, training: Prompts) -> int:
    """Pairs that an iteration trains on at most: of each prompt, or with a pool of each prompt id, what its samples can give."""
    sources, samples = training.rows, config.generate.samples
    if config.annotate.pool == "all" and training.prompt_ids:
        sources = training.prompt_ids
        samples *= math.ceil(training.rows / training.prompt_ids)
    return int(sources * min(config.annotate.pairs_per_prompt, max(1, samples // 2)))


def works(
    config: Any,
    training: Prompts,
    evaluation: Prompts | None,
    response_tokens: float | None,
    translate: Work | None = None,
    train: Work | None = None,
) -> list[Work]:
    """The stages of one iteration of an IterateConfig.

    response_tokens: mean length of a response; None: as long as each stage allows, an upper bound. translate, train: those of
    translations and of given pairs.
    """
    length = min(response_tokens or config.generate.max_tokens, config.generate.max_tokens)
    responses = training.rows * config.generate.samples
    kinds = len(scored_kinds(config.annotate.reward_kind)) if config.ranks_by_rewards else 0
    scored = 2 * kinds * (responses * length + training.rows * training.mean_tokens)
    # A reward model reads the prompt anew with every response, in tokens of its own, which are about as many.
    scalar = len(scalar_kinds(config.annotate.reward_kind)) if config.ranks_by_rewards else 0
    rewarded = scalar * responses * (length + training.mean_tokens)
    pairs = most_pairs(config, training)
    result = [] if translate is None else [translate]
    if not config.preferences:  # else nothing is generated, and nothing annotated
        result = [
            Work("generate", responses, training.mean_tokens, decoded=int(responses * length)),
            *result,
            Work("annotate", responses, training.mean_tokens, scored=int(scored), rewarded=int(rewarded)),
        ]
    result.append(train or training_work(config.train, training.mean_tokens, length, pairs, 2 * pairs))
    if evaluation is not None:
        outputs = evaluation.rows * config.eval.samples
        length = min(response_tokens or config.eval.max_tokens, config.eval.max_tokens)
        asked = outputs * (2 if config.eval.both_orders else 1) * config.eval.judge_samples
        requests = asked if config.eval.judge == "openai" else 0
        result.append(Work("eval", outputs, evaluation.mean_tokens, decoded=int(outputs * length), requests=requests))
    return result


def training_work(train: Any, prompt_tokens: float, response_tokens: float, rows: int, responses: int) -> Work:
    """A training on rows that are given. responses: in all rows; the other lengths are means.

    >>> from icr_platform.training.config import TrainSettings
    >>> training_work(TrainSettings(epochs=2), 20.0, 30.0, rows=10, responses=20).trained
    2000
    """
    tokens = int(responses * (prompt_tokens + response_tokens))
    return Work("train", rows, prompt_tokens, scored=tokens, trained=int(tokens * train.epochs))


def bench_work(kinds: Sequence[str], pairs: Prompts, response_tokens: float) -> Work:
    """reward_bench of one policy on labelled pairs. pairs: how many, and the mean length of their prompts; response_tokens: of a response.

    >>> work = bench_work(["multilingual", "random"], Prompts(100, 20.0), 50.0)
    >>> work.scored, disk_of(work, TrainingFiles(0, 0, 0, 0))
    (24000, (12000, 12000))
    """
    models = 2 * len(scored_kinds(kinds))  # policy and reference; both responses share the prompt's pass
    scored = models * pairs.rows * (pairs.mean_tokens + 2 * response_tokens)
    scalar = len(scalar_kinds(kinds)) * 2 * pairs.rows * (pairs.mean_tokens + response_tokens)
    rows = pairs.rows * (len(kinds) + 1)  # and the baseline `length`
    return Work("reward_bench", rows, pairs.mean_tokens, scored=int(scored), rewarded=int(scalar))


def instructions_work(settings: Any, turns: Prompts, response_tokens: float | None) -> Work:
    """instructions of one policy. settings: of the stage. turns: of all prompts, with their mean length.

    response_tokens: mean length of an answer; None: as long as the stage allows, an upper bound.
    """
    answers = turns.rows * settings.samples
    length = min(response_tokens or settings.max_tokens, settings.max_tokens)
    return Work("instructions", answers, turns.mean_tokens, decoded=int(answers * length))


def seconds_of(work: Work, rates: Rates, devices: int, judge_concurrency: int) -> float:
    """Without loading models. A judge answers in `_JUDGE_SECONDS`, an assumption."""
    on_devices = work.decoded / rates.decode + work.scored / rates.score + work.trained / rates.train
    on_devices += work.rewarded / rates.reward
    return on_devices / devices + work.requests * _JUDGE_SECONDS / judge_concurrency


def sampling_of_stage(work: Work, config: Any) -> Any:
    """Settings of an IterateConfig by which a stage samples."""
    return {"eval": config.eval, "translate": config.translate}.get(work.stage, config.generate)


def memory_of(work: Work, config: Any, shape: ModelShape, weight_bytes: int, device: Device | None, shards: int) -> int:
    """Peak bytes on one device: weights, states and the largest activations. device: None for a CPU.

    shards: devices that training's weights and states are split over.
    """
    from icr_platform.engines.sampling.block_cache import GROWTH
    from icr_platform.engines.scoring.cpu_linear import lays_out
    from icr_platform.engines.scoring.machine_choice import LARGEST_PACK

    process = PROCESS_BYTES if device is None else 0  # which does not count on a GPU
    weights = shape.parameters * weight_bytes
    if work.stage == "annotate" and not work.scored + work.rewarded:
        return process  # rewards are random, or pairs are made of translations: no model is loaded
    if work.stage == "annotate":
        tokens, lays_out_linears = config.annotate.batch_tokens, False
        if device is None:
            tokens = min(tokens, config.annotate.pack_tokens or LARGEST_PACK)
            lays_out_linears = weight_bytes == 4 and config.annotate.cpu_library != "torch" and lays_out(shape.matmul)
        forks = fork_count(config.annotate) if device is None else 1
        return process + _scoring_bytes(shape, weight_bytes, tokens, device is None, lays_out_linears, forks)
    if work.stage == "train":
        return training_memory(
            config.train,
            work.prompt_tokens,
            work.longest or config.generate.max_tokens,
            shape,
            weight_bytes,
            device,
            shards,
        )
    settings = sampling_of_stage(work, config)
    if settings.sampler == "vllm" and device is not None:
        return int(settings.gpu_memory * device.memory)  # the engine takes its share at once
    # The samples of a prompt look at the same keys and values; the response of every row may be the longest.
    prompts = math.ceil(settings.batch_size / settings.samples) + 1
    tokens = settings.batch_size * settings.max_tokens + prompts * int(_LONG_PROMPT * work.prompt_tokens)
    cache = GROWTH * tokens * shape.layers * shape.key_value * weight_bytes
    logits = settings.batch_size * shape.vocabulary * 4
    if device is None and weight_bytes == 4 and lays_out(shape.matmul):
        weights += weight_bytes * shape.matmul
    forks = fork_count(settings) if device is None and settings.sampler == "transformers" else 1
    # Logits, at the temperature, and as weights.
    return int(process + weights + forks * (cache + 3 * logits) + (forks - 1) * FORK_BYTES)


def training_memory(
    train: Any,
    prompt_tokens: float,
    response_tokens: int,
    shape: ModelShape,
    weight_bytes: int,
    device: Device | None,
    shards: int,
) -> int:
    """`memory_of` a training. train: a TrainSettings or TrainConfig. prompt_tokens: mean length; response_tokens: of the longest."""
    longest = min(train.max_length, int(_LONG_PROMPT * prompt_tokens) + response_tokens)
    tokens = 2 * train.batch_size * longest  # of the chosen and the rejected responses
    states = shape.parameters * (weight_bytes if train.lora_rank else _TRAIN_BYTES)
    # For the backward pass a layer keeps every intermediate result, or, with checkpointing, its input alone; then one at a time
    # is computed again.
    of_layer = 10 * shape.hidden + 5 * shape.intermediate
    kept = shape.layers * shape.hidden + of_layer if train.gradient_checkpointing else shape.layers * of_layer
    head = _head_bytes(tokens, train, shape, weight_bytes, device is None)
    trained = states // shards + tokens * weight_bytes * kept + head
    return (PROCESS_BYTES if device is None else 0) + max(int(trained), _margin_bytes(shape, device))


def _scoring_bytes(
    shape: ModelShape, weight_bytes: int, tokens: int, is_cpu: bool, lays_out_linears: bool, forks: int = 1
) -> int:
    """Of weights, activations and logits while so many tokens at once are scored. forks: processes that share the weights."""
    from icr_platform.engines.scoring.choice import rows_of_logits
    from icr_platform.engines.scoring.tiled_head import TILE

    weights = weight_bytes * (
        shape.parameters + shape.matmul * lays_out_linears
    )  # oneDNN multiplies by a copy, laid out for it
    activations = tokens * weight_bytes * (8 * shape.hidden + 4 * shape.intermediate)
    if not is_cpu and not shape.changes_logits:  # after the last layer: rows that predict, and a tile of their logits
        head = weight_bytes * (2 * tokens * shape.hidden + _trl_tile(tokens, shape))
        return int(weights + max(activations, head))
    held = 2**26  # logits, in float32
    if is_cpu:
        held = shape.vocabulary * rows_of_logits(shape.vocabulary) if shape.changes_logits else TILE
    return int(weights + forks * (activations + 3 * 4 * held) + (forks - 1) * FORK_BYTES)


def _margin_bytes(shape: ModelShape, device: Device | None) -> int:
    """Of what a training measures when it has ended: pairs scored by the trained weights in float32, where a GPU has room for that."""
    from icr_platform.engines.scoring.cpu_linear import lays_out
    from icr_platform.engines.scoring.machine_choice import LARGEST_PACK

    if device is None:
        return _scoring_bytes(shape, 4, LARGEST_PACK, True, lays_out(shape.matmul))
    needed = _scoring_bytes(shape, 4, _GPU_PACK, False, False)
    return needed if needed <= device.memory else 0


def _head_bytes(tokens: int, train: Any, shape: ModelShape, weight_bytes: int, is_cpu: bool) -> int:
    """What the LM head takes besides its weights while it trains: logits, a tile at a time, and on GPUs a gradient that is added to others."""
    from icr_platform.training.token_logprobs import KEPT_LOGITS, TILE_LOGITS

    if is_cpu:
        return 4 * (min(tokens * shape.vocabulary, KEPT_LOGITS) + TILE_LOGITS)
    is_added = train.accumulation > 1 and not train.lora_rank
    gradient = 4 * shape.vocabulary * shape.hidden if is_added else 0
    return gradient + weight_bytes * _trl_tile(tokens, shape)


def _trl_tile(tokens: int, shape: ModelShape) -> int:
    """Logits that TRL's kernels hold at once, on GPUs, in numbers."""
    from icr_platform.engines.scoring.tiled_head import TRL_COLUMNS

    return min(tokens, _TRL_ROWS) * min(shape.vocabulary, TRL_COLUMNS)


def training_files(
    train: Any, pairs: int, parameters: int, adapter_parameters: int, stored_bytes: int, accelerate: Mapping[str, Any]
) -> TrainingFiles:
    """What training writes. train: a TrainSettings or TrainConfig.

    adapter_parameters: of LoRA; ignored without it. stored_bytes: of a weight in the policy's own files. accelerate: the
    settings of its accelerate config, empty without one.
    """
    trained = adapter_parameters if train.lora_rank else parameters
    steps = optimizer_steps(train, pairs, int(accelerate.get("num_processes", 1)))
    kind = str(accelerate.get("distributed_type", "NO"))
    state_dict = str((accelerate.get("fsdp_config") or {}).get("fsdp_state_dict_type", ""))
    is_twice = kind == "DEEPSPEED" or (kind == "FSDP" and state_dict == "FULL_STATE_DICT")
    return TrainingFiles(
        resume_point=trained * (_RESUME_BYTES_TWICE if is_twice else _RESUME_BYTES),
        resume_points=min(2, (steps - 1) // train.save_steps),  # none after the last step
        handed_over=4 * trained if accelerate else 0,
        checkpoint=parameters * (4 if train.save_dtype == "trained" else stored_bytes),
    )


def optimizer_steps(train: Any, pairs: int, processes: int) -> int:
    """Optimizer steps of a training, at least 1; each epoch's last one may be of fewer pairs.

    >>> from icr_platform.training.config import TrainSettings
    >>> optimizer_steps(TrainSettings(batch_size=2, accumulation=4, epochs=1.5), 33, 2)
    5
    """
    batches = math.ceil(pairs / (train.batch_size * processes))
    in_an_epoch = max(1, math.ceil(batches / train.accumulation))
    steps: int = math.ceil(train.epochs * in_an_epoch)
    return max(1, steps)


def disk_of(work: Work, files: TrainingFiles) -> tuple[int, int]:
    """Bytes of the artifacts that a stage leaves, and of what it has on the disk at its peak."""
    if work.stage == "train":
        return files.checkpoint, files.peak
    has_rewards = work.stage in ("annotate", "reward_bench")
    kept = work.rows * _BYTES_PER_REWARD if has_rewards else work.decoded * _BYTES_PER_RESPONSE_TOKEN
    if work.stage == "translate":
        kept *= 2  # every text once, and the rows that they are part of
    return kept, kept


def disk_of_iterations(config: Any, plans: list[StagePlan], copies: int) -> tuple[int, int]:
    """Bytes on the disk at the peak of an IterateConfig's run, and at its end. copies: of each artifact; 2 with MLflow's own.

    Checkpoints that `keep_checkpoints` gives up go when their iteration is over and the next one needs them no more.
    """
    kept = {plan.work.stage: copies * plan.disk_bytes for plan in plans}
    training = next(plan for plan in plans if plan.work.stage == "train")
    needed = 2 if config.reward_reference == "previous" else 1  # of earlier policies, by the next iteration
    start = 1 if config.start_preferences else 0
    limits = {"all": config.iterations + start, "last": needed, "best": needed + 1}
    used, held = kept.get("eval", 0), start
    peak = start * max(training.disk_peak_bytes, kept["train"])
    for _ in range(config.iterations):
        used += sum(kept.get(stage, 0) for stage in ("generate", "translate", "annotate"))  # those that there are
        checkpoints = held * kept["train"]
        peak = max(peak, used + checkpoints + training.disk_peak_bytes, used + checkpoints + kept["train"])
        used += kept.get("eval", 0)
        peak = max(peak, used + checkpoints + kept["train"])
        held = min(held + 1, limits[config.keep_checkpoints])
    at_the_end = config.iterations + start if config.keep_checkpoints == "all" else 1
    return peak, used + at_the_end * kept["train"]
