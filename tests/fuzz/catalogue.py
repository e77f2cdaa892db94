"""The names of all formats, and the format of a name. Formats are imported on first use: the trainer's need torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.formats import Format

_IMPORTED = ("ibnetdiscover", "nccl", "nvidia-smi", "slurm", "graphml", "infragraph")
MODULES: dict[str, tuple[str, ...]] = {
    "described": (
        *("topology", "device", "transport", "model", "ids", "plan", "torchrec_plan", "pinned", "prices", "tenants"),
        *("faults", *(f"import_{name}" for name in _IMPORTED)),
    ),
    "measured": ("trace", "trace_rank", "profile", "nccl_tests", "nccl_tests_json", "bench", "measured", "clicks"),
    "trainer": ("settings", "manifest", "rows", "cases", "jobs", "training_lines"),
}
NAMES = tuple(name for names in MODULES.values() for name in names)


def format_of(name: str) -> Format:
    module = next(module for module, names in MODULES.items() if name in names)
    formats: tuple[Format, ...] = import_module(f"tests.fuzz.{module}").FORMATS
    return next(each for each in formats if each.name == name)
