"""Replicated parameters and their optimizer state by name, complete, whichever part of them each worker keeps.

    mlp.weight                the values
    mlp.weight/exp_avg        one of the optimizer's state tensors (slots)

State is restored tensor by tensor: `Optimizer.load_state_dict` casts floats to the parameter's type, so that a resumed
run would not be bit-identical.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.comm import Comm
from des_ref.models.build import Network, OwnedColumns
from dessim.errors import UsageError

DenseState = Mapping[str, Tensor]
_SCALAR_SLOTS = frozenset({"step", "mu_product"})  # step counts of torch.optim's optimizers


def export_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Values and slots of the parameters `named`: views, not copies."""
    state = {}
    for name, p in named.items():
        state[name] = p.detach()
        slots = optimizer.state.get(p, {})
        state |= {f"{name}/{slot}": value for slot, value in slots.items() if value is not None}
    return state


def load_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], state: DenseState) -> None:
    """Restore a state from `export_state`. Raises UsageError for another model's state."""
    for name, p in named.items():
        if name not in state or state[name].shape != p.shape:
            raise UsageError(f"the checkpoint has no {name} of shape {list(p.shape)}: it belongs to another model")
        p.detach().copy_(state[name])
        for key in [key for key in state if key.startswith(f"{name}/")]:
            slot = key.rpartition("/")[2]
            optimizer.state[p][slot] = state[key].to(_device_of(slot, p, optimizer)).clone()


def export_network(network: Network, optimizer: torch.optim.Optimizer, comm: Comm) -> dict[str, Tensor]:
    """The state of all workers; every worker calls it. Columns that are placed with fields are gathered."""
    state = export_state(optimizer, trained(network))
    for name, owned in _columns_by_name(network).items():
        for key in _keys_of(name, state):
            state[key] = gather_columns("checkpoint", state[key], owned, comm)
    return state


def load_network(network: Network, optimizer: torch.optim.Optimizer, state: DenseState) -> None:
    """Restore a state from `export_network` on any number of workers."""
    own = dict(state)
    for name, owned in _columns_by_name(network).items():
        own |= {key: state[key].index_select(-1, owned.places.to(state[key].device)) for key in _keys_of(name, state)}
    load_state(optimizer, trained(network), own)


def trained(network: Network) -> dict[str, nn.Parameter]:
    """Parameters by name; where columns are placed with fields, this worker's columns only."""
    mine = {id(owned.whole): owned.mine for owned in network.owned_columns}
    named = zip(network.dense_names, network.dense_parameters, strict=True)
    return {name: mine.get(id(p), p) for name, p in named}


def _columns_by_name(network: Network) -> dict[str, OwnedColumns]:
    """The parameters whose columns are placed with fields, by name."""
    columns = {id(owned.whole): owned for owned in network.owned_columns}
    named = zip(network.dense_names, network.dense_parameters, strict=True)
    return {name: columns[id(p)] for name, p in named if id(p) in columns}


def _keys_of(name: str, state: DenseState) -> list[str]:
    """Keys of the value of `name` and of its slots of the same shape; scalar slots are equal on all workers."""
    return [key for key in state if (key == name or key.startswith(f"{name}/")) and state[key].dim()]


def gather_columns(op: str, mine: Tensor, owned: OwnedColumns, comm: Comm) -> Tensor:
    """[.., columns] from each worker's `mine` [.., own columns], in the AllReduce `op`."""
    whole = mine.new_zeros(*mine.shape[:-1], owned.columns)
    whole[..., owned.places] = mine
    comm.all_reduce(op, whole).wait()  # each column has one owner, so adding zeros is exact
    return whole


def _device_of(slot: str, p: nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.device:
    """torch.optim keeps step counts on the CPU, unless its kernel on the GPU updates them."""
    on_gpu = optimizer.defaults.get("capturable") or optimizer.defaults.get("fused")
    return torch.device("cpu") if slot in _SCALAR_SLOTS and not on_gpu else p.device
