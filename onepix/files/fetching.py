"""Files from the web: checked by SHA-256, and kept in a cache that all studies share."""

import functools
import itertools
import os
import re
import textwrap
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs
import requests
from filelock import FileLock
from urllib3.exceptions import HTTPError as BrokenBody

from onepix.errors import OfflineError, OnepixError
from onepix.files.manifests import digest
from onepix.files.patience import STALLED, patiently
from onepix.progress import progress_bar

CONNECTING = 20.0  # seconds to wait for a host that does not answer
CHUNK = 1 << 16  # bytes read at a time; a kill loses no more
LONGEST = 200  # bytes of a file name; file systems allow 255, and names of part and lock are longer
LINE = 1000  # characters shown of a server's message
PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # these 4xx are tried again
HASH = re.compile(r"[0-9a-f]{8,64}")
CONTENT_RANGE = re.compile(r"bytes (?P<start>\d+)-(?P<end>\d+)/(?P<total>\d+|\*)")


def cache_folder() -> Path:
    """Return the folder with all fetched files: $ONEPIX_CACHE, or the system's folder for a user's caches."""
    folder = os.environ.get("ONEPIX_CACHE")
    return Path(folder).expanduser() if folder else platformdirs.user_cache_path("onepix")


def cached_path(url: str, sha256: str) -> Path:
    """Return the path of a URL's file in the cache, whether it is there or not; a user may put it there by hand.

    Parameters
    ----------
    url : str
        An http or https address.
    sha256 : str
        64 hexadecimal digits, or at least their first 8.

    Returns
    -------
    Path
        Folder of the cache / first 8 digits / file name in the URL, or "download" if it has none.

    Raises
    ------
    OnepixError
        If the URL or the digest is not valid.
    """
    name = re.split(r"[/\\]", unquote(_path_of(url)))[-1]
    safe = "".join("_" if letter in ':*?"<>|' or not letter.isprintable() else letter for letter in name)
    short = safe.encode()[-LONGEST:].decode(errors="ignore")
    return cache_folder() / _expected(sha256)[:8] / (short.strip(" .") or "download")


def is_offline() -> bool:
    """Tell whether the user forbids downloads: ONEPIX_OFFLINE is set, and neither empty nor 0."""
    return os.environ.get("ONEPIX_OFFLINE", "") not in ("", "0")


def verify(path: Path, sha256: str) -> str:
    """Compare a file with its SHA-256.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str
        64 hexadecimal digits, or at least their first 8, as `torch.hub` has them in file names.

    Returns
    -------
    str
        All 64 digits.

    Raises
    ------
    OnepixError
        If the file is missing or has another SHA-256, or if `sha256` is not valid.
    """
    expected = _expected(sha256)
    if not path.is_file():
        raise OnepixError(f"{path}: not found; expected a file with SHA-256 {_shown(expected)}")
    found = digest(path)
    if not found.startswith(expected):
        raise OnepixError(f"{path}: {_mismatch(found, expected)}")
    return found


def fetch(url: str, sha256: str) -> Path:
    """Return a file from the web: from the cache, or downloaded into it.

    An interrupted download is continued, now or by the next call. If two jobs want the same file, one waits for the
    other. The file appears in the cache whole and verified, or not at all.

    Parameters
    ----------
    url : str
        An http or https address.
    sha256 : str
        64 hexadecimal digits, or at least their first 8.

    Returns
    -------
    Path
        `cached_path(url, sha256)`; the file has this SHA-256.

    Raises
    ------
    OnepixError
        If the file cannot be downloaded, or has another SHA-256.
    OfflineError
        If it would have to be downloaded, and the environment variable ONEPIX_OFFLINE is set.
    OSError
        If the cache cannot be written: no space left, no permission.
    """
    path, expected = cached_path(url, sha256), _expected(sha256)
    if is_offline():
        if not path.is_file():
            raise OfflineError(f"{url}: not in the cache", f"put the file (SHA-256 {_shown(expected)}) at {path}")
        verify(path, expected)
    elif not _is_right(path, expected):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _is_right(path, expected):  # another job may have fetched it in the meantime
                _download(url, expected, path)
    return path


def _download(url: str, expected: str, path: Path) -> None:
    """Fetch into the part file, verify it, and rename it."""
    part = path.with_name(f".{path.name}.part")
    for is_last in (False, True):
        is_continued = _complete(url, expected, path, part)
        found = digest(part)
        if found.startswith(expected):
            break
        part.unlink()
        # Two connections may have given parts of two versions; after a single connection, the file itself is wrong.
        if is_last or not is_continued:
            raise OnepixError(f"{url}: {_mismatch(found, expected)}")
    with part.open("rb") as opened:  # a full disk shows before the rename and not after it
        os.fsync(opened.fileno())
    part.replace(path)


