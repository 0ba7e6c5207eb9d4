"""Settings that hold for the whole suite: one thread, no network, one marker, and a heap that collects quickly."""

import gc
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than three seconds")


def pytest_collection_finish(session):
    # `Trainer` collects garbage several times a run, and would look through thousands of tests each time.
    gc.collect()
    gc.freeze()


@pytest.fixture
def trained(monkeypatch):
    """The labels of what is trained from now on."""
    from bareformers import execution

    labels = []

    class Noting(execution.BareTrainer):
        def fit(self):
            labels.append(self.watch.label)
            super().fit()

    monkeypatch.setattr(execution, "BareTrainer", Noting)
    return labels
