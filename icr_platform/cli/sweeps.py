"""`icr sweep`: checks every arm, and then runs each at every seed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from icr_platform.cli.flags import command_parser, parse
from icr_platform.cli.worlds import WORLDS
from icr_platform.core.config import require, validate
from icr_platform.core.errors import InputError
from icr_platform.pipeline.presets import preset_path, read_layers
from icr_platform.pipeline.session import RunOptions, open_session
from icr_platform.pipeline.stages import SWEEP
from icr_platform.pipeline.sweep_config import Expansion, SweepConfig, expand


def sweep(arguments: Sequence[str]) -> int:
    """Run a sweep; returns the exit status: 0, 1 when an arm failed, or 2 when something must be fixed before any can run."""
    for flag in ("-h", "--help"):
        if flag in arguments:
            command_parser(SWEEP.name).print_help()
            return 0
    config, options, expansion = read_sweep(arguments)
    if expansion.problems:
        return say(expansion.problems)
    from icr_platform.pipeline.sweep import sweep as run_sweep
    from icr_platform.planning.sweep_check import problems_of_sweep

    with closing(open_session(options, WORLDS)) as session:
        if problems := problems_of_sweep(session, expansion):
            return say(problems)
        run_sweep(session, config, expansion.arms)
    return 0


def read_sweep(arguments: Sequence[str]) -> tuple[SweepConfig, RunOptions, Expansion]:
    """A sweep's configuration, and its arms; the first argument may be its file.

    Raises:
        InputError: the file is missing or has wrong fields.
    """
    given = list(arguments)
    if given and not given[0].startswith("-"):
        given[:1] = ["--config", given[0]]
    config, options = parse(SWEEP.name, given)
    assert isinstance(config, SweepConfig)
    file = named_file(given)
    source = str(file) if file else "icr sweep"
    require(config, SWEEP.command, source)
    config = config.model_copy(update={"name": config.name or (file.stem if file else "sweep")})
    return config, options, expand(config, source, WORLDS)


def is_sweep(preset: str) -> bool:
    """Whether a preset is that of a sweep; False for what is not there, or not one preset."""
    try:
        layers = read_layers(preset)
    except InputError:
        return False
    return len(layers) == 1 and "arms" in layers[0].values


def check_sweep_file(given: Mapping[str, Any]) -> int:
    """`icr check` of a sweep. given: what was said on the command line; returns the exit status."""
    from icr_platform.planning.sweep_check import check_sweep

    options = RunOptions.model_fields.keys()
    said = {name: value for name, value in given.items() if name in options and value is not None}
    # argparse has defaults for the numbers that a prediction takes; what stands there now was given.
    if others := [
        name for name, value in given.items() if name not in (*options, "config", "gpu", "rehearse_tokens") and value
    ]:
        flag = others[0].replace("_", "-").replace(".", "-")
        raise InputError(f"icr check: --{flag} is of one arm; write it into the sweep, or check the arm's presets")
    _, _, expansion = read_sweep([given["config"]])
    return check_sweep(validate(RunOptions, said, "icr check"), expansion, WORLDS)


def named_file(arguments: Sequence[str]) -> Path | None:
    """The file that `--config` names."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name == "--config":
            return preset_path(value if equals else following)
    return None


def say(problems: Sequence[str]) -> int:
    """Print what must be fixed, a line each."""
    for problem in problems:
        print(f"icr: {problem}", file=sys.stderr)
    return InputError.exit_status
