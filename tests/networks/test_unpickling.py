"""Checkpoints with anything beside their tensors: these are taken, the rest is left, and nothing is executed."""

import argparse
import collections
import datetime
import enum
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import types
import typing

import numpy as np
import pytest
import torch
from refusals import Bomb, refusal
from torch import nn

from onepix.networks.checkpoints import read_tensors
from onepix.networks.weights import fill


class Colour(enum.Enum):
    RED = 1


class Own:
    """Pickled by reference; a test takes it away before the file is read."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __setstate__(self, state):
        raise AssertionError("its class must not be used")

    class Inner:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

        def method(self):
            raise AssertionError("it must not be called")


class OfDict(dict):
    """As the settings that Lightning stores."""


class OfList(list):
    """As the settings that Hydra stores."""


class Pair(typing.NamedTuple):
    """Pickles to its class and fields."""

    epoch: int
    state: dict


class Slots:
    __slots__ = ("tensors",)


class Called:
    """Pickles to any call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def network():
    return nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))


torch.manual_seed(0)
WHOLE = network()
STATE = WHOLE.state_dict()
BESIDE = {
    "a NumPy scalar": np.float64(91.2),
    "NumPy arrays": {"curve": np.arange(3.0), "names": np.array(["a"]), "any": np.array([1, "a"], dtype=object)},
    "a Namespace": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("/data")),
    "a path": pathlib.PosixPath("/data"),
    "a time": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    "an enum": Colour.RED,
    "kinds of dict and list": [OfDict(lr=0.1, inner=OfDict(a=1)), OfList([1, OfList([2])])],
    "a partial": functools.partial(int, base=2),
    "an object": Own(lr=0.1, parts=[Own(), Own()]),
    "an object of a class in another class, and a bound method": [Own.Inner(lr=1), Own.Inner(lr=1).method],
    "an optimiser": torch.optim.Adam(WHOLE.parameters()).state_dict(),
    "a schedule": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(WHOLE.parameters(), lr=0.1), 3),
    "collections": [
        collections.deque([1]),
        collections.Counter("ab"),
        {1, 2},
        frozenset([3]),
        collections.OrderedDict(),
    ],
    "plain values": [None, True, 3, 2**70, 0.5, 1j, "text", b"bytes", bytearray(b"more"), slice(1, 2), range(3)],
    "types": [torch.float32, torch.device("cpu"), torch.Size([1]), int, len, np.dtype("f4")],
    "a random generator": np.random.default_rng(0),
}
SAVED = [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}]


def taken(path):
    """Read a file into a fresh network; return what was left over, after comparing the tensors."""
    fresh = network()
    found = fill(fresh, read_tensors(path, fresh), "a file")
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), STATE.values(), strict=True))
    return found


@pytest.mark.parametrize("options", SAVED, ids=str)
@pytest.mark.parametrize("beside", BESIDE)
def test_objects_beside_the_tensors_are_left_alone(tmp_path, beside, options):
    torch.save(
        {"before": BESIDE[beside], "state_dict": STATE, "after": BESIDE[beside], "epoch": 3}, tmp_path / "a", **options
    )
    assert taken(tmp_path / "a").prefix == "state_dict"


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_numbers_and_texts_among_the_tensors(tmp_path, options):
    torch.save(
        {**STATE, "epoch": 3, "loss": 0.5, "name": "mine", "none": None, "best": np.float32(2)},
        tmp_path / "a",
        **options,
    )
    assert taken(tmp_path / "a").facts == {}


@pytest.mark.parametrize(
    "key", ["state_dict_ema", "model_ema", "params", "network", "weights", "model_state", "xyz", 0]
)
def test_tensors_under_any_key_however_deep(tmp_path, key):
    torch.save({key: STATE, "args": Own()}, tmp_path / "a")
    assert taken(tmp_path / "a").prefix == str(key)
    torch.save({name.encode(): tensor for name, tensor in STATE.items()}, tmp_path / "a")
    assert taken(tmp_path / "a").facts == {}, "names of Python 2"
    torch.save([1, ({"checkpoint": {key: STATE}}, "text")], tmp_path / "a")
    assert taken(tmp_path / "a").prefix == f"1.0.checkpoint.{key}"


def test_classes_that_do_not_exist_here(tmp_path, monkeypatch):
    module = types.ModuleType("their_project")
    module.Trainer = type("Trainer", (Own,), {"__module__": "their_project"})
    monkeypatch.setitem(sys.modules, "their_project", module)
    torch.save({"trainer": module.Trainer(lr=1, me=[]), "ema": module.Trainer(module=STATE)}, tmp_path / "a")
    monkeypatch.delitem(sys.modules, "their_project")
    assert taken(tmp_path / "a").prefix == "ema.module", "tensors in an object's attributes"
    torch.save(Pair(3, {"model": STATE}), tmp_path / "a")
    assert taken(tmp_path / "a").prefix == "1.model", "tensors in what an object is made of"
    slots = Slots()
    slots.tensors = dict(STATE)
    torch.save(slots, tmp_path / "a")
    assert taken(tmp_path / "a").prefix == "tensors"


