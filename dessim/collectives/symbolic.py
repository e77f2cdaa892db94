"""The symbolic checker: proves that a schedule computes its collective, by executing it on sets of contributions.

A rank's copy of a piece is represented by a bit mask: the set of ranks whose contributions it contains. It is an error
to add a contribution twice, to send a piece that the sender does not have, or to send a number of bytes that differs
from the size of the pieces. At the end each rank must hold each piece of its result, with each contribution exactly
once.

S bytes are cut into `pieces` equal pieces. In ops where each rank has a share (reduce_scatter, all_gather, gather,
scatter), `pieces` is a multiple of n and rank r's share is the r-th run of consecutive pieces. In all_to_all each rank
has n pieces, one per target. In send_recv rank r has piece r, of S bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dessim.collectives.schedule import Stage, all_to_all_chunk
from dessim.trace.schema import Collective

_ROUNDING = 1e-9
_SHARED_OPS = (Collective.REDUCE_SCATTER, Collective.ALL_GATHER, Collective.GATHER, Collective.SCATTER)

Held = list[dict[int, int]]
"""For each rank: its pieces, each with the bit mask of the contributions in it."""


def check_schedule(
    op: Collective, n: int, stages: Iterable[Stage], root: int = 0, size: float | None = None
) -> list[str]:
    """The errors in a schedule of `op` over n ranks; empty if it computes `op` exactly.

    With `size` (S) the size of every message is compared with the pieces that it carries. Raises ValueError for an op
    that moves no data.
    """
    schedule = list(stages)
    piece_counts = {stage.pieces or n for stage in schedule} or {n}
    if len(piece_counts) > 1:
        return [f"stages do not agree on the number of pieces: {sorted(piece_counts)}"]
    pieces = piece_counts.pop()
    if op in _SHARED_OPS and pieces % n:
        return [f"{pieces} pieces cannot be shared evenly by {n} ranks"]
    piece_size = None if size is None else size if op is Collective.SEND_RECV else size / pieces
    held = [dict(_initial(op, n, rank, pieces, root)) for rank in range(n)]
    for number, stage in enumerate(schedule):
        if stage.carries is None:
            return [f"stage {number} does not say which pieces it carries"]
        for repetition in range(stage.repeat):
            problem = _run(stage, repetition, held, piece_size)
            if problem:
                return [f"stage {number}, repetition {repetition}: {problem}"]
    return [
        f"rank {rank} ends with piece {piece} = {held[rank].get(piece, 0):b}, not {mask:b}"
        for rank in range(n)
        for piece, mask in _result(op, n, rank, pieces, root)
        if held[rank].get(piece, 0) != mask
    ]


def _initial(op: Collective, n: int, rank: int, pieces: int, root: int) -> Iterator[tuple[int, int]]:
    """The (piece, contributions) that a rank holds before the op."""
    mine = 1 << rank
    match op:
        case Collective.ALL_REDUCE | Collective.REDUCE_SCATTER | Collective.REDUCE:
            yield from ((piece, mine) for piece in range(pieces))
        case Collective.ALL_GATHER | Collective.GATHER:
            yield from ((piece, mine) for piece in _share(n, rank, pieces))
        case Collective.ALL_TO_ALL:
            yield from ((all_to_all_chunk(n, rank, target), mine) for target in range(n))
        case Collective.BROADCAST | Collective.SCATTER:
            yield from ((piece, mine) for piece in range(pieces) if rank == root)
        case Collective.SEND_RECV:
            yield rank, mine
        case _:
            raise ValueError(f"no symbolic meaning for {op}")


def _result(op: Collective, n: int, rank: int, pieces: int, root: int) -> Iterator[tuple[int, int]]:
    """The (piece, contributions) that a rank must hold after the op."""
    everyone = (1 << n) - 1
    match op:
        case Collective.ALL_REDUCE:
            yield from ((piece, everyone) for piece in range(pieces))
        case Collective.REDUCE:
            yield from ((piece, everyone) for piece in range(pieces) if rank == root)
        case Collective.REDUCE_SCATTER:
            yield from ((piece, everyone) for piece in _share(n, rank, pieces))
        case Collective.ALL_GATHER | Collective.GATHER:
            if op is Collective.ALL_GATHER or rank == root:
                yield from ((piece, 1 << owner) for owner in range(n) for piece in _share(n, owner, pieces))
        case Collective.ALL_TO_ALL:
            yield from ((all_to_all_chunk(n, origin, rank), 1 << origin) for origin in range(n))
        case Collective.BROADCAST:
            yield from ((piece, 1 << root) for piece in range(pieces))
        case Collective.SCATTER:
            yield from ((piece, 1 << root) for piece in _share(n, rank, pieces))
        case _:
            yield (rank - 1) % n, 1 << (rank - 1) % n


def _share(n: int, rank: int, pieces: int) -> range:
    share = pieces // n
    return range(rank * share, (rank + 1) * share)


def _run(stage: Stage, repetition: int, held: Held, piece_size: float | None) -> str | None:
    """Execute one repetition of a stage; returns the first error.

    Messages that wait for no other all leave before any arrives. The others leave once the message that they wait for
    has arrived.
    """
    waiting = list(range(len(stage.src)))
    after = [-1] * len(waiting) if stage.after is None else stage.after.tolist()
    arrived: set[int] = {-1}
    while waiting:
        ready = [message for message in waiting if after[message] in arrived]
        if not ready:
            return f"messages wait for each other: {waiting}"
        problem = _send(stage, repetition, set(ready), held, piece_size)
        if problem:
            return problem
        arrived.update(ready)
        waiting = [message for message in waiting if message not in arrived]
    return None


def _send(stage: Stage, repetition: int, sent: set[int], held: Held, piece_size: float | None) -> str | None:
    """Send the messages `sent` of a stage together; returns the first error."""
    assert stage.carries is not None
    contents = stage.carries(repetition)
    flags = [stage.reduce] * len(stage.src) if isinstance(stage.reduce, bool) else stage.reduce.tolist()
    deliveries: list[tuple[int, int, int, bool]] = []
    rows = zip(stage.src.tolist(), stage.dst.tolist(), stage.size.tolist(), contents, flags, strict=True)
    for number, (src, dst, size, carried, reduce) in enumerate(rows):
        if number not in sent:
            continue
        pieces = list(carried)
        if piece_size is not None and abs(size - len(pieces) * piece_size) > _ROUNDING * size:
            return f"a message from {src} of {size:g} B carries {len(pieces)} pieces of {piece_size:g} B"
        senders, receivers = ([src], [dst]) if stage.trees is None else stage.trees.members(number)
        if src == dst and stage.trees is None:
            return f"rank {src} sends to itself"
        for piece in pieces:
            mask = 0
            for sender in senders:
                if piece not in held[sender]:
                    return f"rank {sender} sends piece {piece}, which it does not have"
                if mask & held[sender][piece]:
                    return f"a switch adds a contribution to piece {piece} from rank {sender} twice"
                mask |= held[sender][piece]
            deliveries.extend((receiver, piece, mask, reduce) for receiver in receivers)
    for receiver, piece, mask, reduce in deliveries:
        have = held[receiver].get(piece, 0)
        if reduce and have & mask:
            return f"rank {receiver} adds a contribution to piece {piece} twice"
        if not reduce and have & ~mask:
            return f"rank {receiver} overwrites contributions in piece {piece} with fewer"
        held[receiver][piece] = have | mask if reduce else mask
    return None
