"""The command line: `icr STAGE`, with a flag for each field of the stage's configuration, `icr iterate`, and tools for both.

Nothing heavy is imported before a command is known, so that `icr --help` answers at once.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import io
import os
import shlex
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Sequence
from contextlib import closing
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from icr_platform.core.errors import InputError
from icr_platform.core.failures import failure
from icr_platform.core.guarded_output import guard_this_process, guarded_output
from icr_platform.pipeline.stages import CONFIGURED, ITERATE, STAGES, SWEEP, ConfiguredCommand, named_command

if TYPE_CHECKING:
    from icr_platform.pipeline.session import Session

TOOLS = {
    "check": "check a configuration's inputs and say what it would take, without running anything",
    "inspect": "open the inspector in a browser: pairs, margins, regressions, spot-checks",
    "verdicts": "`icr verdicts publish RUN` adds reviewers' verdicts to their MLflow run; `icr verdicts export RUN` writes them to files; "
    "`icr verdicts link RUN` makes a review link to hand to reviewers; `icr verdicts import FILE --run RUN` adds votes from elsewhere",
    "runs": "list arms; `icr runs delete ARM` and `icr runs clean` free what they take",
    "compare": "`icr compare A B ...`: arms, iterations, runs or files of outputs, each against the first, paired by prompt and seed",
    "report": "`icr report RUN`: rebuild the report of an arm from its artifacts",
}


_COLLECTED_AFTER = 50_000  # objects that refer to others, made since the collector last looked


class Terminated(BaseException):
    """SIGTERM arrived; runs are marked KILLED on the way out."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated."""
    guard_this_process()  # beyond `run` too, for what is printed when the interpreter ends
    # Thousands of modules are imported, whose objects stay: with Python's own 700 the collector would look through them hundreds of times.
    gc.set_threshold(_COLLECTED_AFTER, *gc.get_threshold()[1:])
    status = run(list(sys.argv[1:] if argv is None else argv))
    # nanobind's modules, Triton among them, print a list of what is left when the interpreter ends.
    if not any(kind.__module__ == "nanobind" for kind in type.__subclasses__(type)):
        gc.freeze()  # else the interpreter, when it ends, looks through all objects several times, for more than a second
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command and return its exit status."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup: the terminal was closed
        signal.signal(signal.SIGHUP, terminate)
    with guarded_output():
        _take_any_text(sys.stdout)
        try:
            status = _dispatch(argv)
            _flush(sys.stdout)
            return status
        except (Exception, KeyboardInterrupt, SystemExit, Terminated) as error:  # noqa: BLE001 - said below, in one line
            return _say(error, argv[:1])


