"""How a verdict database of an earlier version becomes one of this version: alembic's steps in `versions`, applied by `upgrade`."""
