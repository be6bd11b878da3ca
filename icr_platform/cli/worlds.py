"""The worlds that the command line hands in: the one place that knows them."""

from icr_platform.demo import WORLD

WORLDS = {WORLD.name: WORLD}
