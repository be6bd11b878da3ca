"""Checkpoints that `keep_checkpoints` gives up, removed as soon as nothing in the command needs them."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from icr_platform.core.errors import TrackingError
from icr_platform.pipeline.arm import START, Arm
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.identity import artifact_identity
from icr_platform.pipeline.session import Session
from icr_platform.pipeline.stopping import best_iteration
from icr_platform.tracking.model_registry import BEST
from icr_platform.tracking.removed_checkpoints import other_uses, remove_checkpoint, was_removed
from icr_platform.training.checkpoint import remove_weights


def checkpoints_to_give_up(
    config: IterateConfig, iteration: int, metrics: Mapping[int, Mapping[str, float]], is_last: bool = False
) -> list[int]:
    """Iterations whose checkpoints `keep_checkpoints` gives up once `iteration` is evaluated; pi_0 is among them only where it was trained.

    The next iteration starts from the last policy, and with reward_reference=previous scores under the one before. The best is
    `stopping.best_iteration`; where nothing shows which one it is, it is the last. is_last: the arm ends with this iteration.
    """
    if config.keep_checkpoints == "all":
        return []
    best = best_iteration(metrics, range(1, iteration + 1)) if config.keep_checkpoints == "best" else None
    kept = {best or iteration}
    if iteration < config.iterations and not is_last:
        kept |= {iteration, iteration - 1} if config.reward_reference == "previous" else {iteration}
    made = range(0 if config.start_preferences else 1, iteration + 1)
    return [t for t in made if t not in kept]


def give_up_checkpoint(session: Session, arm: Arm, iteration: int) -> None:
    """Remove a checkpoint's weights wherever they are, unless another arm uses them or another alias leads to them."""
    trained, tracker = arm.stages[iteration, "train" if iteration else START], session.tracker
    name, aliases = arm.model_name, (f"iteration-{iteration}", BEST)
    if tracker is None or trained.run is None:
        remove_weights(trained.artifact("checkpoint"))
        return
    if was_removed(tracker, trained.run.run_id):
        return
    uses = other_uses(tracker, trained.run.run_id, arm.config.arm, name, aliases)
    if uses:
        print(f"iteration {iteration}: its checkpoint stays for {', '.join(uses)}", file=sys.stderr, flush=True)
        return
    folder = trained.artifact("checkpoint")
    names = remove_weights(folder)
    try:
        remove_checkpoint(tracker, trained.run.run_id, name, aliases, folder, names)
        trained.run.tag_content(folder, "checkpoint", artifact_identity(folder, "checkpoint"))
    except TrackingError as error:  # a store that cannot delete must not end an iteration that is done
        print(f"iteration {iteration}: {error}", file=sys.stderr, flush=True)
