"""TorchRec's table-wise sharded tables on the same workers, over gloo on CPUs: table f on rank f mod N, as in ours.

TorchRec's row-wise sharding needs CUDA and is left out. FBGEMM's fused optimizers train the rows in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from des_ref.comm import Comm
from des_ref.embedding.optim import RowAdagrad, RowOptimizer, Sgd


def why_not() -> str:
    """Why TorchRec is not available here; empty if it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # FBGEMM warns about its missing SSD and CUDA parts
            import torchrec  # noqa: F401

        torch.ops.fbgemm.asynchronous_complete_cumsum(torch.ones(1, dtype=torch.int64))
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        return f"TorchRec is not available here ({str(error).splitlines()[0]}); `make test` installs it where it exists"
    return ""


def _fused(optimizer: RowOptimizer) -> dict[str, Any]:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    match optimizer:
        case Sgd():
            return {"optimizer": EmbOptimType.EXACT_SGD, "learning_rate": optimizer.rate}
        case RowAdagrad():
            names = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": optimizer.rate}
            return names | {"eps": optimizer.eps}
    raise ValueError(f"no fused {optimizer.name} here")


class Tables:
    """Tables with initial `weights` [V_f, width] for all fields, known on every rank and sharded over the workers."""

    def __init__(self, weights: Sequence[Tensor], pooling: str, optimizer: RowOptimizer, comm: Comm) -> None:
        from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
        from torchrec.distributed import DistributedModelParallel
        from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
        from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
        from torchrec.distributed.types import ShardingPlan

        self.names = [f"f{f}" for f in range(len(weights))]
        pool = PoolingType.SUM if pooling == "sum" else PoolingType.MEAN
        configs = [
            EmbeddingBagConfig(
                num_embeddings=len(w), embedding_dim=w.shape[1], name=f"t_{n}", feature_names=[n], pooling=pool
            )
            for n, w in zip(self.names, weights, strict=True)
        ]
        bags = EmbeddingBagCollection(configs, device=torch.device("meta"))
        sharder = EmbeddingBagCollectionSharder(fused_params=_fused(optimizer))
        by_table = {
            f"t_{n}": table_wise(rank=f % comm.world_size, compute_kernel="fused") for f, n in enumerate(self.names)
        }
        plan = construct_module_sharding_plan(bags, by_table, sharder, comm.world_size, comm.world_size, "cpu")
        self.module: nn.Module = DistributedModelParallel(
            bags, device=comm.device, plan=ShardingPlan({"": plan}), sharders=[sharder]
        )
        for field, own in self.own_weights().items():
            own.copy_(weights[field])

    def keyed(self, numbers: Tensor, bag_sizes: Tensor) -> Any:
        """TorchRec's form of ids: numbers [n] within their tables, for bag sizes [F * b], sorted by field."""
        from torchrec import KeyedJaggedTensor

        return KeyedJaggedTensor.from_lengths_sync(self.names, numbers, bag_sizes)

    def pooled(self, ids: Any) -> Tensor:
        """[b, F, width] for this worker's samples; its backward updates the rows."""
        by_name = self.module(ids).to_dict()
        return torch.stack([by_name[name] for name in self.names], dim=1)

    def own_weights(self) -> dict[int, Tensor]:
        """This rank's tables by field: views."""
        state = self.module.state_dict()
        found = {f: state[f"embedding_bags.t_{n}.weight"].local_shards() for f, n in enumerate(self.names)}
        return {f: shards[0].tensor.detach() for f, shards in found.items() if shards}
