"""Names on the Hugging Face hub, and the revisions that pin them: `org/name@branch`, `@tag` or `@commit`.

What exists on this machine is a path, with or without an @ in it.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from icr_platform.models.checkpoint_files import ADAPTER_SETTINGS, CONFIG
from icr_platform.models.loading_errors import explained

_COMMIT = re.compile(r"[0-9a-f]{40}")
_IN_A_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/")  # as the hub's cache is laid out


class Origin(NamedTuple):
    """Where a model is loaded from: a folder, or a name on the hub at a revision; None: what its main branch is now."""

    name: str
    revision: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What `from_pretrained` is given next to the name."""
        return {"revision": self.revision} if self.revision else {}


def is_hub_name(model: str) -> bool:
    """Whether `model` can be a name on the Hugging Face hub, with or without a revision; otherwise it is a path.

    >>> [is_hub_name(name) for name in ("gpt2", "org/name", "gpt2@v1", "org/name@refs/pr/3")]
    [True, True, True, True]
    >>> [is_hub_name(name) for name in ("./name", "runs/1/checkpoint", "runs@x/1/checkpoint", "org/name@", "@main")]
    [False, False, False, False, False]
    """
    name, at, revision = model.partition("@")
    is_name = name.count("/") <= 1 and not name.startswith((".", "/", "~")) and "\\" not in model
    is_path_with_at = "/" in revision and "/" not in name and not revision.startswith("refs/")
    return is_name and (not at or bool(name and revision)) and not is_path_with_at


def origin_of(model: str) -> Origin:
    """Tell the name of a model from its revision.

    >>> origin_of("org/name@v1.0"), origin_of("/models/a@b")
    (Origin(name='org/name', revision='v1.0'), Origin(name='/models/a@b', revision=None))
    """
    if os.path.exists(model) or not is_hub_name(model):
        return Origin(model)
    name, _, revision = model.partition("@")
    return Origin(name, revision or None)


def is_on_hub(model: str) -> bool:
    """Whether a model has to be asked of the hub, or of its cache."""
    return not os.path.exists(model) and is_hub_name(model)


def model_file(model: str, name: str) -> Path | None:
    """One of a model's files, fetched from the hub if the model lies there; None where it has no such file.

    Raises:
        InputError: the hub has no such model or revision, or cannot be asked.
    """
    if not is_on_hub(model):
        path = Path(model) / name
        return path if path.exists() else None
    from transformers.utils.hub import cached_file

    source = origin_of(model)
    with explained(model, name):
        found = cached_file(source.name, name, **source.options, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def hub_commit(model: str) -> str | None:
    """Return the commit that a hub name stands for, as the hub or its cache says; None where it is not known.

    Raises:
        InputError: as `model_file`; the model has neither a config nor the settings of an adapter.
    """
    from transformers.utils.hub import cached_file

    path = model_file(model, ADAPTER_SETTINGS)
    if path is None:
        source = origin_of(model)
        with explained(model, "config"):
            path = Path(str(cached_file(source.name, CONFIG, **source.options)))
    found = _IN_A_SNAPSHOT.search(path.as_posix())
    return found[1] if found else None


def pinned(model: str) -> str:
    """A hub name with the commit that it stands for now, so that whoever reads it later reads the same; a path as it is.

    Raises:
        InputError: as `hub_commit`.
    """
    source = origin_of(model)
    if not is_on_hub(model) or _COMMIT.fullmatch(source.revision or ""):
        return model
    commit = hub_commit(model)
    return f"{source.name}@{commit}" if commit else model


class DataSetCommit(NamedTuple):
    """The commit of a data set, where it is known, and whether the hub itself said so."""

    commit: str | None
    is_from_hub: bool


def data_set_commit(name: str, revision: str | None) -> DataSetCommit:
    """Ask the hub, or else its cache, which commit a data set's revision is; None: of its main branch.

    Raises: what the hub's client does where the hub answers that there is no such data set or revision, or that it is not for all.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if not constants.HF_HUB_OFFLINE:
        try:
            sha = HfApi().dataset_info(name, revision=revision).sha
            with contextlib.suppress(EntryNotFoundError):  # this writes down, for offline, which commit the revision is
                hf_hub_download(name, "README.md", repo_type="dataset", revision=revision)
            return DataSetCommit(sha, True)
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
                raise
    if revision and _COMMIT.fullmatch(revision):
        return DataSetCommit(revision, False)
    refs = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / (revision or "main")
    return DataSetCommit(refs.read_text().strip() if refs.is_file() else None, False)
