"""The paths of all files of a study. Each is written here once; Snakemake's wildcards can stand in for names."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from onepix.errors import OnepixError

Run = tuple[str, str, str]  # dataset, network, attack

# The stages of a chunk, in order, and what each is made from: a dataset, a network, an earlier stage.
STAGES: Mapping[str, tuple[str, ...]] = {
    "attack": ("dataset", "network"),
    "propagation": ("dataset", "network", "attack"),
    "locality": ("dataset", "network", "attack"),
    "controls": ("dataset", "network", "locality"),
}
MANIFEST = "manifest.json"  # of a dataset or a network, in a folder with its name
FETCHED = {"dataset": "datasets", "network": "networks"}
FIELDS = "receptive_fields"
DIGITS = 6  # per image id in a chunk's name


@dataclasses.dataclass(frozen=True)
class Layout:
    """The paths of one study, given its two folders.

    If a result has a manifest, its method returns the path of that; the data lie next to it.

    Attributes
    ----------
    data : Path
        The folder of all that is fetched.
    results : Path
        The folder of all that is computed.
    """

    data: Path
    results: Path

    def cifar10(self) -> Path:
        """Return the manifest of CIFAR-10's files, which lie in a folder next to it."""
        return self.data / "cifar10.json"

    def downloads(self) -> Path:
        """Return the folder of what torchvision downloads."""
        return self.data / "torchvision"

    def dataset(self, dataset: str) -> Path:
        """Return the manifest of a dataset."""
        return self.data / FETCHED["dataset"] / dataset / MANIFEST

    def network(self, network: str) -> Path:
        """Return the manifest of a network."""
        return self.data / FETCHED["network"] / network / MANIFEST

    def trained(self, network: str) -> Path:
        """Return the weights of a network that the study trains."""
        return self.data / "training" / f"{network}.safetensors"

    def selection(self, dataset: str, selection: str) -> Path:
        """Return the list of the images that a rule chooses."""
        return self.data / "selection" / dataset / f"{selection}.txt"

    def chunk(self, stage: str, run: Run, chunk: str) -> Path:
        """Return the manifest of a chunk at a stage."""
        return self.results.joinpath(*run, stage, f"{chunk}.json")

    def receptive_fields(self, dataset: str, network: str, ending: str = "json") -> Path:
        """Return the manifest of receptive fields, or their table (csv)."""
        return self.results / dataset / network / f"{FIELDS}.{ending}"

    def transfer(self, run: Run) -> Path:
        """Return the table of other networks' successes, tried on the network of a run."""
        return self.results.joinpath(*run, "transfer.csv")

    def summary(self, run: Run, file: str) -> Path:
        """Return a table of one run, or its records."""
        return self.results.joinpath(*run, "summary", file)

    def figure(self, run: Run, name: str, ending: str) -> Path:
        """Return a figure of one run."""
        return self.results.joinpath(*run, "figures", f"{name}.{ending}")

    def table(self, file: str) -> Path:
        """Return a table of all runs."""
        return self.results / "tables" / file

    def chart(self, name: str, ending: str) -> Path:
        """Return a chart of all runs."""
        return self.results / "charts" / f"{name}.{ending}"

    def sharing(self, dataset: str, attack: str) -> Path:
        """Return the table of what networks share."""
        return self.results / "sharing" / dataset / f"{attack}.csv"

    def sharing_figure(self, dataset: str, attack: str, ending: str) -> Path:
        """Return the figure of what networks share."""
        return self.results / "sharing_figures" / dataset / f"{attack}.{ending}"

    def configuration(self, ending: str) -> Path:
        """Return the record of the configuration (yaml), or its page (html)."""
        return self.results / f"configuration.{ending}"

    def provenance(self, ending: str) -> Path:
        """Return the table of where results come from (csv), or its page (html)."""
        return self.results / f"provenance.{ending}"

    def manifests(self) -> list[Path]:
        """Find the manifests of receptive fields and of chunks on disk, in order."""
        chunks = (path for stage in STAGES for path in self.results.glob(f"*/*/*/{stage}/*.json"))
        return sorted([*self.results.glob(f"*/*/{FIELDS}.json"), *chunks])

    def chunks(self) -> list["Chunk"]:
        """Find the chunks on disk, of any stage, in order.

        Raises
        ------
        OnepixError
            If there are none.
        """
        results = map(result_of, self.manifests())
        found = {(str(of.dataset), str(of.network), str(of.attack), of.chunk) for of in results if of.chunk}
        if not found:
            expected = Layout(self.data, Path()).chunk("attack", ("DATASET", "NETWORK", "ATTACK"), "000000-000024")
            raise OnepixError(f"{self.results}: no results; expected files such as {expected.as_posix()} in it")
        return [Chunk(self, (dataset, network, attack), name) for dataset, network, attack, name in sorted(found)]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """One chunk of one run: a block of image ids, by its name."""

    layout: Layout
    run: Run
    name: str

    def manifest(self, part: str) -> Path:
        """Return a stage's manifest, or that of the dataset, the network or its receptive fields."""
        dataset, network, _ = self.run
        if part == "dataset":
            return self.layout.dataset(dataset)
        if part == "network":
            return self.layout.network(network)
        if part == FIELDS:
            return self.layout.receptive_fields(dataset, network)
        return self.layout.chunk(part, self.run, self.name)

    @property
    def ids(self) -> range:
        """The ids that the chunk's name allows."""
        first, last = self.name.split("-")
        return range(int(first), int(last) + 1)


