"""The `dessim` command, also as `python -m dessim`."""

import sys


def main() -> None:
    """Import the command line, which takes a while, and run it."""
    try:
        from dessim.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("dessim: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
