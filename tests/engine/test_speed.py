"""The speed that is measured: passes over time, by a clock whose ticks are known."""

import pytest
import torch
from analytic import rule

from onepix.config.engine import Engine
from onepix.engine import speed
from onepix.engine.evaluator import Evaluator


@pytest.mark.parametrize(("ticks", "rounds"), [([0, 0.4, 0.9, 1.2, 1.5], 2), ([0, 3.0, 1.5], 0)])
def test_passes_are_counted_after_the_first_ones(monkeypatch, ticks, rounds):
    """The clock is asked at the start, before each round, and at the end."""
    evaluator = Evaluator(rule(lambda images: images.sum((1, 2, 3)) - 300), Engine(micro_batch=8), (5, 7, 3))
    screened, screen, clock = [], evaluator.screen, iter(ticks)
    monkeypatch.setattr(evaluator, "screen", lambda *given: screened.append(len(given[1])) or screen(*given))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    found = speed.passes_per_second(evaluator, torch.zeros(1, 5, 7, 3, dtype=torch.uint8), 24, 1.0)
    assert screened == [8, *[24] * rounds]
    assert found == rounds * 24 / 1.5
