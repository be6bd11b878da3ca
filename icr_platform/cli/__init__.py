"""The command line: commands, flags, presets, and the MLproject that is made from them."""

from icr_platform.cli.commands import main

__all__ = ["main"]
