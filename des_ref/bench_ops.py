"""Measure a device, CPU or CUDA, and write the part that the simulator reads:

    python -m des_ref.bench_ops -o device.toml
    dessim project --model deepfm --strategy table_wise --cluster mine.toml --gpus 8 --device device.toml

It takes less than two minutes and 4 GB of the device's memory, and needs no root. Products of matrices are timed by
size in every precision that the device supports; gathers, pools and scatters of rows by the bytes of a row and the
number of ids; a copy; the launch of a kernel, by the host and in a CUDA graph.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import torch

from des_ref.cli import Parser, output_file, run, say
from des_ref.device.clock import Clock
from des_ref.device.kernels import Sizes, supported, time_copy, time_from_host, time_products, time_rows
from des_ref.device.part import Measured, to_toml
from dessim.errors import UsageError
from dessim.files import write_text
from dessim.processes import leave
from dessim.units import counted


def measure(device: torch.device, sizes: Sizes, budget_s: float = 0.2) -> Measured:
    """Time all kernels on a device."""
    clock = Clock(device, budget_s)
    products = []
    for precision in supported(device):
        say(f"products of matrices in {precision}")
        products += time_products(clock, sizes, precision)
    say("rows of tables, copies and launches")
    one = torch.zeros(1, device=device)
    tiny = lambda: one.add_(1)  # noqa: E731
    name, memory, processors = _stated(device)
    return Measured(
        name=name,
        kind=device.type,
        where=f"{name}, torch {torch.__version__}, {platform.system()} {platform.release()}",
        memory=memory,
        processors=processors,
        launch_s=clock.host_seconds(tiny),
        graph_s=clock.graph_seconds(tiny),
        copy=time_copy(clock, sizes),
        from_host=time_from_host(clock, sizes),
        products=products,
        rows=time_rows(clock, sizes),
    )


def _stated(device: torch.device) -> tuple[str, int, int]:
    """Name, bytes of memory, and processors of a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return properties.name, properties.total_memory, properties.multi_processor_count
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {counted(threads, 'thread')}", memory, threads


def _device(text: str) -> torch.device:
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if text == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device; write cpu, or install a build of torch with CUDA")
    return torch.device(text)


def main(argv: Sequence[str] | None = None) -> int:
    p = Parser(prog="des_ref.bench_ops", description="Measure a device, and write the part that dessim reads.")
    p.add_argument("-o", "--out", type=output_file, metavar="FILE", required=True, help="the device part, TOML")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    args = p.parse_args(argv)
    device = _device(args.device)
    with torch.inference_mode():
        measured = measure(device, Sizes.of(device))
    write_text(args.out, to_toml(measured))
    rates = ", ".join(f"{name} {rate / 1e12:.4g} TFLOP/s" for name, rate in measured.rates().items())
    memory = measured.bandwidth / 1e9
    floor = measured.floor_s * 1e6
    print(f"{measured.name}: {rates}; memory {memory:.4g} GB/s; floor {floor:.3g} us")
    return 0


def entry() -> None:
    leave(run("des_ref.bench_ops", main))


if __name__ == "__main__":
    entry()
