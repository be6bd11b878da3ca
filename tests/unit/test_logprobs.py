"""Scores equal those of one sequence at a time through the model's own eager forward, whatever they were packed with."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
    DogeConfig,
    DogeForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteSWAConfig,
    GraniteSWAForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MiMoV2FlashConfig,
    MiMoV2FlashForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    masking_utils,
)

from icr_platform.engines.scoring import logprobs, packed_attention
from icr_platform.engines.scoring.batches import Sharing
from icr_platform.engines.scoring.cpu_linear import has_onednn
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group, completion_logprobs
from icr_platform.engines.scoring.packed_attention import Mask, NotPackableError, PackedLayout
from icr_platform.engines.scoring.packing import Pack, packs
from icr_platform.models.chat import encode_prompt, encode_response
from icr_platform.models.small_copy import small_config

PER_TOKEN = 2e-5
VOCABULARY = 97
BEYOND_PROBE = 24  # a window longer than what is probed on the loaded model, shorter than GROUPS


def naive(model: PreTrainedModel, group: Group) -> np.ndarray:
    """Sum of log-softmax over the completion's tokens, one sequence a forward, in float64 after the logits."""
    model.set_attn_implementation("eager")
    scores = []
    for completion in group.completions:
        ids = torch.tensor([[*group.prompt_ids, *completion]])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids).logits[0].double(), -1)
        first = len(group.prompt_ids)
        scores.append(sum(float(logprobs[first + i - 1, token]) for i, token in enumerate(completion)))
    return np.array(scores)


def assert_equal_per_token(seen: Sequence[np.ndarray], expected: Sequence[np.ndarray], groups: Sequence[Group]) -> None:
    for got, want, group in zip(seen, expected, groups, strict=True):
        lengths = np.array([max(1, len(completion)) for completion in group.completions])
        assert np.abs((got - want) / lengths).max(initial=0) < PER_TOKEN


def groups_of(sizes: Sequence[tuple[int, Sequence[int]]], seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(
            rng.integers(0, VOCABULARY, prompt).tolist(), [rng.integers(0, VOCABULARY, n).tolist() for n in completions]
        )
        for prompt, completions in sizes
    ]


GROUPS = groups_of([(7, [5, 1, 12, 40]), (1, [3]), (30, [2, 2, 0, 9]), (4, []), (3, [0])])
SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
         "initializer_range": 0.3}  # fmt: skip


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


def mistral_with_window() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**SMALL, head_dim=8, sliding_window=6))


def gemma2() -> PreTrainedModel:
    return Gemma2ForCausalLM(
        Gemma2Config(**SMALL, head_dim=8, sliding_window=6, final_logit_softcapping=2.0, attn_logit_softcapping=1.0)
    )


def cohere() -> PreTrainedModel:
    return CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.3))


def granite() -> PreTrainedModel:
    return GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=4.0, attention_multiplier=0.4))


def mixtral() -> PreTrainedModel:
    return MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=128,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def llama_dynamic_rope() -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    return LlamaForCausalLM(LlamaConfig(**SMALL, max_position_embeddings=16, rope_parameters=rope))


def opt() -> PreTrainedModel:
    return OPTForCausalLM(
        OPTConfig(vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                  word_embed_proj_dim=32, max_position_embeddings=128, init_std=0.3)
    )  # fmt: skip


def with_sinks(model: PreTrainedModel) -> PreTrainedModel:
    for layer in model.model.layers:
        sinks = getattr(layer.self_attn, "sinks", None)
        if sinks is not None:
            torch.nn.init.normal_(sinks)
    return model


def gpt_oss_with_sinks() -> PreTrainedModel:
    config = GptOssConfig(**SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=BEYOND_PROBE)
    return with_sinks(GptOssForCausalLM(config))


def granite_with_sinks() -> PreTrainedModel:
    types = ["sliding_attention", "full_attention"]
    return with_sinks(GraniteSWAForCausalLM(GraniteSWAConfig(**SMALL, sliding_window=BEYOND_PROBE, layer_types=types)))


def mimo_v2_with_sinks() -> PreTrainedModel:
    config = small_config(MiMoV2FlashConfig())
    config.vocab_size, config.sliding_window = VOCABULARY, BEYOND_PROBE
    return with_sinks(MiMoV2FlashForCausalLM(config))


