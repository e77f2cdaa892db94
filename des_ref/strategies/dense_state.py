"""Replicated parameters and their optimizer's state by name, whole, whatever each worker keeps of them.

    mlp.weight                the values
    mlp.weight/exp_avg        a slot of the optimizer

State is put back by hand: `Optimizer.load_state_dict` casts floats to the parameter's type, and a run would not go on
to the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from des_ref.comm import Comm
from des_ref.models.build import Network
from dessim.errors import UsageError

DenseState = Mapping[str, Tensor]
_COUNTS = frozenset({"step", "mu_product"})  # scalars that torch.optim's optimizers count in


def export_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Values and slots of `named`, as they are: views."""
    state = {}
    for name, p in named.items():
        state[name] = p.detach()
        slots = optimizer.state.get(p, {})
        state |= {f"{name}/{slot}": value for slot, value in slots.items() if value is not None}
    return state


def load_state(optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], state: DenseState) -> None:
    """The other way. Raises UsageError for another model's state."""
    for name, p in named.items():
        if name not in state or state[name].shape != p.shape:
            raise UsageError(f"the checkpoint has no {name} of shape {list(p.shape)}: it is of another model")
        p.detach().copy_(state[name])
        for key in [key for key in state if key.startswith(f"{name}/")]:
            slot = key.rpartition("/")[2]
            optimizer.state[p][slot] = state[key].to(_place(slot, p, optimizer)).clone()


def export_network(network: Network, optimizer: torch.optim.Optimizer, comm: Comm) -> dict[str, Tensor]:
    """Of all workers together; every worker calls it. Columns that live with fields are brought together."""
    state = export_state(optimizer, trained(network))
    for name, columns in _spread(network).items():
        for key in _keys_of(name, state):
            state[key] = _gathered(state[key], columns, network, comm)
    return state


def load_network(network: Network, optimizer: torch.optim.Optimizer, state: DenseState) -> None:
    """On any number of workers."""
    own = dict(state)
    for name in _spread(network):
        own |= {key: network.columns_of(state[key]) for key in _keys_of(name, state)}
    load_state(optimizer, trained(network), own)


def trained(network: Network) -> dict[str, nn.Parameter]:
    """Parameters by name; where this worker keeps some columns of one, those."""
    mine = {id(o.whole): o.mine for o in network.owned}
    named = zip(network.dense_names, network.dense_parameters, strict=True)
    return {name: mine.get(id(p), p) for name, p in named}


def _spread(network: Network) -> dict[str, int]:
    """Names of the parameters whose columns live with fields, and how many columns a field has."""
    columns = {id(o.whole): o.columns for o in network.owned}
    named = zip(network.dense_names, network.dense_parameters, strict=True)
    return {name: columns[id(p)] for name, p in named if id(p) in columns}


def _keys_of(name: str, state: DenseState) -> list[str]:
    """The value and the slots that are laid out as it is; counts are everyone's."""
    return [key for key in state if (key == name or key.startswith(f"{name}/")) and state[key].dim()]


def _gathered(mine: Tensor, columns: int, network: Network, comm: Comm) -> Tensor:
    own = torch.tensor(network.own_fields, dtype=torch.int64, device=mine.device)
    whole = mine.new_zeros(*mine.shape[:-1], network.fields, columns)
    whole[..., own, :] = mine.unflatten(-1, (len(own), columns))
    comm.all_reduce("checkpoint", whole).wait()  # each column has one owner: adding zeros is exact
    return whole.flatten(-2)


def _place(slot: str, p: nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.device:
    """Counts of steps are on the CPU, unless a kernel on the GPU counts."""
    on_gpu = optimizer.defaults.get("capturable") or optimizer.defaults.get("fused")
    return torch.device("cpu") if slot in _COUNTS and not on_gpu else p.device
