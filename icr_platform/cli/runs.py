"""`icr runs`: lists arms, and removes one, or what nobody needs, after showing what goes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import closing

from icr_platform.cli.flags import Parser
from icr_platform.core.errors import InputError
from icr_platform.pipeline.removal import Removal, carry_out, end_run, list_arms, plan_arm, plan_clean
from icr_platform.pipeline.session import RunOptions, Session, open_session

HELP = "list arms, and delete one, or what nobody needs, with nested runs, checkpoints and work folders"
_ACTIONS = {
    "list": "every arm of the experiment, under its sweep, with its runs and bytes",
    "delete": "delete an arm or a sweep (its name, or the id of its run) with all that is nested in it, on the disk as well",
    "clean": "delete orphaned runs, killed ones without finished work, files of deleted runs, and work folders without a run",
    "end": "mark a run KILLED whose process died on another machine",
}


def runs(arguments: Sequence[str]) -> int:
    """Run one of the actions; returns the exit status: 0, or 1 when a person said no."""
    parser = Parser(
        "icr runs", HELP, epilog="\n".join(f"{name}: {text}" for name, text in _ACTIONS.items())
    )  # fmt: skip
    parser.usage = "icr runs {list | delete ARM | clean | end RUN} [--experiment E] [--yes]"
    parser.add_argument("action", choices=list(_ACTIONS), metavar="ACTION", help=", ".join(_ACTIONS))
    parser.add_argument("name", nargs="?", metavar="ARM", help="name of an arm, or id of a run")
    parser.add_argument(
        "--experiment", default="", metavar="TEXT", help="MLflow experiment; empty: MLFLOW_EXPERIMENT_NAME, or 'icr'"
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    given = parser.parse_args(arguments)
    needs_name = given.action in ("delete", "end")
    if needs_name and not given.name:
        raise InputError(f"icr runs {given.action}: which one? give its name or id; `icr runs list` lists them")
    if given.name and not needs_name:
        raise InputError(f"icr runs {given.action}: takes no name, and got {given.name!r}")
    with closing(open_session(RunOptions(experiment=given.experiment))) as session:
        if given.action == "list":
            print("\n".join(list_arms(session)) or "no arm in this experiment")
            return 0
        if given.action == "end":
            print("\n".join(f"run {run_id}: KILLED" for run_id in end_run(session, given.name)))
            return 0
        plan: Callable[[Session], Removal] = plan_clean
        if given.action == "delete":
            plan = lambda session: plan_arm(session, given.name)  # noqa: E731
        return _remove(session, plan(session), given.yes)


def _remove(session: Session, removal: Removal, is_sure: bool) -> int:
    print("\n".join(removal.lines()))
    if removal.is_empty:
        print("nothing to delete")
        return 0
    if not is_sure:
        if not sys.stdin or not sys.stdin.isatty():
            raise InputError("icr runs: nothing was deleted, for nobody can be asked here; give --yes")
        if input("Delete all this for good? [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was deleted")
            return 1
    carry_out(session, removal)
    print("deleted")
    return 0
