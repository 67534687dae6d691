"""The texts of a figure that were really drawn, and what in it is not legible."""

import itertools
from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

LENET = {
    **{"conv1": 28, "relu1": 28, "pool1": 14, "conv2": 10, "relu2": 10, "pool2": 5},
    **dict.fromkeys(("fc1", "relu3", "fc2", "relu4", "fc3"), 1),
}
STAGES = ((1, 32), (2, 16), (3, 8))
RESNET20 = {
    **{"conv1": 32, "relu": 32},
    **{
        f"layer{stage}.{block}.{part}": side
        for stage, side in STAGES
        for block in range(3)
        for part in ("conv1", "relu1", "conv2", "relu2")
    },
    **{"layer3": 8, "avgpool": 1, "linear": 1},
}
DENSE = {f"features.denseblock{b}.denselayer{n}.conv1": 7 for b in range(4) for n in range(32)}
QUANTITIES = ("share_of_peak", "energy", "reach", "reach_1pct", "distance", "spread")  # In the order of the plots.
TITLE = "resnet20 on cifar10, differential_evolution, image 9999: success, with a title that is longer than a line is"


# Text that fits


def drawn_texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Draw a figure; return the texts that were really drawn, and where (in pixels)."""
    texts, draw = [], Text.draw

    def record(text, renderer, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            texts.append((text, text.get_window_extent(renderer)))
        return draw(text, renderer, *args, **kwargs)

    with mock.patch.object(Text, "draw", record):
        FigureCanvasAgg(figure).draw()
    return texts


def misfits(figure: Figure) -> list[str]:
    """Return what is wrong with a figure's text: cut off, overlapping, too small, or there is none."""
    figure.dpi = 200
    texts = drawn_texts(figure)
    canvas = figure.bbox
    wrong = [] if texts else ["no text"]
    for text, box in texts:
        if box.x0 < canvas.x0 or box.y0 < canvas.y0 or box.x1 > canvas.x1 or box.y1 > canvas.y1:
            wrong.append(f"cut off: {text.get_text()!r}")
        if text.get_fontsize() < 6:
            wrong.append(f"{text.get_fontsize()} points: {text.get_text()!r}")
    for (one, box), (other, other_box) in itertools.combinations(texts, 2):
        if box.overlaps(other_box):
            wrong.append(f"overlap: {one.get_text()!r} and {other.get_text()!r}")
    return wrong


def colour_at(figure: Figure, panel: int, row: int, column: int) -> list[int]:
    """Draw a figure; return the red, green and blue in the middle of a pixel of one of its panels."""
    figure.dpi = 200
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    x, y = figure.axes[panel].transData.transform((column, row))
    return pixels[len(pixels) - 1 - int(y), int(x), :3].tolist()
