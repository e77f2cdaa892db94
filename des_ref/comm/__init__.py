"""Collectives: the only package that calls torch.distributed.

Every collective carries the *name* of its op in the strategy's plan, so that a recorder can match recorded traffic with
planned traffic. A recorder listens through `Comm.tap`; without one, nothing is measured.

Start-up reads torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); without a launcher the
process is a world of one. The backend is gloo on CPU and nccl on GPU.
"""

from __future__ import annotations

from torch.distributed.elastic.multiprocessing.errors import record

from des_ref.comm.autograd_ops import SumFeedingReplicas, SumScattered, nothing
from des_ref.comm.coded import CodedComm, Encoding
from des_ref.comm.group import WORLD_GROUP, Comm, Handle, Tap, describe_group, work_future
from des_ref.comm.launch import launched_rank, open_comm
from des_ref.comm.same_settings import require_same
from des_ref.comm.wire import Message, Wire

__all__ = [
    "WORLD_GROUP",
    "CodedComm",
    "Comm",
    "Encoding",
    "Handle",
    "Message",
    "SumFeedingReplicas",
    "SumScattered",
    "Tap",
    "Wire",
    "describe_group",
    "launched_rank",
    "nothing",
    "open_comm",
    "record",
    "require_same",
    "work_future",
]
