"""What a configuration means: its runs and chunks, and which settings and files each rule gets."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onepix.config.datasets import ArraysDataset, Cifar10Dataset, FolderDataset, TorchvisionDataset
from onepix.config.engine import Passes
from onepix.config.networks import NOT_A_FILE, Network, factory_of
from onepix.config.reading import canonical, part
from onepix.config.selection import Selection
from onepix.config.statistics import Intervals
from onepix.config.study import Config
from onepix.datasets.selection import ids_in_file, listed_ids
from onepix.errors import OnepixError
from onepix.files.layout import STAGES, Run, block
from onepix.files.located import PACKAGE, located
from onepix.files.own_code import own_code
from onepix.names import natural

RECORDS = "attacks.parquet"
RUN_TABLES = (
    *("success.csv", "claims.csv", "layers.csv", "comparison.csv", "separation.csv"),
    *("locality.csv", "profile.csv", "clusters.csv", "neighbourhood.csv"),
)
FIELD_TABLE = "receptive_fields.csv"  # of a dataset and a network, whatever the attack
RUN_FIGURES = ("average_propagation", "average_aligned", "growth_by_depth", "comparison", "position_maps")
CHARTS = ("locality_chart", "distance_profile", "receptive_fields")
ADDRESSES = ("torchvision:", "http://", "https://")


def rule_of(images: object) -> Selection | None:
    """Return the rule that chooses images from the dataset; None if the images are listed."""
    return images if isinstance(images, Selection) and images.file is None else None


def image_ids(config: Config, index: int, chosen: Callable[[str, str], Path]) -> tuple[int, ...]:
    """Return the ids of the images of a run.

    Parameters
    ----------
    config : Config
        The study.
    index : int
        Index of the run in the configuration's list.
    chosen : callable
        Takes a dataset and the name of a selection; returns the file with the chosen ids.

    Raises
    ------
    OnepixError
        If a list of ids cannot be read.
    """
    run = config.runs[index]
    if rule := rule_of(run.images):
        return ids_in_file(chosen(run.dataset, rule.name))
    try:
        return listed_ids(run.images)
    except OnepixError as error:
        raise OnepixError(f"{config.spelled('runs', index, 'images')}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Runs:
    """The runs of a study, and the results that follow from them.

    Attributes
    ----------
    config : Config
        The study.
    images : callable
        Takes the index of a run in the configuration's list; returns its image ids.
    """

    config: Config
    images: Callable[[int], Sequence[int]]

    @functools.cached_property
    def indices(self) -> dict[Run, int]:
        """Each dataset, network and attack, and the index of its entry in the configuration's list.

        They are sorted by name, not in the order of the list. The inputs of many rules and the rows of tables have
        this order.
        """
        found = {
            (run.dataset, network, attack): index
            for index, run in enumerate(self.config.runs)
            for network in run.networks
            for attack in run.attacks
        }
        return dict(sorted(found.items(), key=lambda run: [natural(name) for name in run[0]]))

    @functools.cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Each dataset and network."""
        return list(dict.fromkeys((dataset, network) for dataset, network, _ in self.indices))

    @functools.cached_property
    def shared(self) -> list[tuple[str, str]]:
        """Each dataset and attack with several networks, if each image is attacked once, with one pixel."""
        pairs = dict.fromkeys((dataset, attack) for dataset, _, attack in self.indices)
        return [
            (dataset, attack)
            for dataset, attack in pairs
            if len(self.networks(dataset, attack)) > 1
            and self.single_pixel(attack)
            and self.config.attacks[attack].target is None
        ]

    @functools.cached_property
    def selections(self) -> dict[str, Selection]:
        """The rules for choosing images, by their names."""
        return {rule.name: rule for run in self.config.runs if (rule := rule_of(run.images))}

    def chosen(self, dataset: str, network: str) -> list[str]:
        """Return the names of the rules that choose the images on which a network is attacked."""
        of_pair = (run for run in self.config.runs if run.dataset == dataset and network in run.networks)
        return [rule.name for run in of_pair if (rule := rule_of(run.images))]

    def networks(self, dataset: str, attack: str) -> list[str]:
        """Return the networks on which this attack is run with images of this dataset."""
        return [run[1] for run in self.indices if (run[0], run[2]) == (dataset, attack)]

    def single_pixel(self, attack: str) -> bool:
        """Tell whether an attack changes one pixel; only such a change can be moved to other positions."""
        return bool(getattr(self.config.attacks[attack], "pixels", 1) == 1)

    def stages(self, attack: str) -> list[str]:
        """Return the stages that an attack's chunks go through."""
        return [stage for stage in STAGES if stage in ("attack", "propagation") or self.single_pixel(attack)]

    def chunks(self, run: Run) -> dict[str, list[int]]:
        """Return a run's chunks: fixed blocks of image ids, by name, with the wanted ids of each."""
        index, blocks = self.indices[run], dict[str, list[int]]()
        size = self.config.runs[index].images_per_job or self.config.images_per_job
        for image_id in self.images(index):
            blocks.setdefault(block(image_id, size), []).append(image_id)
        return blocks

    def first_images(self, dataset: str, network: str) -> list[int]:
        """Return the first images on which a network is attacked: its effective receptive fields come from them."""
        of_pair = (index for run, index in self.indices.items() if run[:2] == (dataset, network))
        ids = {image_id for index in of_pair for image_id in self.images(index)}
        return sorted(ids)[: self.config.propagation.gradient_images]

    # What rules read

    def manifests(self, stage: str, run: Run) -> list[Path]:
        """Return the manifests of all chunks of a run at a stage; empty if its attack has no such stage."""
        if stage not in self.stages(run[2]):
            return []
        return [self.config.layout.chunk(stage, run, chunk) for chunk in self.chunks(run)]

    def all_manifests(self) -> list[Path]:
        """Return the manifests of all used datasets and networks, receptive fields, and chunks of all stages."""
        layout = self.config.layout
        return [
            *(layout.dataset(dataset) for dataset in dict.fromkeys(run[0] for run in self.indices)),
            *(layout.network(network) for network in dict.fromkeys(run[1] for run in self.indices)),
            *(layout.receptive_fields(*pair) for pair in self.pairs),
            *(path for run in self.indices for stage in self.stages(run[2]) for path in self.manifests(stage, run)),
        ]

    def attacks_of_others(self, run: Run) -> list[Path]:
        """Return the manifests of the same attack on the dataset's other networks."""
        dataset, network, attack = run
        others = [other for other in self.networks(dataset, attack) if other != network]
        return [manifest for other in others for manifest in self.manifests("attack", (dataset, other, attack))]

    def transfers(self, dataset: str, attack: str) -> list[Path]:
        """Return the tables of other networks' successes, tried on each network."""
        return [self.config.layout.transfer((dataset, net, attack)) for net in self.networks(dataset, attack)]

    def vulnerable(self, dataset: str, attack: str) -> list[Path]:
        """Return the manifests with each network's vulnerable positions: of whole scans, else of position maps."""
        settings = self.config.attacks[attack]
        stage = "attack" if settings.method == "scan" and settings.stop == "all" else "locality"
        runs = [(dataset, network, attack) for network in self.networks(dataset, attack)]
        return [manifest for run in runs for manifest in self.manifests(stage, run)]

    def tables_to_gather(self, table: str) -> list[Path]:
        """Return the tables of all runs; those of receptive fields do not depend on the attack."""
        if table == FIELD_TABLE:
            return [self.config.layout.receptive_fields(*pair, "csv") for pair in self.pairs]
        return [self.config.layout.summary(run, table) for run in self.indices]

    def cifar10_of(self, dataset: str) -> list[Path]:
        """Return the manifest of CIFAR-10, if the dataset is made from it."""
        return [self.config.layout.cifar10()] if isinstance(self.config.datasets[dataset], Cifar10Dataset) else []

    def trained_weights(self, network: str) -> list[Path]:
        """Return the file of trained weights, if the network is to be trained."""
        wanted = self.config.networks[network].weights == "train"
        return [self.config.layout.trained(network)] if wanted else []

    def own_images(self, dataset: str) -> list[Path]:
        """Return the user's own files of images, if the dataset has any; files in packages are not watched."""
        settings = self.config.datasets[dataset]
        if isinstance(settings, ArraysDataset):
            return _own(settings.path)
        if not isinstance(settings, FolderDataset):
            return []
        files = [file for folder in _own(settings.path) for file in sorted(folder.rglob("[!.]*"))]
        # Snakemake would read braces as wildcards, and look for another file.
        watched = [file for file in files if file.is_file() and not set("{}") & set(str(file))]
        return [*watched, *_own(settings.labels or PACKAGE)]

    def own_weights(self, network: str) -> list[Path]:
        """Return the user's own file of weights, if the network names one."""
        weights = self.config.networks[network].weights
        return [] if weights in NOT_A_FILE or weights.startswith(ADDRESSES) else _own(weights)

    def own_code(self, network: str) -> list[str]:
        """Return the user's own code that builds the network, if a factory does; installed packages are not watched."""
        factory = factory_of(self.config.networks[network].architecture)
        # Relative, so that a study can be moved; Snakemake would read braces as wildcards.
        files = [os.path.relpath(file) for file in own_code(factory[0])] if factory else []
        return [file for file in files if not set("{}") & set(file)]

    # What the workflow makes

    @property
    def figures(self) -> list[str]:
        """The figures of each run, by name."""
        return [*(f"strip_{wanted}" for wanted in self.config.figures.strips), *RUN_FIGURES]

    @property
    def targets(self) -> list[Path]:
        """The final results; all else that the workflow makes leads to them."""
        layout = self.config.layout
        return [
            # Otherwise Snakemake would not update these lists while later results, of other images, exist.
            *(layout.selection(r.dataset, rule.name) for r in self.config.runs if (rule := rule_of(r.images))),
            layout.configuration("yaml"),
            layout.provenance("csv"),
            *(layout.table(table) for table in (*RUN_TABLES, FIELD_TABLE)),
            *(layout.sharing(*pair) for pair in self.shared),
            *(layout.chart(name, "png") for name in CHARTS),
            *(layout.sharing_figure(*pair, "png") for pair in self.shared),
            *(layout.figure(run, name, "png") for run in self.indices for name in self.figures),
        ]

    # The settings of rules

    def settings(self, rule: str, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the settings that a job needs, and no others: a change of any of them reruns the job.

        Parameters
        ----------
        rule : str
            Rule of the job.
        names : mapping
            The job's wildcards: dataset, network, attack, chunk, selection.
        """
        config, named = self.config, dict(names)
        passes = part(Passes, config.engine)
        follow = {"layers": config.propagation.layers, "engine": passes}
        chart = {"dpi": config.figures.dpi, "confidence": config.statistics.confidence}
        match rule:
            case "cifar10":
                return {"existing": config.existing_cifar10}
            case "datasets":
                return self._of_dataset(named["dataset"])
            case "selection":
                return {"images": self.selections[named["selection"]].rule}
            case "training":
                network = config.networks[named["network"]].model_dump(mode="json", exclude={"sha256"})
                return {"network": network, "device": config.engine.device}
            case "networks":
                return {"network": self._of_network(named["network"])}
            case "attack":
                return self._of_attack((named["dataset"], named["network"], named["attack"]), named["chunk"])
            case "propagation":
                return follow
            case "controls":
                return {**follow, "seed": config.statistics.seed}
            case "locality":
                return {"engine": config.engine}
            case "receptive_fields":
                ids = self.first_images(named["dataset"], named["network"])
                return {"layers": follow["layers"], "device": config.engine.device, "image_ids": ids}
            case "transfer":
                return {"target": named["network"], "seed": config.statistics.seed, "engine": passes}
            case "sharing":
                return {**named, "statistics": part(Intervals, config.statistics)}
            case "sharing_figures":
                return {**named, **chart}
            case "summary":
                return {**named, "statistics": config.statistics}
            case "figures":
                return {**named, "figures": config.figures, "confidence": chart["confidence"]}
            case "charts":
                return chart
            case "configuration":
                # The order of runs has no meaning.
                values = config.model_dump(mode="json")
                return {**values, "runs": sorted(values["runs"], key=canonical)}
        raise ValueError(f"the rule '{rule}' has no settings")

    def _of_dataset(self, dataset: str) -> dict[str, Any]:
        """Add the folder of torchvision's downloads, if there are any."""
        settings = self.config.datasets[dataset]
        downloads = isinstance(settings, TorchvisionDataset) and settings.root is None
        return {"dataset": settings, **({"downloads": str(self.config.layout.downloads())} if downloads else {})}

    def _of_network(self, network: str) -> dict[str, Any]:
        """Leave out the hash, if no file is downloaded or read."""
        settings = self.config.networks[network]
        known = part(Network, settings)
        return {**known, "sha256": None} if settings.weights in ("train", "factory") else known

    def _of_attack(self, run: Run, chunk: str) -> dict[str, Any]:
        """Leave out settings that have no effect."""
        attack = self.config.attacks[run[2]]
        settings = attack.model_dump(mode="json", exclude=attack.idle)
        return {"attack": settings, "image_ids": self.chunks(run)[chunk], "engine": self.config.engine}


def _own(name: str) -> list[Path]:
    """Return a file or folder that the configuration names, unless it lies in a package."""
    return [] if name.startswith(PACKAGE) else [located(name)]
