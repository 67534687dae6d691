"""Draw the figures of one run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy.typing as npt
import pandas as pd
import typer
import xarray as xr
from matplotlib.figure import Figure

from onepix.analysis.depth import aligned_maps, average_maps
from onepix.analysis.maps import maps_of_change, read_maps
from onepix.analysis.positions import Positions, read_positions
from onepix.config.base import Settings
from onepix.config.figures import Figures
from onepix.datasets.arrays import read_images
from onepix.datasets.class_names import for_network
from onepix.figures.comparison import comparison
from onepix.figures.depth import growth
from onepix.figures.locality import PositionMap, position_maps
from onepix.figures.maps import LayerMap, aligned, average, strip
from onepix.figures.style import message_figure, paper_style, save
from onepix.files.layout import by_stage
from onepix.files.records import attacked_images, read_records
from onepix.files.tables import read_csv
from onepix.files.targets import keys, keys_of
from onepix.images import ImageSet
from onepix.jobs.inputs import Files, JsonText, Manifest, Output, read_settings
from onepix.names import chosen

Records = Annotated[Path, typer.Option(help="The Parquet file of all records; tables lie next to it.")]


class FiguresJob(Settings):
    """Settings of the job."""

    dataset: str
    network: str
    attack: str
    figures: Figures
    confidence: float

    @property
    def title(self) -> str:
        """How the figures name the run."""
        return f"{self.network} on {self.dataset}, {self.attack}"


def run(settings: JsonText, dataset: Manifest, records: Records, manifests: Files, output: Output) -> None:
    """Write every figure of a run, as PNG and PDF, into the folder of one of them, `output`.

    The tables lie next to the `records`; the `manifests` are those of propagation and position maps.
    """
    job = read_settings(FiguresJob, settings)
    images, tables = read_images(dataset), records.parent
    found = read_records([records])
    attacked = found[found["eligible"]]
    images = for_network(images, int(found["classes"].max())) if len(found) else images
    stages = by_stage(manifests)
    trees, positions = read_maps(stages["propagation"]), read_positions(stages["locality"], job.figures.position_maps)
    figures: dict[str, Callable[[], Figure]] = {
        f"strip_{wanted}": lambda wanted=wanted: _strip(job, wanted, images, attacked, trees)  # type: ignore[misc]
        for wanted in map(str, job.figures.strips)
    }
    layers, compared, separation = (read_csv(tables / f"{name}.csv") for name in ("layers", "comparison", "separation"))
    figures["average_propagation"] = lambda: _average(job, attacked, trees)
    figures["average_aligned"] = lambda: _aligned(job, attacked, trees)
    figures["growth_by_depth"] = lambda: growth(layers, job.title, job.confidence)
    figures["comparison"] = lambda: comparison(compared, separation, job.title, job.confidence)
    figures["position_maps"] = lambda: _position_maps(job, images, attacked, positions)
    for name, drawn in figures.items():
        with paper_style():
            save(drawn(), output.parent / name, job.figures.dpi)


def _strip(
    job: FiguresJob, wanted: str, images: ImageSet, attacked: pd.DataFrame, trees: Sequence[xr.DataTree]
) -> Figure:
    """Draw one image's strip: the first success, the first failure, or the image with an id."""
    if wanted in ("success", "failure"):
        found = attacked[attacked["success"] == (wanted == "success")]
    else:
        found = attacked[attacked["image_id"] == int(wanted)]
    if found.empty:
        messages = {"success": _nothing_found(attacked), "failure": f"All {len(attacked)} attacks found a success."}
        not_attacked = f"Image {wanted} was not attacked: the network does not classify it correctly."
        return message_figure(messages.get(wanted, not_attacked))
    record = found.iloc[[0]]
    row, (key,) = record.iloc[0], keys_of(record)
    original = images.select([int(row["image_id"])]).images
    names = images.class_names
    return strip(
        original[0],
        attacked_images(original, record)[0],
        list(zip(row["rows"], row["columns"], strict=True)),
        _layers(job, maps_of_change(trees, key)),
        f"{job.title}: image {row['image_id']}{_aim(row, names)}{_spent(row)}",
        f"{names[row['clean_class']]} {row['clean_confidence']:.0%}",
        f"{names[row['adversarial_class']]} {row['adversarial_confidence']:.0%}",
        job.figures.colour_map,
    )


def _aim(row: pd.Series, names: Sequence[str]) -> str:
    """Return the part of a title that names the target of a targeted attack."""
    return "" if pd.isna(row["target"]) else f", towards {names[row['target']]}"


def _spent(row: pd.Series) -> str:
    """Return the part of a title that says how much an attack without success has tried."""
    return "" if row["success"] else f", not found within {row['queries']:,} candidates"


def _nothing_found(attacked: pd.DataFrame) -> str:
    """Say that no attack found a success, and within how many candidates."""
    if attacked.empty:
        return "No image was attacked: the network classifies none of them correctly."
    return f"No success was found within {attacked['queries'].max():,} candidates, in {len(attacked)} attacks."


def _average(job: FiguresJob, attacked: pd.DataFrame, trees: Sequence[xr.DataTree]) -> Figure:
    if attacked.empty:
        return message_figure(_nothing_found(attacked))
    title = f"{job.title}: average over {len(attacked)} attacked images"
    return average(_layers(job, average_maps(trees)), title, job.figures.colour_map)


def _aligned(job: FiguresJob, attacked: pd.DataFrame, trees: Sequence[xr.DataTree]) -> Figure:
    if attacked["rows"].str.len().max() > 1:
        return message_figure("Maps are aligned on the attacked pixel; here, several pixels were changed.")
    maps = aligned_maps(trees)
    if not maps:
        return message_figure("No map to align: no image was attacked, or no layer has space.")
    title = f"{job.title}: average over {len(attacked)} attacked images, aligned on the attacked pixel"
    return aligned(_layers(job, maps), title, job.figures.colour_map)


def _layers(job: FiguresJob, maps: dict[str, npt.NDArray[Any]]) -> list[LayerMap]:
    wanted = chosen(maps, job.figures.strip_layers, "figures.strip_layers", f"stored layer of {job.network}")
    return [LayerMap(name, maps[name]) for name in wanted]


def _position_maps(job: FiguresJob, images: ImageSet, attacked: pd.DataFrame, maps: Positions | None) -> Figure:
    if maps is None:
        return message_figure("Position maps are made of one-pixel attacks; here, several pixels were changed.")
    by_key = dict(zip(keys_of(attacked), attacked.to_dict("records"), strict=True))
    shown = keys(maps.image, maps.target)[: job.figures.position_maps]
    if not shown:
        return message_figure(_nothing_found(attacked))
    names, entries = images.class_names, []
    for index, key in enumerate(shown):
        record = by_key[key]
        title = f"{names[record['label']]}\n→ {names[record['adversarial_class']]}"
        where = int(maps.rows[index]), int(maps.columns[index])
        picture = images.select([key[0]]).images[0]
        entries.append(PositionMap(picture, title, *where, maps.flips[index], maps.margin[index]))
    return position_maps(entries, job.title, bool(attacked["target"].notna().any()))
