"""Data sets of the `datasets` library: on the hub, pinned to a revision; saved to disk; or a folder as the hub lays it out.

`owner/name@revision:configuration:split`, or `FOLDER:configuration:split`; what is left out is the hub's main branch, the only
configuration and the first of `SPLITS`. Configurations or splits that are named by a language are its rows.

Offline, `datasets` would read the newest version that it has prepared, whatever was asked for. Here it is the one whose commit the
hub's cache has for the revision, or none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import names_language
from icr_platform.data.row_files import SourceRow, stem_of
from icr_platform.data.row_sources import SPLITS, UNNAMED, RowSource, language_of
from icr_platform.data.wording import nearest, shown
from icr_platform.models.hub import data_set_commit

_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./+-]+))?(?::([^:/\\]+))?(?::([^:/\\]+))?")
_CONFIGURATIONS = re.compile(r"\A---\s*\n(?:.*\n)*?configs:", re.MULTILINE)
"""How a card begins that says which files are which configuration."""


class HubSet(NamedTuple):
    """A data set by name; None or '' for what is left open."""

    name: str
    revision: str | None = None
    configuration: str = ""
    split: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """What the library's functions are given next to the name."""
        return {"revision": self.revision} if self.revision else {}

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return ":".join([self.name + at, self.configuration, self.split]).rstrip(":")


def hub_set_of(path: str) -> HubSet | None:
    """Read a path that does not exist as a hub data set's name; None where it cannot be one: it ends as a file does, or is deeper.

    >>> hub_set_of("owner/data@v1.0:es:train")
    HubSet(name='owner/data', revision='v1.0', configuration='es', split='train')
    >>> [hub_set_of(path) for path in ("prompts/en.jsonl", "./a", "a/b/c", "owner/data@")]
    [None, None, None, None]
    """
    found = _HUB_NAME.fullmatch(path)
    if found is None or path.startswith((".", "~")) or stem_of(path) is not None:
        return None
    name, revision, configuration, split = found.groups(default="")
    return HubSet(name, revision or None, configuration, split)


def folder_set_of(path: str) -> HubSet | None:
    """Read a path as a folder of a data set, with a configuration and a split behind it; None where there is no such folder."""
    folder, *chosen = path.split(":")
    if os.path.exists(path) or not 1 <= len(chosen) <= 2 or not is_data_set(Path(folder)):
        return None
    return HubSet(folder, None, *chosen)


