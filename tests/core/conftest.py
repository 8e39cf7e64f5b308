import pytest
from tiny import RECIPE, TRAINING

from dpnet import backbones
from dpnet import data as benchmarks
from dpnet.backbones import Backbone
from dpnet.data.index import Benchmark


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return benchmarks.prepare("shapes", tmp_path_factory.mktemp("data"), RECIPE)


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return backbones.build(TRAINING.backbone)
