"""Closed forms of collective times, held against the simulation in the tests.

alpha is the time of an empty message (overhead + path latency, s), beta the time a byte (s) at the rate every rank has
to itself, on a non-blocking fabric; S counts as in nccl-tests (dessim.trace.schema), c is the number of chunks. Stages
are synchronous: each starts when the one before has arrived everywhere.
"""

from __future__ import annotations

import math

from dessim.trace.schema import Collective, sent_factor


def ring_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """Ring: all_reduce 2(n-1)(alpha + S/n beta), the halves of it n-1 of the same."""
    return _halves(op) * (n - 1) * (alpha + size / n * beta)


def channels_time(
    op: Collective, n: int, k: int, size: float, inside: tuple[float, float], across: tuple[float, float]
) -> float:
    """Ring with k channels, (alpha, beta) inside a node and across: the slower of (k-1)/k and 1/k of a ring's share."""
    share = size / n / k
    slowest = max(inside[0] + (k - 1) * share * inside[1], across[0] + share * across[1])
    return _halves(op) * (n - 1) * slowest


def torus_time(op: Collective, dims: tuple[int, ...], size: float, alpha: float, beta: float) -> float:
    """Bucket algorithm: a ring of d_i on S / (d_0 ... d_(i-1)) in every dimension."""
    total, done = 0.0, 1
    for d in dims:
        total += (d - 1) * (alpha + size / done / d * beta)
        done *= d
    return _halves(op) * total


def pairwise_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Pairwise all_to_all: n-1 stages of S/n."""
    return (n - 1) * (alpha + size / n * beta)


def direct_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Direct all_to_all, gloo's reduce_scatter, flat gather and scatter: alpha once, (n-1)/n S through each port."""
    return alpha + (n - 1) / n * size * beta


def halving_doubling_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """p = 2**k <= n: halving and doubling log2(p) alpha + (p-1)/p S beta each; r = n - p ranks fold in and out.

    all_reduce folds whole tensors: 2 (alpha + S beta). In the halves of it a run of d of the p blocks is d + min(d, r)
    shares where it is largest, and folding moves S on one side and S/n (scatter) or S (n-1)/n (gather) on the other.
    """
    p = 1 << (n.bit_length() - 1)
    r, rounds = n - p, p.bit_length() - 1
    if op is Collective.ALL_REDUCE:
        fold = 2 * (alpha + size * beta) if r else 0.0
        return 2 * (rounds * alpha + (p - 1) / p * size * beta) + fold
    largest = sum((1 << i) + min(1 << i, r) for i in range(rounds))
    time = rounds * alpha + largest / n * size * beta
    if r:
        inward, outward = (1.0, 1 / n) if op is Collective.REDUCE_SCATTER else (1 / n, (n - 1) / n)
        time += 2 * alpha + (inward + outward) * size * beta
    return time


def recursive_doubling_time(n: int, size: float, alpha: float, beta: float) -> float:
    """all_reduce: log2(p) (alpha + S beta), two more where ranks are folded in and out."""
    p = 1 << (n.bit_length() - 1)
    return (p.bit_length() - 1 + (2 if n > p else 0)) * (alpha + size * beta)


def bruck_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """ceil(log2 n) alpha; all_gather moves (n-1)/n S, all_to_all one S/n for each bit set in 1 .. n-1."""
    bits = sum(d.bit_count() for d in range(n))
    moved = (n - 1) / n if op is Collective.ALL_GATHER else bits / n
    return _rounds(n) * alpha + moved * size * beta


def double_tree_time(op: Collective, n: int, size: float, chunks: int, alpha: float, beta: float) -> float:
    """n = 2**k. broadcast and reduce: (c + k - 1)(alpha + S/c beta), as two trees at half the data fill every port.

    all_reduce (k >= 2, c >= 2k - 1): c + 2k - 1 stages. A port carries half-chunks: 2 in each of the k stages that fill
    and drain, 3 in one stage next to each, and 4 in the c - 3 between, 4c + 4k - 6 in all.
    """
    k = _power(n)
    if op is not Collective.ALL_REDUCE:
        return (chunks + k - 1) * (alpha + size / chunks * beta)
    if k < 2 or chunks < 2 * k - 1:
        raise ValueError("the closed form holds for n >= 4 and c >= 2 log2(n) - 1")
    return (chunks + 2 * k - 1) * alpha + (2 * chunks + 2 * k - 3) / chunks * size * beta


