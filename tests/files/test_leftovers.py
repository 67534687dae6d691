"""What a killed writer leaves beside an output."""

import errno
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studies import ROOT

from onepix.files import atomic
from onepix.files.atomic import remove_leftovers, replacing

# What a killed writer leaves beside an output

WRITER = """
import sys, time
from pathlib import Path
from onepix.files import atomic
from onepix.files.atomic import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "part").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def writer(path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    return process


def test_the_next_writer_removes_what_a_killed_one_left_but_not_what_a_living_one_writes(tmp_path):
    path = tmp_path / "maps.zarr"
    killed, living = writer(path), writer(path)
    other = writer(tmp_path / "maps.zarr.x")
    for process in (killed, other):
        process.kill()
        process.wait()
    assert len(list(tmp_path.iterdir())) == 3
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "mine").write_text("whole")
        assert len(list(tmp_path.iterdir())) == 3, "mine, the living one's and the other name's"
    living.communicate("\n")
    assert living.returncode == 0
    assert [(file.name, file.read_text()) for file in path.iterdir()] == [("part", "half")]
    (left,) = [file.name for file in tmp_path.iterdir() if file != path]
    assert left.startswith(".maps.zarr.x.")


def test_what_another_machine_left_stays(tmp_path, monkeypatch):
    """Whether its writer lives cannot be told: not every shared file system passes locks on."""
    process = writer(tmp_path / "file")
    process.kill()
    process.wait()
    with monkeypatch.context() as patch:
        patch.setattr("platform.node", lambda: "elsewhere")
        remove_leftovers(tmp_path / "file")
        assert len(list(tmp_path.iterdir())) == 1
    remove_leftovers(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a[b]*", "a"])
def test_only_folders_of_the_very_name_are_looked_at(tmp_path, name):
    kept = [tmp_path / kept for kept in (".ab.abcdefgh", ".a.abcdefgh.12345678", ".a[b]*.short", ".a.ABCDEFGH")]
    for folder in kept:
        folder.mkdir()
    (tmp_path / f".{name}.abcdefgh").mkdir()
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / name])


def test_a_folder_that_another_process_removes_while_it_is_discarded(tmp_path, monkeypatch):
    """Before it is locked, another process may take it for a leftover: the writer then makes another one."""
    lock, glob, lost = atomic._lock, Path.glob, []

    def held_by_another(holder, create):
        if lost:
            return lock(holder, create)
        lost.append(holder)
        raise BlockingIOError(errno.EAGAIN, "the lock is held")

    def gone_between_two_looks(folder, pattern):
        if folder not in lost:
            return glob(folder, pattern)
        folder.rmdir()
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder))

    monkeypatch.setattr(atomic, "_lock", held_by_another)
    monkeypatch.setattr(Path, "glob", gone_between_two_looks)
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    monkeypatch.undo()
    assert len(lost) == 1
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "whole")]


def test_many_writers_of_one_name_at_once(tmp_path):
    """Each removes what it takes for dead, as often as it can: none loses its folder, and the last rename stands."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom onepix.files.manifests import replacing\n"
        "for turn in range(60):\n"
        "    with replacing(Path(sys.argv[1])) as temporary:\n"
        "        temporary.write_text(sys.argv[2] * 1000)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "deep" / "file")]
    processes = [subprocess.Popen([*command, name], cwd=ROOT, stderr=subprocess.PIPE, text=True) for name in "abcd"]
    while any(process.poll() is None for process in processes):
        (tmp_path / "deep").is_dir() and remove_leftovers(tmp_path / "deep" / "file")
        time.sleep(0.001)
    assert [(process.returncode, process.communicate()[1]) for process in processes] == [(0, "")] * 4
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").read_text() in [name * 1000 for name in "abcd"]
