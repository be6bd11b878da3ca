"""The identity of a model: what its weights, config, tokenizer and templates are, wherever it lies."""

from __future__ import annotations

import json
from pathlib import Path

from icr_platform.core.artifacts import MANIFEST, file_fault, own_manifest, read_json, text_digest
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.folder_content import content_files
from icr_platform.models.adapters import read_adapter
from icr_platform.models.checkpoint_weights import WEIGHT_SUFFIXES
from icr_platform.models.hub import hub_commit, origin_of
from icr_platform.models.loading import check_model_path
from icr_platform.models.removed_weights import removed_weights

# Files that training leaves next to a model and that no loader reads.
_UNREAD = ("training_args.bin", "trainer_state.json", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")
_RANDOM_STATES = "rng_state*.pth"
# These files also say where the model once lay, in the fields below, which changes nothing about it.
_NAMING_PLACES = ("config.json", "tokenizer_config.json", "adapter_config.json")
_PLACES = (
    "_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_file", "special_tokens_map_file",
)  # fmt: skip


def model_identity(model: str) -> str:
    """Digest of everything in a model's folder that a loader reads; of a hub model, its name and commit, however it was pinned.

    The identity of an adapter includes that of its base model. A checkpoint whose weights were removed keeps its identity.

    Raises:
        InputError: no such model, a file that cannot be read, or weights that differ from what the manifest says was written.
    """
    check_model_path(model)
    folder = Path(model)
    if not folder.is_dir():
        commit = hub_commit(model)
        if commit is None:
            raise InputError(
                f"{model}: the commit of this hub model is unknown; download the model and give its folder"
            )
        adapter = read_adapter(model)
        of_base = ["base", model_identity(adapter.base)] if adapter else []
        return text_digest(*of_base, "hub", origin_of(model).name, commit)
    written = {entry["file"]: entry for entry in (own_manifest(folder) or {}).get("files", ())}
    digests = removed_weights(folder)
    for relative, path in content_files(folder):
        name = relative.as_posix()
        if relative.name in _UNREAD or relative.match(_RANDOM_STATES) or name == MANIFEST:
            continue
        fault = file_fault(path, written[name]) if name in written and relative.suffix in WEIGHT_SUFFIXES else ""
        if fault:
            raise InputError(f"{path}: {fault}; copy the file or train again, or delete {MANIFEST} if it was meant")
        if name in _NAMING_PLACES:
            text = json.dumps(read_json(path), sort_keys=True)
            values = json.loads(
                text, object_hook=lambda pairs: {key: pairs[key] for key in pairs if key not in _PLACES}
            )
            digests[name] = text_digest(json.dumps(values))
        else:
            digests[name] = remembered_digest(path)
    adapter = read_adapter(model)
    of_base = ["base", model_identity(adapter.base)] if adapter else []
    return text_digest(*of_base, *(part for name in sorted(digests) for part in (name, digests[name])))
