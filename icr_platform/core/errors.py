"""Errors a user can act on: one line that names the file, the row, the field and how to fix it."""


class IcrError(Exception):
    """A stage could not finish; finished work is kept. The command exits with status 1."""

    exit_status = 1


class InputError(IcrError):
    """An input or a configuration is wrong; nothing was written. The command exits with status 2."""

    exit_status = 2


class TrackingError(IcrError):
    """The tracking store stopped answering, or refuses; finished work waits on disk for the next run."""


class StoreRefusesError(TrackingError):
    """The tracking or artifact store answers, and refuses: a login, a permission, a schema, a missing bucket."""


class WeightsRemovedError(InputError):
    """A checkpoint cannot be loaded because `keep_checkpoints` gave its weights up."""
