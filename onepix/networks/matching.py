"""Finds the tensors of a network in a file, by names and shapes, whatever prefixes and wrappers the names have."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onepix.errors import OnepixError

COUNTER = "num_batches_tracked"  # of batch normalisation; not used in evaluation
SHOWN = 3  # names that a message gives of many
NUMBERED = re.compile(r"(.*?)\d+")  # a series: layer1, layer2, …, or 0, 1, …


@dataclasses.dataclass(frozen=True)
class Match:
    """Which tensors of a file are those of a network.

    Attributes
    ----------
    names : mapping of str to str
        Name in the file by name in the network.
    prefix : str
        Of the names in the file: `state_dict.model`; empty if there is none.
    added : tuple of str
        Parts of the network's names that the file's names lack: `backbone`.
    dropped : tuple of str
        Parts inside the file's names that the network's names lack: `module`.
    others : tuple of str
        Prefixes of other sets of tensors that fit as well.
    left_over : tuple of str
        Names in the file that are in no such set.
    """

    names: Mapping[str, str]
    prefix: str = ""
    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    left_over: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says about it: nothing where all names are equal and none is left over."""
        first = list(self.left_over[:SHOWN])
        found = {
            "taken_from": self.prefix,
            "added": list(self.added),
            "dropped": list(self.dropped),
            "others": list(self.others),
            "left_over": {"count": len(self.left_over), "first": first} if first else {},
        }
        return {key: value for key, value in found.items() if value}


def told(facts: Mapping[str, Any]) -> str:
    """Say in words what `Match.facts` hold; empty where all names were equal."""
    said = []
    if "taken_from" in facts or "others" in facts:
        said.append(f"taken: {_set(facts.get('taken_from', ''))}")
    for key, text in (("added", "the network's names have besides"), ("dropped", "the file's names have besides")):
        if key in facts:
            said.append(f"{text} {', '.join(facts[key])}")
    if "others" in facts:
        said.append(f"{' and '.join(map(_set, facts['others']))} would fit, too (weights_key chooses)")
    if "left_over" in facts:
        count, first = facts["left_over"]["count"], facts["left_over"]["first"]
        more = ", …" if count > len(first) else ""
        said.append(f"left over: {count} tensor{'s' if count > 1 else ''} ({', '.join(first)}{more})")
    return "; ".join(said)


def _set(prefix: str) -> str:
    return f"the tensors of {prefix}" if prefix else "the tensors without prefix"


def match(network: nn.Module, tensors: Mapping[str, Tensor], key: str | None = None) -> Match:
    """Find the tensors of a network among those of a file.

    Equal names win. Otherwise, sets of names are looked for that become the network's names, and have its shapes: if a
    prefix is taken off, whatever it is; if one is taken off the network's names, too; if parts that the other side does
    not have are left out inside names, such as wrappers of single modules. Of several sets, the one with the fewest
    parts in its prefix is taken, and of these the first in the file.

    Parameters
    ----------
    network : nn.Module
        All of its tensors are needed, but for counters of batches. Of tied tensors, one is enough.
    tensors : mapping of str to Tensor
        The tensors of the file; nested mappings are parts of names, as in `state_dict.model.conv1.weight`.
    key : str, optional
        Take only names under this prefix, or with it inside their prefix: `ema`, `state_dict.student`.

    Raises
    ------
    OnepixError
        If no set fits; the message names what is missing, unexpected or of another shape in the nearest one.
    """
    among = _under(tensors, key)
    search = _Search(network, among)
    fits = search.fits()
    if not fits:
        raise OnepixError(search.nearest())
    best = fits[0]
    known = {name for fit in fits for name in fit.names.values()}
    own = set(best.names.values())
    others = tuple(dict.fromkeys(fit.prefix for fit in fits if set(fit.names.values()) != own))
    left_over = tuple(name for name in tensors if name not in known and not name.endswith(COUNTER))
    if unexpected := search.of_another_network(best, left_over):
        raise OnepixError(_unexpected(unexpected))
    return dataclasses.replace(best, others=others, left_over=left_over)


def _under(tensors: Mapping[str, Tensor], key: str | None) -> Mapping[str, Tensor]:
    """Return the tensors that a key chooses."""
    if key is None:
        return tensors
    wanted = key.strip(".") + "."
    for chosen in (
        {name: tensor for name, tensor in tensors.items() if name.startswith(wanted)},
        {name: tensor for name, tensor in tensors.items() if f".{wanted}" in name},
    ):
        if chosen:
            return chosen
    first = dict.fromkeys(name.partition(".")[0] for name in tensors)
    raise OnepixError(f"weights_key: no tensor lies under '{key}'; names begin with {_some(list(first))}")


