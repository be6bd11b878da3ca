"""Every causal family of the installed transformers, tiny and random: is it packed, are its rows batched, and how exact is that?

    python tests/benchmarks/bench_families.py [FAMILY ...]     # writes families.csv when no family is named

Sequences cross windows, chunks and sinks. `packed_deviation` is the largest difference of a packed score from the model's own
eager forward, in nats a token; `scored` says how a family that is not packed is scored, and `scored_deviation` how exactly;
`batched_deviation` is the largest difference of a next token's log-probability, continued in a
batch padded on the left, from the forward of its row alone. Both are empty where rows go one at a time, with the reason.
"""

from __future__ import annotations

import argparse
import csv
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from icr_platform.engines.scoring.batches import Sharing
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group, batched_how
from icr_platform.models import left_padding
from icr_platform.models.left_padding import find_batching
from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, WINDOW, build_random, small_config

TABLE = Path(__file__).with_name("families.csv")
_HYBRID = ["linear_attention", "full_attention"] * 2
_WINDOWED = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"]
_INDEXED = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 24,
    "indexer_compress_ratio": 4,
}

# What a config's defaults leave out, and what makes a family show its windows; merged into the small config.
SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "sliding_window": WINDOW,
        "layer_types": _WINDOWED[1:3],
        "rope_parameters": {
            one: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 4]}
            for one in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}, "ffn_config": {"hidden_size": 64}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "layer_types": _WINDOWED[1:3]},
    "granitemoehybrid": {"layer_types": _HYBRID[:2]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "ministral": {"head_dim": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "qwen4_exp_text": _INDEXED,
    "qwen4_exp": _INDEXED,
    "reformer": {"axial_pos_shape": (16, 16), "axial_pos_embds_dim": (32, 32)},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2},
}
# Further settings of families that are common in more than one form.
VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("llama", "dynamic rope"): {
        "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        "max_position_embeddings": 64,
    },
    ("llama", "yarn"): {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 4.0,
            "rope_theta": 1e4,
            "original_max_position_embeddings": 64,
        }
    },
    ("mistral", "no window"): {"sliding_window": None},
    ("phi3", "window"): {"sliding_window": WINDOW},
    ("phi3", "longrope"): {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        "original_max_position_embeddings": 64,
    },
    ("phimoe", "window"): {"sliding_window": WINDOW},
    ("qwen2", "window layers"): {"sliding_window": WINDOW, "layer_types": _WINDOWED[1:3]},
    ("qwen2_moe", "window layers"): {"sliding_window": WINDOW, "layer_types": _WINDOWED[1:3]},
    ("qwen3", "window layers"): {"sliding_window": WINDOW, "layer_types": _WINDOWED[1:3]},
    ("qwen3_moe", "window"): {"use_sliding_window": True, "sliding_window": WINDOW},
    ("starcoder2", "window"): {"sliding_window": WINDOW},
}


@dataclass
class Result:
    """A row of the table."""

    family: str
    variant: str = ""
    packed: str = ""
    packed_deviation: str = ""
    not_packed_because: str = ""
    scored: str = ""
    scored_deviation: str = ""
    batched: str = ""
    batched_deviation: str = ""
    not_batched_because: str = ""
    seconds: str = field(default="", compare=False)


def families() -> Iterator[tuple[str, Any, type[Any]]]:
    """Name, model class and config class of every causal family."""
    for config, kind in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        yield config.model_type, kind[0] if isinstance(kind, tuple) else kind, config


def tiny(kind: type[PreTrainedModel], config_class: type[Any], settings: dict[str, Any], seed: int) -> PreTrainedModel:
    """A random model of a family, as a decoder, with its defaults cut small and some settings on top."""
    config = config_class()
    config = config if kind.config_class is config_class else config.get_text_config()
    small = small_config(config, "all" if config.model_type == "phi4_multimodal" else "text")
    if not getattr(small, "is_decoder", True):
        small.is_decoder = True
    for name, value in settings.items():
        if isinstance(value, dict) and isinstance(getattr(small, name, None), PreTrainedConfig):
            vars(getattr(small, name)).update(value)
        else:
            setattr(small, name, value)
    small._attn_implementation = "eager"
    return build_random(kind, small, seed)