def is_data_set(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` wrote, or has a card that says which files are which configuration."""
    return _is_saved(folder) or _has_configurations(folder)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _has_configurations(folder: Path) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return _CONFIGURATIONS.match((folder / "README.md").read_text(encoding="utf-8")) is not None
    return False


def pinned(path: str) -> str:
    """A hub data set with the commit that it stands for now; any other path as it is, and a name whose commit cannot be told.

    What is wrong with a name is said by `open_hub_set`, which reads it.
    """
    wanted = None if os.path.exists(path) else hub_set_of(path)
    if wanted is None:
        return path
    with contextlib.suppress(InputError), _library_errors(path, "not a data set on the hub"):
        return str(wanted._replace(revision=data_set_commit(wanted.name, wanted.revision).commit or wanted.revision))
    return path


def open_hub_set(wanted: HubSet) -> RowSource:
    """Open a data set on the hub.

    Raises:
        InputError: there is no such data set, revision, configuration or split; or it is not for all, or not in the cache.
    """
    path = f"{wanted} on the hub"
    with _library_errors(str(wanted), "neither a file or folder nor a readable hub data set"):
        commit, is_reached = data_set_commit(wanted.name, wanted.revision)
        if commit is not None and not is_reached:
            return _open_prepared(wanted, commit, path)
        return _open(wanted._replace(revision=commit), path)


def open_folder_set(wanted: HubSet) -> RowSource:
    """Open a data set that lies in a folder.

    Raises:
        InputError: it cannot be read, or has no such configuration or split.
    """
    from datasets import DatasetDict, load_from_disk

    folder = Path(wanted.name)
    if not _is_saved(folder):
        with _library_errors(str(wanted), "not a readable data set"):
            return _open(wanted, str(wanted))
    with _library_errors(wanted.name, "not a readable data set"):
        loaded = load_from_disk(wanted.name)
    loaded = loaded if isinstance(loaded, DatasetDict) else {"all": loaded}
    # A saved data set has splits and no configurations: one name behind the folder is that of a split.
    split = wanted.split or wanted.configuration
    return _of_splits(str(wanted), tuple(map(str, loaded)), split, lambda: loaded)


def _open(wanted: HubSet, path: str) -> RowSource:
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset

    options = wanted.options
    configurations = tuple(get_dataset_config_names(wanted.name, **options))

    def load(configuration: str) -> Any:
        return load_dataset(wanted.name, *([configuration] if configuration else []), **options)

    def splits_of(configuration: str) -> Sequence[str]:
        given = [configuration] if configuration else []
        return tuple(get_dataset_split_names(wanted.name, *given, **options))

    return _chosen(wanted, path, configurations, splits_of, load)


def _open_prepared(wanted: HubSet, commit: str, path: str) -> RowSource:
    """What `datasets` prepared of this commit when the hub could be reached."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase
    from datasets.packaged_modules.cache.cache import Cache

    owner, _, name = wanted.name.rpartition("/")
    root = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    prepared = {
        place.parent.parent.name: place
        for place in sorted(root.glob(f"*/*/{commit}"))
        if (place / "dataset_info.json").is_file()
    }
    if not prepared:
        raise InputError(
            f"{wanted}: the hub cannot be reached, and commit {commit} is not in the cache of `datasets`; load it once where the hub "
            "can be reached, or give the folder of `hf download --repo-type dataset`"
        )

    def load(configuration: str) -> Any:
        place = prepared[configuration or next(iter(prepared))]
        version = place.parent.name
        return Cache(
            dataset_name=name, config_name=place.parent.parent.name, version=version, hash=commit, repo_id=wanted.name
        ).as_dataset()

    def splits_of(configuration: str) -> Sequence[str]:
        place = prepared[configuration or next(iter(prepared))]
        return tuple(json.loads((place / "dataset_info.json").read_text(encoding="utf-8"))["splits"])

    return _chosen(wanted, path, tuple(prepared), splits_of, load)


def _chosen(
    wanted: HubSet,
    path: str,
    configurations: Sequence[str],
    splits_of: Callable[[str], Sequence[str]],
    load: Callable[[str], Any],
) -> RowSource:
    """The configurations that are languages, or the splits of the one that is named or the only one."""
    configuration, split = wanted.configuration, wanted.split
    # `name::test` leaves the configuration open, and `name:test` names a split where there is one configuration only.
    if configuration and configuration not in configurations and not split and len(configurations) == 1:
        splits = splits_of("" if configurations == ("default",) else configurations[0])
        if configuration in splits:
            configuration, split = "", configuration
    if not configuration and any(map(_is_language, configurations)):
        by_language = {language_of(name): name for name in configurations}

        def of_language(language: str) -> Any:
            loaded = load(by_language[language])
            if split and split not in loaded:
                raise _no(path, f"split {split!r} of {language!r}", split, tuple(loaded))
            return loaded[split or _first_split(loaded)]

        return _Tables(path, tuple(by_language), "configuration", of_language)
    if configuration and configuration not in configurations:
        raise _no(path, f"configuration {configuration!r}", configuration, configurations)
    if not configuration and len(configurations) > 1 and "default" not in configurations:
        example = str(wanted._replace(configuration=configurations[0]))
        raise InputError(
            f"{path}: has several configurations; choose one, as in {example}; found: {shown(configurations)}"
        )

    @cache
    def load_once() -> Any:
        return load(configuration)

    return _of_splits(path, tuple(splits_of(configuration)), split, load_once, configuration)


def _of_splits(
    path: str, splits: tuple[str, ...], split: str, load: Callable[[], Any], configuration: str = ""
) -> RowSource:
    if split and split not in splits:
        raise _no(path, f"split {split!r}", split, splits)
    if not split and any(map(_is_language, splits)):
        by_language = {language_of(name): name for name in splits}
        return _Tables(path, tuple(by_language), "split", lambda language: load()[by_language[language]])
    chosen = split or _first_split(splits)
    others = sorted(set(splits) - {chosen})
    notes = (f"{path}: {chosen!r} is read; not used: {shown(others)}",) if others and not split else ()
    # A configuration or split of one language says which language its rows are in.
    name = next((language_of(name) for name in (configuration, split) if _is_language(name)), UNNAMED)
    return _Tables(path, (name,), "split", lambda _: load()[chosen], notes)


def _no(path: str, what: str, given: str, there: Sequence[str]) -> InputError:
    near = nearest(given, there)
    fix = f"give {near!r}" if near else "give one of them"
    return InputError(f"{path}: {what} is not one of {shown(there)}; {fix}")


def _is_language(name: str) -> bool:
    return name not in SPLITS and names_language(language_of(name))


def _first_split(splits: Any) -> str:
    return next((name for name in SPLITS if name in splits), next(iter(splits), ""))


@dataclass(frozen=True)
class _Tables:
    """The tables of a data set by configuration, by split or as one."""

    path: str
    names: tuple[str, ...]
    kind: str
    table: Callable[[str], Any]
    notes: tuple[str, ...] = ()

    def where(self, language: str) -> str:
        return f"{self.path}, {self.kind} {language!r}" if language else self.path

    def rows(self, language: str) -> Iterator[SourceRow]:
        with _library_errors(self.path, "not a readable data set"):
            left = enumerate(self.table(language), 1)
        while True:
            # A row may be an image, or not have been fetched.
            with _library_errors(self.path, "not a readable data set"):
                number, row = next(left, (0, None))
            if row is None:
                return
            yield SourceRow(f"{self.where(language)}: row {number}", row, number)


@contextlib.contextmanager
def _library_errors(name: str, what: str) -> Iterator[None]:
    """Turn what `datasets` and the hub's client raise into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each has exceptions of a library of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{name}: {what} ({reason}); {_fix(error)}") from error


def _fix(error: BaseException) -> str:
    kinds = {type(one).__name__ for one in (error, error.__cause__, error.__context__) if one is not None}
    if "GatedRepoError" in kinds or "gated dataset" in str(error):
        return "accept its terms on huggingface.co, and log in (`hf auth login`, or HF_TOKEN)"
    if "RevisionNotFoundError" in kinds:
        return "the hub has no such branch, tag or commit of it: check the name behind @"
    if "RepositoryNotFoundError" in kinds:
        return "check the name, or log in (`hf auth login`, or HF_TOKEN) if it is private"
    return "check the name"