def phimoe_with_window() -> PreTrainedModel:
    """Its mask alone knows of the window; its attention call passes none on."""
    config = PhimoeConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, sliding_window=BEYOND_PROBE)
    return PhimoeForCausalLM(config)


def qwen2_moe_with_window_layers() -> PreTrainedModel:
    types = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": BEYOND_PROBE}
    experts: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    config = Qwen2MoeConfig(**SMALL, **experts, shared_expert_intermediate_size=24)
    vars(config).update(types)
    return Qwen2MoeForCausalLM(config)


def gemma3_with_window_layers() -> PreTrainedModel:
    deep = SMALL | {"num_hidden_layers": 6}
    return Gemma3ForCausalLM(Gemma3TextConfig(**deep, head_dim=8, sliding_window=BEYOND_PROBE))


def llama4_in_chunks() -> PreTrainedModel:
    experts: dict[str, Any] = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 48}
    config = Llama4TextConfig(**SMALL, **experts, head_dim=8, attention_chunk_size=BEYOND_PROBE)
    return Llama4ForCausalLM(config)


def doge_with_a_mask_of_its_own() -> PreTrainedModel:
    return DogeForCausalLM(DogeConfig(**SMALL, keep_window_size=BEYOND_PROBE))


def falcon_with_alibi() -> PreTrainedModel:
    return FalconForCausalLM(FalconConfig(**SMALL, alibi=True, new_decoder_architecture=False))


def lfm2_with_convolutions() -> PreTrainedModel:
    return Lfm2ForCausalLM(Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]))


def mamba_of_states() -> PreTrainedModel:
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4))


PACKED = [llama_dynamic_rope, opt, llama, qwen2, mistral_with_window, gemma2, cohere, granite, mixtral, gpt2, gpt_oss_with_sinks,
          granite_with_sinks, mimo_v2_with_sinks, phimoe_with_window, qwen2_moe_with_window_layers,
          gemma3_with_window_layers]  # fmt: skip
BATCHED = [llama4_in_chunks, doge_with_a_mask_of_its_own, falcon_with_alibi, lfm2_with_convolutions, mamba_of_states]


@pytest.mark.parametrize(("build", "packed"), [(b, True) for b in PACKED] + [(b, False) for b in BATCHED])
def test_equals_one_sequence_at_a_time(build: Callable[[], PreTrainedModel], packed: bool) -> None:
    torch.manual_seed(0)
    model = build().eval()
    scorer = CompletionScorer(model)
    assert scorer.packed is packed
    assert packed or scorer.sharing.lengths != "alone", scorer.sharing
    expected = [naive(model, group) for group in GROUPS]
    for tokens in (3, 16, 512):
        scorer.pack_tokens = tokens
        assert_equal_per_token(scorer.score(GROUPS), expected, GROUPS)


