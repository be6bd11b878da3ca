"""Folders in which stages work: whose work is there, whether it is finished, and what of it others can take.

A stage's folder contains a `work-STAGE.json` next to its artifacts; several stages may share a folder. The file says what identifies
the work, so that a later command continues it, reuses single rows of it, or names the other code that began it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from icr_platform.core.artifacts import (
    MANIFEST,
    PLAN,
    damaged_files,
    own_manifest,
    read_json,
    read_parquet,
    text_digest,
    write_json,
)
from icr_platform.core.earlier import PLACES, SAME_COMPUTATION, Source
from icr_platform.core.errors import InputError
from icr_platform.pipeline.identity import Identity
from icr_platform.pipeline.stages import STAGES

_ASIDE = ".earlier"
_PLACES_OF_OUTPUTS = "outputs"


@dataclass(frozen=True)
class Work:
    """What `work-STAGE.json` says of a stage's folder; the fields are those of `Identity`."""

    folder: Path
    stage: str
    fingerprint: str
    work: str
    code: str
    commit: str
    rows: Mapping[str, str]
    row_code: Mapping[str, str]
    cut: str = ""

    @property
    def begun(self) -> bool:
        """Whether there is anything to lose: a part, or something that a training resumes from."""
        return any(True for pattern in STAGES[self.stage].signs_of_work for _ in self.folder.glob(pattern))

    @property
    def finished(self) -> bool:
        """Whether all its artifacts are."""
        return all((self.folder / name / MANIFEST).exists() for name in STAGES[self.stage].artifacts)


def work_file(folder: Path, stage: str) -> Path:
    return folder / f"work-{stage}.json"


def read_work(folder: Path, stage: str) -> Work | None:
    """A stage's work in a folder; None when it did not work there."""
    path = work_file(folder, stage)
    if not path.exists():
        return None
    try:
        values = {"cut": "", **read_json(path)}
    except InputError as error:
        raise InputError(f"{str(error).rpartition(';')[0]}; delete the folder or choose another --output") from None
    try:
        return Work(folder, **{item.name: values[item.name] for item in fields(Work) if item.name != "folder"})
    except KeyError as error:
        raise InputError(f"{path}: field {error} is missing; delete the folder or choose another --output") from None


def write_work(folder: Path, stage: str, identity: Identity, fingerprint: str) -> None:
    """Write down whose work the folder contains, unless that is written there already."""
    folder.mkdir(parents=True, exist_ok=True)
    known = read_work(folder, stage)
    if known is not None and known.fingerprint == fingerprint:
        return
    code = identity.code
    _write(
        Work(
            folder,
            stage,
            fingerprint,
            identity.work,
            code.digest,
            code.commit,
            identity.rows,
            identity.row_code,
            identity.cut,
        )
    )


def _write(work: Work) -> None:
    write_json(
        work_file(work.folder, work.stage), {name: value for name, value in asdict(work).items() if name != "folder"}
    )


def remember_output(root: Path, folder: Path) -> None:
    """Note a folder that a person chose, so that later commands find its rows."""
    note = root / _PLACES_OF_OUTPUTS / f"{text_digest(str(folder))[:16]}.json"
    if not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"folder": str(folder)})


def known_works(root: Path, own: Path, stage: str) -> Iterator[Work]:
    """Yield a stage's work in `own`, in the work folder and in remembered outputs, each with what was set aside there."""
    noted = [Path(read_json(note)["folder"]) for note in sorted((root / _PLACES_OF_OUTPUTS).glob("*.json"))]
    folders = [own, *sorted(path.parent for path in root.glob(f"*/{work_file(Path(), stage)}")), *noted]
    for folder in dict.fromkeys(folders):
        for place in (folder, *sorted((folder / _ASIDE).glob("*"))):
            try:
                found = read_work(place, stage)
            except InputError as error:
                if place == own:  # the stage is about to work here; elsewhere a damaged note only costs time
                    raise
                print(f"{str(error).rpartition(';')[0]}; nothing is reused from there", file=sys.stderr, flush=True)
                continue
            if found is not None:
                yield found


