"""The user's own code: found by parsing, with all that it imports from its own folder, and nothing of other people."""

import importlib
import sys

import pytest
from refusals import refusal

from onepix.files.own_code import own_code, own_digest


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes modules into the working folder."""
    monkeypatch.chdir(tmp_path)

    def write(**modules):
        for name, text in modules.items():
            path = tmp_path / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        importlib.invalidate_caches()

    return write


def names(module, tmp_path):
    return {file.relative_to(tmp_path).as_posix() for file in own_code(module)}


def test_a_module_and_what_it_imports_from_its_folder_also_through_others(write, tmp_path):
    write(
        mine="import os, numpy\nimport torch.nn as nn\nfrom helper import width\nimport unknown_module\n",
        helper="def f():\n    import deeper\n",
        deeper="import mine\n",
        other="",
    )
    assert names("mine", tmp_path) == {"mine.py", "helper.py", "deeper.py"}
    assert names("deeper", tmp_path) == {"mine.py", "helper.py", "deeper.py"}
    assert names("other", tmp_path) == {"other.py"}


def test_packages_and_relative_imports(write, tmp_path):
    write(
        pkg__in____init__="from .shared import constant\n",
        pkg__in__shared="",
        pkg__in__unused="",
        pkg__in__nets__in____init__="",
        pkg__in__nets__in__small="import beside\nfrom . import blocks\nfrom .. import tools\nfrom ..more.parts "
        "import x\n",
        pkg__in__nets__in__blocks="",
        pkg__in__tools="from pkg.late import *\n",
        pkg__in__late="",
        pkg__in__more__in__parts="",  # a folder without __init__
        beside="",
    )
    found = names("pkg.nets.small", tmp_path)
    package = {"__init__", "shared", "nets/__init__", "nets/small", "nets/blocks", "tools", "late", "more/parts"}
    assert found == {f"pkg/{name}.py" for name in package} | {"beside.py"}


def test_imports_by_a_call_and_for_types_only(write, tmp_path):
    write(
        mine="import importlib\nfrom typing import TYPE_CHECKING\nimportlib.import_module('called')\n"
        "if TYPE_CHECKING:\n    import typed\n",
        called="",
        typed="",
    )
    assert names("mine", tmp_path) == {"mine.py", "called.py"}


def test_what_is_installed_belongs_to_others(write, tmp_path, monkeypatch):
    assert own_code("json") == own_code("numpy.linalg") == own_code("sys") == own_code("no_such_module") == []
    assert own_digest("numpy") is None
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "theirs.py").write_text("import mine\n")
    monkeypatch.syspath_prepend(installed)
    write(mine="import theirs\n")
    assert own_code("theirs") == []
    assert names("mine", tmp_path) == {"mine.py"}


def test_a_module_on_the_python_path_with_its_own_folder(tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "far_network.py").write_text("import far_helper\n")
    (folder / "far_helper.py").write_text("")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(folder)
    assert names("far_network", tmp_path) == {"elsewhere/far_network.py", "elsewhere/far_helper.py"}


def test_nothing_is_imported(write):
    write(mine="raise AssertionError('it must not run')\nimport helper\n", helper="")
    assert len(own_code("mine")) == 2
    assert "mine" not in sys.modules


def test_the_digest_changes_with_each_file_and_not_with_the_folder(write, tmp_path, monkeypatch):
    write(mine="import helper\n", helper="a = 1\n", other="")
    before = own_digest("mine")
    write(other="changed")
    assert own_digest("mine") == before
    write(helper="a = 2\n")
    assert own_digest("mine") != before
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "mine.py").write_text("import helper\n")
    (moved / "helper.py").write_text("a = 1\n")
    monkeypatch.chdir(moved)
    assert own_digest("mine") == before


@pytest.mark.parametrize("text", ["def (:\n", "x = '\n", "\0", "if x:\nprint()\n", "print 1\n"])
def test_what_is_not_python_is_told_in_one_line(write, tmp_path, text):
    write(mine="import helper\n", helper=text)
    assert refusal(own_code, "mine").startswith(f"{tmp_path / 'helper.py'}: not Python")
