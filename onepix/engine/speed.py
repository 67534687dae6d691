"""How fast a network screens candidates on this machine."""

import time

import torch
from torch import Tensor

from onepix.engine.evaluator import Evaluator
from onepix.pixels import Perturbation


@torch.inference_mode()
def passes_per_second(evaluator: Evaluator, picture: Tensor, count: int, seconds: float) -> float:
    """Screen random one-pixel changes of a picture for a while.

    Parameters
    ----------
    evaluator : Evaluator
        Of the network.
    picture : Tensor
        uint8, shape (1, H, W, C).
    count : int
        Candidates per call, at least a micro-batch.
    seconds : float
        After a first micro-batch, which is slower and is not counted.

    Returns
    -------
    float
        Candidates per second.
    """
    height, width, channels = picture.shape[1:]
    generator = torch.Generator().manual_seed(0)
    rows, columns, values = (
        torch.randint(0, below, size, generator=generator, dtype=dtype).to(picture.device)
        for below, size, dtype in (
            (height, (count, 1), torch.int64),
            (width, (count, 1), torch.int64),
            (256, (count, 1, channels), torch.uint8),
        )
    )
    candidates, owners = Perturbation(rows, columns, values), torch.zeros_like(rows[:, 0])
    few = torch.arange(evaluator.micro_batch, device=picture.device)
    evaluator.screen(picture, owners[few], candidates[few]).argmax(1).cpu()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        evaluator.screen(picture, owners, candidates).argmax(1).cpu()
        done += count
    return done / (time.perf_counter() - start)
