"""The demo's tokenizer: one token a word of the micro-world, bytes for everything else, and its chat template."""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOS, PAD, UNKNOWN = "<s>", "<pad>", "<unk>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL_TOKENS = (UNKNOWN, BOS, PAD, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A word with the space before it, or one other character (French puts a narrow no-break space before some).
_PIECE = "▁?[\\p{L}\\p{N}]+|▁?\u202f?[^\\p{L}\\p{N}▁]|▁"
_PIECE_IN_PYTHON = re.compile("▁?[^\\W_]+|▁?\u202f?[^\\w▁]|▁")


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is every word of `texts`, the 256 bytes and :data:`SPECIAL_TOKENS`.

    A unigram model over whole words rather than byte pairs: a word is one token from the first step of SFT on, in
    Russian as in English, and no merges take up vocabulary.
    """
    words = {"▁"} | {piece for text in texts for piece in _PIECE_IN_PYTHON.findall("▁" + text.replace(" ", "▁"))}
    vocabulary = [(token, 0.0) for token in SPECIAL_TOKENS]
    vocabulary += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    vocabulary += [(word, -10.0) for word in sorted(words)]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    # As SentencePiece does: the space belongs to the word after it, and the first word has one too.
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
