"""Inputs by name: where a path or URI points to on this machine."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from icr_platform.core.artifacts import text_digest
from icr_platform.core.config import Config, PinnedInputs, leaves, role
from icr_platform.core.errors import InputError
from icr_platform.core.parts import Worlds, load_part, split_world
from icr_platform.core.secrets import HIDDEN, bare_url, redact, remember_secrets_of, shown_url
from icr_platform.data import hub_sets
from icr_platform.models import gguf
from icr_platform.models.hub import pinned
from icr_platform.pipeline.pins import check_pins

if TYPE_CHECKING:
    from icr_platform.tracking.tracker import Tracker

C = TypeVar("C", bound=Config)
_IN_WHEEL = Path(__file__).parent / "presets"
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2] / "projects" / "conf"
"""Presets and accelerate's recipes: in a checkout the folder that `mlflow run` reads too, in a wheel a copy of it."""
# What file systems call the version of a file, or the time it was last written.
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LONGEST_NAME = 120  # characters, of a file


class Resolver:
    """Turns the paths of a configuration into local ones.

    base: folder that relative paths start from. work: folder for downloads and the inputs of worlds. worlds: whose inputs may be
    named as NAME:PATH.
    """

    def __init__(self, base: Path, work: Path, tracker: Tracker | None, worlds: Worlds | None = None) -> None:
        self.base, self.work, self.tracker, self.worlds = base, work, tracker, worlds or {}

    def resolve(self, config: C, seed: int, *, fetch: bool = True) -> C:
        """The configuration with every input, model and output path local and absolute; what is on the hub has its commit.

        fetch: False leaves artifacts of a remote store where they are: as `runs:/RUN_ID/NAME`, if their content is `known`.

        Raises:
            InputError: a URI whose run, artifact or file does not exist; a file that is not the one that was pinned.
        """
        values: dict[str, object] = {}
        for name, info in leaves(type(config)):
            value = getattr(config, name, "") if "." not in name else ""
            if value and name in ("output", "judge_cache"):
                values[name] = str((self.base / Path(str(value)).expanduser()).resolve())
            elif value and name == "accelerate_config":
                own, shipped = self.base / Path(str(value)).expanduser(), SHIPPED / str(value)
                # A file of the caller's comes before the one of that name that ships with the project.
                values[name] = str(shipped if shipped.is_file() and not own.exists() else own)
            elif value and role(info) in ("input", "model"):
                place = self.local(str(value), seed) if fetch else self.reference(str(value), seed)
                values[name] = self._model(place) if role(info) == "model" else hub_sets.pinned(place)
        if isinstance(config, PinnedInputs) and config.pins:
            check_pins(config.pins, self._inputs(config, values, seed))
            values["pins"] = {}  # they name files as the configuration did, not where they lie
        return config.model_copy(update=values)

    def _model(self, place: str) -> str:
        """A model as it is loaded: a GGUF file as a folder, a model on the hub at its commit."""
        file = gguf.gguf_of(place)
        return str(gguf.opened(file, self.work)) if file else _pinned(place)

    def _inputs(self, config: Config, resolved: Mapping[str, Any], seed: int) -> dict[str, tuple[str, str]]:
        """How each input was given and where it lies, those of sections included, by field."""
        found = {}
        for name, info in leaves(type(config)):
            if role(info) == "input" and (given := str(attrgetter(name)(config))):
                found[name] = (given, str(resolved.get(name) or self.local(given, seed)))
        return found

    def local(self, uri: str, seed: int) -> str:
        """Local path of one path, URI or hub name."""
        if HIDDEN in uri and _ADDRESS.match(uri):
            raise InputError(
                f"{uri}: {HIDDEN} stands where a secret was left out of a record; give the address with it"
            )
        if uri.startswith(("runs:/", "models:/")):
            if self.tracker is None:
                raise InputError(f"{uri}: is in MLflow; leave --no-tracking out")
            return str(self.tracker.find_stored(uri).folder())
        if found := split_world(uri, self.worlds):
            world, inside = found
            folder = world.folder(self.work, seed)
            for maker in world.makers(inside):
                load_part("prepare", maker, "folder", "seed")(folder, seed)
            return str(folder / inside)
        if _ADDRESS.match(uri):
            return str(self._download(uri))
        path = self.base / Path(uri).expanduser()
        can_only_be_a_path = uri.startswith(("/", ".", "~")) or "{" in uri
        # `models/pi_1` next to `models/pi_0` is a misspelt path; `org/name` without such a folder is a name on the hub.
        is_in_a_folder = path.parent.exists() and path.parent != self.base
        if hub_sets.folder_set_of(str(path)) is not None:  # FOLDER:configuration:split
            return str(path)
        return str(path) if path.exists() or can_only_be_a_path or is_in_a_folder else uri

    def reference(self, uri: str, seed: int) -> str:
        """`local`, but the `runs:/` URI of an artifact that lies elsewhere and whose content is known without it."""
        if self.tracker is not None and uri.startswith(("runs:/", "models:/")):
            stored = self.tracker.find_stored(uri)
            if stored.local is None and stored.identity:
                return stored.reference
        return self.local(uri, seed)

    def known(self, config: Config) -> dict[str, str]:
        """Identity of the content behind every URI that `resolve` left, by URI."""
        fields = [name for name, info in leaves(type(config)) if role(info) in ("input", "model")]
        values = {str(getattr(config, name, "")) for name in fields}
        uris = sorted(value for value in values if value.startswith("runs:/"))
        return {uri: self.tracker.find_stored(uri).identity for uri in uris} if self.tracker else {}

    def _download(self, uri: str) -> Path:
        """What is behind an address now; an earlier command's copy serves only if the store says that nothing has changed."""
        import fsspec
        from filelock import FileLock

        remember_secrets_of(uri)
        if "{" in uri:
            raise InputError(
                f"{shown_url(uri)}: an address with {{language}} is not fetched; give a folder, or one file with a column"
            )
        # The scheme of an address is written in either case; what signs it may differ from day to day.
        uri = _ADDRESS.sub(lambda found: found.group().lower(), uri, count=1)
        place = self.work / "downloads" / text_digest(bare_url(uri))[:16]
        place.mkdir(parents=True, exist_ok=True)
        try:
            filesystem, remote = fsspec.core.url_to_fs(uri)
            # Asked for links, a web server would send the whole file: there a folder is what ends as one.
            is_folder = remote.endswith("/") if uri.startswith("http") else filesystem.isdir(remote)
            state = _state(filesystem, remote, is_folder)
            target = place / (state or "unknown") / _name_of(uri)
            with FileLock(place / ".lock"):
                if state is None or not target.exists():
                    partial = place / ".partial"
                    shutil.rmtree(partial, ignore_errors=True)  # of a command that was killed
                    partial.mkdir()
                    if is_folder:
                        filesystem.get(remote, str(partial / target.name), recursive=True)
                    else:  # `get` would take the `?` before a query for any character
                        filesystem.get_file(remote, str(partial / target.name))
                    for earlier in place.iterdir():
                        if earlier.is_dir() and earlier != partial:
                            shutil.rmtree(earlier)
                    partial.rename(target.parent)
        except Exception as error:  # each kind of store has exceptions of a library of its own
            reason = redact(" ".join(str(error).split())) or type(error).__name__
            raise InputError(
                f"{shown_url(uri)}: could not be fetched ({reason}); check the address and credentials"
            ) from error
        return target


