"""What tests of datasets share."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _same_noise_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pictured.RNG", np.random.default_rng(0))
