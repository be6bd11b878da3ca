"""The inspector's entry: `launch(InspectOptions(...))` serves the pages, `publish_verdicts(...)` adds verdicts to their run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn, cast

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.own_folders import own_folder, remove_old
from icr_platform.core.parts import Worlds
from icr_platform.core.progress import Meter, meter
from icr_platform.tracking.reader import TrackingReader
from ui.html.line_marks import Marker, mark_nothing
from ui.pages.inspector import Inspector
from ui.review.exported_votes import Step
from ui.review.exports import Exported, exporting
from ui.review.importing import import_votes
from ui.review.links import address_of
from ui.review.making_links import asked_link, make_link
from ui.review.publishing import preview_lines, publication, publish
from ui.review.verdict_store import VerdictStore
from ui.server.options import ExportOptions, InspectOptions, LinkOptions
from ui.tables.output_files import OutputFiles
from ui.tables.queries import QueryEngine
from ui.tables.runs import Catalogue

OLD_SECONDS = 24 * 3600.0
"""How long exported files are kept for their download."""


def open_inspector(options: InspectOptions, worlds: Worlds | None = None, marker: Marker = mark_nothing) -> Inspector:
    """Everything behind the pages.

    worlds: whose inputs the runs may have had. marker: finds lines in another language than was asked for.

    Raises:
        InputError: the tracking store or the verdict database cannot be opened.
    """
    reader = TrackingReader(options.tracking_uri)
    reader.check()
    if options.experiment and options.experiment not in reader.experiments().values():
        known = ", ".join(sorted(reader.experiments().values()))
        raise InputError(f"icr inspect: no experiment {options.experiment!r}; there are: {known}")
    files = OutputFiles([path for part in options.outputs.split(",") if (path := part.strip())], own_folder("outputs"))
    catalogue = Catalogue(reader, own_folder("artifacts"), options.experiment, worlds)
    verdicts = VerdictStore(options.verdicts)
    if upgrade := verdicts.database.upgrade:
        kept = f"; as it was before, it is kept in {upgrade.backup}" if upgrade.backup else ""
        print(f"The verdict database is of version {upgrade.after} now{kept}", file=sys.stderr)
    return Inspector(catalogue, QueryEngine(), verdicts, marker, files)


class _Ended(BaseException):
    """SIGTERM arrived."""


def launch(options: InspectOptions, worlds: Worlds | None = None, marker: Marker = mark_nothing) -> NoReturn:
    """Serve the inspector on 127.0.0.1 until Ctrl-C or SIGTERM, both of which end the process with status 0.

    worlds, marker: as `open_inspector` takes them.

    Raises:
        InputError: a store, file, experiment or port cannot be used; said before anything is served.
    """
    if options.auth_file and options.user_header:
        raise InputError("icr inspect: give --auth-file or --user-header, not both: users log in here or at the proxy")

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended

    signal.signal(signal.SIGTERM, end)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Gradio would keep exported files in /tmp/gradio, which belongs to whoever of this machine's users was first.
    os.environ.setdefault("GRADIO_TEMP_DIR", str(own_folder("gradio")))
    for name in ("gradio", "exports"):
        remove_old(own_folder(name), OLD_SECONDS)
    inspector = None
    try:
        inspector = open_inspector(options, worlds, marker)
        from ui.server.gradio_app import serve  # after the environment, which Gradio reads when it is imported

        try:
            _, address, _ = serve(inspector, options, block=False)
        except OSError as error:
            raise InputError(f"icr inspect: port {options.port} is taken ({error}); give another --port") from error
        except ValueError as error:
            if "localhost is not accessible" not in str(error):
                raise
            # Gradio asks its own server once, and gives up after three seconds.
            raise IcrError(
                "icr inspect: the server did not answer itself in time. Where this machine is very busy, start it again; else a proxy in "
                "HTTP_PROXY may take requests to 127.0.0.1: set NO_PROXY=127.0.0.1,localhost"
            ) from error
        print(f"The inspector is at {address} (Ctrl-C ends it).", flush=True)
        threading.Event().wait()
    except (KeyboardInterrupt, _Ended):
        # A second Ctrl-C while this ends must not leave copies of artifacts behind.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        print("\nThe inspector has ended; every verdict it acknowledged is stored.", flush=True)
        if inspector is not None:
            inspector.catalogue.close()
            inspector.files.close()
    # Verdicts are committed one by one, so nothing is left to do; an orderly end of the interpreter would make DuckDB's
    # bindings list what daemon threads still hold.
    os._exit(0)


def publish_verdicts(
    options: InspectOptions, run_id: str, names: bool = False, is_rehearsal: bool = False, leave_out: Sequence[str] = ()
) -> list[str]:
    """`icr verdicts publish RUN`: add a run's verdicts to its MLflow run. Returns the lines to print.

    Args:
        names: publish reviewers' own names instead of numbers.
        is_rehearsal: only say what would be published.
        leave_out: names of reviewers who are in no figure and no row.

    Raises:
        InputError: no such run, it has no verdicts, or nobody is called as one of `leave_out`.
    """
    inspector = open_inspector(options)
    try:
        found = publication(inspector, inspector.verdicts, run_id, names, leave_out)
        if is_rehearsal:
            return preview_lines(found)
        return [f"published {publish(inspector, found)} verdicts to run {found.run_id}"]
    finally:
        inspector.catalogue.close()


def import_verdicts(options: InspectOptions, run_id: str, path: str, source: str = "") -> list[str]:
    """`icr verdicts import FILE --run RUN`: store votes that were given elsewhere. Returns the lines to print.

    Args:
        source: name of what they are from; '' takes the file's.

    Raises:
        InputError: no such run, or the file has no vote that belongs to it.
    """
    inspector = open_inspector(options)
    try:
        return import_votes(inspector, inspector.verdicts, inspector.catalogue.arm(run_id), path, source).lines
    finally:
        inspector.catalogue.close()


def export_verdicts(options: InspectOptions, run_id: str, asked: ExportOptions) -> list[str]:
    """`icr verdicts export RUN`: write each reviewer's last word, and the items with their answers, to files. Returns their paths.

    Progress, and what is not in the files, goes to the standard error.

    Raises:
        InputError: no such run, it has no verdicts, or what is asked for cannot be.
    """
    inspector = open_inspector(options)
    try:
        found = shown(exporting(inspector, inspector.verdicts, run_id, Path(asked.output), asked.request))
    finally:
        inspector.catalogue.close()
    for note in found.notes:
        print(note, file=sys.stderr)
    return list(map(str, found.files))


def shown(steps: Generator[Step, None, Exported]) -> Exported:
    """Do all steps of an export, with a bar or lines on the terminal for each of its stages; what it returned."""
    with ExitStack() as bars:
        bar: Meter | None = None
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return cast(Exported, end.value)
            if bar is None or bar.label != step.label:
                bars.close()
                bar = bars.enter_context(meter(step.label, step.total))
            bar.advance(step.done - bar.done)


def make_review_link(options: InspectOptions, run_id: str, asked: LinkOptions) -> list[str]:
    """`icr verdicts link RUN`: store a review link, for an inspector that is served with the same options. Returns lines: its address, notes.

    Raises:
        InputError: no such run, or what is asked for cannot be.
    """
    fields = {name: value for name, value in vars(asked).items() if name != "guidelines"}
    if asked.guidelines:
        fields["guidelines"] = _read_guidelines(Path(asked.guidelines))
    inspector = open_inspector(options)
    try:
        made = make_link(inspector, inspector.links, inspector.catalogue.arm(run_id), asked_link(fields))
        host = f"https://{options.public_host}" if options.public_host else f"http://127.0.0.1:{options.port}"
        ends = (
            f"until {made.link.expires_at[:16].replace('T', ' ')} UTC, while `icr inspect` serves {options.verdicts!r}"
        )
        if "://" in options.verdicts:  # which may have a password in it
            ends = ends.partition(", while")[0]
        return [
            f"{host}{address_of(made.link, inspector.links.secret)}",
            f"open {ends}",
            *(f"note: {note}" for note in made.notes),
        ]
    finally:
        inspector.catalogue.close()


def _read_guidelines(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"icr verdicts link: --guidelines {path}: {error.strerror}; give a text file") from None
    except UnicodeDecodeError:
        raise InputError(f"icr verdicts link: --guidelines {path}: is not UTF-8 text; save it as UTF-8") from None
