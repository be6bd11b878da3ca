"""MLflow's model registry: `models:/ARM-policy@iteration-N` is the checkpoint of iteration N that is in use, `@best` the best of them.

A registry that refuses is named on stderr and does not end the work: the checkpoint itself is safe in its run.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from icr_platform.core.errors import StoreRefusesError
from icr_platform.tracking.delivery import deliver
from icr_platform.tracking.store_address import is_server

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle
    from icr_platform.tracking.tracker import Tracker

BEST = "best"


def register_checkpoint(tracker: Tracker, name: str, run: RunHandle, iteration: int) -> None:
    """Make `models:/NAME@iteration-N` the checkpoint of this train run, whoever ran it and when.

    Before an alias moves, those of later iterations, which led on from another checkpoint, are removed, and that of the best.
    """
    alias = f"iteration-{iteration}"
    with _refusal_said(f"models:/{name}@{alias}: not set; use runs:/{run.run_id}/checkpoint instead"):
        version = deliver(lambda: _version_of(tracker, name, run.run_id), tracker.uri)
        if deliver(lambda: _aliases(tracker, name), tracker.uri).get(alias) != version:
            _remove_aliases(tracker, name, lambda later: later > iteration)
            forget_best(tracker, name)
            deliver(lambda: tracker.client.set_registered_model_alias(name, alias, version), tracker.uri)


def point_best(tracker: Tracker, name: str, run: RunHandle) -> None:
    """Make `models:/NAME@best` the checkpoint of this train run, which was registered."""
    with _refusal_said(f"models:/{name}@{BEST}: not set; use runs:/{run.run_id}/checkpoint instead"):
        version = deliver(lambda: _version_of(tracker, name, run.run_id), tracker.uri)
        if deliver(lambda: _aliases(tracker, name), tracker.uri).get(BEST) != version:
            deliver(lambda: tracker.client.set_registered_model_alias(name, BEST, version), tracker.uri)


def forget_best(tracker: Tracker, name: str) -> None:
    """Remove `models:/NAME@best`, where nothing shows which iteration is the best, or its weights are gone."""
    with _refusal_said(f"models:/{name}@{BEST} may be an earlier run's"):
        if BEST in deliver(lambda: _aliases(tracker, name), tracker.uri):
            deliver(lambda: tracker.client.delete_registered_model_alias(name, BEST), tracker.uri)


def forget_iterations(tracker: Tracker, name: str, made: range) -> None:
    """Remove the aliases of iterations that an arm did not make, which are an earlier run's; the versions stay."""
    with _refusal_said(f"models:/{name}: aliases of other iterations than this arm's may be an earlier run's"):
        _remove_aliases(tracker, name, lambda iteration: iteration not in made)


def _remove_aliases(tracker: Tracker, name: str, is_other: Callable[[int], bool]) -> None:
    for alias in deliver(lambda: _aliases(tracker, name), tracker.uri):
        number = alias.removeprefix("iteration-")
        if number.isdigit() and is_other(int(number)):
            deliver(lambda alias=alias: tracker.client.delete_registered_model_alias(name, alias), tracker.uri)  # type: ignore[misc]


def _aliases(tracker: Tracker, name: str) -> dict[str, str]:
    """Version by alias; empty where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(version) for alias, version in tracker.client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _version_of(tracker: Tracker, name: str, run_id: str) -> str:
    """The version of a registered model that is this run's checkpoint, made where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        tracker.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    quote = '"' if "'" in name else "'"
    known = tracker.client.search_model_versions(f"name = {quote}{name}{quote}")
    versions = [int(found.version) for found in known if found.run_id == run_id]
    if versions:
        return str(max(versions))
    path = tracker.client.get_run(run_id).data.tags.get("icr.artifact.checkpoint")
    source = (
        path if path and not is_server(tracker.uri) else f"runs:/{run_id}/checkpoint"
    )  # a server takes no foreign path
    return str(tracker.client.create_model_version(name, source, run_id).version)


@contextlib.contextmanager
def _refusal_said(consequence: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, StoreRefusesError) as error:
        reason = " ".join(str(error).split())[:300]
        print(f"{consequence} (the model registry refuses: {reason})", file=sys.stderr, flush=True)
