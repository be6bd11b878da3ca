"""`python -m icr_platform` is `icr`, for children that must run under the same interpreter."""

from icr_platform.cli import main

main()