@pytest.mark.skipif(not has_onednn(), reason="torch has no oneDNN for this machine")
@pytest.mark.parametrize("build", [one for one in PACKED if one is not gemma2])  # whose scores are capped
def test_attention_by_onednn_equals_one_sequence_at_a_time(
    build: Callable[[], PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With shared keys, windows, sinks and pasts that other packs left; and it is oneDNN that attends."""
    monkeypatch.setattr(packed_attention, "_LEAST_QUERIES", 2)
    calls: list[torch.Size] = []
    attend = packed_attention.attend_by_onednn
    monkeypatch.setattr(
        packed_attention, "attend_by_onednn", lambda query, *rest: (calls.append(query.shape), attend(query, *rest))[1]
    )
    torch.manual_seed(0)
    model = build().eval()
    scorer = CompletionScorer(model)
    scorer.use(scorer.choice._replace(attention="onednn"))
    expected = [naive(model, group) for group in GROUPS]
    for tokens in (16, 512):
        scorer.pack_tokens = tokens
        assert_equal_per_token(scorer.score(GROUPS), expected, GROUPS)
    assert calls


def kernel(**arguments: Any) -> torch.Tensor:
    """Attention of one head over a pack of three tokens, in a first layer, under a causal mask."""
    pack = Pack()
    pack.add_segment(0, [1, 2, 3], (), 0)
    query, key, value = (torch.randn(1, 1, 3, 8) for _ in range(3))
    layer = torch.nn.Module()
    layer.layer_idx = 0  # type: ignore[assignment]
    given: dict[str, Any] = {
        "attention_mask": Mask(None),
        "packed_layout": PackedLayout(pack, {}, torch.device("cpu")),
    } | arguments
    return packed_attention.packed_attention(layer, query, key, value, **given)[0]


@pytest.mark.parametrize(
    ("argument", "value", "why"),
    [
        ("position_bias", torch.zeros(1, 1, 3, 3), "takes position_bias, which is not known here"),
        ("block_indices", torch.zeros(1), "takes block_indices"),
        ("some_future_argument", 0.5, "takes some_future_argument"),
        ("is_causal", False, "takes is_causal"),
        ("attention_mask", torch.zeros(1, 1, 3, 3), "makes its mask itself"),
        ("attention_mask", None, "asks for no mask"),
        ("packed_layout", None, "is not told which layer or pack"),
    ],
)
def test_an_attention_call_that_asks_for_more_is_refused(argument: str, value: Any, why: str) -> None:
    with pytest.raises(NotPackableError, match=why):
        kernel(**{argument: value})
    kernel(position_bias=None, dropout=0.0, sliding_window=2, s_aux=torch.ones(1), is_causal=True)


def test_sinks_take_their_share_of_the_softmax() -> None:
    """With equal scores and values of 1, a sink of log(n) leaves query i (i + 1) / (i + 1 + n) of the attention."""
    pack = Pack()
    pack.add_segment(0, [1, 2, 3], (), 0)
    layer = torch.nn.Module()
    layer.layer_idx = 0  # type: ignore[assignment]
    seen, _ = packed_attention.packed_attention(
        layer, torch.zeros(1, 2, 3, 8), torch.zeros(1, 1, 3, 8), torch.ones(1, 1, 3, 4), Mask(None),
        s_aux=torch.tensor([2.0, 5.0]).log(), packed_layout=PackedLayout(pack, {}, torch.device("cpu")),
    )  # fmt: skip
    expected = [[(i + 1) / (i + 1 + n) for n in (2, 5)] for i in range(3)]
    np.testing.assert_allclose(seen[0, :, :, 0], expected, rtol=1e-6)


def test_masks_with_other_conditions_are_refused() -> None:
    config = LlamaConfig(**SMALL | {"sliding_window": 4, "attention_chunk_size": 5})
    config._attn_implementation = packed_attention.NAME
    rest: dict[str, Any] = {"inputs_embeds": torch.zeros(1, 7, 32), "attention_mask": None, "past_key_values": None}

    def first_two(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return key < 2

    assert masking_utils.create_causal_mask(config, **rest) == Mask(None)
    assert masking_utils.create_sliding_window_causal_mask(config, **rest) == Mask(4)
    with pytest.raises(NotPackableError, match="chunks of 5"):
        masking_utils.create_chunked_causal_mask(config, **rest)
    for condition in ("or_mask_function", "and_mask_function"):
        with pytest.raises(NotPackableError, match="conditions of its own"):
            masking_utils.create_causal_mask(config, **rest | {condition: first_two})
    config.is_causal = False
    with pytest.raises(NotPackableError, match="look at later ones"):
        masking_utils.create_causal_mask(config, **rest)


@pytest.mark.parametrize("wrong", [lambda window: None, lambda window: window + 1, lambda window: window - 1])
def test_a_wrong_window_is_found_on_the_copy(
    wrong: Callable[[int], int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The window of 4096 is far beyond the probe on the loaded model, and beyond what a test can score."""
    right = packed_attention.packed_mask

    def mask(**arguments: Any) -> Mask:
        window = right(**arguments).window
        return Mask(window if window is None else wrong(window))

    monkeypatch.setattr(logprobs, "_decided", {})
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, packed_attention.NAME, mask)
    model = MistralForCausalLM(MistralConfig(**SMALL, head_dim=8, sliding_window=4096)).eval()
    assert "deviate from its own forward" in str(CompletionScorer(model).why_not_packed)


class Stubborn(LlamaForCausalLM):
    """A model of which no copy with fewer layers can be built."""

    def __init__(self, config: LlamaConfig) -> None:
        if config.num_hidden_layers != 3:
            raise ValueError("three layers are needed")
        super().__init__(config)


def test_what_cannot_be_shrunk_is_not_packed() -> None:
    scorer = CompletionScorer(Stubborn(LlamaConfig(**SMALL | {"num_hidden_layers": 3})).eval())
    assert not scorer.packed
    assert "three layers are needed" in str(scorer.why_not_packed)
    assert_equal_per_token(scorer.score(GROUPS), [naive(scorer.model, group) for group in GROUPS], GROUPS)


def test_a_config_is_tried_once_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL, rms_norm_eps=3e-6)).eval()
    before, config = torch.get_rng_state(), model.config.to_json_string(use_diff=False)
    assert CompletionScorer(model).packed
    assert torch.equal(torch.get_rng_state(), before)
    assert model.config.to_json_string(use_diff=False) == config
    monkeypatch.setattr(logprobs, "small_copy", None)
    assert CompletionScorer(LlamaForCausalLM(LlamaConfig(**SMALL, rms_norm_eps=3e-6))).packed


