"""The `dessim` command, also as `python -m dessim`."""

import os
import sys

from dessim.processes import INTERRUPTED, Ending, prepare_streams


def main() -> None:
    """Import the command line, which takes a while, and run it."""
    prepare_streams()
    try:
        with Ending("dessim"):
            from dessim.cli.app import main as run

            run()
    except KeyboardInterrupt:
        sys.stderr.write("dessim: interrupted\n")
        _leave()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _leave()
        raise


def _leave() -> None:
    """Exit now: Python may kill a process whose code has caught a KeyboardInterrupt with SIGINT as it ends."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
