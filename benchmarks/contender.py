"""Runs one contender in its own process, with a task as JSON and a file for the results.

`attacks.py` and `curves.py` start it. So peak memory is that of this contender alone, and libraries do not share
threads, settings or random state.
"""

import contextlib
import functools
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from onepix.attacks.attack import attack_images
from onepix.attacks.journal import Journal
from onepix.config.engine import Engine
from onepix.datasets.bundled import load_bundled
from onepix.engine.devices import choose_device, keep_memory
from onepix.engine.evaluator import Evaluator, exact_float32, logits
from onepix.files.records import attacked_images
from onepix.images import ImageSet
from onepix.networks.classifier import Classifier
from onepix.networks.weights import bundled, load_network_file
from onepix.notebook import METHODS
from onepix.pixels import Perturbation

PASSES_PER_CALL = 16  # micro-batches that a search screens at once
JUDGE_BATCH = 64
PATIENCE = 120  # seconds that a job waits for those beside it
Result = dict[str, Any]
LibraryAttack = Callable[[np.ndarray, int], np.ndarray]  # (1, C, H, W) in [0, 1] and its class to the same, attacked


def main() -> None:
    """Run the task and write its results."""
    task = json.loads(sys.argv[1])
    device = choose_device("auto")
    classifier = load_network_file(bundled()[task["network"]], device)
    images = load_bundled()
    correct = predicted(classifier, images.images) == images.labels  # warms up, too
    images = images.select(images.ids[correct][: task["images"]].tolist())
    loaded = peak_memory()
    run = {"dense": run_dense, "compiled": run_compiled, "engine": run_engine, "onepix": run_onepix}
    result = run.get(task["kind"], run_library)(classifier, images, task)
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    machine = {"threads": torch.get_num_threads(), "gpu": gpu, "ids": images.ids.tolist()}
    memory = {"loaded": loaded, "peak": peak_memory(), "gpu": round(torch.cuda.max_memory_allocated() / 1e6)}
    Path(sys.argv[2]).write_text(json.dumps({**result, "memory": memory, "machine": machine}))


def run_dense(classifier: Classifier, _images: ImageSet, task: Result) -> Result:
    """Measure forward passes on ready tensors: the limit of the network, if every pass is complete."""
    network, layout = classifier.network, torch.contiguous_format
    if task["folded"]:
        network, layout = fuse(network).to(memory_format=torch.channels_last), torch.channels_last
    rates = {}
    with torch.inference_mode(), arithmetic(classifier, task["precision"]):
        for batch in [16, 32, 64, 128, 256, 400] + torch.cuda.is_available() * [1024, 2048, 4096, 8192]:
            ready = ready_batch(classifier, batch).contiguous(memory_format=layout)
            rates[batch] = best_rate(functools.partial(network, ready), batch, task)
    best = max(rates, key=rates.__getitem__)
    return {"rates": rates, "rate": rates[best], "batch": best}


def run_compiled(classifier: Classifier, _images: ImageSet, task: Result) -> Result:
    """Measure the folded network compiled, at one batch size."""
    if not torch.cuda.is_available() and shutil.which(os.environ.get("CXX", "g++")) is None:
        return {"missing": "no C++ compiler"}
    import torch._inductor.config as inductor

    inductor.freezing = True
    network = torch.compile(fuse(classifier.network).to(memory_format=torch.channels_last))
    ready = ready_batch(classifier, task["batch"]).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), arithmetic(classifier, task["precision"]):  # freezing does not support inference_mode
        begun = clock()
        network(ready)
        compiling = clock() - begun
        return {"rate": best_rate(lambda: network(ready), task["batch"], task), "compiling": compiling}


def run_engine(classifier: Classifier, images: ImageSet, task: Result) -> Result:
    """Measure how fast onepix evaluates random candidates, as many at once as in a search."""
    keep_memory()
    height, width, channels = images.images.shape[1:]
    evaluator = Evaluator(classifier, Engine(**task["engine"]), (height, width, channels))
    count = PASSES_PER_CALL * evaluator.micro_batch
    draw = np.random.default_rng(0)
    drawn = (
        images.images,
        np.arange(count) * len(images.ids) // count,
        draw.integers(height, size=(count, 1)),
        draw.integers(width, size=(count, 1)),
        draw.integers(256, size=(count, 1, channels), dtype=np.uint8),
    )
    pictures, owners, rows, columns, colours = (torch.from_numpy(array).to(evaluator.device) for array in drawn)
    candidates = Perturbation(rows, columns, colours)
    evaluate = evaluator.exact if task["exact"] else evaluator.screen
    rate = best_rate(lambda: evaluate(pictures, owners, candidates), count, task)
    return {"rate": rate, "batch": evaluator.micro_batch, **evaluator.facts}