def _pinned(model: str) -> str:
    """A model on the hub with its commit: whoever loads it, on whatever machine, loads what the work is known by."""
    with contextlib.suppress(InputError):  # where it cannot be told, the stage that reads the model says why
        return pinned(model)
    return model


def _name_of(uri: str) -> str:
    """What a download is called: the last part of the path, whose ending says the format, and nothing of a query or a user.

    >>> _name_of("https://ann:pw@host/sets/es%20.jsonl?sig=1#x"), _name_of("s3://bucket/prompts/"), _name_of("https://host?a=b")
    ('es .jsonl', 'prompts', 'download')
    """
    rest = uri.partition("://")[2]
    # In other addresses than those of the web, `?` and `#` may be part of a name, and are rather lost than a secret kept.
    path = re.split(r"[?#]", rest, maxsplit=1)[0].rstrip("/")
    name = unquote(path.rsplit("/", 1)[1]) if "/" in path else ""
    name = re.sub(r"[\x00-\x1f/\\]", "_", name).lstrip(".")[-_LONGEST_NAME:]
    return name or "download"


def _state(filesystem: Any, remote: str, is_folder: bool) -> str | None:
    """Digest of the names, sizes and versions of the files at a place; None if the store gives no versions."""
    found = filesystem.find(remote, detail=True) if is_folder else {remote: filesystem.info(remote)}
    parts = []
    for name, info in sorted(found.items()):
        versions = [str(info[key]) for key in _VERSIONS if info.get(key)]
        if not versions:
            return None
        parts += [bare_url(name), str(info.get("size")), *versions]
    return text_digest(*parts)[:16]
