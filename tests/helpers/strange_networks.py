"""Networks as strangers bring them: each factory returns one, for 10 classes. It imports nothing of onepix.

`CASES` says of each what `onepix check` says of it: a regular expression for its fault, or None if it can be attacked.
To see them all: `python tests/helpers/strange_networks.py FOLDER && cd FOLDER && onepix check strangers.yaml`.
"""

import dataclasses
import json
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm


class Tiny(nn.Module):
    """A convolution, the mean over positions, a linear layer."""

    def __init__(self, classes=10, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, kernel, padding=kernel // 2)
        self.fc = nn.Linear(6, classes)

    def features(self, x):
        return self.conv(x).relu().mean((2, 3))

    def forward(self, x):
        return self.fc(self.features(x))


def seeded(kind, *arguments):
    """Build a network with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*arguments).eval()


def plain():
    return seeded(Tiny)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


class WithLogits(Tiny):
    def forward(self, x):
        return Output(super().forward(x))


class WithKey(Tiny):
    def forward(self, x):
        features = self.features(x)
        return OrderedDict(features=features, logits=self.fc(features))


class WithTuple(Tiny):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features), features


class OtherKey(Tiny):
    def forward(self, x):
        return {"out": super().forward(x)}


class Nothing(Tiny):
    def forward(self, x):
        self.seen = super().forward(x)


class Asserting(Tiny):
    def forward(self, x):
        assert x.shape[-1] == 224, f"Input size ({x.shape[-1]}) doesn't match model (224)"
        return super().forward(x)


class Wordless(Tiny):
    def forward(self, x):
        assert x.shape[-1] == 224
        return super().forward(x)


class Raising(Tiny):
    def forward(self, x):
        return {"small": super().forward(x)}["size 32\nis not supported"]


class Leaving(Tiny):
    def forward(self, _):
        raise SystemExit("weights are missing")


class Dropping(Tiny):
    def forward(self, x):
        return self.fc(F.dropout(self.features(x), 0.5))


class RarelyDropping(Tiny):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.01)


class KeptDropout(Tiny):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def train(self, mode=True):
        super().train(mode)
        self.drop.train()
        return self

    def forward(self, x):
        return self.fc(self.drop(self.features(x)))


class Noisy(Tiny):
    def forward(self, x):
        return super().forward(x + 0.01 * torch.randn_like(x))


class Counting(Tiny):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + 1e-3 * self.calls


class Centred(Tiny):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features - features.mean(0))


class FirstOfAll(Tiny):
    def forward(self, x):
        features = self.features(x)
        return self.fc(features - features[:1])


class BatchStatistics(Tiny):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x):
        return self.fc(self.norm(self.features(x)))


class KeptBatchNorm(Tiny):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6)

    def train(self, mode=True):
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class AttendingToTheBatch(Tiny):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, x):
        tokens = self.conv(x).relu()[:, :, ::8, ::8].flatten(2).transpose(1, 2)  # (N, T, C), read as (T, N, C)
        return self.fc(self.attention(tokens, tokens, tokens)[0].mean(1))


class Softmax(Tiny):
    def forward(self, x):
        return super().forward(x).softmax(1)


class LogSoftmax(Tiny):
    def forward(self, x):
        return F.log_softmax(super().forward(x), 1)


class OneLogit(Tiny):
    def forward(self, x):
        return super().forward(x)[:, :1]


class Flat(Tiny):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Labels(Tiny):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 10)


class Maps(Tiny):
    def forward(self, x):
        return super().forward(x)[:, :, None, None]


class Infinite(Tiny):
    def forward(self, x):
        return super().forward(x) / 0.0


class Changing(Tiny):
    """Its number of classes depends on what it saw before."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)[:, : 10 if self.calls < 4 else 9]


class Tied(Tiny):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 10)
        self.head.weight = self.fc.weight

    def forward(self, x):
        features = self.features(x)
        return self.fc(features) + self.head(features)


class TwoNames(Tiny):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"first": self.conv})

    def forward(self, x):
        return self.fc(self.backbone["first"](x).relu().mean((2, 3)))


