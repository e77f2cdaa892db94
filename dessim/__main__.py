"""The `dessim` command, also as `python -m dessim`."""

import signal
import sys
import threading


def main() -> None:
    """Import the command line, which takes a while, and run it."""
    # SIGTERM acts as Ctrl-C does, also while modules are imported.
    before = signal.getsignal(signal.SIGTERM)
    is_ours = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if is_ours:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run()
    except KeyboardInterrupt:
        from dessim.processes import INTERRUPTED, leave

        sys.stderr.write("dessim: interrupted\n")
        leave(INTERRUPTED)
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, before)


def _run() -> None:
    from dessim.processes import INTERRUPTED, Ending, leave, prepare_streams

    prepare_streams()
    try:
        with Ending("dessim"):
            from dessim.cli.app import main as run

            run()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            leave(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