def test_literal_sum() -> None:
    """On a model whose next-token distribution is known: p = softmax(one-hot of the token before * 3)."""
    model = llama().eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:32] = torch.eye(32)
        model.model.norm.weight.fill_(3 / math.sqrt(32 / (1 + 32 * 1e-6)))
        model.lm_head.weight.zero_()
        model.lm_head.weight[:32] = torch.eye(32)
    again, other = 3 - math.log(math.exp(3) + VOCABULARY - 1), -math.log(math.exp(3) + VOCABULARY - 1)
    (seen,) = completion_logprobs(model, [Group([9, 4], [[4, 4, 7], [5], [7, 7]])])
    np.testing.assert_allclose(seen, [2 * again + other, other, other + again], atol=1e-5)


def test_scores_do_not_depend_on_what_they_were_batched_with() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    groups = groups_of([(10, [20, 35, 1, 60])] * 16)
    together = completion_logprobs(model, groups, batch_tokens=4096)
    alone = [
        np.array([completion_logprobs(model, [Group(g.prompt_ids, [y])])[0][0] for y in g.completions]) for g in groups
    ]
    assert_equal_per_token(together, alone, groups)
    np.testing.assert_array_equal(completion_logprobs(model, groups), completion_logprobs(model, groups))


def varlen(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor, longest_query: int, longest_key: int,
    *, scale: float | None, window_size: tuple[int, int], **_: Any,
) -> Tensor:  # fmt: skip
    """What torch's kernel of that name computes, which is there on GPUs only: [T, heads, size], the last query at the last key."""
    assert longest_query == query_ends.diff().max()
    assert longest_key == key_ends.diff().max()
    out = torch.empty_like(query)
    for start, stop, first, last in zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False):
        keys, values = (each[first:last].transpose(0, 1)[None] for each in (key, value))
        rows, columns = torch.arange(last - first)[last - first - (stop - start) :, None], torch.arange(last - first)
        seen = columns <= rows
        if window_size[0] >= 0:
            seen &= rows - columns <= window_size[0]
        asked = query[start:stop].transpose(0, 1)[None]
        attended = F.scaled_dot_product_attention(asked, keys, values, attn_mask=seen, scale=scale, enable_gqa=True)
        out[start:stop] = attended[0].transpose(0, 1)
    return out


@pytest.mark.parametrize("pack_tokens", [3, 17, 64, 4096])
@pytest.mark.parametrize("has_window", [False, True])
def test_one_call_over_all_segments_is_the_models_own_forward(
    monkeypatch: pytest.MonkeyPatch, pack_tokens: int, has_window: bool
) -> None:
    monkeypatch.setattr(packed_attention, "varlen_attn", varlen)
    monkeypatch.setattr(packed_attention, "_takes_flash", lambda *_: True)
    monkeypatch.setattr(packed_attention, "_fused", list)
    monkeypatch.setattr(logprobs, "_decided", {})
    torch.manual_seed(0)
    model = (mistral_with_window() if has_window else llama()).eval()
    groups = groups_of([(10, [20, 35, 1, 60]), (1, [2]), (50, [1, 1, 70])])
    scorer = CompletionScorer(model, pack_tokens)
    assert scorer.packed, scorer.why_not_packed
    together = scorer.score(groups)
    scorer.packed = False
    assert_equal_per_token(together, scorer.score(groups), groups)


