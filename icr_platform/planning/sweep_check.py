"""Preflight of a sweep: every arm is checked before any of them works, and every problem is said at once, with the arms that have it."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence

from icr_platform.core.parts import Worlds
from icr_platform.pipeline.session import RunOptions, Session, open_session
from icr_platform.pipeline.sweep_config import Expansion, SweptArm, alike
from icr_platform.planning.check import problems_of


def problems_of_sweep(session: Session, expansion: Expansion) -> list[str]:
    """What must be fixed before any arm can run, a line each. Reads inputs, and loads no weights.

    An arm is looked at with its first seed: seeds change what is drawn, not what is read.
    """
    found: dict[str, list[str]] = defaultdict(list)
    arms = expansion.of_first_seed
    for number, arm in enumerate(arms, start=1):
        print(f"check [{number}/{len(arms)}] {arm.name}", file=sys.stderr, flush=True)
        for problem in problems_of(session, arm.config):
            found[problem].append(arm.name)
    for name, other in alike(expansion.of_first_seed):
        print(f"note: arm {name} is arm {other} under another name; its stages are shared", file=sys.stderr, flush=True)
    return [f"{_said(names)}: {problem}" for problem, names in found.items()]


def _said(names: Sequence[str]) -> str:
    """Which arms have a problem.

    >>> _said(["icr"]), _said(["icr", "random"])
    ("arm 'icr'", "arms 'icr', 'random'")
    """
    return f"arm{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"


def check_sweep(options: RunOptions, expansion: Expansion, worlds: Worlds) -> int:
    """Check every arm of a sweep, and list them; returns the exit status: 0, or 2 when something must be fixed first."""
    problems = list(expansion.problems)
    if not problems:
        session = open_session(options, worlds)
        try:
            problems = problems_of_sweep(session, expansion)
        finally:
            session.close()
    for problem in problems:
        print(f"icr: {problem}", file=sys.stderr)
    if problems:
        return 2
    for arm in expansion.of_first_seed:
        print(_line(arm, [each.config.seed for each in expansion.arms if each.name == arm.name]))
    return 0


def _line(arm: SweptArm, seeds: Sequence[int]) -> str:
    config = arm.config
    trained = f"{config.iterations} iterations" if config.iterations else "measured only"
    listed = ", ".join(map(str, seeds))
    return f"arm {arm.name}: seed{'s' * (len(seeds) > 1)} {listed}; {trained} from {config.policy}{f'; {arm.source}' if arm.source else ''}"
