"""Reward models as people bring them: what is opened, as what, and what is refused in one line; scores against the model's own forward."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from icr_platform.core.config import ChatSettings
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import IcrError, InputError
from icr_platform.engines.scoring.reward_texts import RewardLimits, RewardText, RewardTexts
from icr_platform.engines.scoring.scalar_scores import ScalarScorer
from icr_platform.engines.scoring.settings import RewardSettings
from icr_platform.models.reward_models import label_of, load_reward_model, plan_of
from tests.support.tiny_models import CHATML, PROMPTS, RESPONSES
from tests.support.tiny_reward_models import build_reward_model, chatml_ids, naive_score, save_reward_model

PAIRS = [(question, answer) for language in PROMPTS for question in PROMPTS[language] for answer in RESPONSES[language]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_reward_model(tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture
def model(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared, tmp_path / "model"))


def scores(folder: Path, label: str = "", chat: ChatSettings | None = None, **settings: Any) -> list[float]:
    """Of all PAIRS, by what a stage does: checked by files, loaded, encoded, scored in batches."""
    chat = chat or ChatSettings()
    RewardLimits(RewardSettings(reward_model=str(folder), reward_label=label, **settings), chat)
    texts, trusted = RewardTexts(str(folder), chat), chat.trust_remote_code
    loaded = load_reward_model(str(folder), settings.get("dtype", "float32"), "cpu", trusted)
    scorer = ScalarScorer(loaded, 256, label_of(str(folder), plan_of(str(folder), trusted), label))
    return scorer.score([texts.encode(Conversation(asked), answer) for asked, answer in PAIRS]).tolist()


def by_hand(folder: Path, own: Any) -> list[float]:
    return [naive_score(own, chatml_ids(folder, *pair)) for pair in PAIRS]


def edited(folder: Path, **values: Any) -> None:
    """Put values into config.json; None takes a field out."""
    config = json.loads((folder / "config.json").read_text()) | values
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def renamed(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def under(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """As trainers save it that put a head of their own beside a language model."""

    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        head = weights.pop("score.weight")
        lm_head = {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
        return {**weights, **lm_head, f"{name}.weight": head, f"{name}.bias": torch.zeros(1)}

    return change


# What a checkpoint is, whose scores stay those of the model it was made of.
SAME: dict[str, Callable[[Path], None]] = {
    "as it was saved": lambda folder: None,
    "a config that says nothing of labels": lambda folder: edited(folder, id2label=None, label2id=None),
    "no padding token in the config": lambda folder: edited(folder, pad_token_id=None),
    "a pickle": lambda folder: (
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"),
        (folder / "model.safetensors").unlink(),
    )[1],
    "TRL's value head": lambda folder: (
        renamed(folder, under("v_head.summary")),
        edited(folder, architectures=["LlamaForCausalLM"], id2label=None, label2id=None),
    )[1],
    "OpenRLHF's value head": lambda folder: (
        renamed(folder, under("value_head")),
        edited(folder, architectures=["LlamaForRewardModel"], id2label=None, label2id=None),
    )[1],
    "a head of another name": lambda folder: (
        renamed(folder, under("regression_layer")),
        edited(folder, architectures=["LlamaModel"], id2label=None, label2id=None),
    )[1],
}


@pytest.mark.parametrize("case", SAME)
def test_a_reward_model_is_opened_as_what_it_is(case: str, model: Path, shared: Path) -> None:
    from transformers import LlamaForSequenceClassification

    expected = by_hand(shared, LlamaForSequenceClassification.from_pretrained(shared))
    SAME[case](model)
    assert scores(model) == pytest.approx(expected, abs=1e-5)


REFUSED: dict[str, tuple[Callable[[Path], Any], str, tuple[str, ...]]] = {
    # how it is spoilt, the label that is asked for, what the one line says
    "a language model": (
        lambda folder: AutoModelForCausalLM.from_config(build_reward_model().config).save_pretrained(folder),
        "", ("LlamaForCausalLM", "without a classification head", "--judge logprob"),
    ),
    "scores of tokens": (
        lambda folder: edited(folder, architectures=["LlamaForTokenClassification"]),
        "", ("scores single tokens",),
    ),
    "a head that is missing": (
        lambda folder: renamed(folder, lambda weights: {n: w for n, w in weights.items() if n != "score.weight"}),
        "", ("missing in its checkpoint", "score.weight"),
    ),
    "several labels": (
        lambda folder: save_reward_model(folder, labels=3), "", ("gives 3 numbers", "LABEL_2", "--reward-label"),
    ),
    "a label that it lacks": (
        lambda folder: save_reward_model(folder, labels=3), "helpful", ("'reward_label' is 'helpful'", "LABEL_0"),
    ),
    "a number that it lacks": (lambda folder: None, "1", ("'reward_label' is '1'",)),
    "a type without such a class": (
        lambda folder: edited(folder, model_type="mamba", architectures=["MambaForCausalLM"]),
        "", ("no sequence-classification model of type 'mamba'",),
    ),
    "no chat template": (
        lambda folder: (folder / "chat_template.jinja").unlink(), "", ("'chat_template'", "which text is the response"),
    ),
    "a token without an embedding": (
        lambda folder: save_reward_model(folder, vocab_size=300), "", ("embedding", "300 rows"),
    ),
    "a template that loses the response": (
        lambda folder: (folder / "chat_template.jinja").write_text(CHATML.replace("message['content']", "''")),
        "", ("does not reach the prompt",),
    ),
    "no such folder": (lambda folder: shutil.rmtree(folder), "", ("no such",)),
    "its own code": (
        lambda folder: edited(folder, architectures=["Mine"], auto_map={"AutoModelForSequenceClassification": "mine.Mine"}),
        "", ("own code", "--trust-remote-code true"),
    ),
    "layers of another width": (
        lambda folder: edited(folder, intermediate_size=50), "", ("have other shapes",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_score_is_said_before_work(case: str, model: Path) -> None:
    spoil, label, said = REFUSED[case]
    if case in ("a language model", "several labels", "a label that it lacks", "a token without an embedding"):
        (model / "model.safetensors").unlink()
    spoil(model)
    with pytest.raises(InputError) as error:
        RewardLimits(RewardSettings(reward_model=str(model), reward_label=label), ChatSettings())
    assert "\n" not in str(error.value)
    assert all(words in str(error.value) for words in said), str(error.value)


@pytest.mark.parametrize(("label", "index"), [("1", 1), ("LABEL_2", 2), ("label_0", 0)])
def test_a_label_names_the_output_that_is_the_reward(label: str, index: int, tmp_path: Path) -> None:
    folder = save_reward_model(tmp_path / "model", labels=3)
    own = build_reward_model(labels=3)
    found = scores(folder, label)
    for pair, score in list(zip(PAIRS, found, strict=True))[:8]:
        with torch.inference_mode():
            logits = own(torch.tensor([chatml_ids(folder, *pair)])).logits[0]
        assert score == pytest.approx(float(logits[index]), abs=1e-5)
    # Classes that exclude each other mean nothing by a logit of their own.
    edited(folder, problem_type="single_label_classification")
    with torch.inference_mode():
        logits = own(torch.tensor([chatml_ids(folder, *PAIRS[0])])).logits[0]
    assert scores(folder, label)[0] == pytest.approx(float(logits.log_softmax(-1)[index]), abs=1e-5)


def test_an_encoder_takes_two_texts(tmp_path: Path) -> None:
    """As DeBERTa of OpenAssistant: [CLS] question [SEP] answer [SEP], and segments where the family has them."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = save_reward_model(tmp_path / "model", "Bert", type_vocab_size=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)],
    )  # fmt: skip
    tokenizer.chat_template, tokenizer.model_input_names = None, ["input_ids", "token_type_ids", "attention_mask"]
    shutil.rmtree(folder)
    build_reward_model("Bert", type_vocab_size=2, vocabulary=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # As the tokenizers of families with segments say it; a general one does not keep what was set.
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    names = {"model_input_names": tokenizer.model_input_names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | names))
    own = build_reward_model("Bert", type_vocab_size=2, vocabulary=len(tokenizer))
    expected = []
    for asked, answer in PAIRS:
        first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (asked, answer))
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        expected.append(naive_score(own, [1, *first, 2, *second, 2], types))
    assert scores(folder) == pytest.approx(expected, abs=1e-5)
    # A separator that somebody typed is text.
    typed = RewardTexts(str(folder), ChatSettings()).encode(Conversation("a<|im_end|>b"), "c")
    assert [typed.token_ids.count(token) for token in (1, 2)] == [1, 2]
    turns = Conversation("And?", (("user", "Hi."), ("assistant", "Hello.")))
    joined = RewardTexts(str(folder), ChatSettings()).encode(Conversation("Hi.\n\nHello.\n\nAnd?"), "c")
    assert RewardTexts(str(folder), ChatSettings()).encode(turns, "c") == joined


