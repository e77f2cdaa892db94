"""Parts of the trainer on a device against the same on the CPU: tables, codecs, optimizers and sums."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from des_ref.codecs import Codec, new_codec
from des_ref.comm import Comm
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.init import normal_rows
from des_ref.embedding.optim import ROW_OPTIMIZERS
from des_ref.gpu.machine import Figures, Machine, require
from des_ref.hashing import mix64
from des_ref.substitution.owned import unique_with_index
from dessim.workload.codecs import parse_codecs

WIDTH = 16
CODECS = ("bf16", "fp16", "fp6", "activations=top_k:0.25", "gradients=pruning:0.8", "dense=threshold:0.99")
_CPU = torch.device("cpu")


def tables(comm: Comm, machine: Machine) -> Figures:
    """Ids inserted in batches and looked up again have the row numbers and values of a table on the CPU."""
    batch = machine.size(100_000, 3000)
    batches = machine.size(20, 3)
    on_device, on_cpu = (_table(device, torch.float32) for device in (comm.device, _CPU))
    for number in range(batches):
        ids = mix64(torch.arange(number * batch // 2, number * batch // 2 + batch))  # half of them are new
        rows = on_device.find_or_insert(ids.to(comm.device))
        expected = on_cpu.find_or_insert(ids)
        require(torch.equal(rows.cpu(), expected), f"row numbers of batch {number} differ from the CPU's")
        on_device.end_step()
        on_cpu.end_step()
    ids = mix64(torch.arange(len(on_cpu) + batch))
    require(torch.equal(on_device.find(ids.to(comm.device)).cpu(), on_cpu.find(ids)), "an id is found in another row")
    values = on_device.columns["v"].cpu()
    expected = on_cpu.columns["v"]
    error = float((values - expected).abs().max())
    require(error <= 1e-6, f"initial values differ by {error:.1e}; 1e-6 is allowed")
    queries = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))][:batch].to(comm.device)
    on_device.find(queries)
    seconds = _seconds(comm, lambda: on_device.find(queries))
    return {"rows": len(on_cpu), "lookups_per_s": round(len(queries) / seconds), "max_difference": error}


def codecs(comm: Comm, machine: Machine) -> Figures:
    """Each codec decodes what it encoded to the CPU's values, but for those half-way between two codes."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, machine.size(1 << 18, 1 << 11), generator=generator).exp() * 1e-3
    values *= torch.randn(values.shape, generator=generator).sign()
    figures: Figures = {}
    for text in CODECS:
        (form,) = set(parse_codecs(text).by_buffer.values())
        name = form.name
        decoded = [_round_trip(new_codec(form, torch.float32, 1), values.to(device)) for device in (comm.device, _CPU)]
        if name == "pruning":  # draws its own numbers on each device; on average it changes nothing
            bias = float((decoded[0] - values).mean() / values.abs().mean())
            require(abs(bias) < machine.size(2, 20) / 100, f"pruning changes the mean by {bias:.1%} of the values")
            figures[name] = round(bias, 5)
            continue
        share = float((decoded[0] != decoded[1]).to(torch.float32).mean())
        require(share <= 1e-3, f"{name} decodes {share:.1%} of the values differently from the CPU")
        figures[name] = share
    return figures


def _round_trip(codec: Codec, values: Tensor) -> Tensor:
    return codec.decode(codec.encode(values), values.shape[1]).cpu()


def optimizers(comm: Comm, machine: Machine) -> Figures:
    """Five updates of the same rows by every row optimizer, in float64."""
    ids = mix64(torch.arange(machine.size(20_000, 200)))
    figures: Figures = {}
    for name, kind in ROW_OPTIMIZERS.items():
        optimizer = kind()
        updated = []
        for device in (comm.device, _CPU):
            table = _table(device, torch.float64, optimizer.state({"v": WIDTH}))
            rows = table.find_or_insert(ids.to(device))
            table.columns["v"].copy_(torch.ones(len(ids), WIDTH, dtype=torch.float64))
            generator = torch.Generator().manual_seed(0)
            for _ in range(5):
                grad = torch.randn(len(ids), WIDTH, dtype=torch.float64, generator=generator)
                optimizer.update(table, rows, {"v": grad.to(device)})
            updated.append(table.columns["v"].cpu())
        error = float((updated[0] - updated[1]).abs().max())
        figures[name] = error
        require(error <= 1e-12, f"{name} differs from the CPU by {error:.1e}; 1e-12 is allowed")
    return figures


def sums(comm: Comm, machine: Machine) -> Figures:
    """Sums over occurrences of ids, one of them in every sample: bit-identical in two runs, and close to the CPU's."""
    n = machine.size(1 << 20, 1 << 11)
    generator = torch.Generator().manual_seed(0)
    keys = mix64(torch.randint(n // 4, (n,), generator=generator))
    keys[::2] = keys[0]
    terms = torch.randn(n, WIDTH, generator=generator)
    unique, index = unique_with_index(keys.to(comm.device))
    on_device = terms.to(comm.device)
    first, again = (index.scatter(on_device, len(unique)) for _ in range(2))
    require(torch.equal(first, again), "two sums of the same numbers differ")
    expected = torch.zeros(len(unique), WIDTH, dtype=torch.float64)
    expected.index_add_(0, index.row.cpu(), terms.to(torch.float64))
    error = float(((first.cpu() - expected).abs() / (1 + expected.abs())).max())
    require(error <= 1e-3, f"sums differ from float64 by {error:.1e}; 1e-3 is allowed")
    seconds = _seconds(comm, lambda: index.scatter(on_device, len(unique)))
    return {"occurrences": n, "of_the_hot_id": n // 2, "seconds": seconds, "max_error": error}


def _table(device: torch.device, dtype: torch.dtype, state: dict[str, int] | None = None) -> RowTable:
    initial = partial(_initial, dtype=dtype)
    return RowTable({"v": WIDTH, **(state or {})}, initial, dtype, device=device)


def _initial(ids: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"v": normal_rows(ids, WIDTH, 0, 0.01, dtype)}


def _seconds(comm: Comm, call: Callable[[], object]) -> float:
    comm.synchronize()
    started_at = time.perf_counter()
    call()
    comm.synchronize()
    return time.perf_counter() - started_at