class _Search:
    """The search for sets of tensors that fit a network."""

    def __init__(self, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        state = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
        self.tensors = tensors
        self.shapes = {name: _shape(tensor) for name, tensor in state.items() if not name.endswith(COUNTER)}
        self.counters = [name for name in state if name.endswith(COUNTER)]
        self.twins = _twins({name: state[name] for name in self.shapes})

    def fits(self) -> list[Match]:
        """Return all sets that fit in the simplest way in which any fits, the plainest first."""
        names = {name: name for name in self.tensors}
        for way in (self._plain, self._unprefixed, self._without_own_parts, self._without_further_parts):
            if found := list(way(names)):
                return sorted(found, key=lambda fit: (len(fit.added), fit.prefix.count(".") + bool(fit.prefix)))
        return []

    def _plain(self, names: Mapping[str, str]) -> Iterator[Match]:
        """Yield sets whose names are those of the network, perhaps with a prefix."""
        yield from self._with_prefix(names, {name: name for name in self.shapes})

    def _unprefixed(self, names: Mapping[str, str]) -> Iterator[Match]:
        """Yield sets whose names are those of the network without a prefix that all of these have."""
        common = _common([name.split(".")[:-1] for name in self.shapes])
        for depth in range(1, len(common) + 1):
            own = {name.split(".", depth)[depth]: name for name in self.shapes}
            yield from self._with_prefix(names, own, added=tuple(common[:depth]))

    def _without_own_parts(self, names: Mapping[str, str]) -> Iterator[Match]:
        """Yield sets whose names are those of the network without the parts that no name in the file has."""
        theirs = _parts(names)
        own = {_kept(name, theirs): name for name in self.shapes}
        if len(own) == len(self.shapes) and all(own):
            missing = dict.fromkeys(part for name in self.shapes for part in name.split(".") if part not in theirs)
            yield from self._with_prefix(names, own, added=tuple(missing))

    def _without_further_parts(self, names: Mapping[str, str]) -> Iterator[Match]:
        """Yield sets whose names are those of the network once parts that no name of the network has are left out.

        Two models in one file differ in the parts before the first that the network has: they are not mixed, unless
        the network's tensors lie under several such parts, as in `backbone.conv1` and `head.fc`.
        """
        ours = {*_parts(self.shapes), COUNTER}
        deepest = max((len(_lead(name, ours)) for name in names), default=0)
        for depth in range(deepest, -1, -1):
            groups: dict[tuple[str, ...], list[str]] = {}
            for name in names:
                groups.setdefault(_lead(name, ours)[:depth], []).append(name)
            found = [fit for lead, group in groups.items() for fit in self._in_group(lead, group, ours)]
            yield from found
            if found:
                return

    def _in_group(self, lead: tuple[str, ...], group: Sequence[str], ours: set[str]) -> Iterator[Match]:
        often = collections.Counter(_kept(name, ours) for name in group)
        names = {_kept(name, ours): name for name in group if often[_kept(name, ours)] == 1}
        for fit in itertools.chain(self._plain(names), self._unprefixed(names)):
            used = [name.split(".")[len(lead) :] for name in fit.names.values()]
            dropped = tuple(dict.fromkeys(part for name in used for part in name if part not in ours))
            prefix = ".".join([*lead, *filter(None, [fit.prefix])])
            yield dataclasses.replace(fit, prefix=prefix, dropped=dropped)

    def _with_prefix(
        self, names: Mapping[str, str], own: Mapping[str, str], added: tuple[str, ...] = ()
    ) -> Iterator[Match]:
        """Yield sets that fit once a prefix is taken off.

        `names` holds names in the file, and `own` names in the network, each by the name under which they are compared.
        """
        if not own:
            return
        first = next(iter(own))
        twins = [wanted for wanted, name in own.items() if name in self.twins[own[first]]]
        anchors = tuple(f".{twin}" for twin in twins)
        ends = [f".{name}" for name in names]
        prefixes = [end[: -len(anchor)] for end in ends for anchor in anchors if end.endswith(anchor)]
        for prefix in dict.fromkeys(prefixes):
            start = f"{prefix[1:]}." if prefix else ""
            taken = {name: names.get(start + wanted) for wanted, name in own.items()}
            if matched := self._complete(taken):
                yield Match(matched, prefix[1:], added)

    def _complete(self, taken: Mapping[str, str | None]) -> dict[str, str]:
        """Return names by name if none is missing and all shapes fit; else nothing."""
        found: dict[str, str] = {}
        for name in self.shapes:
            source = taken.get(name) or next(filter(None, (taken.get(twin) for twin in self.twins[name])), None)
            if source is None or not _alike(self.shapes[name], self.tensors[source]):
                return {}
            found[name] = source
        for counter in self.counters:
            beside = found.get(counter.replace(COUNTER, "running_mean"), "")
            source = f"{beside.rpartition('.')[0]}.{COUNTER}"
            if source in self.tensors and self.tensors[source].shape == ():
                found[counter] = source
        return found

    def of_another_network(self, best: Match, left_over: Iterable[str]) -> list[str]:
        """Return names that show that a file is that of another network, such as a deeper one.

        These are further tensors of a module of the network, and further modules of a numbered series.
        """
        children: dict[str, set[str]] = {}
        holders = set()
        for source in best.names.values():
            parts = source.split(".")
            holders.add(".".join(parts[:-1]))
            for depth in range(len(parts)):
                children.setdefault(".".join(parts[:depth]), set()).add(parts[depth])
        under = f"{best.prefix}." if best.prefix else ""
        return [
            name
            for name in left_over
            if name in self.tensors
            and name.startswith(under)
            and self.tensors[name].is_floating_point()
            and self.tensors[name].numel() > 1
            and _is_further(name, children, holders, best.prefix)
        ]

    def nearest(self) -> str:
        """Say what is wrong with the set of tensors that fits best."""
        found: collections.Counter[str] = collections.Counter()
        for name in self.tensors:
            parts = name.split(".")
            for depth in range(len(parts)):
                if ".".join(parts[depth:]) in self.shapes:
                    found[".".join(parts[:depth])] += 1
        prefix = max(found, key=lambda start: (found[start], -len(start)), default="")
        if 2 * found[prefix] < len(self.shapes):
            prefix = ".".join(_common([name.split(".")[:-1] for name in self.tensors]))
        start = f"{prefix}." if prefix else ""
        missing = [name for name in self.shapes if not any(start + twin in self.tensors for twin in self.twins[name])]
        under = [name.removeprefix(start) for name in self.tensors if name.startswith(start)]
        unexpected = [name for name in under if name not in self.shapes and not name.endswith(COUNTER)]
        shapes = [
            f"{name}: {tuple(self.tensors[start + name].shape)}, expected {shape}"
            for name, shape in self.shapes.items()
            if start + name in self.tensors and not _alike(shape, self.tensors[start + name])
        ]
        faults = [f"{len(missing)} tensors are missing, the first is {missing[0]}"] if missing else []
        faults += [_unexpected(unexpected)] if unexpected else []
        faults += [f"{len(shapes)} have another shape, the first is {shapes[0]}"] if shapes else []
        if any(name.endswith("zero_point") for name in self.tensors):
            faults.append("the file is quantised: give the weights from before")
        return "; ".join(faults) + (f" (of the tensors of {prefix})" if prefix else "")


def _unexpected(names: Sequence[str]) -> str:
    return f"{len(names)} are unexpected, the first is {names[0]}"


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    """Return a tensor's shape; None for a lazy module's, which takes the shape of the file."""
    return None if is_lazy(tensor) else tuple(tensor.shape)


def _alike(shape: tuple[int, ...] | None, tensor: Tensor) -> bool:
    return shape is None or shape == tuple(tensor.shape)


def _twins(state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return for each name all names under which the network has the same tensor, its own among them."""
    same: dict[Any, list[str]] = {}
    for name, tensor in state.items():
        real = not is_lazy(tensor) and tensor.numel() and tensor.device.type != "meta"
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride()) if real else name
        same.setdefault(identity, []).append(name)
    return {name: names for names in same.values() for name in names}


def _common(lists: Iterable[Sequence[str]]) -> list[str]:
    """Return the beginning that all lists have."""
    alike = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*lists, strict=False))
    return [parts[0] for parts in alike]


def _parts(names: Iterable[str]) -> set[str]:
    return {part for name in names for part in name.split(".")}


def _kept(name: str, known: set[str]) -> str:
    """Return a name without the parts that are not known."""
    return ".".join(part for part in name.split(".") if part in known)


def _lead(name: str, known: set[str]) -> tuple[str, ...]:
    """Return the parts of a name before the first known one."""
    return tuple(itertools.takewhile(lambda part: part not in known, name.split(".")))


def _is_further(name: str, children: Mapping[str, set[str]], holders: set[str], top: str) -> bool:
    """Tell whether a tensor is a further one of a module, or belongs to a further module of a numbered series."""
    parts = name.split(".")
    depth = max(depth for depth in range(len(parts)) if ".".join(parts[:depth]) in children)
    parent, unknown = ".".join(parts[:depth]), parts[depth]
    if depth == len(parts) - 1:
        return parent in holders and parent != top
    series = NUMBERED.fullmatch(unknown)
    siblings = filter(None, map(NUMBERED.fullmatch, children[parent]))
    return series is not None and any(series[1] == sibling[1] for sibling in siblings)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