def test_a_web_of_objects_beside_the_tensors(tmp_path):
    web = [Own() for _ in range(40)]
    for one in web:
        one.others = dict(enumerate(web))
    torch.save({"web": web, "model": STATE}, tmp_path / "a")
    assert taken(tmp_path / "a").prefix == "model"


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_whole_modules(tmp_path, options):
    whole = network()
    whole.load_state_dict(STATE)
    whole.norm.register_buffer("unsaved", torch.ones(4), persistent=False)
    torch.save({"model": whole, "optimizer": torch.optim.SGD(whole.parameters(), lr=0.1)}, tmp_path / "a", **options)
    assert taken(tmp_path / "a").prefix == "model"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript(tmp_path):
    torch.jit.script(WHOLE).save(tmp_path / "a.pt")
    assert taken(tmp_path / "a.pt").facts == {}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_bare_pickles_and_arrays(tmp_path, protocol):
    (tmp_path / "a").write_bytes(pickle.dumps({"model": STATE, "args": Own()}, protocol))
    assert taken(tmp_path / "a").prefix == "model"
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    turned = {name: np.asfortranarray(array) for name, array in arrays.items()}
    for some in (arrays, turned, {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()}):
        (tmp_path / "a").write_bytes(pickle.dumps(some, protocol))
        assert taken(tmp_path / "a").facts == {}
        torch.save(some, tmp_path / "a", pickle_protocol=protocol)
        assert taken(tmp_path / "a").facts == {}
    np.savez(tmp_path / "a.npz", **arrays)
    assert taken(tmp_path / "a.npz").facts == {}


def test_shared_and_partial_storages(tmp_path):
    """Views into one storage, transposed ones, and parameters."""
    storage = torch.arange(200.0)
    views = {
        "conv.weight": nn.Parameter(storage[8 : 8 + 108].view(4, 3, 3, 3)),
        "conv.bias": storage[::7][:4],
        "norm.weight": storage[100:104],
        "norm.bias": torch.arange(8.0).view(4, 2).T[1],
        "norm.running_mean": storage[:4],
        "norm.running_var": torch.ones(4, dtype=torch.float64),
    }
    for options in SAVED:
        torch.save({"model": views, "args": Own()}, tmp_path / "a", **options)
        fresh = network()
        fill(fresh, read_tensors(tmp_path / "a", fresh), "a file")
        for name, tensor in views.items():
            assert torch.equal(fresh.state_dict()[name], tensor.float()), name


@pytest.mark.parametrize("options", SAVED, ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda path: Bomb(path),
        lambda path: Called(os.system, f"mkdir {path}"),
        lambda path: Called(subprocess.Popen, ["mkdir", str(path)]),
        lambda path: Called(exec, f"import os; os.mkdir({str(path)!r})"),
        lambda path: Called(eval, f"__import__('os').mkdir({str(path)!r})"),
        lambda path: functools.partial(os.mkdir, str(path)),
        lambda path: Own(inner=[Bomb(path)]),
    ],
)
def test_hostile_objects_are_refused_and_not_run_also_beside_tensors(tmp_path, call, options):
    for contents in ({"model": STATE, "a": call(tmp_path / "made")}, {"state_dict": call(tmp_path / "made")}):
        torch.save(contents, tmp_path / "a", **options)
        assert "refused: it is a pickle that calls" in refusal(taken, tmp_path / "a")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_calls_that_are_not_known_to_be_hostile_are_not_run_either(tmp_path, options):
    made = tmp_path / "made"
    for call in (Called(pathlib.Path.mkdir, made), Called(np.save, str(made), 1), Called(torch.save, 1, str(made))):
        torch.save({"model": STATE, "a": call, "b": [call]}, tmp_path / "a", **options)
        assert taken(tmp_path / "a").prefix == "model"
        torch.save({"model": call}, tmp_path / "a", **options)
        assert "no state dict" in refusal(taken, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "opcodes",
    [
        b"\x80\x02cposix\nmkdir\n(S'made'\ntR.",  # GLOBAL, REDUCE
        b"\x80\x02(S'made'\niposix\nmkdir\n.",  # INST
        b"\x80\x02(cposix\nmkdir\nS'made'\no.",  # OBJ
        b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93\x8c\x04made\x85R.",  # STACK_GLOBAL
        b"\x80\x02c__builtin__\neval\n(S'1'\ntR.",
        b"\x80\x02ccommands\ngetoutput\n(S'mkdir made'\ntR.",  # Python 2's name of subprocess
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x01aK\x01sb.",  # BUILD on a function
        b"\x80\x02\x82\x01.",  # a registered extension
        b"\x80\x02]q\x00h\x00a.",  # a list in itself
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        b"\x80\x02K\x01.",
        b"\x80\x02.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
    ids=lambda opcodes: str(opcodes[:24]),
)
def test_pickles_made_by_hand_end_in_one_line(tmp_path, monkeypatch, opcodes):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(opcodes)
    assert refusal(taken, tmp_path / "a").startswith(f"{tmp_path / 'a'}: ")
    assert not (tmp_path / "made").exists()


def test_tensors_outside_of_their_storage_are_refused(tmp_path):
    contents = pickle.dumps({"w": torch.arange(4.0)}, protocol=2)
    assert contents.count(b"K\x04\x85") == 1
    (tmp_path / "a").write_bytes(contents.replace(b"K\x04\x85", b"K\xff\x85"))  # its size
    assert "out of bounds" in refusal(taken, tmp_path / "a")


@pytest.mark.parametrize("options", SAVED, ids=str)
def test_truncated_files_that_need_the_tolerant_reader(tmp_path, options):
    torch.save({"model": STATE, "args": Own()}, tmp_path / "a", **options)
    whole = (tmp_path / "a").read_bytes()
    for length in (60, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a").write_bytes(whole[:length])
        assert refusal(taken, tmp_path / "a").startswith(f"{tmp_path / 'a'}: not a whole torch checkpoint")
