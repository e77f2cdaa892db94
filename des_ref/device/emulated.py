"""A GPU as the host sees it, emulated on the CPU: it counts where the host must wait, and refuses mixed devices.

Tensors of the emulated device are wrappers around tensors in host memory, and report the device `EMULATED`. Operators
on them compute real values, so a whole training step runs, data-dependent sizes included. Like CUDA, and unlike a CPU,
the device

    counts a wait    where the host reads a value (`item`, `bool`, `tolist`, a copy to the host), where the size of a
                     result depends on values (`nonzero`, `unique`, a boolean index, `bincount`), and where a copy
                     from the host is not `non_blocking`; each under the line of des_ref that asks for it
    counts an atomic where floats are added by an index in which a number occurs twice, or summed cumulatively: CUDA
                     does so in another order each time, and the last bits differ
    raises           where an operator gets tensors of the device and of the host together, other than single numbers

It says nothing about speed, memory or streams. Collectives work over gloo.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# torch's device without data: it has no kernels, so nothing runs on it that is not emulated here.
EMULATED = torch.device("meta")
_PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"
# Operators whose result has a size that depends on values, and how often CUDA waits in them.
_SIZED_BY_VALUES = {
    "nonzero": 1,
    "_unique2": 1,
    "unique_dim": 1,
    "unique_consecutive": 1,
    "masked_select": 1,
    "bincount": 2,  # least and largest value
    "_local_scalar_dense": 1,
    "equal": 1,
    "is_nonzero": 1,
}
_COPIES = frozenset({"_to_copy", "copy_", "_copy_from"})
_ADDED_BY_INDEX = frozenset({"index_add", "index_add_", "scatter_add", "scatter_add_"})  # (self, dim, index, source)
_CUMULATIVE = frozenset({"cumsum", "cumsum_", "cumprod", "logcumsumexp"})
_INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})


class MixedDevices(RuntimeError):
    """An operator got tensors of the device and of the host."""


class OnDevice(Tensor):
    """A tensor of the emulated device; `held` is its value in host memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=EMULATED,
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.held!r})"

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: OnDevice) -> None:
        Tensor.data.__set__(self, value)
        self.held = value.held

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Outside of `emulated`, such as in another thread: the same, without counts.
        return _Emulation().__torch_dispatch__(func, types, args, kwargs)


@dataclass(slots=True)
class Counts:
    """The number of waits of the host, and of sums in no fixed order, so far, by `file:line` of des_ref."""

    waits: Counter[str] = field(default_factory=Counter)
    atomics: Counter[str] = field(default_factory=Counter)

    def clear(self) -> None:
        self.waits.clear()
        self.atomics.clear()


class _Emulation(TorchDispatchMode):
    """Runs each operator in host memory."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch wraps every call to keep it from being compiled, and nothing is compiled here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._overloadpacket.__name__
        leaves: list[Tensor] = []
        held = _held_in(args, leaves)
        held_by_name = {key: _held_in(value, leaves) for key, value in kwargs.items()}
        own = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
        target = kwargs.get("device")
        to_device = bool(own) if target is None else torch.device(target).type == EMULATED.type
        if target is not None:
            held_by_name["device"] = torch.device("cpu")
        if name in _COPIES:
            to_device = self._copy(name, args, kwargs, to_device)
        elif own and func.namespace != "c10d":
            if len(own) < len(leaves):
                _refuse_mixed(name, leaves)
            self._count(name, args, kwargs)
        out = func(*held, **held_by_name)
        return _on_device(out, own) if to_device else out

    def wait(self, times: int = 1) -> None:
        if times:
            self.counts.waits[_caller()] += times

    def _copy(self, name: str, args: Any, kwargs: dict[str, Any], to_device: bool) -> bool:
        """Count a copy; returns whether its result is on the device."""
        source = args[0] if name == "_to_copy" else args[1]
        if name != "_to_copy":
            to_device = isinstance(args[0], OnDevice)
        is_non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if isinstance(source, OnDevice) != to_device and not (to_device and is_non_blocking):
            self.wait()
        return to_device

    def _count(self, name: str, args: Any, kwargs: dict[str, Any]) -> None:
        self.wait(_SIZED_BY_VALUES.get(name, 0) + _boolean_indices(name, args))
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.wait()
        is_cumulative = name in _CUMULATIVE and args[0].is_floating_point()
        if is_cumulative or (name in _ADDED_BY_INDEX and args[0].is_floating_point() and _has_twins(args[2])):
            self.counts.atomics[_caller()] += 1


class _Literals(TorchFunctionMode):
    """`torch.tensor` of numbers: torch would drop them for its device without data. CUDA copies them, and waits."""

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__()
        self._wait = wait

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_literal = func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor)
        if not is_literal or torch.device(kwargs.get("device") or "cpu").type != EMULATED.type:
            return func(*args, **kwargs)
        self._wait()
        return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))


def _has_twins(index: Tensor) -> bool:
    held = _held(index)
    return len(held.unique()) < held.numel() if held.dim() == 1 else True


@contextmanager
def emulated() -> Iterator[Counts]:
    """Emulate the device in this thread. Yields the counts so far, which the caller may clear."""
    mode = _Emulation()
    with _Literals(mode.wait), mode:
        yield mode.counts


def _boolean_indices(name: str, args: Any) -> int:
    """CUDA turns a boolean index into positions, whose number the host must know."""
    if name not in _INDEXED:
        return 0
    booleans = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    # A single number written under a mask is a fill.
    is_fill = name != "index" and len(args[1]) == 1 and args[2].numel() == 1 and not (len(args) > 3 and args[3])
    return 0 if is_fill else len(booleans)


def _refuse_mixed(name: str, leaves: list[Tensor]) -> None:
    on_host = [t for t in leaves if not isinstance(t, OnDevice) and t.dim()]
    if on_host:
        raise MixedDevices(f"{name} gets tensors of the device and of the host, the latter {list(on_host[0].shape)}")


def _on_device(value: Any, own: list[OnDevice]) -> Any:
    """`value` with its tensors on the device. A result that is one of the arguments, `own`, stays that same object."""
    if type(value) is Tensor:
        for leaf in own:
            if leaf.held is value:
                return leaf
        return OnDevice(value)
    return type(value)(_on_device(v, own) for v in value) if type(value) in (list, tuple) else value


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _held_in(value: Any, leaves: list[Tensor]) -> Any:
    """`value` with its tensors in host memory, which are appended to `leaves` as they are; also those in lists and
    tuples, nested to any depth."""
    if isinstance(value, Tensor):
        leaves.append(value)
        return _held(value)
    return type(value)([_held_in(v, leaves) for v in value]) if type(value) in (list, tuple) else value


def _caller() -> str:
    """The innermost line of the package that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE) and path != __file__:
            return f"{path.removeprefix(_PACKAGE)}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