def _complete(url: str, expected: str, path: Path, part: Path) -> bool:
    """Fetch the rest of the part file, with retries; tell whether there was a part to continue."""
    try:
        return patiently(functools.partial(_receive, url, expected, part), _may_pass)
    except (requests.RequestException, BrokenBody) as error:
        advice = "try again later" if _may_pass(error) else "check the address"
        raise OnepixError(f"{url}: {_reason(error)}; {advice}, or put the file at {path} by hand") from error


def _receive(url: str, expected: str, part: Path) -> bool:
    """Ask once for the rest of the part file and append it; tell whether there was a part to continue."""
    size = part.stat().st_size if part.exists() else 0
    # Ranges count transferred bytes, so the transfer must not be compressed.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECTING, STALLED)) as response:
        if size and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # the part is complete, or the file has changed: the digest tells
        start, total = _extent(response, size, part)
        chunks = iter(functools.partial(response.raw.read, CHUNK, decode_content=False), b"")
        head = next(chunks, b"")
        _refuse_page(response, head if start == 0 else b"", expected)
        with (
            part.open("ab" if start else "wb") as opened,
            progress_bar(total, part.stem[1:], "B", initial=start) as bar,
        ):
            for chunk in itertools.chain([head], chunks):
                opened.write(chunk)
                bar.update(len(chunk))
    reached = part.stat().st_size
    if total is not None and reached < total:
        raise requests.ConnectionError(f"the connection ended after {reached} of {total} bytes")
    return start > 0


def _extent(response: requests.Response, size: int, part: Path) -> tuple[int, int | None]:
    """Return at which byte of the file the answer starts, and the file's size if the server tells it."""
    status = response.status_code
    if status == HTTPStatus.OK:
        return 0, response.raw.length_remaining
    if status != HTTPStatus.PARTIAL_CONTENT:
        raise requests.HTTPError(f"HTTP {status} {response.reason}", response=response)
    named = response.headers.get("Content-Range", "none")
    extent = CONTENT_RANGE.fullmatch(named)
    if extent is None or int(extent["start"]) != size:
        part.unlink(missing_ok=True)  # so that the next attempt asks for the whole file
        raise requests.ConnectionError(f"the server sent the range '{named}', expected 'bytes {size}-…'")
    return size, int(extent["end"]) + 1 if extent["total"] == "*" else int(extent["total"])


def _refuse_page(response: requests.Response, head: bytes, expected: str) -> None:
    """Refuse an HTML page, such as a request to log in: another attempt would not bring the file either."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    beginning = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()  # the first three are UTF-8's byte order mark
    if kind == "text/html" or beginning.startswith((b"<!doctype html", b"<html")):
        origin = f" (redirected to {response.url})" if response.history else ""
        raise requests.RequestException(f"served an HTML page{origin}, expected a file with SHA-256 {_shown(expected)}")


def _may_pass(error: BaseException) -> bool:
    """Tell whether another attempt may succeed where this one failed."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in PASSING
    return isinstance(error, requests.ConnectionError | requests.Timeout | BrokenBody)


def _reason(error: BaseException) -> str:
    """Return the message of the operating system or server, without the layers of requests around it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    said = error.strerror if isinstance(error, OSError) else None
    return textwrap.shorten(said or str(error) or type(error).__name__, LINE, placeholder=" …")


def _path_of(url: str) -> str:
    """Check scheme and host of a URL; return its path, with percent signs as they are."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise OnepixError(f"{url!r}: not a web address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise OnepixError(f"{url!r}: expected an address that starts with http:// or https://")
    return parts.path


def _expected(sha256: str) -> str:
    if not HASH.fullmatch(sha256.lower()):
        raise OnepixError(f"{sha256!r}: not a SHA-256; expected 64 hexadecimal digits, or at least their first 8")
    return sha256.lower()


def _is_right(path: Path, expected: str) -> bool:
    return path.is_file() and digest(path).startswith(expected)


def _mismatch(found: str, expected: str) -> str:
    wanted = expected if len(expected) == len(found) else f"one that starts with {expected}"
    return f"SHA-256 is {found}, expected {wanted}"


def _shown(expected: str) -> str:
    return expected if len(expected) == 64 else f"{expected}…"
