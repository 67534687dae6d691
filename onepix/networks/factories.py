"""Runs a factory of the user's: any callable that returns a network."""

import contextlib
import functools
import importlib
import inspect
import os
import random
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from onepix.errors import OfflineError, OnepixError, in_line
from onepix.files.fetching import is_offline
from onepix.files.own_code import own_digest

SEED = 0  # of all random numbers while a factory runs
# What libraries that download weights ask whether they may.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
SHOWN = 300  # characters of a signature


def run_factory(module: str, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return the network that a factory makes.

    Weights that the factory draws at random are the same each time: random numbers start from a fixed seed, and the
    random state of the process is afterwards as before. With ONEPIX_OFFLINE=1 it cannot reach the web.

    Parameters
    ----------
    module, name : str
        A module in the working folder or on the Python path, and a callable in it: `create_model`, or
        `Network.from_pretrained` of a class.
    arguments : mapping
        Keyword arguments. Positional parameters that cannot be given by keyword are taken from it by their names.

    Raises
    ------
    OfflineError
        If it failed because it may not download.
    OnepixError
        If it cannot be imported, raises, or returns no nn.Module.
    """
    where = f"network architecture '{module}:{name}'"
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    refused: list[str] = []
    try:
        with _without_web(refused) if is_offline() else contextlib.nullcontext():
            with _same_random_numbers():  # apart, since a module is imported only once
                factory = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            with _same_random_numbers():
                network = _called(factory, arguments, where)
    except OnepixError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if is_offline() and (refused or _speaks_of_offline(error)):
            origin = refused[0] if refused else "the web"
            raise OfflineError(
                f"{where}: its factory would download from {origin}", "run it once without ONEPIX_OFFLINE"
            ) from error
        looked = ""
        if isinstance(error, ModuleNotFoundError):
            looked = f"; it was looked for in {Path.cwd()} and on the Python path (PYTHONPATH adds folders to it)"
        raise OnepixError(f"{where}: {in_line(error)}{looked}") from error
    if not isinstance(network, nn.Module):
        raise OnepixError(f"{where}: returned {type(network).__name__}, expected a torch.nn.Module")
    return network


def origin_of(module: str) -> dict[str, Any]:
    """Return `code`, the digest of the user's own code, or `package`, with its version, of a factory's module."""
    if code := own_digest(module):
        return {"code": code}
    names = packages_distributions().get(module.partition(".")[0], [])
    return {"package": {name: version(name) for name in sorted(set(names))}} if names else {}


def _speaks_of_offline(error: BaseException | None) -> bool:
    """Tell whether an exception, or one that led to it, is of a library that was told to be offline."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return any("offline" in in_line(one).lower() for one in seen)


def _called(factory: Any, arguments: Mapping[str, Any], where: str) -> Any:
    """Call a factory; arguments that it does not take are told with those that it takes."""
    if isinstance(factory, nn.Module):
        raise OnepixError(f"{where}: is a network, expected a function that returns one: def make(): return …")
    if not callable(factory):
        raise OnepixError(f"{where}: is {type(factory).__name__}, expected a function or class")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of some built-in functions
        return factory(**arguments)
    parameters = signature.parameters.values()
    further = next((parameter.name for parameter in parameters if parameter.kind is parameter.VAR_POSITIONAL), None)
    by_position = [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.POSITIONAL_ONLY
        or (further in arguments and parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
    ]
    first = [arguments[name] for name in by_position if name in arguments]
    given = {name: value for name, value in arguments.items() if name not in by_position}
    if further is not None and isinstance(given.get(further), list):
        first += given.pop(further)
    try:
        signature.bind(*first, **given)  # before the call, which may take long
        return factory(*first, **given)
    except TypeError as error:
        takes = f"it takes {_in_words(signature)}; set arguments"
        raise OnepixError(f"{where}: {in_line(error)}; {takes}") from error


def _in_words(signature: inspect.Signature) -> str:
    """Write the parameters of a callable, without annotations."""
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    said = " ".join(str(signature.replace(parameters=bare, return_annotation=signature.empty)).split())
    return said if len(said) <= SHOWN else f"{said[:SHOWN]} …"


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Start all random numbers from the same seed, and leave the state of the process as it was."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        # The states of GPUs are kept, too, where there may be any: to ask would take seconds.
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(SEED)
            random.seed(SEED)
            np.random.seed(SEED)  # noqa: NPY002
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


@contextlib.contextmanager
def _without_web(refused: list[str]) -> Iterator[None]:
    """Refuse connections to other machines, and note their addresses; libraries may then use what they have."""

    def refuse(host: Any) -> None:
        refused.append(str(host))
        raise ConnectionRefusedError(f"{host}: ONEPIX_OFFLINE is set")

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address[0])
        super(socket.socket, self).connect(address)

    def look_up(host: Any, *_: Any, **__: Any) -> Any:
        refuse(host)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, OFFLINE))
        stack.enter_context(mock.patch.object(socket.socket, "connect", connect))
        stack.enter_context(mock.patch.object(socket, "getaddrinfo", look_up))
        if constants := sys.modules.get("huggingface_hub.constants"):  # read from the environment when it was imported
            stack.enter_context(mock.patch.object(constants, "HF_HUB_OFFLINE", True))
        yield
