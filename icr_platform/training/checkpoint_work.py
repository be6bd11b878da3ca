"""The work folder of a training, which becomes its checkpoint: one training's own, taken up where a kill left it."""

from __future__ import annotations

import contextlib
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from icr_platform.core.artifacts import MANIFEST, PLAN, read_json, write_json
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.stage_protocol import StageContext
from icr_platform.training.checkpoint import Checkpoint, open_checkpoint
from icr_platform.training.curve import send_curve

MODEL = "model"
_ALMOST_NOTHING = 1 << 20  # bytes


def finished_checkpoint(context: StageContext, fill: Callable[[Path], None]) -> Checkpoint:
    """The checkpoint of the training of `context`, which is made unless it is there.

    fill: puts the checkpoint, with its manifest, into the folder MODEL of the work folder that it is given, in which what a killed
    attempt has done lies.

    Raises:
        InputError: the folder contains another training.
        IcrError: the disk is full, or what `fill` raises.
    """
    folder = context.folder / "checkpoint"
    work = context.folder / "checkpoint.unfinished"
    is_finished = (folder / MANIFEST).exists()  # and the run that it was made in may have been killed before it said so
    if not is_finished:
        _claim(folder, work, context.fingerprint)
        with _full_disk_explained(work), _only_new_garbage():
            fill(work)
            (work / MODEL).rename(folder)
    checkpoint = open_checkpoint(folder)
    if checkpoint.fingerprint != context.fingerprint:
        raise _other_training(folder)
    shutil.rmtree(work, ignore_errors=True)
    if is_finished:
        send_curve(checkpoint.extra["curve"], context.log_metrics)
    return checkpoint


def _claim(folder: Path, work: Path, fingerprint: str) -> None:
    """Make the work folder this training's own, or find that it is."""
    if folder.exists():
        raise InputError(f"{folder}: contains files that this stage did not write; choose another --output")
    work.mkdir(parents=True, exist_ok=True)
    if not (work / PLAN).exists():
        write_json(work / PLAN, {"fingerprint": fingerprint})
    elif read_json(work / PLAN).get("fingerprint") != fingerprint:
        raise _other_training(work)


def _other_training(folder: Path) -> InputError:
    return InputError(
        f"{folder}: contains a checkpoint made from other inputs or settings; choose another --output or delete the folder"
    )


@contextlib.contextmanager
def _full_disk_explained(work: Path) -> Iterator[None]:
    """Turn a full disk into one error that says so; torch and safetensors each report it in their own way."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(work).free > _ALMOST_NOTHING and "No space left" not in str(error):
            raise
        raise IcrError(f"{work}: no space left on the disk; free some and run the same command again") from error


@contextlib.contextmanager
def _only_new_garbage() -> Iterator[None]:
    """Have Python's collector leave alone what is there already: all modules, which take it a third of a second each time."""
    gc.collect()  # of the stages before, what is garbage must not stay until the end
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def free_memory() -> None:
    """Collect what a training has made and dropped, whose objects refer to each other: the next model is loaded next to it until then."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
