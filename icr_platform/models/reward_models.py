"""Reward models: checkpoints whose head gives a whole conversation one number, or one for each label.

They are published as transformers' sequence-classification models (Skywork-Reward, DeBERTa of OpenAssistant), with code of their own (ArmoRM,
InternLM2-Reward, GRM), as adapters (peft's SEQ_CLS), or as a language model beside a head that another trainer named (TRL's `v_head`,
OpenRLHF's `value_head`). What a checkpoint is, and whether its head is there, is told from its files before any weights are read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.models.adapters import ADAPTER_WEIGHTS, add_adapter, base_of, read_adapter
from icr_platform.models.checkpoint_weights import (
    first_names,
    left_over,
    load_headers,
    load_whole,
    read_headers,
)
from icr_platform.models.devices import require_device
from icr_platform.models.loading import (
    check_model_path,
    load_config,
    loader,
    on_meta_device,
    placed,
    transformers_version,
    weight_files,
)
from icr_platform.models.quantised import NONE, check_quantisation, check_setting, quantisation
from icr_platform.models.removed_weights import require_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NO_PAD = -1
"""The padding token of a model that has none: no text contains it, so that the last token is the one whose output counts."""
_MOST_LABELS = 64
_NOT_HEADS = re.compile(r"emb|norm|\bwte\b|\bwpe\b|lm_head|(^|\.)\d+\.")
_OF_TOKENS = re.compile(r"ForTokenClassification$|ProcessReward|PRM")
_FIX = "choose a sequence-classification reward model, such as Skywork/Skywork-Reward-V2-Qwen3-8B"


class Plan(NamedTuple):
    """How a reward model is opened.

    config: with as many labels as its head has rows. auto: the class of transformers that opens it.
    renamed: what its files call the head, and what the class calls it; None where both agree.
    brought: tensors that an adapter brings, and its base lacks.
    is_own_code: the checkpoint brings its class.
    """

    config: Any
    auto: Any
    renamed: tuple[str, str] | None = None
    brought: Collection[str] = ()
    is_own_code: bool = False


def plan_of(model: str, trust_remote_code: bool = False) -> Plan:
    """Tell from a model's files how it is opened.

    Raises:
        InputError: it has no head that scores whole texts, or several; transformers has no such class for its type.
    """
    from transformers import AutoModel, AutoModelForSequenceClassification

    check_model_path(model)
    base = base_of(model)
    config = load_config(base, trust_remote_code)
    named = list(getattr(config, "architectures", None) or ())
    own_code = getattr(config, "auto_map", None) or {}
    if own_code and not trust_remote_code and not any(name.endswith("ForSequenceClassification") for name in named):
        # transformers would take its own class of that type, whose head these files do not have.
        raise InputError(
            f"{base}: a {first_names(named)} (config.json) brings its own code: read that code, and give --trust-remote-code true to run it"
        )
    if "AutoModelForSequenceClassification" in own_code and trust_remote_code:
        return Plan(config, AutoModelForSequenceClassification, is_own_code=True)
    if "Reward" in str(own_code.get("AutoModel", "")):
        return Plan(config, AutoModel, is_own_code=True)
    if any(_OF_TOKENS.search(name) for name in named):
        raise InputError(f"{base}: a {first_names(named)} (config.json) scores single tokens or steps; {_FIX}")
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise InputError(
            f"{base}: transformers {transformers_version()} has no sequence-classification model of type {config.model_type!r}; {_FIX}"
        )
    files = weight_files(base)
    hidden = config.get_text_config().hidden_size
    brought = _heads(_adapter_headers(model), hidden)
    found = brought or _heads(read_headers(files) if files else {}, hidden)
    known = AutoModelForSequenceClassification._model_mapping[type(config)]
    classes = [each.__name__ for each in (known if isinstance(known, tuple) else (known,)) if each is not None]
    is_classifier = any(name.endswith(("ForSequenceClassification", *classes)) for name in named)
    if not found and not is_classifier and files:
        raise InputError(
            f"{base}: a {first_names(named) or config.model_type} (config.json) without a classification head, which no number comes "
            f"from; {_FIX}, or let it compare outputs as a judge (--judge logprob)"
        )
    if len(found) > 1:
        heads = first_names([f"{name} of {rows} rows" for name, rows in sorted(found.items())])
        raise InputError(f"{base}: its files have several heads ({heads}), and which is the reward is not said; {_FIX}")
    for head, rows in found.items():
        if config.num_labels != rows:
            config.num_labels = rows  # language models say nothing of labels, and transformers takes that for two
        own = _head_of(on_meta_device(base, config, trust_remote_code, AutoModelForSequenceClassification))
        stem = head.removesuffix(".weight")
        if brought:
            return Plan(config, AutoModelForSequenceClassification, brought={f"{own}.weight", f"{own}.bias"})
        if own != stem:
            return Plan(config, AutoModelForSequenceClassification, renamed=(stem, own))
    return Plan(config, AutoModelForSequenceClassification)


def _adapter_headers(model: str) -> Mapping[str, torch.Tensor]:
    """Names and shapes of an adapter's tensors, under the names of its model; none of what is not an adapter."""
    adapter = read_adapter(model)
    if adapter is None or not (adapter.folder / ADAPTER_WEIGHTS).exists():
        return {}
    headers = read_headers([adapter.folder / ADAPTER_WEIGHTS])
    return {name.removeprefix("base_model.model."): tensor for name, tensor in headers.items() if "lora_" not in name}