def scored_deviation(scorer: CompletionScorer, seed: int) -> float:
    """Nats a token, over sequences that cross the windows, in packs and batches that cut them, share prompts, and do not."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> list[int]:
        return [int(token) for token in rng.integers(FIRST_ID, VOCABULARY, count)]

    groups = [Group(ids(p), [ids(n) for n in sizes]) for p, sizes in [(70, [45, 1, 9]), (3, [60, 25]), (WINDOW, [50])]]
    lengths = np.array([len(y) for group in groups for y in group.completions])
    seen = []
    for tokens in (29, 64, 2048):
        scorer.pack_tokens = tokens
        seen.append(np.concatenate(scorer.score(groups)))
    scorer.model.set_attn_implementation("eager")
    scorer.packed, scorer.sharing = False, Sharing()
    expected = np.concatenate(scorer.score(groups))
    return float(max((np.abs(one - expected) / lengths).max() for one in seen))


def batched_deviation(model: PreTrainedModel, seed: int) -> float:
    """Nats by which a next token's log-probability differs in a batch, past the windows too, while rows leave it."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [
        torch.randint(FIRST_ID, VOCABULARY, (length,), generator=generator).tolist() for length in (70, 5, 21, 12)
    ]
    return left_padding._continued(model, prompts, find_batching(model), 8, {2: [0, 1, 2], 4: [0, 2]})


def measure(family: str, variant: str, kind: type[PreTrainedModel], config_class: type[Any]) -> Result:
    """A row of the table."""
    result, begun = Result(family, variant), time.perf_counter()
    settings = VARIANTS[family, variant] if variant else SETTINGS.get(family, {})
    try:
        model = tiny(kind, config_class, settings, seed=1)
        model(input_ids=torch.arange(FIRST_ID, FIRST_ID + 9)[None], use_cache=False)
    except Exception as error:  # noqa: BLE001 - whatever a family's code raises
        reason = f"not built: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        return Result(family, variant, "-", "", reason, "-", "", "-", "", reason)
    scorer = CompletionScorer(model)
    result.packed, result.not_packed_because = "yes" if scorer.packed else "no", scorer.why_not_packed or ""
    result.scored = "in packs" if scorer.packed else batched_how(scorer.sharing)
    deviation = f"{scored_deviation(scorer, seed=2):.1e}"
    result.packed_deviation, result.scored_deviation = (deviation, "") if result.packed == "yes" else ("", deviation)
    batching = find_batching(model)
    result.batched = "yes" if batching.rows is None else "one row at a time"
    result.batched += "" if batching.cache is None else ", without a cache"
    result.not_batched_because = batching.cache or batching.rows or ""
    if batching.rows is None:
        result.batched_deviation = f"{batched_deviation(model, seed=3):.1e}"
    result.seconds = f"{time.perf_counter() - begun:.1f}"
    return result


def sweep(only: set[str]) -> Iterator[Result]:
    """A row for every family, and for each of its variants."""
    for family, kind, config_class in families():
        if only and family not in only:
            continue
        for variant in ["", *(name for known, name in VARIANTS if known == family)]:
            yield measure(family, variant, kind, config_class)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="*")
    only = set(parser.parse_args().family)
    transformers.logging.set_verbosity_error()
    logging.getLogger("icr_platform").setLevel(logging.ERROR)
    results = []
    for result in sweep(only):
        print(*asdict(result).values(), sep=" | ", flush=True)
        results.append(result)
    packed = sum(result.packed == "yes" for result in results)
    print(f"{len(results)} rows, {packed} packed; torch {torch.__version__}, transformers {transformers.__version__}")
    if not only:
        with TABLE.open("w", newline="", encoding="utf-8") as file:
            names = [one.name for one in fields(Result) if one.name != "seconds"]
            writer = csv.DictWriter(file, [*names, "torch", "transformers"], extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            versions = {"torch": torch.__version__, "transformers": transformers.__version__}
            writer.writerows(asdict(result) | versions for result in results)


if __name__ == "__main__":
    main()
