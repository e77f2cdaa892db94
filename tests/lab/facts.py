"""A program whose ranks tell what they are. Rank 1 then exits with the code that is the second argument, if any."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    facts = {
        "rank": os.environ["RANK"],
        "mine": os.environ.get("MINE"),
        "arguments": sys.argv[1:],
        "network": Path("/proc/self/ns/net").stat().st_ino,
        "leads": os.getsid(0) == os.getpid(),
        "parent": os.getppid(),
        "nice": os.nice(0),
        "stdin": sys.stdin.read(),
    }
    print(json.dumps(facts), flush=True)  # noqa: T201
    if len(sys.argv) > 2:
        if facts["rank"] == "1":
            sys.exit(int(sys.argv[2]))
        time.sleep(600)
