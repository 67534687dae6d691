"""Any name that PyTorch gives a module can be followed, stored, read and drawn; so can any number of classes."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from onepix.analysis.depth import average_maps, layer_table
from onepix.analysis.maps import layers_of, maps_of_change, maps_tree, measured, said_of_attacks
from onepix.analysis.positions import scan_maps
from onepix.analysis.receptive_fields import field_table, gradients_tree
from onepix.attacks.attack import attack_images
from onepix.config.attacks import Scan
from onepix.config.statistics import Statistics
from onepix.figures.depth import growth
from onepix.figures.maps import LayerMap, average
from onepix.figures.style import save
from onepix.files.tables import read_csv, write_csv
from onepix.files.trees import read_tree, write_tree
from onepix.images import ImageSet
from onepix.layers.effective_field import effective_fields
from onepix.layers.propagation import propagation_maps
from onepix.layers.receptive_field import receptive_fields
from onepix.networks.classifier import Classifier

# A name, and how it is shown.
NAMES = {
    **{name: name for name in ("a/b %", "$x^$", "Größe", "@extra", "measures", "Layer", "layer", "nan", "l" * 300)},
    "two\nlines": "two\nlines",
    "nul\0": "nul\\0",
    "half \ud800": "half \\ud800",
}
MORE = (
    *("a b", "#", "conv#2", "'", '"q"', "x@extra", "max", "$", "None", "NA", "*", "[ab]", "add()", "-1", "COM1", "0"),
    *("_hidden", "\\", "a:b", "<b>", " ", "tab\t", "é", "漢字"),
)


class Named(nn.Module):
    """A layer of each name, in turn."""

    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Conv2d(1, 1, 1))
        self.head = nn.Linear(25, 2)

    def forward(self, images):
        *layers, head = self._modules.values()
        for layer in layers:
            images = layer(images)
        return head(images.flatten(1))


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def followed(request):
    """Return maps, fields and gradients of a network with such names."""
    torch.manual_seed(0)
    classifier = Classifier(Named((*NAMES, *(MORE if request.param == "all" else ())))).eval()
    clean = torch.randint(0, 256, (2, 5, 5, 1), dtype=torch.uint8)
    attacked = clean.clone()
    attacked[:, 3, 4] = 255 - attacked[:, 3, 4]
    maps = propagation_maps(classifier, clean, attacked, micro_batch=4)
    return maps, receptive_fields(classifier.network, (1, 5, 5)), effective_fields(classifier, clean)


@pytest.fixture(scope="module")
def folder(followed, tmp_path_factory):
    """Return a folder with the stored maps and gradients."""
    folder = tmp_path_factory.mktemp("stored")
    maps, fields, effective = followed
    records = pd.DataFrame(
        {
            "image_id": [0, 1],
            "success": [True, False],
            "label": [0, 0],
            "target": pd.array([None, None], dtype="Int64"),
            "adversarial_class": [1, 1],
            **{"rows": [[3], [3]], "columns": [[4], [4]]},
        }
    )
    root = said_of_attacks(records).assign_attrs(image_shape=[5, 5])
    write_tree(maps_tree(maps, fields, root), folder / "maps.zarr")
    write_tree(gradients_tree(effective), folder / "fields.zarr")
    return folder


def test_layers_of_any_name_are_stored(followed, folder):
    maps, fields, _ = followed
    names = [layer.name for layer in maps]
    assert names[: len(NAMES)] == list(NAMES.values())
    tree = read_tree(folder / "maps.zarr")
    assert [attributes["layer"] for _, attributes in layers_of([tree])] == names
    assert [attributes["spatial"] for _, attributes in layers_of([tree])] == [True] * (len(names) - 1) + [False]
    values = maps_of_change([tree], (1, -1))
    for layer in maps:
        np.testing.assert_allclose(values[layer.name] * float(layer.clean_peak[1]), layer.maximum[1], rtol=1e-5)
    assert max(len(file.name.encode()) for file in (folder / "maps.zarr").iterdir()) < 128
    assert read_tree(folder / "fields.zarr")["layer"].values.tolist() == names
    assert set(names) <= set(fields)


def test_tables_and_figures_show_any_name(followed, folder, tmp_path):
    maps, fields, effective = followed
    tree = read_tree(folder / "maps.zarr")
    write_csv(layer_table(measured([tree]), None, Statistics(resamples=100)), tmp_path / "layers.csv")
    write_csv(field_table(effective, fields), tmp_path / "fields.csv")
    table = read_csv(tmp_path / "layers.csv")
    assert table["layer"].drop_duplicates().tolist() == [layer.name for layer in maps]
    assert read_csv(tmp_path / "fields.csv")["layer"].tolist() == [layer.name for layer in maps]
    drawn = (
        growth(table, "title"),
        average([LayerMap(*entry) for entry in average_maps([tree]).items()], "title", "magma"),
    )
    for index, figure in enumerate(drawn):
        save(figure, tmp_path / str(index), 20, ["png"])
        assert figure.get_figheight() < 20, "a very long name is shortened"
    ticks = [tick.get_text() for tick in drawn[0].axes[-1].get_xticklabels()]
    assert {"a/b %", "$x^$", "nan", "Größe", "two lines"} <= set(ticks)
    assert f"{'l' * 30}…{'l' * 30}" in ticks


class Many(nn.Module):
    """More classes than 16 bits hold; a dark pixel is of the last class."""

    def forward(self, images):
        dark = (1 - images).amax((1, 2, 3))
        return torch.cat([images.new_zeros(len(images), 39_999), dark[:, None] - 0.5], 1)


def test_a_scan_keeps_any_number_of_classes():
    classifier = Classifier(Many()).eval()
    images = ImageSet(
        np.full((1, 2, 2, 1), 255, np.uint8), np.array([0]), np.array([7]), tuple(map(str, range(40_000))), "made up"
    )
    found = attack_images(classifier, images, Scan(method="scan"), keep_maps=True)
    assert found.records["adversarial_class"].tolist() == [39_999]
    seen = scan_maps(found.maps, found.records)["seen_class"]
    assert seen.values.tolist() == [[[[39_999] * 2] * 2, [[0] * 2] * 2]]