def _heads(tensors: Mapping[str, torch.Tensor], hidden: int) -> dict[str, int]:
    """Tensors that make a few numbers of a last hidden state, outside the layers, with how many numbers."""
    return {
        name: tensor.shape[0]
        for name, tensor in tensors.items()
        if name.endswith(".weight")
        and tensor.dim() == 2
        and tensor.shape[1] == hidden != tensor.shape[0]
        and tensor.shape[0] <= _MOST_LABELS
        and not _NOT_HEADS.search(name)
    }


def _head_of(model: PreTrainedModel) -> str:
    """The name of the linear layer that gives the labels' numbers: the last one that has as many outputs."""
    import torch

    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == model.config.num_labels
    ]
    return names[-1] if names else ""


def label_of(model: str, plan: Plan, label: str) -> int | None:
    """Which of a model's labels is the reward; None where its own code gives one number, or is asked for none.

    Raises:
        InputError: it has several and none is named, or none of that name.
    """
    count = plan.config.num_labels
    names = {str(index): str(name) for index, name in (plan.config.id2label or {}).items()}
    if not label:
        if plan.is_own_code:
            return None
        if count > 1:
            listed = first_names([names.get(str(index), str(index)) for index in range(count)])
            raise InputError(
                f"{model}: gives {count} numbers ({listed}), and one must be the reward; name it with --reward-label"
            )
        return 0
    if label.isdigit() and int(label) < count:
        return int(label)
    found = [index for index, name in names.items() if name.casefold() == label.casefold()]
    if found:
        return int(found[0])
    raise InputError(
        f"config: field 'reward_label' is {label!r}, and {model} has no such label; it has {first_names(list(names.values()))}; give "
        f"one of them, or a number below {count}"
    )


def check_reward_model(
    model: str, label: str = "", trust_remote_code: bool = False, quantization: str = NONE
) -> tuple[str, ...]:
    """Refuse a reward model that cannot score, by the headers of its files; reads no weights.

    Returns: lines for a person to read.

    Raises:
        InputError: as `plan_of`, `label_of`; a tensor or a file is missing, or of another shape than the config says.
    """
    plan, base = plan_of(model, trust_remote_code), base_of(model)
    label_of(model, plan, label)
    check_setting(base, plan.config, quantization)
    if quantisation(plan.config):
        check_quantisation(base, plan.config)
        return ()
    files = weight_files(base)
    skeleton = on_meta_device(base, plan.config, trust_remote_code, plan.auto)
    if not files or plan.is_own_code:
        return ()
    tensors = {_under(name, plan): tensor for name, tensor in read_headers(files).items()}
    unexpected = load_headers(base, skeleton, tensors, plan.brought)
    if (adapter := read_adapter(model)) and (adapter.folder / ADAPTER_WEIGHTS).exists():
        add_adapter(skeleton, adapter, read_headers([adapter.folder / ADAPTER_WEIGHTS]))
    notes = (left_over(base, unexpected),) if unexpected else ()
    if plan.renamed:
        notes = (f"{base}: its head {plan.renamed[0]} gives the reward, at a text's last token", *notes)
    return notes


def _under(name: str, plan: Plan) -> str:
    """A tensor's name as the model's class has it."""
    if plan.renamed and name.startswith(f"{plan.renamed[0]}."):
        return name.replace(plan.renamed[0], plan.renamed[1], 1)
    return name


def load_reward_model(
    model: str,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    quantization: str = NONE,
) -> PreTrainedModel:
    """Load a reward model in evaluation mode onto its device; raises InputError when that is not possible.

    Its head computes in float32: in bfloat16 a score has three digits, and responses would tie.
    """
    check_model_path(model)
    require_device(device)
    require_weights(model)
    plan, base = plan_of(model, trust_remote_code), base_of(model)
    load = loader(plan.auto, model, plan.config, dtype, device, trust_remote_code, quantization)
    load = partial(load, config=plan.config)
    if plan.renamed:
        load = partial(load, key_mapping={f"^{re.escape(plan.renamed[0])}\\.": f"{plan.renamed[1]}."})
    loaded, unexpected = load_whole(base, load, plan.brought)
    if unexpected:
        print(left_over(base, unexpected), file=sys.stderr, flush=True)
    ready = placed(loaded, model, dtype, device)
    ensure_pad(ready, plan)
    if not plan.is_own_code:
        _compute_in_float32(ready.get_submodule(_head_of(ready)))
    return ready


def ensure_pad(model: PreTrainedModel, plan: Plan) -> None:
    """Give a model without a padding token one that no text contains.

    transformers refuses batches without one, and takes the output of the last token that is not padding: other trainers take the last
    one, which may well be the token that they pad with.
    """
    text = model.config.get_text_config()
    if getattr(text, "pad_token_id", None) is None or plan.renamed:
        text.pad_token_id = model.config.pad_token_id = NO_PAD


def _compute_in_float32(head: Any) -> None:
    head.float()
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def context_of_reward_model(skeleton: PreTrainedModel) -> int | None:
    """Tokens that a reward model was made for; None where it has no limit.

    The positions of RoBERTa and its kin begin behind that of the padding token.
    """
    from icr_platform.models.context import context_of

    length = context_of(skeleton.config)
    for module in skeleton.modules():
        positions = getattr(module, "position_embeddings", None)
        first = getattr(positions, "padding_idx", None)
        if first is not None and length is not None:
            return min(length, int(positions.num_embeddings) - int(first) - 1)  # type: ignore[union-attr]
    return length
