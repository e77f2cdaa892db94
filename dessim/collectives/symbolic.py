"""The symbolic checker: proves that a schedule computes its collective, by executing it on sets.

A rank's copy of a piece is the set of ranks whose contribution is in it, as a bit mask. Adding a contribution twice,
sending what one does not have, or moving other bytes than the pieces make up is an error; at the end each rank must
hold each piece of its result with each contribution exactly once.

S is cut into `pieces` equal pieces. Where ranks have a share of their own (reduce_scatter, all_gather, gather,
scatter), `pieces` is a multiple of n and rank r's share is the r-th run of them. An all_to_all has n pieces a rank, one
for each target; in a send_recv rank r has piece r, of S bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dessim.collectives.schedule import Stage, all_to_all_chunk
from dessim.trace.schema import Collective

_ROUNDING = 1e-9

Held = list[dict[int, int]]


def check_schedule(
    op: Collective, n: int, stages: Iterable[Stage], root: int = 0, size: float | None = None
) -> list[str]:
    """What is wrong with a schedule of `op` over n ranks; empty when it computes `op` exactly.

    With `size` (S) the bytes of every message are held against the pieces it carries.
    """
    todo = list(stages)
    cuts = {stage.pieces or n for stage in todo} or {n}
    if len(cuts) > 1:
        return [f"stages do not agree on the number of pieces: {sorted(cuts)}"]
    pieces = cuts.pop()
    if op in _SHARES and pieces % n:
        return [f"{pieces} pieces cannot be shared evenly by {n} ranks"]
    piece_size = None if size is None else size if op is Collective.SEND_RECV else size / pieces
    held = [dict(_initial(op, n, rank, pieces, root)) for rank in range(n)]
    for number, stage in enumerate(todo):
        if stage.carries is None:
            return [f"stage {number} does not say what it carries"]
        for repetition in range(stage.repeat):
            problem = _run(stage, repetition, held, piece_size)
            if problem:
                return [f"stage {number}, repetition {repetition}: {problem}"]
    return [
        f"rank {rank} ends with piece {piece} = {held[rank].get(piece, 0):b}, not {mask:b}"
        for rank in range(n)
        for piece, mask in _wanted(op, n, rank, pieces, root)
        if held[rank].get(piece, 0) != mask
    ]


_SHARES = (Collective.REDUCE_SCATTER, Collective.ALL_GATHER, Collective.GATHER, Collective.SCATTER)


def _initial(op: Collective, n: int, rank: int, pieces: int, root: int) -> Iterator[tuple[int, int]]:
    """What a rank has at first: (piece, contributions in it)."""
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


def _wanted(op: Collective, n: int, rank: int, pieces: int, root: int) -> Iterator[tuple[int, int]]:
    """What a rank must have at the end."""
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
    each = pieces // n
    return range(rank * each, (rank + 1) * each)


def _run(stage: Stage, repetition: int, held: Held, piece_size: float | None) -> str | None:
    """All messages of a stage leave before any arrives, but those that wait for others: those leave once these have."""
    left = list(range(len(stage.src)))
    after = [-1] * len(left) if stage.after is None else stage.after.tolist()
    over: set[int] = {-1}
    while left:
        now = [message for message in left if after[message] in over]
        if not now:
            return f"messages wait for each other: {left}"
        problem = _together(stage, repetition, set(now), held, piece_size)
        if problem:
            return problem
        over.update(now)
        left = [message for message in left if message not in over]
    return None


def _together(stage: Stage, repetition: int, sent: set[int], held: Held, piece_size: float | None) -> str | None:
    """Some messages of a stage."""
    assert stage.carries is not None
    contents = stage.carries(repetition)
    flags = [stage.reduce] * len(stage.src) if isinstance(stage.reduce, bool) else stage.reduce.tolist()
    flights: list[tuple[int, int, int, bool]] = []
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
            flights.extend((receiver, piece, mask, reduce) for receiver in receivers)
    for receiver, piece, mask, reduce in flights:
        have = held[receiver].get(piece, 0)
        if reduce and have & mask:
            return f"rank {receiver} adds a contribution to piece {piece} twice"
        if not reduce and have & ~mask:
            return f"rank {receiver} overwrites contributions in piece {piece} with fewer"
        held[receiver][piece] = have | mask if reduce else mask
    return None