def _say(error: BaseException, command: Sequence[str]) -> int:
    """Say in one line on stderr what ended a command, with the traceback before it if ICR_DEBUG is set; return its exit status."""
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        raise error
    if os.environ.get("ICR_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):  # `icr ... | head` has read enough
        return 1
    kept = "finished work is kept, and the same command continues it"
    if command == ["check"]:
        kept = "nothing of it is kept"
    line, status = {
        KeyboardInterrupt: (f"interrupted; {kept}", 130),
        Terminated: (f"terminated; {kept}", 143),
        SystemExit: (str(error), 1),  # a library's way to end a program
    }.get(type(error), ("", 1))
    if not line:
        known = failure(error)
        line, status = str(known), known.exit_status
    _is_closed(sys.stdout)  # what it could not take is not tried again when the interpreter ends
    with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more
        print(f"icr: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return status


def _take_any_text(stream: TextIO | None) -> None:
    """Show as an escape what the terminal's encoding lacks, such as letters of other languages in ASCII."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _flush(stream: TextIO | None) -> None:
    if stream is not None:  # None: closed by the caller (`>&-`)
        stream.flush()


def _is_closed(stream: TextIO | None) -> bool:
    """Whether a stream takes no more text; what it still holds then goes nowhere, and ends nothing a second time."""
    try:
        _flush(stream)
    except (OSError, ValueError):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return True
    return False


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--unquote"]:  # MLflow's kubernetes backend quotes every word for a shell, and then starts none
        argv = [word for argument in argv[1:] for word in shlex.split(argument)]
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    typed, arguments = argv[0], argv[1:]
    if typed == "--version":
        from icr_platform import __version__

        print(__version__)
        return 0
    command = named_command(typed)
    if command is not None and command.name == SWEEP.name:
        from icr_platform.cli.sweeps import sweep

        _prepare()
        return sweep(arguments)
    if command is not None:
        return _configured(command, arguments)
    if typed not in TOOLS:
        known = [*(command.command for command in CONFIGURED.values()), *TOOLS]
        near = difflib.get_close_matches(typed, known, n=1, cutoff=0.4)
        raise InputError(f"icr: unknown command {typed!r}" + (f", nearest is {near[0]!r}" if near else ""))
    if typed in ("inspect", "verdicts"):
        return _inspector(typed, arguments)
    if typed == "compare":
        from icr_platform.cli.compare import compare

        _quiet_libraries()
        return compare(arguments)
    if typed == "runs":
        from icr_platform.cli.runs import runs

        _quiet_libraries()
        return runs(arguments)
    return _check(arguments) if typed == "check" else _report(arguments)


def _overview() -> str:
    def listed(commands: dict[str, str]) -> str:
        width = shutil.get_terminal_size().columns
        return "\n".join(
            textwrap.fill(text, width, initial_indent=f"  {name:<12}", subsequent_indent=" " * 14)
            for name, text in commands.items()
        )

    stages = {row.command: row.help for row in STAGES.values()}
    return f"""\
usage: icr COMMAND [--FLAG VALUE ...]

Implicit cross-lingual rewarding (arXiv 2503.04647): preference alignment
without preference data.

the whole method:
{listed({row.command: row.help for row in (ITERATE, SWEEP)})}

single stages:
{listed(stages)}

tools:
{listed(TOOLS)}

`icr COMMAND --help` lists the flags of a command.
`icr iterate --config demo` runs the demo."""


def _configured(command: ConfiguredCommand, arguments: list[str]) -> int:
    """Run a stage, or all of them, T times."""
    from icr_platform.cli.flags import command_parser, parse
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.core.config import require
    from icr_platform.pipeline.runner import run_stage
    from icr_platform.pipeline.session import open_session

    for flag in ("-h", "--help"):
        if flag in arguments:
            section = arguments[arguments.index(flag) + 1 :][:1]
            command_parser(command.name, *section).print_help()
            return 0
    config, options = parse(command.name, arguments)
    require(config, command.command, source=f"icr {command.command}")
    _prepare()
    with closing(open_session(options, WORLDS)) as session:
        if getattr(config, "dry_run", False):
            from icr_platform.planning.judge_cost import print_estimate

            print_estimate(session.resolver.resolve(config, config.seed))  # type: ignore[attr-defined,arg-type]
            return 0
        if command.name == ITERATE.name:
            from icr_platform.pipeline.iterate import iterate

            iterate(session, config)  # type: ignore[arg-type]
            print(_what_next(session))
            return 0
        done = run_stage(session, command.name, config)
        STAGES[command.name].print_result(config, done.result)
        for name in done.result.artifacts:
            place = f"runs:/{done.run.run_id}/{name}" if done.run and done.temporary else done.reference(name)
            print(f"{name}: {place}")
        done.clean_up()
    return 0


def _prepare() -> None:
    """Set this process up for hours of work."""
    from icr_platform.core.parent_process import die_with_parent

    if os.environ.get("MLFLOW_RUN_ID"):
        die_with_parent()
    _quiet_libraries()


def _what_next(session: Session) -> str:
    """What to type, or where to look, once an arm is done."""
    if session.tracker is None:
        return "next: open the report in a browser"
    from icr_platform.tracking.run_handle import MACHINE_LEARNING

    uri, page = session.tracker.uri, f"#/experiments/{session.tracker.experiment_id}/runs?{MACHINE_LEARNING}"
    if uri.startswith("http"):
        runs = f"{uri}/{page}"
    else:
        # MLflow's default in this folder needs no address; another may contain a password.
        is_default = uri == f"sqlite:///{session.base / 'mlflow.db'}"
        command = "mlflow ui" if is_default else 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
        runs = f"{command}, then http://127.0.0.1:5000/{page}"
    return f"""\
next: icr inspect    the pairs, margins and regressions, and a blind spot-check, in a browser
      {runs}
      {"":<15}learning curves, and every run with its tables"""


def _quiet_libraries() -> None:
    """Keep libraries' chatter out of a person's terminal (warnings and errors stay), their counters offline, and threads from spinning."""
    for key, value in {
        "GOMP_SPINCOUNT": "0",  # idle OpenMP threads that spin made a busy two-core machine up to ten times slower
        "TRANSFORMERS_VERBOSITY": "warning",
        "DO_NOT_TRACK": "1",  # vLLM, the hub's client
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(key, value)


def _check(arguments: list[str]) -> int:
    from icr_platform.cli.flags import Parser, add_flags, configured
    from icr_platform.cli.sweeps import check_sweep_file, is_sweep
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.planning.capacity import DEVICES
    from icr_platform.planning.check import Prediction, check
    from icr_platform.planning.rehearsal import Rehearsal

    parser = Parser(
        "icr check", TOOLS["check"], epilog="Every flag of `icr iterate` is understood too, and overrides the preset."
    )
    parser.usage = "icr check PRESET [--FLAG VALUE ...]"
    parser.add_argument(
        "config",
        metavar="PRESET",
        help="a YAML file, or the name of a preset that ships with the package; also that of a sweep",
    )
    parser.add_argument(
        "--calibrate", type=float, default=0.0, metavar="SECONDS",
        help="first measure this machine's tokens per second for so long, and predict times from that",
    )  # fmt: skip
    parser.add_argument(
        "--gpus", type=int, default=0, metavar="N", help="predict for so many GPUs, not for this machine"
    )
    parser.add_argument(
        "--gpu", default="H100", metavar="NAME", help=f"their kind: {', '.join(DEVICES)} (default: H100)"
    )
    parser.add_argument(
        "--response-tokens", type=float, metavar="X",
        help="mean length of a response; without it, each is taken to be as long as max_tokens allows",
    )  # fmt: skip
    parser.add_argument("--verbose", action="store_true", help="show whole prompts, however long they are")
    parser.add_argument(
        "--rehearse", type=int, default=0, metavar="N",
        help="take N prompts of each language through every stage on the real models, with few tokens and one training step: "
        "what fails or looks wrong is known in minutes. Nothing is logged or kept; a judge's endpoint is asked, --eval-judge none leaves "
        "it out",
    )  # fmt: skip
    parser.add_argument(
        "--rehearse-tokens", type=int, default=Rehearsal.tokens, metavar="N",
        help=f"tokens of a rehearsed response at most (default: {Rehearsal.tokens})",
    )  # fmt: skip
    add_flags(parser, ITERATE.name, shown=None)
    given = vars(parser.parse_args(arguments))
    if is_sweep(given["config"]):
        _quiet_libraries()
        return check_sweep_file(given)
    rehearsal = Rehearsal(given.pop("rehearse"), given.pop("rehearse_tokens"))
    if rehearsal.prompts < 0 or rehearsal.tokens < 1:
        raise InputError(
            "icr check: --rehearse and --rehearse-tokens take numbers from 1 on; give as many as a few minutes allow"
        )
    fields = ("calibrate", "gpus", "gpu", "response_tokens", "verbose")
    prediction = Prediction(**{name: given.pop(name) for name in fields})
    config, options = configured(ITERATE.name, given)
    _quiet_libraries()
    return check(config, options, prediction, WORLDS, rehearsal)  # type: ignore[arg-type]


def _inspector(tool: str, arguments: list[str]) -> int:
    """Serve the inspector until it is ended, or do one of `icr verdicts`' actions with what reviewers said in it."""
    from dataclasses import Field, fields

    from icr_platform.cli.flags import Parser
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.evaluation.confusion import mark
    from ui.server import app
    from ui.server.options import VERDICT_ACTIONS, InspectOptions

    parser = Parser(f"icr {tool}", TOOLS[tool])
    parser.usage = (
        f"icr {tool}{' publish|export|link RUN|import FILE' if tool == 'verdicts' else ''} [--FLAG VALUE ...]"
    )

    def add(option: Field[Any]) -> None:
        flag = "--" + option.name.replace("_", "-")
        if isinstance(option.default, (bool, tuple)):  # a flag alone, and one that may be given several times
            kinds: dict[str, Any] = {"action": "store_true"}
            if isinstance(option.default, tuple):
                kinds = {"action": "append", "default": [], "metavar": "NAME"}
            parser.add_argument(flag, help=option.metadata["help"], **kinds)
            return
        shown = f" (default: {option.default})" if option.default else ""
        parser.add_argument(
            flag, type=type(option.default), default=option.default,
            metavar="N" if isinstance(option.default, int) else "TEXT", help=option.metadata["help"] + shown,
        )  # fmt: skip

    action = next((word for word in arguments if word in VERDICT_ACTIONS), "publish")
    if tool == "verdicts":
        parser.add_argument("action", choices=list(VERDICT_ACTIONS))
        if action == "import":
            parser.add_argument(
                "file", metavar="FILE", help="votes: CSV, JSON Lines or Parquet, in any of the known layouts"
            )
        told = "id of the MLflow run whose items are judged"
        if action == "import":
            parser.add_argument("--run", metavar="RUN", required=True, help=told)
        else:
            parser.add_argument("run", metavar="RUN", help=told)
        # Flags of one action are unknown to the others, and so refused there.
        for option in fields(VERDICT_ACTIONS[action]):
            add(option)
    for option in fields(InspectOptions):
        add(option)
    given = vars(parser.parse_args(arguments))
    options = InspectOptions(**{option.name: given[option.name] for option in fields(InspectOptions)})
    _quiet_libraries()
    if tool == "inspect":
        app.launch(options, WORLDS, mark)
    asked: Any = VERDICT_ACTIONS[action](
        **{option.name: given[option.name] for option in fields(VERDICT_ACTIONS[action])}
    )
    if action == "import":
        print("\n".join(app.import_verdicts(options, given["run"], given["file"], asked.source)))
    elif action == "publish":
        print("\n".join(app.publish_verdicts(options, given["run"], asked.names, asked.dry_run, asked.leave_out)))
    else:
        done = app.export_verdicts if action == "export" else app.make_review_link
        print("\n".join(done(options, given["run"], asked)))
    return 0


def _report(arguments: list[str]) -> int:
    from icr_platform.cli.flags import Parser
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.pipeline.arm_results import report_again
    from icr_platform.pipeline.session import RunOptions, open_session

    parser = Parser("icr report", TOOLS["report"])
    parser.add_argument(
        "run", metavar="RUN", help="id of the arm's MLflow run, or of a sweep's: then its arms are compared"
    )
    given = parser.parse_args(arguments)
    _quiet_libraries()
    with closing(open_session(RunOptions(), WORLDS)) as session:
        if session.tracker is not None and session.tracker.is_sweep(given.run):
            from icr_platform.cli.compare import compare

            return compare([given.run, "--format", "html", "--output", f"report-{given.run[:12]}.html"])
        report_again(session, given.run)
    return 0
