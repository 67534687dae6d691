"""Writing whole or not at all."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from studies import ROOT

from onepix.files.atomic import replacing
from onepix.files.manifests import digest


def test_a_file_and_a_folder_are_replaced(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "deep" / "file") as temporary:
            temporary.write_text(content)
        with replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert (tmp_path / "deep" / "file").read_text() == "new"
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["new"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["deep", "folder"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(ValueError, match="half-way"), replacing(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise ValueError("half-way")
    assert (tmp_path / "file").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_kill_during_a_write_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")
    script = (
        "import sys, time, pathlib\n"
        "from onepix.files.manifests import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("step", "expected"),
    [("tempfile.mkdtemp", []), ("os.open", []), ("shutil.rmtree", ["file"]), ("os.close", ["file"])],
)
def test_a_signal_while_a_temporary_folder_is_made_or_removed(tmp_path, monkeypatch, number, step, expected):
    """All steps are gone through; then the signal does what it would have done."""
    module, name = step.split(".")
    real = getattr(sys.modules[module], name)

    def interrupted(*arguments, **options):
        monkeypatch.undo()
        signal.raise_signal(number)
        return real(*arguments, **options)

    def stop(*_):
        sys.exit("stopped")

    before = signal.signal(number, stop)
    if not expected:
        monkeypatch.setattr(step, interrupted)
    try:
        with pytest.raises(SystemExit, match="stopped"), replacing(tmp_path / "file") as temporary:
            temporary.write_text("new")
            if expected:
                monkeypatch.setattr(step, interrupted)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert [file.name for file in tmp_path.iterdir()] == expected


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """On a real file system of 64 kB."""
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a small file system cannot be mounted here")
    try:
        (tmp_path / "file").write_text("old")
        with pytest.raises(OSError, match="No space left") as caught, replacing(tmp_path / "file") as temporary:
            temporary.write_bytes(b"x" * 200_000)
        assert caught.value.errno == errno.ENOSPC
        assert (tmp_path / "file").read_text() == "old"
        assert [file.name for file in tmp_path.iterdir()] == ["file"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_digest_of_a_folder_depends_on_names_and_contents(tmp_path):
    digests = set()
    for name, content in (("a", "1"), ("b", "1"), ("a", "2")):
        folder = tmp_path / (name + content)
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / name).write_text(content)
        digests.add(digest(folder))
    assert len(digests) == 3
