"""Closed forms of collective times [s] on a non-blocking fabric; the tests compare the simulation with them.

alpha is the time of an empty message (overhead and route latency, s) and beta the time per byte (s) at the rate of a
rank's port. S is the size in bytes, counted as in nccl-tests (dessim.trace.schema), and c the number of chunks. Stages
are synchronous: each starts when the previous one has ended on all ranks.
"""

from __future__ import annotations

import math

from dessim.trace.schema import Collective, sent_factor


def ring_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """Ring: all_reduce takes 2(n-1)(alpha + S/n beta), reduce_scatter and all_gather half of that."""
    return _halves(op) * (n - 1) * (alpha + size / n * beta)


def channels_time(
    op: Collective, n: int, k: int, size: float, inside: tuple[float, float], across: tuple[float, float]
) -> float:
    """Ring with k channels; `inside` and `across` are (alpha, beta) in a node and between nodes.

    Each stage takes as long as the slower of (k-1)/k of S/n inside a node and 1/k of S/n between nodes.
    """
    share = size / n / k
    slowest = max(inside[0] + (k - 1) * share * inside[1], across[0] + share * across[1])
    return _halves(op) * (n - 1) * slowest


def torus_time(op: Collective, dims: tuple[int, ...], size: float, alpha: float, beta: float) -> float:
    """Bucket algorithm: in dimension i a ring of d_i ranks on S / (d_0 ... d_(i-1))."""
    total = 0.0
    shares = 1
    for d in dims:
        total += (d - 1) * (alpha + size / shares / d * beta)
        shares *= d
    return _halves(op) * total


def pairwise_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Pairwise all_to_all: n-1 stages of S/n."""
    return (n - 1) * (alpha + size / n * beta)


def direct_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Direct all_to_all, gloo's reduce_scatter, flat gather and scatter: one alpha, and (n-1)/n S through a port."""
    return alpha + (n - 1) / n * size * beta


def halving_doubling_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """Recursive halving and doubling over p = 2**k <= n ranks; the other r = n - p ranks are folded in and out.

    Halving and doubling take log2(p) alpha + (p-1)/p S beta each. all_reduce folds whole tensors, which adds
    2 (alpha + S beta). In reduce_scatter and all_gather the largest run of d of the p blocks has d + min(d, r) shares.
    Folding then moves S and S/n bytes (reduce_scatter), or S/n and S (n-1)/n bytes (all_gather).
    """
    p = 1 << (n.bit_length() - 1)
    r = n - p
    rounds = p.bit_length() - 1
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
    """all_reduce: log2(p) stages of alpha + S beta, and two more if ranks are folded in and out."""
    p = 1 << (n.bit_length() - 1)
    return (p.bit_length() - 1 + (2 if n > p else 0)) * (alpha + size * beta)


def bruck_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """Bruck: ceil(log2 n) alpha; all_gather moves (n-1)/n S, all_to_all S/n for each bit set in 1, 2, ... n-1."""
    bits = sum(d.bit_count() for d in range(n))
    moved = (n - 1) / n if op is Collective.ALL_GATHER else bits / n
    return _rounds(n) * alpha + moved * size * beta


def double_tree_time(op: Collective, n: int, size: float, chunks: int, alpha: float, beta: float) -> float:
    """Double binary tree over n = 2**k ranks.

    broadcast and reduce: (c + k - 1)(alpha + S/c beta), as the two trees, with half of the data each, fill every port.

    all_reduce: c + 2k - 1 stages, for k >= 2 and c >= 2k - 1. The busiest port carries 2 half-chunks in each of the k
    stages that fill the pipeline and the k that drain it, 3 in the stage next to each, and 4 in the c - 3 stages
    between: 4c + 4k - 6 in total.

    Raises ValueError outside these ranges.
    """
    k = _power(n)
    if op is not Collective.ALL_REDUCE:
        return (chunks + k - 1) * (alpha + size / chunks * beta)
    if k < 2 or chunks < 2 * k - 1:
        raise ValueError("the closed form holds for n >= 4 and c >= 2 log2(n) - 1")
    return (chunks + 2 * k - 1) * alpha + (2 * chunks + 2 * k - 3) / chunks * size * beta


def flat_time(n: int, size: float, alpha: float, beta: float) -> float:
    """Flat broadcast and reduce: one alpha, and (n-1) S through the root's port."""
    return alpha + (n - 1) * size * beta


def binomial_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """Binomial tree of ceil(log2 n) stages: S in each (broadcast, reduce), or (n-1)/n S in total (gather, scatter)."""
    shares = op in (Collective.GATHER, Collective.SCATTER)
    return _rounds(n) * alpha + ((n - 1) / n if shares else _rounds(n)) * size * beta


