"""A word that all processes of one start have in common, and no start before it.

torchrun keeps one key-value store for all of its restarts (torch 2.8 to 2.13), and process groups leave their addresses
in it: a process that is started again may read where one of the last start listened, and is refused there. Behind a
prefix of their own the keys of a start are safe. The number of restarts would not do for one: each node has its own.

    every other rank    hello/R = a name of its own that nobody has had; waits for welcome/NAME, which is the word
    rank 0              answers each name it finds with its word, whoever's it is, until all have come to here/WORD
"""

from __future__ import annotations

import secrets
import time

from torch.distributed import Store

_LOOK_S = 0.02


def meet(store: Store, rank: int, world_size: int, timeout: float) -> str:
    """The word. Raises TimeoutError when not all come within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    own = secrets.token_hex(8)
    if rank == 0:
        answered = {""}
        while store.add(f"here/{own}", 0) < world_size - 1:
            for other in range(1, world_size):
                name = store.get(f"hello/{other}").decode() if store.check([f"hello/{other}"]) else ""
                if name not in answered:
                    store.set(f"welcome/{name}", own)
                    answered.add(name)
            _wait_until(deadline, timeout)
        return own
    store.set(f"hello/{rank}", own)
    while not store.check([f"welcome/{own}"]):
        _wait_until(deadline, timeout)
    word = store.get(f"welcome/{own}").decode()
    store.add(f"here/{word}", 1)
    return word


def _wait_until(deadline: float, timeout: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"a process did not come within {timeout:g} s")
    time.sleep(_LOOK_S)
