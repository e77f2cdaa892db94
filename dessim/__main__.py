"""The `dessim` command, also as `python -m dessim`."""

import sys

from dessim.processes import INTERRUPTED, Ending, leave, prepare_streams


def main() -> None:
    """Import the command line, which takes a while, and run it."""
    prepare_streams()
    try:
        with Ending("dessim"):
            from dessim.cli.app import main as run

            run()
    except KeyboardInterrupt:
        sys.stderr.write("dessim: interrupted\n")
        leave(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            leave(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
