"""Record the output of the commands in commands.toml, or compare it with the recorded results.

    python tests/golden/record.py                       every command
    python tests/golden/record.py topo-list goodput     those
    python tests/golden/record.py --check               write nothing; exit code 3 when a result differs

Record an intended difference anew and review the diff of results/. If a word was only renamed, list it in renamed.toml
instead, so that the old results still guard the numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dessim.files import write_text
from tests.golden.comparing import MAX_SIZE, differences, dumped, read_renamed, reduced, renamed
from tests.golden.running import COMMANDS, PROSE, RESULTS, Command, outcome


def record(command: Command) -> None:
    """Write its result."""
    found = outcome(command)
    large = len(dumped(found)) > MAX_SIZE
    write_text(_file(command), dumped({"reduced": large, "result": reduced(found) if large else found}) + "\n")


def check(command: Command, relative: float | None = None) -> list[str]:
    """One line per difference between the command's result and the recorded one."""
    if not _file(command).exists():
        return ["nothing is recorded"]
    stored: dict[str, Any] = json.loads(_file(command).read_text("utf-8"))
    words, found = read_renamed(), outcome(command)
    old, new = renamed(stored["result"], words["keys"], words["values"]), reduced(found) if stored["reduced"] else found
    return list(differences(old, new, PROSE, **({} if relative is None else {"relative": relative})))


def _file(command: Command) -> Path:
    return RESULTS / f"{command.name}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of commands (default: all)")
    parser.add_argument("--check", action="store_true", help="compare with what is recorded")
    parser.add_argument("--relative", type=float, help="with --check: what floats may differ by (default: 1e-12)")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - {command.name for command in COMMANDS}:
        parser.error(f"no such command: {', '.join(sorted(unknown))}")
    wrong = 0
    for command in COMMANDS:
        if options.names and command.name not in options.names:
            continue
        began = time.monotonic()
        if not options.check:
            record(command)
        lines = check(command, options.relative) if options.check else []
        wrong += bool(lines)
        print(f"{time.monotonic() - began:5.1f} s  {command.name}", flush=True)  # noqa: T201
        for line in lines:
            print(f"         {line}")  # noqa: T201
    if wrong:
        print(f"{wrong} results differ", file=sys.stderr)  # noqa: T201
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
