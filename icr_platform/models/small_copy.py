"""A small random float32 copy of a model: the same code and the same kinds of layers, a few thousand times cheaper.

What a model does with its tokens (which keys a query sees, where a position comes from, what a cache keeps) is decided by its
class and config, not by its weights. So that is tried on a copy, on sequences longer than its windows, and exactly: in
float32, with weights of a size at which every token matters, rather than on the loaded model.

Gemma 2's 26 layers look in turn through a window and at everything. Its copy has one of each, and a window that a short
sequence outgrows; heads and hidden sizes shrink together, and 8 query heads that share 4 keys become 4 that share 2:

>>> from transformers import Gemma2Config
>>> before = Gemma2Config(num_attention_heads=8, num_key_value_heads=4)
>>> after = small_config(before)
>>> for name in ("num_hidden_layers", "sliding_window", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
...     print(f"{name:20} {getattr(before, name):5} {getattr(after, name):3}")
num_hidden_layers       26   2
sliding_window        4096  24
hidden_size           2304  64
num_attention_heads      8   4
num_key_value_heads      4   2
head_dim               256  16
>>> after.layer_types
['sliding_attention', 'full_attention']
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch

from icr_platform.models.multimodal import is_multimodal, leave_out_towers, towers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WINDOW = 24  # tokens that a window, a chunk or a sparse selection of the copy spans, at most
VOCABULARY = 128
FIRST_ID = 16  # ids from here on mean nothing special to the copy

_HIDDEN, _HEADS, _HEAD = 64, 4, 16
_MOST_PARAMETERS = 10**8
# What attributes of configs are called. Sizes that belong together get the same cut in every family.
_LAYERS = re.compile(r"^(n|num|encoder|decoder|num_encoder|num_decoder)_(hidden_)?layers?$|^num_blocks$|^depth$")
_PERIODS = re.compile(r"(period|interval|_step|every_n_layers|layer_freq|sliding_window_pattern)$")
_FIRST_LAYERS = re.compile(r"^(first_k_dense_replace|num_dense_layers|moe_layer_start_index)$")
_HEAD_COUNT = re.compile(r"(^n_heads?|(^|_)heads|num_query_groups)(_per_layer)?$")
_TOKEN_ID = re.compile(r"token_ids?$|^(unk|mask|pad|bos|eos)_index$|^lang_id$")
_VOCABULARY = re.compile(r"(^|_)vocab(_|$)")
_SPANS = re.compile(
    r"(window|window_size|chunk_size|chunk_length|block_size|local_attention|index_topk|extent|floor_scale)$"
)
_POSITIONS = r"positions?$|position_embeddings$|^n_ctx$|_seq_len$|^context_length$|max_length$|prompt_length$"
_MOST = [  # a number is cut to the first of these whose pattern its name matches
    (_VOCABULARY, VOCABULARY),
    (_SPANS, WINDOW),
    (re.compile(_POSITIONS), 512),
    (re.compile(r"experts_per_tok(en)?$|^moe_topk$|^moe_k$|^top_k_experts$|^n_shared_experts$"), 2),
    (re.compile(r"^topk_group$|^o_groups$|num_shared_experts$"), 1),
    (re.compile(r"n_?groups?$|^num_expert_group$"), 2),
    (re.compile(r"experts$|^zero_expert_num$"), 8),
    (re.compile(r"intermediate|ffn|^d_inner$|^n_inner$|^dff$|^dim_ff$|^feed_forward_size$|_mid_dim$"), 96),
    (re.compile(r"rank$|lowrank$|^hidden_size_per_layer_input$|^router_hidden_size$"), 16),
    (re.compile(r"rope_head_dim$|^rotary_dim$"), _HEAD // 2),
    (re.compile(r"head_dim$|headdim$|^dim_head$|^d_head$|^d_kv$|^kv_channels$|head_size$|d_state$|state_size$"), _HEAD),
    (re.compile(r"hidden_size$|^d_model$|^n_embd$|^dim_model$|proj_dim$|embedding_size$|embed(ding)?_dim$"), _HIDDEN),
    (re.compile(r"^emb_dim$|^lru_width$|^mamba_d_ssm$|^dim_model_base$"), _HIDDEN),
]
_PLACE = re.compile(r'^ *"_name_or_path": .*\n', re.MULTILINE)
ROPE_OF_THE_BATCH = {"dynamic", "longrope"}  # frequencies that change with the longest sequence of a batch


class NoCopyError(Exception):
    """No small copy of the model can be built, or it does not run; the message says why."""


def small_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Build a model of the same class on the CPU: few layers, of every kind that it has, narrow, with random weights.

    Windows and chunks span WINDOW tokens at most, ids from FIRST_ID to VOCABULARY are plain words, and every parameter is
    random, also those that start as zeros or ones. The same model always gives the same copy.

    Raises:
        NoCopyError: none of these can be built and run, or it would have more than 100 million parameters.
    """
    return random_copy(type(model), model.config)