class SharedAndNormalised(nn.Module):
    """One convolution, called twice; each call has its own normalisation, which cannot be folded into it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 10)
        for norm, scale in ((self.one, 3.0), (self.two, 0.3)):
            nn.init.constant_(norm.weight, scale)
            nn.init.uniform_(norm.running_mean)

    def forward(self, x):
        x = self.one(self.conv(self.first(x))).relu()
        return self.fc(self.two(self.conv(x)).relu().mean((2, 3)))


def normed(norm):
    network = seeded(Tiny)
    network.conv = seeded(lambda: norm(network.conv))
    return network


class Lazy(Tiny):
    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv2d(6, 3)


def warmed_up():
    def build():
        network = Lazy()
        network(torch.zeros(1, 3, 32, 32))
        return network

    return seeded(build)


class InPlace(Tiny):
    def forward(self, x):
        return super().forward(x.mul_(2).sub_(1))


class Talking(Tiny):
    def forward(self, x):
        print("seen", x.shape)  # noqa: T201
        return super().forward(x)


class Forgotten(Tiny):
    """A random tensor that is neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__()
        self.scale = torch.rand(6, generator=torch.Generator())
        self.scale += torch.tensor(Forgotten.built)
        Forgotten.built += 1.0

    built = 0.0

    def forward(self, x):
        return self.fc(self.features(x) * self.scale)


class NoMoreGradient(Tiny):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Recursive(Tiny):
    def forward(self, x):
        return self.forward(x)


class StubbornTrain(Tiny):
    def train(self, mode=True):
        if not mode:
            raise NotImplementedError("Calling eval() is not supported")
        return super().train(mode)


class EvalIgnored(Tiny):
    def train(self, mode=True):  # noqa: ARG002
        return super().train(True)


def quantised():
    return torch.ao.quantization.quantize_dynamic(seeded(Tiny), {nn.Linear}, dtype=torch.qint8)