def sources_in(
    works: Sequence[Work], rows: Mapping[str, str], code: Mapping[str, str]
) -> dict[str, tuple[Source, ...]]:
    """Folders that contain rows of each computation of `rows`.

    code: digest of the code that must have made the rows, by computation; any code will do for those that it does not list.
    """
    found: dict[str, tuple[Source, ...]] = {}
    for name, key in rows.items():
        sources = [
            Source(work.folder / place.name, place.column, place.digest)
            for work in works
            for same in (name, *SAME_COMPUTATION.get(name, ()))
            if work.rows.get(same) == key and (name not in code or work.row_code.get(same) == code[name])
            for place in PLACES.get(same, ())
        ]
        found[name] = tuple(source for source in dict.fromkeys(sources) if source.folder.is_dir())
    return found


def set_aside(work: Work) -> None:
    """Make room in a folder for other rows of the same computations; what is there becomes a source of rows."""
    name = f"{work.stage}-{work.fingerprint[:16]}"
    target, number = work.folder / _ASIDE / name, 1
    while work_file(target, work.stage).exists():  # the same work was set aside before, and has rows of its own
        number += 1
        target = target.with_name(f"{name}-{number}")
    target.mkdir(parents=True, exist_ok=True)
    for path in (work.folder / folder for folder in STAGES[work.stage].folders):
        if path.exists():  # renamed, not copied: rewards of a corpus may fill the disk
            shutil.rmtree(target / path.name, ignore_errors=True)
            path.rename(target / path.name)
    work_file(work.folder, work.stage).rename(work_file(target, work.stage))


def cut_anew(work: Work, cut: str) -> None:
    """Set the parts aside because the same work now cuts its rows into parts otherwise."""
    set_aside(work)
    _write(replace(work, cut=cut))


def clear_aside(folder: Path, stage: str) -> None:
    """Remove what a stage set aside, once the work that took its rows is finished."""
    for place in (folder / _ASIDE).glob(f"{stage}-*"):
        shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # another stage's may be there
        (folder / _ASIDE).rmdir()


def repair(folder: Path, stage: str, fingerprint: str, own: bool) -> None:
    """Remove what is damaged of the stage's artifacts, finished or not, so that the stage makes that again, and nothing else.

    own: `work-STAGE.json` says that the work has this fingerprint.
    """
    places = [folder / name for name in STAGES[stage].folders]
    for place in [place for place in places if (place / MANIFEST).exists() or place == folder / "checkpoint"]:
        if not place.is_dir():
            continue
        made_by = _fingerprint_of(place, fingerprint)
        # A folder named checkpoint that does not say whose it is may be a person's.
        if made_by != fingerprint and not (own and made_by is None and place.name != "checkpoint"):
            continue
        try:
            damaged = damaged_files(place) if own_manifest(place) else [(place / MANIFEST, "not readable")]
        except InputError:
            damaged = [(place / MANIFEST, "not readable")]
        for path, reason in damaged:
            print(f"{path}: {reason}; made again", file=sys.stderr, flush=True)
        if damaged and place.name == "checkpoint":  # its files make sense only together
            shutil.rmtree(place)
        elif damaged:
            (place / MANIFEST).unlink(missing_ok=True)
            for path, _ in damaged:
                path.unlink(missing_ok=True)
    for place in [plan.parent for folder in places for pattern in (PLAN, f"*/{PLAN}") for plan in folder.glob(pattern)]:
        if (place / MANIFEST).exists() or _fingerprint_of(place, fingerprint) != fingerprint:
            continue
        # Digests are written down with the manifest, at the end: of unfinished parts only the unreadable ones are known to be damaged.
        for path in sorted(place.glob("part-*.parquet")):
            try:
                read_parquet(path)
            except InputError as error:
                print(f"{str(error).rpartition(';')[0]}; made again", file=sys.stderr, flush=True)
                path.unlink()


def _fingerprint_of(place: Path, ours: str) -> str | None:
    """Fingerprint of the work that made an artifact, read from its manifest, or its plan or model card if that is damaged."""
    for name in (MANIFEST, PLAN):
        with contextlib.suppress(InputError):
            if (found := read_json(place / name).get("fingerprint")) is not None:
                return str(found)
    card = place / "README.md"
    return ours if card.is_file() and ours in card.read_text(encoding="utf-8", errors="replace") else None
