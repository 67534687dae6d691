"""How a command's process ends."""

from processes import run_python

FULL = """
import asyncio
from onepix.process import well_behaved

with well_behaved():
    loop = asyncio.new_event_loop()
    for name in ("one", "two"):  # files of a zarr store, whose errors nobody asks for
        loop.create_future().set_exception(FileNotFoundError(2, "No such file or directory", name))
    raise OSError(28, "No space left on device", "maps.zarr")
"""


def test_a_full_disk_is_one_line_whatever_else_could_not_be_written():
    run = run_python(FULL)
    assert (run.returncode, run.stdout, run.stderr) == (1, "", "onepix: maps.zarr: No space left on device\n")