def random_copy(kind: type[PreTrainedModel], config: Any) -> PreTrainedModel:
    """Build the small copy of a model of a class and a config, of which there need be no weights; see `small_copy`."""
    why: list[str] = []
    # A narrow copy fails where sizes that belong together have names unknown here. Then images and speech are cut as well,
    # and finally no width is cut. Towers that no text passes are not built at all where the model runs without them.
    ways: list[tuple[Literal["text", "all", "none"], bool]] = [("text", True)] if is_multimodal(config) else []
    for narrow, without_towers in (*ways, ("text", False), ("all", False), ("none", False)):
        try:
            built = build_random(kind, small_config(config, narrow), without_towers=without_towers)
            ids = torch.arange(FIRST_ID, FIRST_ID + 2 * WINDOW)[None]
            if not bool(built(input_ids=ids, use_cache=False).logits.isfinite().all()):
                raise NoCopyError("its outputs are not finite")
        except Exception as error:  # noqa: BLE001 - whatever a model's code raises on sizes that it does not expect
            why.append(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
            continue
        return built
    raise NoCopyError(f"a small copy of it does not run ({why[0]})")


def kind_of(kind: type[PreTrainedModel], config: Any) -> tuple[type, str]:
    """Say what a small copy is of, as a key: the class and the config, wherever that was loaded from."""
    return kind, _PLACE.sub("", config.to_json_string(use_diff=False))


_idle: dict[tuple[type, str], bool] = {}


def towers_are_idle(kind: type[PreTrainedModel], config: Any) -> bool:
    """Whether texts pass a multimodal model of this class and config without its towers, as a small copy shows.

    Nearly all do. Where they do not, as where the code asks a tower for its device, the towers stay in memory.
    """
    key = kind_of(kind, config)
    if key not in _idle:
        try:
            _idle[key] = not towers(random_copy(kind, config))
        except NoCopyError:
            _idle[key] = False
    return _idle[key]


def text_ropes(config: Any) -> list[dict[str, Any]]:
    """List the rotary embeddings that a config describes: one, or one for each type of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [one for one in (rope, *rope.values()) if isinstance(one, dict)]


def build_random(
    kind: type[PreTrainedModel], config: Any, seed: int = 0, without_towers: bool = False
) -> PreTrainedModel:
    """Build a float32 model of a class and a small config, every parameter random.

    without_towers: of a multimodal model only what a text passes; its towers, which keep their widths, take no memory.

    Raises:
        NoCopyError: it would have more than 100 million parameters.
    """
    with torch.device("meta"):
        skeleton = kind(copy.deepcopy(config))
    if without_towers:
        leave_out_towers(skeleton)
    size = sum(parameter.numel() for parameter in skeleton.parameters())
    if size > _MOST_PARAMETERS:
        raise NoCopyError(f"{size / 1e6:.0f} million parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: PreTrainedModel = skeleton.to_empty(device="cpu") if without_towers else kind(config)
        if without_towers:
            built.init_weights()  # which also computes the frequencies of rotary embeddings and the like
            built.tie_weights()
        built = built.float().eval().requires_grad_(False)
        for parameter in built.parameters():
            # What starts as a constant (norms, biases, sinks) moves too; of matrices, attention gets far from uniform.
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            elif parameter.dim() >= 2:
                parameter.normal_(std=0.8 * parameter.shape[-1] ** -0.5)
    return built


def small_config(config: Any, narrow: Literal["text", "all", "none"] = "text") -> Any:
    """Copy a config with fewer layers and shorter spans; `narrow` says whose widths are cut: the text's, all parts', or none."""
    small = copy.deepcopy(config)
    small.dtype = torch.float32
    if hasattr(small, "quantization_config"):
        del small.quantization_config
    text = small.get_text_config()
    for part in _parts(small):
        _cut_layers(part)
        if narrow == "all" or (narrow == "text" and part is text):
            _cut_widths(part)
        _cut_spans(part)
    attention = config._attn_implementation
    small._attn_implementation = attention if attention in ("eager", "sdpa") else None
    return small


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for name in config.sub_configs:
        if getattr(config, name, None) is not None:
            yield from _parts(getattr(config, name))


def _numbers(config: Any) -> Iterator[tuple[str, int]]:
    for name, value in list(vars(config).items()):
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, value


def _cut_layers(config: Any) -> None:
    """Leave as many layers as show every kind of layer and every step of a pattern once, at least two."""
    depth = getattr(config, "num_hidden_layers", getattr(config, "depth", None))  # `depth` is what towers call it
    if not isinstance(depth, int):
        return
    lists = {
        name: value
        for name, value in vars(config).items()
        if isinstance(value, list | tuple) and len(value) == depth and not _counts_up(name, value)
    }
    # Lists with an entry per layer tell layers apart. Numbers with a fraction (a rate, a base frequency) do not: they are degrees
    # of one kind. Some configs work `layer_types` out and keep no list.
    of_layers = [*lists.values(), getattr(config, "layer_types", None) or [""] * depth]
    kinds = [tuple("" if type(one) is float else str(one) for one in layer) for layer in zip(*of_layers, strict=True)]
    needed = 2
    if len(set(kinds)) > 1:
        needed = max(needed, max(kinds.index(kind) for kind in set(kinds)) + 1)
    # A period or a number of first layers says the same without a list.
    for name, value in _numbers(config):
        if _PERIODS.search(name) and value <= depth:
            needed = max(needed, value)
        if _FIRST_LAYERS.search(name) and value < depth:
            needed = max(needed, value + 1)
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    if shared:  # the last layers use the keys of the last of their kind before them
        needed, config.num_kv_shared_layers = 2 * needed, needed
    kept = min(needed, depth)
    for name, value in list(vars(config).items()):
        if name in lists:
            setattr(config, name, value[:kept])
        elif isinstance(value, list | tuple) and _counts_up(name, value):
            setattr(config, name, type(value)(index for index in value if index < kept))
    for name, value in _numbers(config):
        if _LAYERS.search(name):
            setattr(config, name, min(kept, value))


def _counts_up(name: str, value: Any) -> bool:
    """Whether a list says by their numbers which layers are meant, as in [0, 4, 8]."""
    are_numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in value)
    return bool(re.search(r"layers|idxs|ids|indices", name)) and are_numbers and list(value) == sorted(set(value))


def _cut_spans(config: Any) -> None:
    """Cut windows, the vocabulary and the ids of special tokens; a copy that keeps its widths needs that too."""
    for name, value in _numbers(config):
        if _TOKEN_ID.search(name):
            setattr(config, name, value if value < FIRST_ID else value % FIRST_ID)
        elif _SPANS.search(name):
            setattr(config, name, min(value, WINDOW))
        elif _VOCABULARY.search(name):
            setattr(config, name, VOCABULARY if name == "vocab_size" else min(value, VOCABULARY))
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and _TOKEN_ID.search(name) and all(isinstance(one, int) for one in value):
            setattr(config, name, type(value)(one % FIRST_ID for one in value))
    for rope in text_ropes(config):
        if "original_max_position_embeddings" in rope and rope.get("rope_type") not in ROPE_OF_THE_BATCH:
            rope["original_max_position_embeddings"] = WINDOW


def _cut_widths(config: Any) -> None:
    """Cut heads, hidden sizes, experts and ranks; then set the sizes that follow from them."""
    heads = getattr(config, "num_attention_heads", None)
    heads = heads if isinstance(heads, int) else _HEADS
    own = vars(config)
    rotary = _rotary_size(config)
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
            if not _counts_up(name, value):
                setattr(config, name, type(value)(_smaller(name, one, heads) for one in value))
        elif type(value) is int:
            setattr(config, name, _smaller(name, value, heads))
    if "qk_rope_head_dim" in own:
        for name, size in (("head_dim", own["qk_rope_head_dim"]), ("qk_head_dim", _HEAD + own["qk_rope_head_dim"])):
            if name in own:
                setattr(config, name, size)
    if own.get("attention_hidden_size") and "attention_head_dim" in own:  # of Zamba's shared layers: twice as wide
        config.attention_hidden_size = 2 * _HIDDEN
        config.attention_head_dim = 2 * _HIDDEN // _HEADS
    for count, size in (
        ("mamba_n_heads", "mamba_d_head"),
        ("n_mamba_heads", "mamba_headdim"),
        ("num_heads", "head_dim"),
    ):
        expand = own.get("mamba_expand") or own.get("expand")
        if expand and isinstance(own.get(count), int) and size in own:
            setattr(config, size, (own.get("mamba_d_ssm") or int(expand * _HIDDEN)) // own[count])
    for rope in text_ropes(config):
        _cut_rope(rope, rotary, _rotary_size(config))


def _smaller(name: str, value: int, heads: int) -> int:
    if value <= 0:
        return value
    if _HEAD_COUNT.search(name):
        # 4 query heads; of key-value heads 4, 2 or 1, so that grouped stays grouped.
        return _HEADS if value >= heads else min(value, 2)
    most = next((most for pattern, most in _MOST if pattern.search(name)), value)
    return min(value, most)


def _rotary_size(config: Any) -> int:
    """How many numbers of a head rotate, if all do that may."""
    for name in ("qk_rope_head_dim", "head_dim"):
        if isinstance(vars(config).get(name), int):
            return int(vars(config)[name])
    hidden, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) else _HEAD


def _cut_rope(rope: dict[str, Any], before: int, after: int) -> None:
    """Cut lists that have an entry for each rotated pair, or that share the pairs out, from heads of `before` to `after`."""
    for name in ("mrope_section", "short_factor", "long_factor"):
        values = rope.get(name)
        if not isinstance(values, list) or not values:
            continue
        if name == "mrope_section":
            parts = [value * after // before for value in values]
            parts[0] += sum(values) * after // before - sum(parts)
            rope[name] = parts
        else:
            rope[name] = values[: max(1, len(values) * after // before)]
