"""The inspector's entry: `launch(InspectOptions(...))` serves the pages, `publish_verdicts(...)` adds verdicts to their run."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import NoReturn

from icr_platform.core.errors import InputError
from icr_platform.tracking.reader import TrackingReader
from ui.pages.inspector import Inspector
from ui.review.exports import publish
from ui.review.verdicts import VerdictStore
from ui.server.options import InspectOptions
from ui.tables.queries import Engine
from ui.tables.runs import Catalogue


def open_inspector(options: InspectOptions) -> Inspector:
    """Everything behind the pages.

    Raises:
        InputError: the tracking store or the verdict database cannot be opened.
    """
    reader = TrackingReader(options.tracking_uri)
    reader.check()
    if options.experiment and options.experiment not in reader.experiments().values():
        known = ", ".join(sorted(reader.experiments().values()))
        raise InputError(f"icr inspect: no experiment {options.experiment!r}; there are: {known}")
    cache = Path(tempfile.gettempdir()) / f"icr-inspector-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    return Inspector(Catalogue(reader, cache, options.experiment), Engine(), VerdictStore(options.verdicts))


class _Ended(BaseException):
    """SIGTERM arrived."""


def launch(options: InspectOptions) -> NoReturn:
    """Serve the inspector on 127.0.0.1 until Ctrl-C or SIGTERM, both of which end the process with status 0.

    Raises:
        InputError: a store, file, experiment or port that cannot be used; said before anything is served.
    """
    if options.auth_file and options.user_header:
        raise InputError("icr inspect: give --auth-file or --user-header, not both: users log in here or at the proxy")
    signal.signal(signal.SIGTERM, _end)
    inspector = None
    try:
        inspector = _serve(options)
        threading.Event().wait()
    except (KeyboardInterrupt, _Ended):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        print("\nThe inspector has ended; every verdict it acknowledged is stored.", flush=True)
        if inspector is not None:
            inspector.catalogue.close()
    # Verdicts are committed one by one, so nothing is left to do; an orderly end of the interpreter would make DuckDB's
    # bindings list what daemon threads still hold.
    os._exit(0)


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


def _serve(options: InspectOptions) -> Inspector:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    inspector = open_inspector(options)
    from ui.server.gradio_app import serve

    try:
        _, address, _ = serve(inspector, options, block=False)
    except OSError as error:
        raise InputError(f"icr inspect: port {options.port} is taken ({error}); give another --port") from error
    print(f"The inspector is at {address} (Ctrl-C ends it).", flush=True)
    return inspector


def publish_verdicts(options: InspectOptions, run_id: str) -> int:
    """`icr verdicts publish RUN`: add a run's verdicts to its MLflow run. Returns how many rows of history were published.

    Raises:
        InputError: no such run, or it has no verdicts.
    """
    inspector = open_inspector(options)
    try:
        return publish(inspector, inspector.verdicts, run_id)
    finally:
        inspector.catalogue.close()
