"""Checkpoints that also see or hear, used as models of text.

Gemma 3, Qwen 3.5, Mistral Small 3 and many others are published with a vision or audio tower beside the model of text. The
checkpoint is opened as what it is, so that what training saves is a checkpoint of the same kind, and the towers are left out of
memory: a text passes the decoder, its embedding and its head, and nothing else.

>>> from transformers import LlavaConfig, LlavaForConditionalGeneration
>>> from icr_platform.models.small_copy import small_config
>>> import torch
>>> with torch.device("meta"):
...     llava = LlavaForConditionalGeneration(small_config(LlavaConfig()))
>>> towers(llava)
['model.multi_modal_projector', 'model.vision_tower']
>>> before = sum(parameter.numel() for parameter in llava.parameters())
>>> leave_out_towers(llava)
>>> towers(llava), sum(parameter.numel() for parameter in llava.parameters()) < before
([], True)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# What a processor of images or sound is made of. A checkpoint without it is one of text for vLLM, too.
PROCESSOR_FILES = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
)  # fmt: skip


def is_multimodal(config: Any) -> bool:
    """Whether a checkpoint of this config has towers beside the model of text."""
    from transformers import AutoModelForMultimodalLM
    from transformers.models.auto import modeling_auto

    if type(config) not in AutoModelForMultimodalLM._model_mapping or config.is_encoder_decoder:
        return False
    # A model of the text alone may have been saved with the config of the whole.
    named = set(getattr(config, "architectures", None) or ())
    causal = names_of(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type))
    whole = names_of(modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(config.model_type))
    return not (named and named <= causal - whole)


def auto_class(config: Any, whole: bool = False) -> Any:
    """Return the auto class that opens a checkpoint of this config.

    whole: as the kind that it is. AutoModelForCausalLM opens some multimodal checkpoints (Gemma 3) so, and others (Qwen 3.5) as
        their text alone, which would be saved as another kind.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    as_text = not is_multimodal(config) or (config.model_type in _AS_TEXT and not whole)
    return AutoModelForCausalLM if as_text else AutoModelForMultimodalLM


# Llama 4's text within the whole is a causal language model of its own, whose body the scorer and the trainer would not find.
_AS_TEXT = frozenset({"llama4"})


def names_of(value: Any) -> set[str]:
    """Return the class names that a mapping of transformers has for a type of model: one, several or none."""
    return set() if value is None else {value} if isinstance(value, str) else set(value)


def text_modules(model: PreTrainedModel) -> list[torch.nn.Module]:
    """List what a text passes: the decoder, the embedding of its tokens, and the head."""
    decoder = model.get_decoder()
    found = (decoder, model.get_input_embeddings(), model.get_output_embeddings())
    return [module for module in found if module is not None]


def towers(model: PreTrainedModel) -> list[str]:
    """Name the outermost modules with parameters of which a text passes no part."""
    passed = {id(module) for part in text_modules(model) for module in part.modules()}

    def beside(module: torch.nn.Module, name: str) -> Iterator[str]:
        for child_name, child in module.named_children():
            path = f"{name}{child_name}"
            if id(child) in passed:
                continue
            if any(id(inner) in passed for inner in child.modules()):
                yield from beside(child, f"{path}.")
            elif next(child.parameters(), None) is not None:
                yield path

    return sorted(beside(model, ""))


def leave_out_towers(model: PreTrainedModel) -> None:
    """Take the towers out of a model, and with them their memory; what is left scores, samples and trains on texts.

    An empty module stands in a tower's place: a forward that needed the tower would raise.
    """
    import torch

    for path in towers(model):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, torch.nn.Module())
    # FSDP wraps the classes that are named here, and refuses one that it does not find.
    present = {type(module).__name__ for module in model.modules()}
    classes: Any = model._no_split_modules
    if classes:
        model._no_split_modules = type(classes)(one for one in classes if one in present)


def freeze_all_but_text(model: PreTrainedModel) -> None:
    """Let training change nothing that a text does not pass, such as a parameter that marks the end of an image's row."""
    passed = {id(parameter) for part in text_modules(model) for parameter in part.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in passed)


def text_parameters(model: PreTrainedModel) -> int:
    """Count the parameters that a text passes, shared ones once."""
    found = {id(parameter): parameter.numel() for part in text_modules(model) for parameter in part.parameters()}
    return sum(found.values())


def text_linears(model: PreTrainedModel, kinds: tuple[type, ...]) -> list[str]:
    """Name the linear layers of the decoder, for LoRA: the head and the towers are no targets."""
    decoder = model.get_decoder()
    inner = {id(module) for module in decoder.modules()} - {id(model.get_output_embeddings())}
    return [name for name, module in model.named_modules() if id(module) in inner and isinstance(module, kinds)]


def restore_logit_scale(model: PreTrainedModel) -> None:
    """Scale the logits of a model whose text is of a family that does, and whose own code forgot it.

    Aya Vision and Command A Vision are Cohere 2 with a tower. transformers multiplies the logits of Cohere 2 by its `logit_scale`, and
    so do vLLM and TRL for all three, but transformers' classes of the two with a tower do not: other probabilities, same order.
    """
    scale = getattr(model.config.get_text_config(), "logit_scale", None)
    head = model.get_output_embeddings()
    if model.config.model_type in ("aya_vision", "cohere2_vision") and scale and head is not None:
        head.register_forward_hook(lambda _, __, logits: logits * scale)


def put_into_whole(whole: PreTrainedModel, trained: PreTrainedModel) -> bool:
    """Give a checkpoint's own kind of model the weights of `trained`, which may lack its towers or be its text alone.

    Returns: whether any weight changed, in the precision of `whole`.

    Raises:
        KeyError: a trained tensor has no place in it.
    """
    import torch

    prefix = next((f"{name}." for name, module in whole.named_modules() if name and type(module) is type(trained)), "")
    places = whole.state_dict()
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    changed = any(not torch.equal(places[name], tensor.to(places[name])) for name, tensor in state.items())
    whole.load_state_dict(state, strict=False)  # what `trained` lacks stays as it was
    whole.tie_weights()
    return changed