def block(image_id: int, size: int) -> str:
    """Return the name of the chunk that an image belongs to: the first and the last id of its block."""
    first = image_id // size * size
    return f"{first:0{DIGITS}d}-{first + size - 1:0{DIGITS}d}"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result that a manifest describes.

    Attributes
    ----------
    kind : str
        dataset, network, receptive_fields or a stage.
    dataset, network, attack, chunk : str or None
        Names; None where the result does not depend on one.
    """

    kind: str
    dataset: str | None = None
    network: str | None = None
    attack: str | None = None
    chunk: str | None = None


def result_of(manifest: Path) -> Result:
    """Return the result that a manifest describes, by its path.

    Raises
    ------
    OnepixError
        If the path is not that of a manifest.
    """
    *_, dataset, network, attack, folder, _ = ("", "", "", "", *manifest.parts)
    for kind, fetched in FETCHED.items():
        if manifest.name == MANIFEST and attack == fetched:
            return Result(kind, **{kind: folder})
    if manifest.name == f"{FIELDS}.json":
        return Result(FIELDS, dataset=attack, network=folder)
    if folder in STAGES:
        return Result(folder, dataset, network, attack, manifest.stem)
    raise OnepixError(f"{manifest}: expected the manifest of a dataset, a network, receptive fields or a chunk")


def name_of(manifest: Path) -> str:
    """Return the name of the dataset or network whose manifest this is."""
    return manifest.parent.name


def by_stage(manifests: Iterable[Path]) -> Mapping[str, list[Path]]:
    """Return manifests of chunks by stage; an empty list for a missing stage."""
    stages = defaultdict(list)
    for manifest in manifests:
        stages[result_of(manifest).kind].append(manifest)
    return stages


def journal_of(manifest: Path) -> Path:
    """Return the folder of a run's journal, given the manifest of one of its chunks at a stage."""
    return manifest.parents[1] / "journal"


def log(rule: str, *names: str) -> Path:
    """Return the log of a job, by rule and the names that identify the job."""
    return Path("logs", "/".join((rule, *names)) + ".log")


def _taken() -> dict[str, set[str]]:
    """Return the names of results that lie next to the folders of datasets, and next to those of attacks."""
    here = Layout(Path(), Path())
    beside_datasets = [
        *(here.configuration(ending) for ending in ("html", "yaml")),
        *(here.provenance(ending) for ending in ("csv", "html")),
        *(here.table(""), here.chart("", ""), here.sharing("", ""), here.sharing_figure("", "", "")),
    ]
    beside_attacks = [here.receptive_fields("", "", ending) for ending in ("csv", "json", "zarr")]
    return {"datasets": {path.parts[0] for path in beside_datasets}, "attacks": {path.name for path in beside_attacks}}


TAKEN: Mapping[str, set[str]] = _taken()  # names that datasets and attacks may not have
