"""Model files of TorchRec models: tables, widths, pooling and layers are the module's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from des_ref.from_torchrec import main
from dessim.errors import UsageError
from dessim.workload.model import Model, load_model
from dessim.workload.strategies import plan as plan_of
from dessim.workload.strategies.parts import dense_weights

WIDTH = 128
ROWS = [40_000_000 - 7 * table for table in range(26)]
BOTTOM = [512, 256, WIDTH]
TOP = [1024, 1024, 512, 256, 1]


@pytest.fixture(scope="module", autouse=True)
def torchrec() -> None:
    """Import TorchRec, or skip. It takes seconds, which a test worker that runs none of these tests saves."""
    pytest.importorskip("torchrec.models.dlrm", reason="TorchRec is not installed")


def collection(width: int = WIDTH, features: int = 1, pooling: str = "SUM") -> nn.Module:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    return EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=f"t{number}",
                num_embeddings=rows,
                embedding_dim=width if number else WIDTH,
                feature_names=[f"f{number}_{i}" for i in range(features)],
                pooling=PoolingType[pooling],
            )
            for number, rows in enumerate(ROWS)
        ],
    )


def make_dlrm() -> nn.Module:
    from torchrec.models.dlrm import DLRM, DLRMTrain

    return DLRMTrain(DLRM(collection(), 13, BOTTOM, TOP, dense_device=torch.device("meta")))


def make_dcn() -> nn.Module:
    from torchrec.models.dlrm import DLRM_DCN

    return DLRM_DCN(collection(), 13, BOTTOM, TOP, 3, 64, dense_device=torch.device("meta"))


class Own(nn.Module):
    def __init__(self, collection: nn.Module, inputs: int = 26 * WIDTH) -> None:
        super().__init__()
        self.collection = collection
        self.layers = nn.Sequential(nn.Linear(inputs, 10), nn.ReLU(), nn.Linear(10, 1))


def make_own() -> nn.Module:
    return Own(collection(pooling="MEAN"))


def make_unequal() -> nn.Module:
    return Own(collection(width=64), WIDTH + 25 * 64)


def make_shared() -> nn.Module:
    return Own(collection(features=2))


def make_number() -> int:
    return 3


def read(name: str, tmp_path: Path) -> Model:
    path = tmp_path / "model.toml"
    assert main([f"{__name__}:{name}", "-o", str(path)]) == 0
    return load_model(path)


def dense_parameters(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if "embedding_bags" not in name)


def test_a_dlrm_of_26_tables_on_the_meta_device(tmp_path: Path) -> None:
    model, module = read("make_dlrm", tmp_path), make_dlrm()
    assert [(table.name, table.rows) for table in model.tables] == [(f"t{i}", rows) for i, rows in enumerate(ROWS)]
    assert (model.embedding.width, model.embedding.pooling) == (WIDTH, "sum")
    assert model.dense is not None
    assert (model.dense.features, list(model.dense.widths)) == (13, BOTTOM)
    (dot,) = model.operators
    assert (dot.kind, list(dot.widths)) == ("dot", TOP[:-1])
    # dessim's logit has a bias beside that of the last layer.
    assert dense_weights(model).evaluate(model.symbols(1)) == dense_parameters(module) + 1


def test_dlrm_dcn_has_a_low_rank_cross_network(tmp_path: Path) -> None:
    model, module = read("make_dcn", tmp_path), make_dcn()
    mlp, cross = model.operators
    assert (cross.kind, cross.layers, cross.rank, list(mlp.widths)) == ("cross_v2", 3, 64, TOP[:-1])
    # dessim's cross network has an output unit beside the mlp's, 27 x 128 weights and two biases.
    assert dense_weights(model).evaluate(model.symbols(1)) == dense_parameters(module) + 27 * WIDTH + 1


def test_another_module_is_a_head_with_its_own_costs(tmp_path: Path) -> None:
    model, module = read("make_own", tmp_path), make_own()
    (head,) = model.operators
    assert (head.kind, head.weights, head.multiply_adds) == ("head", dense_parameters(module), 26 * WIDTH * 10 + 10)
    assert model.embedding.pooling == "mean"


def test_tables_keep_their_own_widths(tmp_path: Path) -> None:
    model = read("make_unequal", tmp_path)
    assert model.widths == (WIDTH, *[64] * 25)
    assert plan_of("table_wise", model).op("pooled").size.evaluate(model.symbols(2, 10)) == 5 * (WIDTH + 25 * 64) * 4


@pytest.mark.parametrize(
    ("factory", "error", "problem"),
    [
        ("make_shared", UsageError, "table 't0' serves 2 features"),
        ("make_number", UsageError, "returned a int, not a torch module"),
        ("make_nothing", UsageError, "has no function 'make_nothing'"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_written(
    factory: str, error: type[Exception], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.toml"
    with pytest.raises(error, match=problem):
        main([f"{__name__}:{factory}", "-o", str(path)])
    assert not path.exists()


def test_a_factory_must_be_named() -> None:
    with pytest.raises(UsageError, match="write MODULE:FACTORY"):
        main(["mypackage.models"])
    with pytest.raises(UsageError, match="nowhere cannot be imported"):
        main(["nowhere:f"])
