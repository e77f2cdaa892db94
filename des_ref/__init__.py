"""The trainer: DES and its rivals in PyTorch. Start it with `torchrun -m des_ref.train`; see that file."""

import os
import signal
import sys

# torch prints a long stack trace for each failed attempt to connect, in addition to the exception that we print.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
if sys.argv[:1] == ["-m"]:
    # A program of this package starts (python -m), and imports torch for seconds. des_ref.cli takes over afterwards.
    def _leave(*_: object) -> None:
        os.write(2, b"des_ref: interrupted\n" if os.environ.get("LOCAL_RANK", "0") == "0" else b"")
        os._exit(130)

    for _number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(_number) is not signal.SIG_IGN:
            signal.signal(_number, _leave)