def flat_time(n: int, size: float, alpha: float, beta: float) -> float:
    """broadcast and reduce: everything through the root's port."""
    return alpha + (n - 1) * size * beta


def binomial_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """broadcast and reduce: S in each of ceil(log2 n) stages; gather and scatter: (n-1)/n S in all of them together."""
    shares = op in (Collective.GATHER, Collective.SCATTER)
    return _rounds(n) * alpha + ((n - 1) / n if shares else _rounds(n)) * size * beta


def composed_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """broadcast: binomial scatter and Bruck's all_gather; reduce: recursive halving and binomial gather."""
    if op is Collective.BROADCAST:
        halves = bruck_time(Collective.ALL_GATHER, n, size, alpha, beta)
    else:
        halves = halving_doubling_time(Collective.REDUCE_SCATTER, n, size, alpha, beta)
    return binomial_time(Collective.SCATTER, n, size, alpha, beta) + halves


def chain_time(n: int, size: float, chunks: int, alpha: float, beta: float) -> float:
    """broadcast and reduce: (c + n - 2)(alpha + S/c beta)."""
    return (chunks + n - 2) * (alpha + size / chunks * beta)


def nvls_time(op: Collective, n: int, size: float, chunks: int, alpha: float, beta: float) -> float:
    """reduce_scatter, all_gather: alpha + S beta. all_reduce: S/c alone at each end, c - 1 stages of S/c (1 + 1/n)."""
    if op is not Collective.ALL_REDUCE:
        return alpha + size * beta
    return (chunks + 1) * alpha + size / chunks * beta * (2 + (chunks - 1) * (1 + 1 / n))


def sharp_time(size: float, alpha: float, beta: float) -> float:
    """alpha + S beta, whatever n."""
    return alpha + size * beta


def nvls_sharp_time(
    g: int, size: float, chunks: int, inside: tuple[float, float], across: tuple[float, float]
) -> float:
    """A pipeline of three: sum in the node (S/c at NVLink's alpha and beta), tree along the rail (S/g/c), multicast.

    c + 2 stages, each as long as the slowest of what is under way in it; sum and multicast together take 1 + 1/g.
    """
    node, rail = size / chunks * inside[1], across[0] + size / chunks / g * across[1]
    total = 0.0
    for stage in range(chunks + 2):
        sums, trees, casts = stage < chunks, 1 <= stage <= chunks, stage >= 2
        in_node = inside[0] + node * (1 + 1 / g if sums and casts else 1.0)
        total += max(in_node if sums or casts else 0.0, rail if trees else 0.0)
    return total


def gloo_ring_time(n: int, size: float, pairs: int, phases: int, alpha: float, beta: float) -> float:
    """gloo's rings, each chunk in `pairs` pairs of parts, of which two are under way: all stages of a phase but the
    last take S/(n pairs) beta, or half of that and alpha. (n = 2: all_reduce only.)"""
    drain = size / n / pairs * beta
    return phases * (((n - 1) * pairs - 1) * max(drain, drain / 2 + alpha) + drain + alpha)


def gloo_broadcast_time(n: int, size: float, alpha: float, beta: float) -> float:
    """n = 2**k: in stage i a rank sends to k - i others at once, S (k + (k-1) + ... + 1) beta."""
    k = _power(n)
    return k * alpha + k * (k + 1) / 2 * size * beta


def gloo_all_to_all_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Who comes last sends n-1 messages, and then gets those of n/2 ranks (rounded down), S/n each."""
    return 2 * alpha + (n - 1 + n // 2) / n * size * beta


def send_recv_time(size: float, alpha: float, beta: float) -> float:
    """alpha + S beta."""
    return alpha + size * beta


def algorithm_bandwidth(size: float, time: float) -> float:
    """algbw = S / t, bytes/s."""
    return size / time


def bus_bandwidth(op: Collective, n: int, size: float, time: float) -> float:
    """busbw, bytes/s: what each rank's link carries on average; comparable with the hardware's rate at any n."""
    return algorithm_bandwidth(size, time) * sent_factor(op, n)


def _halves(op: Collective) -> int:
    """How many of reduce_scatter and all_gather an op consists of."""
    return {Collective.ALL_REDUCE: 2, Collective.REDUCE_SCATTER: 1, Collective.ALL_GATHER: 1}[op]


def _rounds(n: int) -> int:
    return (n - 1).bit_length()


def _power(n: int) -> int:
    k = n.bit_length() - 1
    if n != math.ldexp(1, k):
        raise ValueError(f"{n} is not a power of two")
    return k