SCALES = {"mean": [0.5] * 3, "std": [0.25] * 3}
RANDOM = "answers differently when it sees the same images again"
COMPANY = "depends on the other images of the batch"
CASES = {
    "plain": (plain, None),
    "with_logits": (lambda: seeded(WithLogits), None),
    "with_key": (lambda: seeded(WithKey), None),
    "with_tuple": (lambda: seeded(WithTuple), None),
    "other_key": (lambda: seeded(OtherKey), "returned a dict with the keys 'out'; expected logits"),
    "nothing": (lambda: seeded(Nothing), "returned an object of type NoneType; expected logits"),
    "asserting": (
        lambda: seeded(Asserting),
        r"cannot take images of 32×32×3 .*Input size \(32\) doesn't match model \(224\)",
    ),
    "wordless": (lambda: seeded(Wordless), r"AssertionError: assert x.shape\[-1\] == 224 \(\w+.py, line \d+\)"),
    "raising": (lambda: seeded(Raising), r"KeyError: .*size 32.*is not supported"),
    "leaving": (lambda: seeded(Leaving), "cannot take images.*SystemExit: weights are missing"),
    "recursive": (lambda: seeded(Recursive), "RecursionError"),
    "stubborn": (StubbornTrain, r"eval\(\) failed: NotImplementedError"),
    "eval_ignored": (EvalIgnored, r"training mode.* call its eval\(\) first"),
    "dropping": (lambda: seeded(Dropping), rf"{RANDOM}.*likely in its own forward \(Dropping\)"),
    "rarely_dropping": (lambda: seeded(RarelyDropping), rf"{RANDOM}.*likely in its own forward \(RarelyDropping\)"),
    "kept_dropout": (lambda: seeded(KeptDropout), rf"{RANDOM}.*likely in 'drop' \(Dropout\)"),
    "noisy": (lambda: seeded(Noisy), RANDOM),
    "counting": (lambda: seeded(Counting), rf"{RANDOM}.*or changes itself"),
    "centred": (lambda: seeded(Centred), rf"{COMPANY}; likely in its own forward \(Centred\)"),
    "first_of_all": (
        lambda: seeded(FirstOfAll),
        r"depends on its index in the batch, or on the first image; likely in its own forward",
    ),
    "batch_statistics": (lambda: seeded(BatchStatistics), rf"{COMPANY}; likely in 'norm' \(BatchNorm1d\)"),
    "kept_batch_norm": (lambda: seeded(KeptBatchNorm), rf"{COMPANY}; likely in 'norm' \(BatchNorm2d\)"),
    "attending": (lambda: seeded(AttendingToTheBatch), rf"{COMPANY}; likely in 'attention"),
    "softmax": (lambda: seeded(Softmax), None),
    "log_softmax": (lambda: seeded(LogSoftmax), None),
    "one_logit": (
        lambda: seeded(OneLogit),
        r"one number for each image.*torch\.cat\(\[torch\.zeros_like\(z\), z\], 1\)",
    ),
    "flat": (lambda: seeded(Flat), "one number for each image"),
    "labels": (lambda: seeded(Labels), "int64; expected logits"),
    "maps": (lambda: seeded(Maps), r"\(\d+, 10, 1, 1\), expected \(images, classes\).*flatten\(1\)"),
    "infinite": (lambda: seeded(Infinite), "not finite"),
    "changing": (lambda: seeded(Changing), RANDOM),
    "tied": (lambda: seeded(Tied), None),
    "two_names": (lambda: seeded(TwoNames), None),
    "shared": (lambda: seeded(SharedAndNormalised), None),
    "scripted": (lambda: torch.jit.script(plain()), "TorchScript, whose layers cannot be followed"),
    "traced": (lambda: torch.jit.trace(plain(), torch.zeros(1, 3, 32, 32)), "TorchScript, whose layers cannot be"),
    "scripted_part": (
        lambda: nn.Sequential(torch.jit.script(plain().conv), nn.Flatten(), nn.LazyLinear(10)),
        "have no shape yet|TorchScript",
    ),
    "quantised": (quantised, "cannot be stored: fc._packed_params.*of a quantised network"),
    "old_weight_norm": (lambda: normed(weight_norm), None),
    "new_weight_norm": (lambda: normed(parametrizations.weight_norm), None),
    "old_spectral_norm": (lambda: normed(spectral_norm), None),
    "new_spectral_norm": (lambda: normed(parametrizations.spectral_norm), None),
    "lazy": (lambda: seeded(Lazy), "conv.weight; pass an image"),
    "warmed_up": (warmed_up, None),
    "in_place": (lambda: seeded(InPlace), None),
    "talking": (lambda: seeded(Talking), None),
    "forgotten": (Forgotten, "answers differently after it is stored and loaded again"),
    "no_more_gradient": (lambda: seeded(NoMoreGradient), None),
    "double": (lambda: plain().double(), None),
    "half": (lambda: plain().half(), None),
    "channels_last": (lambda: plain().to(memory_format=torch.channels_last), None),
    "parallel": (lambda: nn.DataParallel(plain()), None),
    "units": (plain, r"mean \[123.7, 116.3, 103.5\] .* write mean \[0.4851, 0.4561, 0.4059\] and std \[0.2288, 0.22"),
}
OTHER_SCALES = {"units": {"mean": [123.7, 116.3, 103.5], "std": [58.35, 57.1, 57.4]}}


def configuration(module, cases=CASES):
    """Return a study of these networks on two bundled images; their factories are attributes of a module."""
    return {
        "datasets": {"sample": {"source": "bundled"}},
        "networks": {
            name: {"architecture": f"{module}:{name}", "weights": "factory", **OTHER_SCALES.get(name, SCALES)}
            for name in cases
        },
        "attacks": {"a": {"population": 20, "generations": 2}},
        "runs": [{"dataset": "sample", "networks": list(cases), "attacks": ["a"], "images": "0-1"}],
    }


def __getattr__(name):
    """Return a factory by its name in `CASES`."""
    if name in CASES:
        return CASES[name][0]
    raise AttributeError(name)


def write_study(folder):
    """Write this module and a configuration with all its networks into a folder; return the configuration's path."""
    shutil.copyfile(__file__, folder / "strangers.py")
    path = folder / "strangers.yaml"
    path.write_text(json.dumps(configuration("strangers"), indent=1))  # JSON is YAML, too
    return path


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write_study(Path(sys.argv[1]))
