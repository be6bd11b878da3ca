"""The command line: `icr generate|annotate|train|eval|iterate`, one flag per configuration field, and tools around them.

Nothing heavy is imported before a stage is known, so that `icr --help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from icr_platform.core.errors import IcrError, InputError
from icr_platform.pipeline.stages import CONFIGURED, STAGES, named_command

if TYPE_CHECKING:
    from icr_platform.core.config import Config
    from icr_platform.pipeline.runner import RunOptions
    from ui.server.options import InspectOptions

COMMANDS = {
    **{row.command: row.help for row in CONFIGURED.values()},
    "check": "preflight: check a configuration's inputs and print what would run, without running it",
    "inspect": "open the inspector in a browser: pairs, margins, regressions, spot-checks",
    "verdicts": "`icr verdicts publish RUN`: add reviewers' verdicts to their MLflow run",
    "report": "`icr report RUN`: rebuild the report of an arm from its artifacts",
}
UNSET = "-"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the nearest flag."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments:"):
            flag = message.split()[2].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.4)
            message = f"unknown flag {flag}" + (f", nearest is {near[0]}" if near else "")
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help")


class Terminated(BaseException):
    """SIGTERM arrived; runs are marked KILLED on the way out."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _dispatch(argv)
    except IcrError as error:
        print(f"icr: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except OSError as error:
        if error.filename is None:
            raise
        print(f"icr: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("icr: interrupted; finished work is kept, the same command goes on", file=sys.stderr)
        return 130
    except Terminated:
        print("icr: terminated; finished work is kept, the same command goes on", file=sys.stderr)
        return 143


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        _overview().print_help()
        return 0 if argv else 2
    command, arguments = argv[0], argv[1:]
    if command == "--version":
        from icr_platform import __version__

        print(__version__)
        return 0
    row = named_command(command)
    if row is not None:
        return _stage(row.name, arguments)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
        raise InputError(f"icr: unknown command {command!r}" + (f", nearest is {near[0]!r}" if near else ""))
    tools = {"check": _check, "inspect": _inspect, "verdicts": _verdicts, "report": _report}
    return tools[command](arguments)


def _overview() -> argparse.ArgumentParser:
    lines = [f"  {name:<11}{text}" for name, text in COMMANDS.items()]
    return argparse.ArgumentParser(
        prog="icr",
        usage="icr COMMAND [flags]",
        description="Implicit cross-lingual rewarding (arXiv 2503.04647): preference alignment without preference data.",
        epilog="commands:\n" + "\n".join(lines) + "\n\n`icr COMMAND --help` lists a command's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _stage(stage: str, arguments: list[str]) -> int:
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.core.config import require
    from icr_platform.pipeline.runner import open_session, run_stage
    from icr_platform.pipeline.stage_process import die_with_parent

    config, options = parse(stage, arguments)
    require(config, stage, source=f"icr {stage}")
    if os.environ.get("MLFLOW_RUN_ID"):
        die_with_parent()
    _set_defaults()
    with closing(open_session(options, WORLDS)) as session:
        if getattr(config, "dry_run", False):
            from icr_platform.planning.judge_cost import print_estimate

            print_estimate(session.resolver.resolve(config, config.seed))  # type: ignore[attr-defined,arg-type]
            return 0
        if stage == "iterate":
            from icr_platform.pipeline.iterate import iterate

            iterate(session, config)  # type: ignore[arg-type]
            return 0
        done = run_stage(session, stage, config)
        STAGES[stage].print_result(config, done.result)
        for name in done.result.artifacts:
            place = f"runs:/{done.run.run_id}/{name}" if done.run and done.temporary else done.reference(name)
            print(f"{name}: {place}")
        done.clean_up()
    return 0


def _set_defaults() -> None:
    """Keep libraries' chatter out of a person's terminal (warnings and errors stay), and threads from spinning."""
    for key, value in {
        "GOMP_SPINCOUNT": "0",  # idle OpenMP threads that spin made a busy two-core machine up to ten times slower
        "TRANSFORMERS_VERBOSITY": "warning",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(key, value)


def parse(stage: str, arguments: list[str]) -> tuple[Config, RunOptions]:
    """Configuration of a stage: preset, then flags over it.

    With `--project-defaults` (how MLproject calls us) a value equal to its field's default counts as not given, because MLflow
    passes every parameter: otherwise its defaults would override the preset.
    """
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.core.config import leaves, merge, validate
    from icr_platform.pipeline.config import load_preset
    from icr_platform.pipeline.runner import RunOptions

    parser = stage_parser(stage)
    given = vars(parser.parse_args([_dashes(argument) for argument in arguments]))
    preset, project = given.pop("config"), given.pop("project_defaults")
    flat = {}
    for name, info in leaves(CONFIGURED[stage].config):
        value = given.pop(name)
        if value not in (None, UNSET) and not (project and value == default_text(info.default)):
            flat[name] = value
    chosen = {name: value for name, value in given.items() if value not in (None, UNSET)}
    options = validate(RunOptions, chosen, f"icr {stage}")
    over = validate_flags(stage, flat)
    if preset in (None, UNSET):
        return validate(CONFIGURED[stage].config, over, f"icr {stage}", WORLDS), options
    path = preset_path(preset)
    preset_values = load_preset(path, stage, WORLDS)
    return validate(CONFIGURED[stage].config, merge(preset_values, over), str(path), WORLDS), options


def validate_flags(stage: str, flat: dict[str, str]) -> dict[str, Any]:
    """Nested values of the flags, each checked on its own so that an error names the flag and not the preset."""
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.core.config import nest, validate

    nested = nest(flat)
    validate(CONFIGURED[stage].config, nested, f"icr {stage}", WORLDS)
    return nested


def preset_path(preset: str) -> Path:
    """A preset's file: a path from the caller's folder, or the name of one that ships with the project."""
    from icr_platform.tracking.project_runs import caller_folder

    shipped = Path(__file__).parent.parent.parent / "projects" / "conf"
    for path in (caller_folder() / preset, shipped / preset, shipped / f"{preset}.yaml", shipped.parent / preset):
        if path.is_file():
            return path
    names = " ".join(sorted(path.stem for path in shipped.glob("*.yaml")))
    raise InputError(f"{preset}: no such preset; give a YAML file" + (f" or one of: {names}" if names else ""))


def stage_parser(stage: str) -> argparse.ArgumentParser:
    """A parser with one flag per field of the stage's configuration and of the run options."""
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.core.config import leaves
    from icr_platform.pipeline.runner import RunOptions

    row = CONFIGURED[stage]
    parser = _Parser(prog=f"icr {row.command}", description=row.help, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML preset; flags override it")
    parser.add_argument("--project-defaults", action="store_true", help=argparse.SUPPRESS)
    for name, info in (*leaves(row.config), *leaves(RunOptions)):
        flag = "--" + name.replace("_", "-").replace(".", "-")
        parts = [(world.name, world.parts.get(name.rpartition(".")[2])) for world in WORLDS.values()]
        text = (info.description or "") + "".join(f"; {world}: {part.doc}" for world, part in parts if part is not None)
        text = text.replace("%", "%%")
        shown = default_text(info.default)
        is_switch = isinstance(info.default, bool)
        parser.add_argument(
            flag,
            dest=name,
            metavar="true|false" if is_switch else "VALUE",
            nargs="?" if is_switch else None,
            const="true" if is_switch else None,
            help=f"{text} (default: {shown})" if shown != UNSET else text,
        )
        if is_switch:
            parser.add_argument(
                f"--no-{flag[2:]}", dest=name, action="store_const", const="false", help=argparse.SUPPRESS
            )
    return parser


def default_text(default: object) -> str:
    """A default as MLproject writes it and MLflow hands it over; `-` stands for 'not given', since MLflow refuses ''."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default) or UNSET
    if default is None:
        return "none"
    return str(default) or UNSET


def _dashes(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else argument


def _check(arguments: list[str]) -> int:
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.planning.check import Prediction, check

    given, rest = _check_parser().parse_known_args(arguments)
    config, options = parse("iterate", ["--config", given.preset, *rest])
    _set_defaults()
    prediction = Prediction(given.calibrate, given.gpus, given.gpu, given.response_tokens)
    return check(config, options, prediction, WORLDS)  # type: ignore[arg-type]


def _check_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="icr check",
        description=COMMANDS["check"],
        allow_abbrev=False,
        epilog="Every flag of `icr iterate` is understood too and overrides the preset.",
    )
    parser.add_argument("preset", help="preset of iterate: its path, or the name of one that ships with the project")
    parser.add_argument(
        "--calibrate", type=float, default=0.0, metavar="SECONDS", help="measure this machine's tokens per second first"
    )
    parser.add_argument("--gpus", type=int, default=0, help="predict for so many GPUs instead of this machine")
    parser.add_argument(
        "--gpu", default="H100", help="their kind, such as A100-80GB, H100, H200 (default: %(default)s)"
    )
    parser.add_argument(
        "--response-tokens",
        type=float,
        metavar="N",
        help="mean length of a response; else all are as long as max_tokens",
    )
    return parser


def _inspect(arguments: list[str]) -> int:
    from icr_platform.cli.worlds import WORLDS
    from ui.server.app import launch

    parser = _inspector_parser("icr inspect", COMMANDS["inspect"])
    options = _inspector_options(parser.parse_args(arguments))
    _set_defaults()
    launch(options, WORLDS)
    return 0


def _verdicts(arguments: list[str]) -> int:
    from ui.server.app import publish_verdicts

    parser = _inspector_parser("icr verdicts", COMMANDS["verdicts"])
    parser.add_argument("action", choices=["publish"])
    parser.add_argument("run", metavar="RUN", help="id of the MLflow run whose items were judged")
    given = parser.parse_args(arguments)
    _set_defaults()
    print(f"published {publish_verdicts(_inspector_options(given), given.run)} verdicts to run {given.run}")
    return 0


def _inspector_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A flag per field of InspectOptions; what each means is documented there."""
    from dataclasses import fields

    from ui.server.options import InspectOptions

    parser = _Parser(prog=prog, description=description, epilog=InspectOptions.__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    for field in fields(InspectOptions):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, dest=field.name, type=type(field.default), default=field.default, metavar="VALUE")
    return parser


def _inspector_options(given: argparse.Namespace) -> InspectOptions:
    from dataclasses import fields

    from ui.server.options import InspectOptions

    return InspectOptions(**{field.name: getattr(given, field.name) for field in fields(InspectOptions)})


def _report(arguments: list[str]) -> int:
    parser = _Parser(prog="icr report", description=COMMANDS["report"], allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="id of the arm's MLflow run")
    given = parser.parse_args(arguments)
    _set_defaults()
    from icr_platform.cli.worlds import WORLDS
    from icr_platform.pipeline.iterate import report_again
    from icr_platform.pipeline.runner import RunOptions, open_session

    with closing(open_session(RunOptions(), WORLDS)) as session:
        report_again(session, given.run)
    return 0
