"""A key prefix that all processes of one start agree on and that no earlier start has used.

torchrun keeps one key-value store across all of its restarts (torch 2.8 to 2.13), and process groups leave their
addresses in it. A restarted process could read an address of the previous start and be refused there. With its own
prefix, a start never sees old keys. The number of restarts cannot serve as that prefix, because each node counts its
own restarts.

    every other rank    writes hello/R = a fresh random name and waits for welcome/NAME, which holds the prefix
    rank 0              answers every name it finds, stale or not, until all others have confirmed under here/PREFIX
"""

from __future__ import annotations

import secrets
import time

from torch.distributed import Store

_POLL_S = 0.02


def agree_on_prefix(store: Store, rank: int, world_size: int, timeout: float) -> str:
    """The prefix. Raises TimeoutError if not all processes arrive within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    own_name = secrets.token_hex(8)
    if rank == 0:
        answered = {""}
        while store.add(f"here/{own_name}", 0) < world_size - 1:
            for other in range(1, world_size):
                name = store.get(f"hello/{other}").decode() if store.check([f"hello/{other}"]) else ""
                if name not in answered:
                    store.set(f"welcome/{name}", own_name)
                    answered.add(name)
            _poll(deadline, timeout)
        return own_name
    store.set(f"hello/{rank}", own_name)
    while not store.check([f"welcome/{own_name}"]):
        _poll(deadline, timeout)
    prefix = store.get(f"welcome/{own_name}").decode()
    store.add(f"here/{prefix}", 1)
    return prefix


def _poll(deadline: float, timeout: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"a process did not arrive within {round(timeout, 1):g} s")
    time.sleep(_POLL_S)
