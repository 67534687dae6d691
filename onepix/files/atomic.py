"""Writes files whole or not at all: under a temporary name, renamed when done, even if the writer is killed."""

import contextlib
import errno
import glob
import itertools
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors of a disk that do not name the file


UNLOCKABLE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # errors of file systems without locks


TAKEN = (errno.ENOENT, errno.ESTALE, errno.EAGAIN)  # errors about a folder that is gone, or locked


ATTEMPTS = 1000  # to make a temporary folder that no other process removes


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`; rename it to `path` if the block ends without an error.

    After a kill, an error or a full disk, `path` is as it was before. Works for files and folders.

    Raises
    ------
    OSError
        An error of the disk; it names `path`.
    """
    holder: Path | None = None
    lock: int | None = None
    try:
        remove_leftovers(path)
        try:
            with _signals_put_off():
                holder, lock = _locked_holder(path)
            temporary = holder / path.name
            yield temporary
            for file in files_in(temporary):
                _sync(file)
            with _signals_put_off():
                if path.is_dir():
                    path.rename(holder / "replaced")
                temporary.replace(path)
        finally:
            if holder:
                with _signals_put_off():
                    _discard(holder, lock)
    except OSError as error:
        ours = error.errno in DISK if error.filename is None else f"/.{path.name}." in f"/{error.filename}"
        if ours and error.errno:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def _signals_put_off() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM to the end of the block: inside it, their exceptions would leave a folder behind."""
    if threading.current_thread() is not threading.main_thread():  # signals interrupt only the main thread
        yield
        return
    arrived: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not None  # else it is not Python's handler, and could not be restored
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def remove_leftovers(path: Path) -> None:
    """Remove temporary folders of `path` whose writers were killed; if that is not certain, they stay.

    A writer holds a lock in its folder as long as it lives. Locks of other machines are ignored: not every shared file
    system shows them.
    """
    for holder in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}/"):
        with contextlib.suppress(OSError):
            holder.rmdir()  # empty: if its writer lives, it makes another one
        with contextlib.suppress(OSError):  # there is no lock, or it is held
            _discard(holder, _lock(holder, create=False))


def _locked_holder(path: Path) -> tuple[Path, int | None]:
    """Make a temporary folder next to `path`, and lock it if the file system has locks."""
    for attempt in itertools.count():
        holder = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            return holder, _lock(holder, create=True)
        except OSError as error:
            if holder and error.errno in UNLOCKABLE:
                return holder, None
            if holder:
                _discard(holder, None)
            # Before the lock, another process removed the folder as a leftover, or its empty parent.
            if error.errno not in TAKEN or attempt == ATTEMPTS:
                raise
    raise AssertionError


def _lock(holder: Path, create: bool) -> int:
    """Lock a temporary folder and return the descriptor to close; an OSError means that it is gone, or locked."""
    if sys.platform == "win32":
        raise OSError(errno.ENOLCK, "no such locks")
    import fcntl

    file = holder / f".{platform.node()}.lock"
    descriptor = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.stat()  # it may have been removed since it was opened
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _discard(holder: Path, lock: int | None) -> None:
    """Remove a temporary folder; the lock goes last, since without it the rest would not look like a leftover."""
    with contextlib.suppress(FileNotFoundError):  # another process discards it, too, and was faster
        for part in holder.glob("[!.]*"):
            shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(holder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
    with contextlib.suppress(OSError):
        holder.rmdir()  # on NFS, the open lock had stayed in it under another name


def files_in(path: Path) -> list[Path]:
    """Return a file itself, or all files in a folder, in order of their names."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file())


def _sync(file: Path) -> None:
    """Write a file to the disk now, so that a full disk shows before the rename and not after it."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