def test_model_is_left_as_it_was() -> None:
    model = llama().train()
    attention, keys = model.config._attn_implementation, list(model.state_dict())
    completion_logprobs(model, GROUPS)
    assert model.training
    assert model.config._attn_implementation == attention
    assert list(model.state_dict()) == keys
    assert not any("forward" in vars(module) for module in model.modules())
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()


def test_a_model_spread_over_devices_is_packed_and_scores_the_same(tmp_path: Path) -> None:
    """accelerate's hooks, which move tensors from layer to layer: here between memory and disk, as there is no second GPU."""
    whole = llama()
    whole.save_pretrained(tmp_path / "model")
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head"), "cpu")
    places |= {f"model.layers.{layer}": "disk" for layer in range(1, whole.config.num_hidden_layers)}
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    scorer = CompletionScorer(spread)
    assert scorer.packed
    assert_equal_per_token(scorer.score(GROUPS), completion_logprobs(whole, GROUPS), GROUPS)


def test_every_token_is_predicted_once_and_none_is_computed_twice() -> None:
    for tokens in (1, 3, 7, 1000):
        predicted: dict[int, list[int]] = {}
        rows = finished = 0
        for pack in packs(GROUPS, tokens):
            assert len(pack.input_ids) <= tokens
            assert pack.row == sorted(pack.row)
            rows += len(pack.input_ids)
            finished += pack.finished
            for owner, target in zip(pack.owner, pack.target, strict=True):
                predicted.setdefault(owner, []).append(target)
        completions = [list(y) for group in GROUPS for y in group.completions]
        assert [predicted.get(owner, []) for owner in range(len(completions))] == completions
        assert rows == sum(
            len(g.prompt_ids) + sum(max(0, len(y) - 1) for y in g.completions) for g in GROUPS if any(g.completions)
        )
        assert finished == sum(bool(y) for y in completions)


@pytest.mark.parametrize("make", [llama, mistral_with_window, gemma2, falcon_with_alibi])
@pytest.mark.parametrize("tokens", [1, 3, 7, 50, 4096])
def test_context_at_the_head_of_completions_is_seen_and_not_scored(
    make: Callable[[], PreTrainedModel], tokens: int
) -> None:
    """Thoughts of several lengths, none and whole completions, in packs cut within them; windows are shorter than some."""
    torch.manual_seed(0)
    model = make().eval()
    starts = [(2, 1, 0, 39), (3,), (1, 0, 0, 9), (), (0,)]
    groups = [Group(*group[:2], of_group) for group, of_group in zip(GROUPS, starts, strict=True)]
    expected = []
    for group in groups:
        # log p(y | x, z) = log p(z y | x) - log p(z | x)
        whole = naive(model, Group(group.prompt_ids, group.completions))
        context = [y[:start] for y, start in zip(group.completions, group.starts, strict=True)]
        expected.append(whole - naive(model, Group(group.prompt_ids, context)))
    scorer = CompletionScorer(model)
    scorer.pack_tokens = tokens
    assert scorer.packed is (make is not falcon_with_alibi)
    assert_equal_per_token(scorer.score(groups), expected, GROUPS)
    scorer.packed, scorer.sharing = False, Sharing()
    assert_equal_per_token(scorer.score(groups), expected, GROUPS)


def test_context_needs_no_logits() -> None:
    groups = [Group([8, 9], [[1, 2, 3, 4], [5, 6], [7]], [2, 2, 0])]
    predicted = [
        (target, owner) for pack in packs(groups, 3) for target, owner in zip(pack.target, pack.owner, strict=True)
    ]
    assert sorted(predicted) == [(3, 0), (4, 0), (7, 2)]
    assert sum(len(pack.input_ids) for pack in packs(groups, 3)) == 2 + 3, (
        "[5, 6] is context alone: nothing of it is computed"
    )
    assert sum(pack.finished for pack in packs(groups, 3)) == 2
    assert [list(packs([Group([8], [[1, 2]], [2])], 3))] == [[]]
    with pytest.raises(ValueError, match="zip"):
        list(packs([Group([8], [[1, 2]], [1, 2])], 3))


