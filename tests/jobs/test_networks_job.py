"""The job `networks` says in its output and its manifest which tensors of a file it took, and what it left."""

import torch

from onepix.config.networks import Network
from onepix.config.reading import canonical
from onepix.files.manifests import read_manifest
from onepix.jobs import networks
from onepix.networks.build import build
from onepix.networks.weights import load_network_file


def test_what_was_taken_is_said_and_recorded(tmp_path, capsys):
    torch.manual_seed(0)
    model, ema = (build("lenet").state_dict() for _ in range(2))
    contents = {
        "ema": {f"module.{name}": tensor for name, tensor in ema.items()},
        "model": model,
        "loss": torch.ones(2),
    }
    torch.save(contents, tmp_path / "mine.pth")
    common = {"architecture": "lenet", "weights": str(tmp_path / "mine.pth"), "mean": 0.5, "std": 0.25}
    for key, expected, facts, said in (
        (
            None,
            model,
            {"taken_from": "model", "others": ["ema.module"], "left_over": {"count": 1, "first": ["loss"]}},
            "taken: the tensors of model; the tensors of ema.module would fit, too (weights_key chooses); "
            "left over: 1 tensor (loss)",
        ),
        (
            "ema",
            ema,
            {
                "taken_from": "ema.module",
                "left_over": {"count": 11, "first": ["model.conv1.weight", "model.conv1.bias", "model.conv2.weight"]},
            },
            "taken: the tensors of ema.module; left over: 11 tensors (model.conv1.weight, model.conv1.bias, "
            "model.conv2.weight, …)",
        ),
    ):
        output = tmp_path / str(key) / "mine" / "manifest.json"
        networks.run(canonical({"network": Network(**common, weights_key=key)}), output)
        assert capsys.readouterr().out.splitlines()[1] == f"weights of mine: {said}"
        assert read_manifest(output)["metadata"]["tensors"] == facts
        stored = load_network_file(output.with_name("weights.safetensors"))
        assert torch.equal(stored.network.conv1.weight, expected["conv1.weight"])
        assert stored.scaling == {"mean": (0.5,) * 3, "std": (0.25,) * 3}
