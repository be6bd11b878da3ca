"""Calls that survive a store which goes away for a while: they are repeated until it answers or patience ends.

Patience is `ICR_TRACKING_PATIENCE` seconds, 120 by default. When it ends, or the store refuses, the work stays on disk, and the
same command logs it later.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from icr_platform.core.errors import InputError, StoreRefusesError, TrackingError
from icr_platform.core.secrets import redact, shown_url
from icr_platform.tracking.troubles import said_by, trouble_of

T = TypeVar("T")


def patience() -> float:
    """Seconds for which a store may stay away.

    Raises:
        InputError: ICR_TRACKING_PATIENCE is not a number.
    """
    given = os.environ.get("ICR_TRACKING_PATIENCE", "120")
    try:
        return float(given)
    except ValueError:
        raise InputError(f"ICR_TRACKING_PATIENCE is {given!r}; give a number of seconds") from None


def deliver(action: Callable[[], T], uri: str, who: str = "tracking server") -> T:
    """Make a tracking call, again and again while the store is away or locked.

    Raises:
        TrackingError: it did not answer for ICR_TRACKING_PATIENCE seconds, or it refuses.
    """
    deadline = time.monotonic() + patience()
    pause, said = 1.0, False
    while True:
        try:
            return action()
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None:
                raise
            if not trouble.passes:
                raise StoreRefusesError(
                    f"{shown_url(uri)}: the {who} {trouble.does} ({redact(said_by(error))}); the work is kept: {trouble.fix}, "
                    "then run the same command again"
                ) from error
            if time.monotonic() + pause > deadline:
                does = "stopped answering" if trouble.does == "does not answer" else trouble.does
                raise TrackingError(
                    f"{shown_url(uri)}: the {who} {does}; the work is kept, run the same command again when it is back"
                ) from error
            if not said:
                print(f"{shown_url(uri)}: the {who} {trouble.does}; trying again", file=sys.stderr, flush=True)
                said = True
            time.sleep(pause)
            pause = min(pause * 2, 30.0)


def deliver_files(action: Callable[[], T], name: str) -> T:
    """Move files as `deliver` does; each kind of artifact store refuses them by exceptions of a library of its own.

    Raises:
        TrackingError: the store refuses or does not answer; what was to be logged is still in its folder.
    """
    try:
        return deliver(action, name, "artifact store")
    except TrackingError:
        raise
    except Exception as error:
        raise StoreRefusesError(
            f"{name}: the artifact store refuses or does not answer ({redact(said_by(error))}); check its address and credentials, "
            "then run the same command again"
        ) from error