def test_empty_completion_has_no_nats_and_empty_prompt_is_an_error() -> None:
    model = llama()
    assert completion_logprobs(model, [Group([1], [[], []])])[0].tolist() == [0.0, 0.0]
    assert completion_logprobs(model, []) == []
    with pytest.raises(ValueError, match="without tokens"):
        completion_logprobs(model, [Group([], [[1]])])


def test_out_of_memory_halves_the_budget_for_good() -> None:
    model = llama().eval()
    expected = completion_logprobs(model, GROUPS)
    scorer = CompletionScorer(model)
    forward = model.model.forward

    def crowded(input_ids: torch.Tensor, **rest: object) -> object:
        if input_ids.shape[1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **rest)

    model.model.forward = crowded
    done: list[int] = []
    seen = scorer.score(GROUPS, lambda completions, tokens: done.append(completions))
    assert scorer.pack_tokens == 64
    assert sum(done) == sum(bool(y) for group in GROUPS for y in group.completions)
    assert_equal_per_token(seen, expected, GROUPS)


def real_groups(shared_data: Path, model: Path, responses: int) -> list[Group]:
    tokenizer = AutoTokenizer.from_pretrained(model)
    per_language = responses // 5
    groups = []
    for language in ("en", "es", "de", "fr", "ru"):
        rows = json.loads((shared_data / "outputs" / language / "gpt-4o-mini.json").read_text(encoding="utf-8"))
        groups += [
            Group(encode_prompt(tokenizer, row["instruction"]), [encode_response(tokenizer, row["output"])])
            for row in rows[:per_language]
        ]
    return groups


@pytest.mark.parametrize("make", [llama, falcon_with_alibi, doge_with_a_mask_of_its_own])
def test_logits_of_a_few_tokens_at_a_time_are_in_memory(make: Callable[[], PreTrainedModel]) -> None:
    model = make().eval()
    model.lm_head.__class__ = type("HeadOfItsOwn", (torch.nn.Linear,), {})  # one that is not computed in tiles
    scorer = CompletionScorer(model)
    expected = scorer.score(GROUPS)
    scorer.rows_at_once, rows = 3, list[int]()
    model.lm_head.register_forward_hook(lambda module, given, logits: rows.append(logits.numel() // VOCABULARY))
    assert_equal_per_token(scorer.score(GROUPS), expected, GROUPS)
    assert max(rows) == 3


def test_rotary_frequencies_are_those_of_each_sequence_in_any_order() -> None:
    """Dynamic frequencies are kept by the model until a longer sequence comes; scores of a short one must not know of it."""
    model = llama_dynamic_rope().eval()
    scorer = CompletionScorer(model)
    groups = groups_of([(20, [30]), (20, [10]), (3, [4]), (20, [40]), (3, [12]), (20, [10])])
    alone = [completion_logprobs(copy.deepcopy(model), [group])[0] for group in groups]
    assert_equal_per_token([scorer.score([group])[0] for group in groups], alone, groups)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    assert_equal_per_token(scorer.score(groups), alone, groups)
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies), "it is left as it was"
    # A model that has scored nothing yet has the frequencies of what it is first given.
    assert_equal_per_token(alone, [naive(llama_like(model), group) for group in groups], groups)


def llama_like(model: PreTrainedModel) -> PreTrainedModel:
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    return fresh


def test_real_responses_under_a_tiny_model(shared_data: Path, tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    groups = [Group(p[:200], [y[:300] for y in ys]) for p, ys, _ in real_groups(shared_data, tiny_model, 50)]
    assert_equal_per_token(completion_logprobs(model, groups), [naive(model, group) for group in groups], groups)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_200_real_responses_under_smollm2(shared_data: Path, smollm2: Path) -> None:
    """Five languages, responses up to 300 tokens; about 56,000 tokens, each side minutes."""
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    groups = [Group(prompt, [y[:300] for y in ys]) for prompt, ys, _ in real_groups(shared_data, smollm2, 200)]
    assert_equal_per_token(completion_logprobs(model, groups), [naive(model, group) for group in groups], groups)