def run_onepix(classifier: Classifier, images: ImageSet, task: Result) -> Result:
    """Attack all images together, as onepix does; then attack resisting images again, to measure their time."""
    keep_memory()
    settings = METHODS[task["method"]].model_validate({"method": task["method"], **task["settings"]})
    meet(task, "all")
    ends = Ends()
    done = attack_images(classifier, images, settings, journal=cast("Journal", ends))
    seconds = clock() - ends.begun
    records = done.records
    survived = judged(classifier, images, attacked_images(images.images, records))
    first = [None if pd.isna(count) else int(count) for count in records["queries_to_success"]]
    resisting = images.ids[~survived].tolist() if task["again"] else []
    meet(task, "resisting")
    begun = clock()
    if resisting:
        attack_images(classifier, images.select(resisting), settings)
    return {
        **outcome(records["queries"].tolist(), seconds, clock() - begun, records["success"].tolist(), survived),
        **flips(first, [ends.seconds.get(index, seconds) for index in range(len(first))], survived),
        **done.evaluation,
        "batch": done.evaluation["micro_batch"],
        "rechecked": int(records["rechecked"].sum()) / int(records["queries"].sum()),
    }


class Ends:
    """Stands where a journal does: it stores nothing, and notes when each attack ends, in seconds."""

    def __init__(self) -> None:
        self.begun = clock()
        self.seconds: dict[int, float] = {}

    def with_facts(self, **_facts: Any) -> "Ends":
        """Return itself."""
        return self

    def restore(self, attacks: Sequence[Any], _fields: Mapping[str, Tensor]) -> list[int]:
        """Return all attacks: none was done before."""
        return list(range(len(attacks)))

    def write(self, _attacks: Sequence[Any], _fields: Mapping[str, Tensor], finished: Sequence[int]) -> None:
        """Note the time."""
        self.seconds.update(dict.fromkeys(finished, clock() - self.begun))


def meet(task: Result, stage: str) -> None:
    """Wait until all jobs of a task that runs in several have come here."""
    if task["jobs"] == 1:
        return
    folder, begun = Path(task["meeting"]), perf_counter()
    (folder / f"{stage}-{os.getpid()}").touch()
    while len(list(folder.glob(f"{stage}-*"))) < task["jobs"]:
        if perf_counter() - begun > PATIENCE:
            raise SystemExit("the job beside this one did not come")
        time.sleep(0.001)


