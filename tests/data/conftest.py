"""No test of the data layer writes into the project's own data folder."""

import pytest

from dpnet import data as benchmarks


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "ROOT", tmp_path / "home")
    monkeypatch.setenv("DPNET_DATA", "")  # what the verbs set is taken back
    return tmp_path / "home"
