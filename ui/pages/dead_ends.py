"""Addresses that lead nowhere: a run that is gone offers those that are there, and filters that the run does not have are left out.

Bookmarks outlive runs, and people paste ids of iterations and stages, or half of one. What is gone never stays in the links of a page.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from rapidfuzz import fuzz

from icr_platform.core.errors import IcrError, InputError
from icr_platform.tracking.reader import RunRecord
from ui.html.rendering import label, language_label
from ui.pages.inspector import Focus, Inspector
from ui.tables.runs import ArmRecord, UnknownRunError
from ui.tables.view import View

MOST_OFFERED = 20
_ALIKE = 70.0
"""Similarity, in percent, from which on a run is taken for the one that was meant."""


class Settled(NamedTuple):
    """A view that its run can show, and a sentence for whatever was left out of it."""

    view: View
    said: tuple[str, ...]


def in_experiment(inspector: Inspector, view: View) -> Settled:
    """The view without an experiment that is not there."""
    known = sorted(inspector.catalogue.experiments().values())
    if not view.experiment or view.experiment in known or view.run:  # a run says which experiment it is of
        return Settled(view, ())
    said = f"There is no experiment {label(view.experiment, 60)!r} here any more; the page shows all experiments."
    return Settled(replace(view, experiment=""), (said,))


def settled(inspector: Inspector, focus: Focus) -> Settled:
    """The view without iterations, a language and a second run that its run does not have, or that are gone."""
    arm, view = focus.arm, focus.view
    said: list[str] = []
    base_arm = arm
    if view.base_run:
        try:
            base_arm = inspector.catalogue.arm(view.base_run)
        except UnknownRunError as error:
            view = replace(view, base_run="", base=None)
            said.append(f"{error} The page compares with iterations of the same run.")
    for name, of in (("iteration", arm), ("base", base_arm)):
        number = getattr(view, name)
        if number is not None and number not in [t.number for t in of.iterations]:
            view = replace(view, iteration=None) if name == "iteration" else replace(view, base=None)
            said.append(f"The run has no iteration {number}; {_iterations(of)}.")
    if view.language and not _has_language(inspector, arm, view.language):
        said.append(f"The run has nothing in {language_label(view.language)}; the page shows all languages.")
        view = replace(view, language="")
    return Settled(view, tuple(said))


def _iterations(arm: ArmRecord) -> str:
    numbers = [str(t.number) for t in arm.iterations]
    if not numbers:
        return "it has none yet"
    return f"it has {', '.join(numbers)}, and the page shows the one that it opens with"


def _has_language(inspector: Inspector, arm: ArmRecord, language: str) -> bool:
    known = arm.languages()
    if not known or language in known:  # nothing has been measured yet: the page itself says what it has
        return True
    return any(verdict.language == language for verdict in inspector.verdicts.current(arm.run.run_id))


def without(view: View, name: str, what: str, known: Collection[str]) -> Settled:
    """The view without the filter `name` where what it asks for is not there. what: such as 'data set'. known: what there is."""
    value = getattr(view, name)
    if not value or value in known:
        return Settled(view, ())
    said = f"There is no {what} {label(value, 60)!r} here; the page shows all of them."
    cleared: dict[str, Any] = {name: ""}
    return Settled(replace(view, **cleared), (said,))


def offered(inspector: Inspector, error: UnknownRunError) -> list[RunRecord]:
    """Runs to choose from instead: the one above what was named, those whose id or name is like it, then the newest."""
    try:
        arms = inspector.catalogue.arms()
    except IcrError:  # the store went away since; the page still says that the run is gone
        return []

    def likeness(run: RunRecord) -> float:
        if run.run_id == error.arm_id:
            return 101.0
        names = (run.run_id, run.name, run.tags.get("icr.arm", ""))
        found = max(fuzz.ratio(error.run_id.lower(), name.lower()) for name in names)
        return found if found >= _ALIKE else 0.0

    return sorted(arms, key=lambda run: -likeness(run))[:MOST_OFFERED]


def without_dead_run(view: View) -> View:
    """The view to go on from when its run is gone: nothing that belonged to the run stays."""
    return View(language=view.language, measure=view.measure, queue=view.queue)


def refuse_dead_side(error: InputError, view: View) -> View:
    """Compare's view without the side whose run is gone."""
    if not isinstance(error, UnknownRunError):
        return view
    if error.run_id == view.left:
        view = replace(view, left="", left_at=None)
    if error.run_id == view.right:
        view = replace(view, right="", right_at=None)
    return view