def composed_time(op: Collective, n: int, size: float, alpha: float, beta: float) -> float:
    """broadcast as binomial scatter and Bruck's all_gather; reduce as recursive halving and binomial gather."""
    if op is Collective.BROADCAST:
        halves = bruck_time(Collective.ALL_GATHER, n, size, alpha, beta)
    else:
        halves = halving_doubling_time(Collective.REDUCE_SCATTER, n, size, alpha, beta)
    return binomial_time(Collective.SCATTER, n, size, alpha, beta) + halves


def chain_time(n: int, size: float, chunks: int, alpha: float, beta: float) -> float:
    """Chain broadcast and reduce: (c + n - 2)(alpha + S/c beta)."""
    return (chunks + n - 2) * (alpha + size / chunks * beta)


def nvls_time(op: Collective, n: int, size: float, chunks: int, alpha: float, beta: float) -> float:
    """NVLS: reduce_scatter and all_gather take alpha + S beta.

    all_reduce: the first and the last stage move S/c bytes, the c - 1 stages between them S/c (1 + 1/n).
    """
    if op is not Collective.ALL_REDUCE:
        return alpha + size * beta
    return (chunks + 1) * alpha + size / chunks * beta * (2 + (chunks - 1) * (1 + 1 / n))


def sharp_time(size: float, alpha: float, beta: float) -> float:
    """SHARP: alpha + S beta for any number of ranks."""
    return alpha + size * beta


def nvls_sharp_time(
    g: int, size: float, chunks: int, inside: tuple[float, float], across: tuple[float, float]
) -> float:
    """NVLS with SHARP: a pipeline of c + 2 stages, for nodes of g GPUs.

    Each chunk is summed in the node (S/c), then summed along the rail (S/g/c), then multicast in the node (S/c).
    `inside` and `across` are (alpha, beta) in a node and between nodes. A stage is as long as the slowest of the three
    that are active in it; sum and multicast at the same time move S/c (1 + 1/g).
    """
    node_transfer = size / chunks * inside[1]
    rail = across[0] + size / chunks / g * across[1]
    total = 0.0
    for stage in range(chunks + 2):
        sums = stage < chunks
        trees = 1 <= stage <= chunks
        multicasts = stage >= 2
        node = inside[0] + node_transfer * (1 + 1 / g if sums and multicasts else 1.0)
        total += max(node if sums or multicasts else 0.0, rail if trees else 0.0)
    return total


def gloo_ring_time(n: int, size: float, pairs: int, phases: int, alpha: float, beta: float) -> float:
    """gloo's rings of `phases` phases; each chunk is cut into `pairs` pairs of parts, and one pair is in flight.

    All stages of a phase but the last take S/(n pairs) beta, or alpha and half of that, whichever is longer. For n = 2
    this holds for all_reduce only.
    """
    drain = size / n / pairs * beta
    return phases * (((n - 1) * pairs - 1) * max(drain, drain / 2 + alpha) + drain + alpha)


def gloo_broadcast_time(n: int, size: float, alpha: float, beta: float) -> float:
    """gloo's broadcast to n = 2**k ranks: k alpha and S (k + (k-1) + ... + 1) beta.

    In stage i a rank sends to k - i others at the same time.
    """
    k = _power(n)
    return k * alpha + k * (k + 1) / 2 * size * beta


def gloo_all_to_all_time(n: int, size: float, alpha: float, beta: float) -> float:
    """gloo's all_to_all: the last rank to arrive sends n-1 messages, then receives those of n/2 ranks (rounded down).

    Each message is S/n bytes.
    """
    return 2 * alpha + (n - 1 + n // 2) / n * size * beta


def send_recv_time(size: float, alpha: float, beta: float) -> float:
    """Exchange with the neighbours: alpha + S beta."""
    return alpha + size * beta


def algorithm_bandwidth(size: float, time: float) -> float:
    """algbw of nccl-tests: S / t [bytes/s]."""
    return size / time


def bus_bandwidth(op: Collective, n: int, size: float, time: float) -> float:
    """busbw of nccl-tests [bytes/s]: the mean rate on a rank's link, comparable with the hardware's rate at any n."""
    return algorithm_bandwidth(size, time) * sent_factor(op, n)


def _halves(op: Collective) -> int:
    """The number of phases of a ring-like op: 2 for all_reduce (reduce_scatter, then all_gather), else 1."""
    return {Collective.ALL_REDUCE: 2, Collective.REDUCE_SCATTER: 1, Collective.ALL_GATHER: 1}[op]


def _rounds(n: int) -> int:
    return (n - 1).bit_length()


def _power(n: int) -> int:
    """The k of n = 2**k."""
    k = n.bit_length() - 1
    if n != math.ldexp(1, k):
        raise ValueError(f"{n} is not a power of two")
    return k
