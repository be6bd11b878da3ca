"""Calls that survive a server which goes away for a while: they are repeated until it answers or patience ends.

Patience is `ICR_TRACKING_PATIENCE` seconds, 120 by default. When it ends the work stays on disk, and the same command logs it later.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from icr_platform.core.errors import TrackingError
from icr_platform.core.secrets import shown_url

_S3_CONNECTION_ERRORS = ("botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError")
_SIGNS_OF_CONNECTION_TROUBLE = (
    "API request to", "failed with error code 5", "database is locked", "Max retries", "Could not connect to the endpoint"
)  # fmt: skip
T = TypeVar("T")


def is_connection_trouble(error: Exception) -> bool:
    """Whether a call failed because the store did not answer, so that the same call may succeed later."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    if isinstance(error, (requests.exceptions.RequestException, OperationalError, ConnectionError)):
        return True
    # By name: boto3 is installed only where artifacts lie in S3.
    if any(f"{kind.__module__}.{kind.__name__}" in _S3_CONNECTION_ERRORS for kind in type(error).__mro__):
        return True
    # MLflow wraps what its HTTP client raises, and keeps the reason only in the text.
    text = str(error)
    return isinstance(error, MlflowException) and any(sign in text for sign in _SIGNS_OF_CONNECTION_TROUBLE)


def deliver(action: Callable[[], T], uri: str, who: str = "tracking server") -> T:
    """Make a tracking call, again and again while the server does not answer.

    Raises:
        TrackingError: it did not answer for ICR_TRACKING_PATIENCE seconds.
    """
    deadline = time.monotonic() + float(os.environ.get("ICR_TRACKING_PATIENCE", "120"))
    pause, said = 1.0, False
    while True:
        try:
            return action()
        except Exception as error:
            if not is_connection_trouble(error):
                raise
            if time.monotonic() + pause > deadline:
                raise TrackingError(
                    f"{shown_url(uri)}: the {who} stopped answering; the work is kept, "
                    "run the same command again when it is back"
                ) from error
            if not said:
                print(f"{shown_url(uri)}: the {who} does not answer; trying again", file=sys.stderr, flush=True)
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
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TrackingError(
            f"{name}: the artifact store refuses or does not answer ({reason}); check its address and credentials, then run "
            "the same command again"
        ) from error