def run_library(classifier: Classifier, images: ImageSet, task: Result) -> Result:
    """Let a library attack one image after the other; count passes and judge what it returns."""
    # ART minimises the true class's output: with logits, that is another goal, and it misses flips.
    network = Counted(classifier, nn.Softmax(1) if task["kind"] == "ART" else nn.Identity()).eval()
    attacks = {"torchattacks": torchattacks_attack, "Pixle": pixle_attack, "ART": art_attack}
    attack = attacks[task["kind"]](network, task)
    floats = (images.images.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    seconds: list[float] = []
    known: list[float] = []
    passes, first, found = [], [], []
    for image, label in zip(floats, images.labels.tolist(), strict=True):
        np.random.seed(0)  # noqa: NPY002 (all draw from the global stream, which they do not seed)
        torch.manual_seed(0)
        network.begin(label)
        before, begun = sum(seconds), clock()
        found.append(attack(image[None], label)[0])
        seconds.append(clock() - begun)
        passes.append(network.rows)
        first.append(network.first or network.rows)  # if rounding flips what did not flip: at the end
        known.append(before + (network.first_at - begun if network.first else seconds[-1]))
    returned = np.stack(found)
    with torch.inference_mode(), exact_float32():
        claimed = network(torch.from_numpy(returned)).argmax(1).cpu().numpy() != images.labels
    survived = judged(classifier, images, (returned.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8))
    resisting = sum(s for s, fell in zip(seconds, survived, strict=True) if not fell)
    found_out = outcome(passes, sum(seconds), resisting, claimed.tolist(), survived)
    batch = 1 if task["kind"] == "Pixle" else 128  # the libraries' own defaults
    return {**found_out, **flips(first, known, survived), "precision": "float32", "batch": batch}


def torchattacks_attack(network: "Counted", task: Result) -> LibraryAttack:
    """Return the attack of torchattacks."""
    import torchattacks

    attack = torchattacks.OnePixel(network, pixels=1, steps=task["generations"], popsize=task["population"])
    return lambda image, label: attack(torch.from_numpy(image), torch.tensor([label])).cpu().numpy()


def pixle_attack(network: "Counted", task: Result) -> LibraryAttack:
    """Return Pixle: a candidate copies one pixel of the image to another position, and is passed twice."""
    import torchattacks

    most = (task["budget"] - 1) // 2
    attack = torchattacks.Pixle(network, x_dimensions=(1, 1), y_dimensions=(1, 1), restarts=1, max_iterations=most)
    return lambda image, label: attack(torch.from_numpy(image), torch.tensor([label])).cpu().numpy()


def art_attack(network: "Counted", task: Result) -> LibraryAttack:
    """Return the attack of the Adversarial Robustness Toolbox, whose population is always 400 // 5 genes × 5."""
    from art.attacks.evasion import PixelAttack
    from art.estimators.classification import PyTorchClassifier

    device = "gpu" if torch.cuda.is_available() else "cpu"
    loss = nn.CrossEntropyLoss()  # required, but not used here
    estimator = PyTorchClassifier(network, loss, (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type=device)
    attack = PixelAttack(estimator, th=1, es=1, max_iter=task["generations"])
    return lambda image, label: attack.generate(image, np.array([label]))


class Counted(nn.Module):
    """The network for attack libraries: it takes floats in [0, 1], (N, C, H, W), and counts the images.

    Attributes
    ----------
    rows : int
        Images since the last call of `begin`.
    first : int
        The first of them that is classified wrongly, counted from 1; 0 if none is. As it is passed: not rounded.
    first_at : float
        When the network had answered for it, in seconds.
    """

    def __init__(self, classifier: Classifier, last: nn.Module) -> None:
        super().__init__()
        self.classifier, self.last = classifier, last
        self.begin(-1)

    def begin(self, label: int) -> None:
        """Count from 0, for an attack on an image of this class."""
        self.label, self.rows, self.first, self.first_at = label, 0, 0, 0.0
        self.before: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Classify images; if one is passed once more, by itself, it counts, and the answer is that of before."""
        mean, std = self.classifier.mean, self.classifier.std
        images = images.to(mean.device)
        if self.before and torch.equal(images, self.before[0]):
            self.rows += 1
            return self.before[1]
        outputs: Tensor = self.last(self.classifier.network((images - mean) / std))
        if not self.first:
            wrong = (outputs.argmax(1) != self.label).nonzero()
            if len(wrong):
                self.first, self.first_at = self.rows + int(wrong[0]) + 1, clock()
        self.rows += len(images)
        self.before = (images.clone(), outputs) if len(images) == 1 else None
        return outputs


def outcome(passes: list[int], seconds: float, resisting: float, claimed: list[bool], survived: np.ndarray) -> Result:
    """Return the values of an attack's row; `resisting` is the time of images that did not flip, in seconds."""
    left = [count for count, fell in zip(passes, survived, strict=True) if not fell]
    return {
        "rate": sum(passes) / seconds,
        "all": [sum(passes) / len(passes), seconds / len(passes)],
        "resisting": [sum(left) / len(left), resisting / len(left)] if left else None,
        "passes": passes,
        "seconds": seconds,
        "claimed": claimed,
        "survived": survived.tolist(),
    }


def flips(first: Sequence[int | None], seconds: Sequence[float], survived: np.ndarray) -> Result:
    """Return after how many passes and seconds each image's success was known: None for those that do not count."""
    return {
        "queries": [count if fell else None for count, fell in zip(first, survived.tolist(), strict=True)],
        "known": [at if fell else None for at, fell in zip(seconds, survived.tolist(), strict=True)],
    }


def judged(classifier: Classifier, images: ImageSet, returned: np.ndarray) -> np.ndarray:
    """Return which returned 8-bit images differ in one pixel at most and are classified wrongly in float32."""
    changed = (returned != images.images).any(axis=3).sum(axis=(1, 2))
    fell: np.ndarray = (changed <= 1) & (predicted(classifier, returned) != images.labels)
    return fell


def predicted(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """Return the classes of 8-bit images, in float32."""
    return logits(classifier, torch.from_numpy(images).to(classifier.mean.device), JUDGE_BATCH).argmax(1).cpu().numpy()


def ready_batch(classifier: Classifier, batch: int) -> Tensor:
    """Return random images as the network sees them."""
    images = torch.randint(256, (batch, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return classifier.scaled(images.to(classifier.mean.device))


@contextlib.contextmanager
def arithmetic(classifier: Classifier, precision: str) -> Iterator[None]:
    """Compute as onepix screens: memory is kept; true float32 on GPUs, too, or autocast to bfloat16."""
    keep_memory()
    device = classifier.mean.device.type
    with exact_float32(), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def best_rate(step: Callable[[], object], rows: int, task: Result) -> float:
    """Return rows per second in the best of several short repetitions."""
    rates = []
    step()
    for _ in range(task["repetitions"]):
        begun, calls = clock(), 0
        while calls == 0 or clock() - begun < task["seconds"]:
            step()
            calls += 1
        rates.append(calls * rows / (clock() - begun))
    return max(rates)


def clock() -> float:
    """Return the time in seconds, after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter()


def peak_memory() -> int:
    """Return this process's peak memory so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


if __name__ == "__main__":
    main()