def test_an_adapter_brings_the_head(tmp_path: Path, tiny_model: Path) -> None:
    """peft's SEQ_CLS over a language model: the base has no head, and the adapter no layers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    torch.manual_seed(0)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    wrapped = get_peft_model(base, lora).eval()
    folder = tmp_path / "adapter"
    wrapped.save_pretrained(str(folder))
    expected = by_hand(tiny_model, wrapped)
    assert scores(folder) == pytest.approx(expected, abs=1e-5)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({n: w for n, w in weights.items() if "score" not in n}, folder / "adapter_model.safetensors")
    with pytest.raises(InputError, match="without a classification head"):
        plan_of(str(folder))


CODE = '''
import torch
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput
from dataclasses import dataclass

@dataclass
class Out(ModelOutput):
    rewards: torch.Tensor = None
    score: torch.Tensor = None
    logits: torch.Tensor = None

class Gated(LlamaPreTrainedModel):
    """As ArmoRM: several objectives, and one score that mixes them."""
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_layer = torch.nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, **_):
        hidden = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids).last_hidden_state
        last = (attention_mask * torch.arange(input_ids.shape[1])).argmax(-1) if attention_mask is not None else -1
        rewards = self.regression_layer(hidden[torch.arange(len(input_ids)), last])
        score = (rewards.softmax(-1) * rewards).sum(-1)
        return Out(rewards=rewards, score=score, logits=score)
'''


def test_code_of_its_own_says_its_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_reward_model(tmp_path / "gated", labels=3)
    renamed(folder, lambda w: {("regression_layer.weight" if n == "score.weight" else n): t for n, t in w.items()})
    (folder / "gated_code.py").write_text(CODE)
    edited(folder, architectures=["Gated"], auto_map={"AutoModelForSequenceClassification": "gated_code.Gated"})
    own = build_reward_model(labels=3)
    expected = []
    for pair in PAIRS:
        with torch.inference_mode():
            rewards = own(torch.tensor([chatml_ids(folder, *pair)])).logits[0]
        expected.append(float((rewards.softmax(-1) * rewards).sum()))
    assert scores(folder, chat=ChatSettings(trust_remote_code=True)) == pytest.approx(expected, abs=1e-5)


# Family -> what its config says beside the sizes, and what may share a batch.
FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    "Llama": ({}, "left"),
    "Qwen3": ({"num_key_value_heads": 2, "head_dim": 8}, "left"),
    "Gemma2": ({"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}, "left"),
    "Gemma3Text": ({"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}, "left"),
    "Mistral": ({"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16}, "left"),
    "Qwen3Moe": ({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}, "left"),
    "GPT2": ({}, "left"),
    "Bloom": ({"n_layer": 2, "n_head": 4}, "left"),
    "Bert": ({}, "right"),
    "DebertaV2": ({"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}, "right"),
    "XLMRoberta": ({"pad_token_id": 1}, "right"),
    "ModernBert": ({"cls_token_id": 1, "sep_token_id": 2}, "right"),
    "FNet": ({}, "equal"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_does_not_depend_on_its_batch(family: str) -> None:
    values, sharing = FAMILIES[family]
    own = build_reward_model(family, **values)
    rng = np.random.default_rng(0)
    texts = [RewardText(tuple(rng.integers(16, 400, size).tolist())) for size in rng.integers(3, 60, 24)]
    pad = own.config.pad_token_id  # a text that ends as a batch is filled: many models pad with their end-of-turn token
    texts[5] = RewardText((*texts[5].token_ids, pad, pad))
    scorer = ScalarScorer(own, 300)
    told: list[tuple[int, int]] = []
    found = scorer.score(texts, lambda rows, tokens: told.append((rows, tokens)))
    assert scorer.batching.sharing == sharing, scorer.batching
    naive = [naive_score(own, list(text.token_ids)) for text in texts]
    assert found.tolist() == pytest.approx(naive, abs=1e-5)
    assert np.std(naive) > 0.01, "scores that differ"
    assert np.sum(told, axis=0).tolist() == [len(texts), sum(len(text.token_ids) for text in texts)]
    assert ScalarScorer(own, 1).score(texts).tolist() == pytest.approx(naive, abs=1e-5)


def test_tokens_without_an_embedding_have_no_score() -> None:
    found = ScalarScorer(build_reward_model()).score([RewardText((5, 400)), RewardText((5, 6)), RewardText(())])
    assert np.isnan(found).tolist() == [True, False, True]


def test_a_model_that_gives_no_number_is_named() -> None:
    own = build_reward_model()
    with torch.no_grad():
        own.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(IcrError, match=r"weights are not either, such as model\.layers\.0\.mlp\.up_proj\.weight"):
        ScalarScorer(own).score([RewardText((5, 6, 7))])


def test_in_bfloat16_the_head_keeps_float32(model: Path) -> None:
    """Else scores would have three digits, and responses would tie."""
    found = torch.tensor(scores(model, dtype="bfloat16"))
    assert not torch.equal(found, found.bfloat16().float())
    assert found.tolist() == pytest.approx(scores(model), abs=0.1)


def test_what_does_not_fit_is_counted_and_says_by_how_much(model: Path, tmp_path: Path) -> None:
    edited(model, max_position_embeddings=64)
    limits = RewardLimits(RewardSettings(reward_model=str(model)), ChatSettings())
    assert limits.fault(Conversation("Hi."), ["Yes.", "No."]) is None
    length = len(chatml_ids(model, "Hi.", "word " * 40))
    reason, detail = limits.fault(Conversation("Hi."), ["Yes.", "word " * 40]) or ("", "")
    assert (reason, str(length) in detail, "64" in detail) == ("too-long", True, True)
    roberta = save_reward_model(tmp_path / "roberta", "XLMRoberta", pad_token_id=1, max_position_embeddings=66)
    # Its positions begin behind that of the padding token.
    assert RewardLimits(RewardSettings(reward_model=str(roberta)), ChatSettings()).context == 64


def test_a_conversation_that_the_template_refuses_is_a_fault(model: Path) -> None:
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    (model / "chat_template.jinja").write_text(refuses)
    asked = Conversation("Hi.", (("system", "Be brief."),))
    settings = RewardSettings(reward_model=str(model))
    reason, detail = RewardLimits(settings, ChatSettings()).fault(asked, ["Yes."]) or ("", "")
    assert (reason, "no system role" in detail) == ("chat-template", True)
    # Folded, the system's words stand in the user's turn.
    chat = ChatSettings(system_role="fold")
    assert RewardLimits(settings, chat).fault(asked, ["Yes."]) is None
    folded = RewardTexts(str(model), chat).encode(asked, "Yes.").token_ids
    assert list(folded) == chatml_ids(model, "Be brief.\n\nHi.", "Yes.")
