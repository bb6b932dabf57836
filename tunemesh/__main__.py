"""Where a process begins: ``tunemesh``, or ``python -m tunemesh``, which is the same."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = 130
"""As :mod:`tunemesh.cli` has it, which is not there yet."""


def main() -> NoReturn:
    """The command line. Ctrl-C while its modules are still imported is an interruption like any other."""
    try:
        # Also where it is ignored, as it is for what a script has put into the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from tunemesh import cli

        cli.main()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    # Python puts the working folder first, where a person's own module may have the name of another one.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
    main()
