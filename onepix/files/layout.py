"""Where everything of a study lies. Each path is spelled here, once: for a value as for a wildcard of Snakemake."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from onepix.errors import OnepixError

Run = tuple[str, str, str]  # dataset, network, attack

# Each stage that a chunk goes through, in order, and what it is made from: a dataset, a network, an earlier stage.
STAGES: Mapping[str, tuple[str, ...]] = {
    "attack": ("dataset", "network"),
    "propagation": ("dataset", "network", "attack"),
    "locality": ("dataset", "network", "attack"),
    "controls": ("dataset", "network", "locality"),
}
MANIFEST = "manifest.json"  # of a dataset or a network, in a folder of its name
FETCHED = {"dataset": "datasets", "network": "networks"}
FIELDS = "receptive_fields"
DIGITS = 6  # of an image id in a chunk's name


@dataclasses.dataclass(frozen=True)
class Layout:
    """The paths of one study, given its two folders.

    Methods return the path of a manifest where a result has one; its data lie beside it.

    Attributes
    ----------
    data : Path
        The folder of what is fetched.
    results : Path
        The folder of what is computed.
    """

    data: Path
    results: Path

    def cifar10(self) -> Path:
        """Return the manifest of CIFAR-10's files, which lie in a folder beside it."""
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
        """Return the table of others' successes on the network of a run."""
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
        """Find the chunks on disk, of whatever stage, in order.

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
    """What a manifest is of.

    Attributes
    ----------
    kind : str
        dataset, network, receptive_fields or a stage.
    dataset, network, attack, chunk : str or None
        Their names, where the result is of one.
    """

    kind: str
    dataset: str | None = None
    network: str | None = None
    attack: str | None = None
    chunk: str | None = None


def result_of(manifest: Path) -> Result:
    """Tell what a manifest is of by its path.

    Raises
    ------
    OnepixError
        If it is of nothing that is known.
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
    """Return manifests of chunks by their stage; of a stage that is missing, none."""
    stages = defaultdict(list)
    for manifest in manifests:
        stages[result_of(manifest).kind].append(manifest)
    return stages


def journal_of(manifest: Path) -> Path:
    """Return the folder of the journal of a run, by the manifest of one of its chunks at a stage."""
    return manifest.parents[1] / "journal"


def log(rule: str, *names: str) -> Path:
    """Return the log of a rule's job, by the names that tell it from the rule's other jobs."""
    return Path("logs", "/".join((rule, *names)) + ".log")


def _taken() -> dict[str, set[str]]:
    """Find the names that results have beside the folders of datasets, and beside those of attacks."""
    here = Layout(Path(), Path())
    beside_datasets = [
        *(here.configuration(ending) for ending in ("html", "yaml")),
        *(here.provenance(ending) for ending in ("csv", "html")),
        *(here.table(""), here.chart("", ""), here.sharing("", ""), here.sharing_figure("", "", "")),
    ]
    beside_attacks = [here.receptive_fields("", "", ending) for ending in ("csv", "json", "zarr")]
    return {"datasets": {path.parts[0] for path in beside_datasets}, "attacks": {path.name for path in beside_attacks}}


TAKEN: Mapping[str, set[str]] = _taken()  # names that datasets and attacks may not have
