"""Files from the web: a real server on this machine that answers as real servers do, well and badly."""

import errno
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from studies import ROOT

from onepix.errors import OnepixError
from onepix.files import fetching, patience
from onepix.files.fetching import cache_folder, cached_path, fetch, is_offline, verify

CONTENTS = np.random.default_rng(7).bytes(300_001)  # several reads of 65,536 bytes, the last one short
SHA256 = hashlib.sha256(CONTENTS).hexdigest()
OTHER = np.random.default_rng(8).bytes(300_001)
PAGE = b"<html><body>Please log in</body></html>"
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", from FIPS 180-2

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Notes the request, then gives the next answer of the script; when that is used up, serves with ranges."""

    protocol_version = "HTTP/1.1"
    server: "Site"

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        self.server.paths.append(self.path)
        self.close_connection = True
        answer = self.server.script.pop(0) if self.server.script else with_ranges
        answer(self)

    def send(self, status: int, body: bytes, **headers: Any) -> None:
        """Send a body; headers have _ for -, and None leaves one out."""
        self.send_response(status)
        for name, value in {"Content_Length": len(body), "Connection": "close", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = CONTENTS
        self.script: list[Answer] = []
        self.asked: list[str | None] = []  # the Range of each request
        self.paths: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/models/weights.pth"


def with_ranges(handler: Handler) -> None:
    contents = handler.server.contents
    wanted = handler.headers.get("Range")
    if wanted is None:
        return handler.send(200, contents)
    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(contents):
        return handler.send(416, b"", Content_Range=f"bytes */{len(contents)}")
    return handler.send(206, contents[start:], Content_Range=f"bytes {start}-{len(contents) - 1}/{len(contents)}")


def whole(handler: Handler) -> None:
    handler.send(200, handler.server.contents)


def chunked(handler: Handler) -> None:
    contents = handler.server.contents
    pieces = [contents[i : i + 9_999] for i in range(0, len(contents), 9_999)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    handler.send(200, body, Content_Length=None, Transfer_Encoding="chunked")


def without_length(handler: Handler) -> None:
    handler.send(200, handler.server.contents, Content_Length=None)


def cut(sent: int) -> Answer:
    """Promise everything, send `sent` bytes, and hang up."""
    return lambda handler: handler.send(200, CONTENTS[:sent], Content_Length=len(CONTENTS))


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def says(status: int, **headers: Any) -> Answer:
    return lambda handler: handler.send(status, b"", **headers)


def page(body: bytes = PAGE, kind: str | None = "text/html; charset=utf-8") -> Answer:
    return lambda handler: handler.send(200, body, Content_Type=kind)


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.fixture
def site(running: Site) -> Site:
    running.contents = CONTENTS
    for noted in (running.script, running.asked, running.paths):
        noted.clear()
    return running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONEPIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ONEPIX_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(patience, "WAIT", tenacity.wait_none())
    return tmp_path / "cache"


def refusal(function: Callable[..., Any], *arguments: Any) -> str:
    """Return the one line with which a call is refused."""
    with pytest.raises(OnepixError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def left_in(cache: Path) -> set[str]:
    """Return the names of all files in the cache but locks, which stay for good."""
    return {path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


def leave_part(url: str, contents: bytes) -> Path:
    """Lay down what an earlier run, ended halfway, had got."""
    path = cached_path(url, SHA256)
    path.parent.mkdir(parents=True)
    part = path.parent / ".weights.pth.part"
    part.write_bytes(contents)
    return part


# --- Where files lie


def test_cache_folder_is_the_environments_or_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIX_CACHE", "/somewhere/else")
    assert cache_folder() == Path("/somewhere/else")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("ONEPIX_CACHE", "~/kept")
    assert cache_folder() == Path("/home/ada/kept")


@pytest.mark.skipif(sys.platform != "linux", reason="XDG's folders are Linux's")
@pytest.mark.parametrize("unset", [True, False])
def test_cache_folder_by_default(unset: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if unset:
        monkeypatch.delenv("ONEPIX_CACHE")
    else:
        monkeypatch.setenv("ONEPIX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/ada/.cache")
    assert cache_folder() == Path("/home/ada/.cache/onepix")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/models/resnet20-12fca82f.th", "resnet20-12fca82f.th"),
        ("https://example.org/records/7/files/net.safetensors?download=1#top", "net.safetensors"),
        ("https://example.org/my%20net%3A1.pth", "my net_1.pth"),
        ("https://example.org/r%C3%A9seau.pth", "réseau.pth"),
        ("https://example.org/a%2Fb.pth", "b.pth"),
        ("https://example.org/..%2f..%2Fetc%5Cpasswd", "passwd"),
        ("https://example.org/%2e%2e", "download"),
        ("https://example.org/a/..", "download"),
        ("https://example.org/a%0Ab%00c", "a_b_c"),
        ("https://example.org/.hidden.pth", "hidden.pth"),
        ("https://example.org/folder/", "download"),
        ("https://example.org", "download"),
        ("HTTPS://example.org?file=net.pth", "download"),
    ],
)
def test_cached_path_is_predictable(url: str, name: str, cache: Path) -> None:
    assert cached_path(url, ABC) == cached_path(url, "BA7816BF") == cache / "ba7816bf" / name


@given(st.text())
def test_any_name_stays_in_its_folder(text: str) -> None:
    path = cached_path(f"https://example.org/{quote(text)}", ABC)
    assert path.parent == cache_folder() / "ba7816bf"
    assert path.name.isprintable()
    assert not path.name.startswith(".")
    assert len(f".{path.name}.part".encode()) <= 255


def test_a_long_name_keeps_its_end() -> None:
    assert cached_path("https://example.org/" + quote("é" * 300 + ".pth"), ABC).name == "é" * 98 + ".pth"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/net.pth",
        "file:///etc/passwd",
        "net.pth",
        "http:///net.pth",
        "http://[::1/net.pth",
        "http://example.org/a\nb",
    ],
)
def test_other_addresses_are_refused(url: str, cache: Path) -> None:
    assert refusal(fetch, url, ABC).startswith(f"{url!r}: ")
    assert not cache.exists()


# --- Digests


@pytest.mark.parametrize("sha256", [ABC, ABC.upper(), ABC[:8], ABC[:63]])
def test_verify_returns_the_whole_digest(sha256: str, tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert verify(tmp_path / "abc", sha256) == ABC


def test_verify_names_both_digests(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert refusal(verify, path, "0" * 64) == f"{path}: SHA-256 is {ABC}, expected {'0' * 64}"
    assert refusal(verify, path, "0" * 8) == f"{path}: SHA-256 is {ABC}, expected one that starts with 00000000"
    # The right digits, but not at the beginning.
    assert "expected one that starts with 7816bf8f" in refusal(verify, path, ABC[2:10])


def test_verify_wants_a_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        assert refusal(verify, path, ABC) == f"{path}: not found; expected a file with SHA-256 {ABC}"


@pytest.mark.parametrize("sha256", ["", ABC[:7], ABC + "0", "g" * 64, ABC[:8] + "\n", "sha256:" + ABC])
def test_what_is_no_digest_is_refused(sha256: str, tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = f"{sha256!r}: not a SHA-256; expected 64 hexadecimal digits, or at least their first 8"
    assert refusal(verify, tmp_path / "abc", sha256) == expected
    assert refusal(fetch, "http://127.0.0.1:1/net.pth", sha256) == expected


# --- Downloads that go well


@pytest.mark.parametrize("answer", [with_ranges, whole, chunked, without_length])
def test_fetches_once(answer: Answer, site: Site, cache: Path) -> None:
    site.script = [answer]
    path = fetch(site.url, SHA256)
    assert path == cache / SHA256[:8] / "weights.pth"
    assert path.read_bytes() == CONTENTS
    assert fetch(site.url, SHA256) == fetch(site.url, SHA256[:8]) == path
    assert site.asked == [None]
    assert left_in(cache) == {"weights.pth"}


def test_an_empty_file(site: Site) -> None:
    site.contents = b""
    assert fetch(site.url, hashlib.sha256(b"").hexdigest()).read_bytes() == b""


def test_a_query_is_sent_but_not_part_of_the_name(site: Site, cache: Path) -> None:
    assert fetch(site.url + "?download=1", SHA256) == cache / SHA256[:8] / "weights.pth"
    assert site.paths == ["/models/weights.pth?download=1"]


def test_a_redirect_is_followed(site: Site, cache: Path) -> None:
    site.script = [says(302, Location="/elsewhere")]
    assert fetch(site.url, SHA256) == cache / SHA256[:8] / "weights.pth"
    assert site.paths == ["/models/weights.pth", "/elsewhere"]


def test_encoded_files_are_kept_as_they_travel(site: Site) -> None:
    # Some servers call an archive's compression an encoding; its published digest is that of the archive.
    site.script = [lambda handler: handler.send(200, CONTENTS, Content_Encoding="gzip")]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS


def test_a_prefix_is_enough(site: Site) -> None:
    assert fetch(site.url, SHA256[:8].upper()).read_bytes() == CONTENTS


def test_a_file_put_there_by_hand_is_used(site: Site) -> None:
    path = cached_path(site.url, SHA256)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENTS)
    assert fetch(site.url, SHA256) == path
    assert site.asked == []


def test_a_wrong_file_in_the_cache_is_replaced(site: Site) -> None:
    path = cached_path(site.url, SHA256)
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [None]


def test_two_fetches_at_once_ask_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = []
    both = threading.Event()

    def lock(path: Path) -> Any:
        locks.append(path)
        if len(locks) == 2:
            both.set()
        return real(path)

    def answer_when_both_are_at_the_lock(handler: Handler) -> None:
        assert both.wait(30)
        with_ranges(handler)

    real = fetching.FileLock
    monkeypatch.setattr(fetching, "FileLock", lock)
    site.script = [answer_when_both_are_at_the_lock]
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(site.url, SHA256), range(2)))
    assert len(locks) == 2
    assert site.asked == [None]
    assert [path.read_bytes() == CONTENTS for path in paths] == [True, True]


# --- Downloads that are continued


def test_a_part_is_continued(site: Site, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_part(site.url, CONTENTS[:150_000])
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == ["bytes=150000-"]
    assert left_in(cache) == {"weights.pth"}
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("weights.pth:  50% 150k/300k B")
    assert lines[-1].startswith("weights.pth: 100% 300k/300k B")


def test_a_size_that_the_server_does_not_tell(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.script = [chunked]
    fetch(site.url, SHA256)
    assert "300k/? B" in capsys.readouterr().err


def test_a_server_without_ranges_starts_afresh(site: Site) -> None:
    leave_part(site.url, CONTENTS[:1000])
    site.script = [whole]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == ["bytes=1000-"]


def test_a_connection_cut_midway_is_continued(site: Site) -> None:
    site.script = [cut(100_000)]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [None, "bytes=100000-"]


def test_ranges_shorter_than_asked_are_continued(site: Site) -> None:
    total = len(CONTENTS)
    site.script = [
        cut(100),
        lambda handler: handler.send(206, CONTENTS[100:250], Content_Range=f"bytes 100-249/{total}"),
    ]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [None, "bytes=100-", "bytes=250-"]


@pytest.mark.parametrize("extent", ["bytes 0-300000/300001", "bytes 1001-300000/300001", "nonsense", None])
def test_another_range_than_asked_starts_afresh(extent: str | None, site: Site) -> None:
    leave_part(site.url, CONTENTS[:1000])
    site.script = [lambda handler: handler.send(206, CONTENTS[1000:], Content_Range=extent)]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == ["bytes=1000-", None]


def test_a_range_of_a_file_of_unknown_size(site: Site) -> None:
    leave_part(site.url, CONTENTS[:1000])
    site.script = [lambda handler: handler.send(206, CONTENTS[1000:], Content_Range="bytes 1000-300000/*")]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert len(site.asked) == 1


@pytest.mark.parametrize("part", [OTHER[:1000], OTHER, OTHER + b"more"])
def test_a_part_of_another_file_is_fetched_from_the_start(part: bytes, site: Site, cache: Path) -> None:
    leave_part(site.url, part)
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [f"bytes={len(part)}-", None]
    assert left_in(cache) == {"weights.pth"}


def test_a_file_that_changes_while_it_is_fetched(site: Site) -> None:
    site.script = [lambda handler: handler.send(200, OTHER[:70_000], Content_Length=len(OTHER))]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [None, "bytes=70000-", None]


def test_a_file_that_changed_for_good(site: Site, cache: Path) -> None:
    leave_part(site.url, CONTENTS[:1000])
    site.contents = OTHER
    assert f"SHA-256 is {hashlib.sha256(OTHER).hexdigest()}" in refusal(fetch, site.url, SHA256)
    assert site.asked == ["bytes=1000-", None]
    assert left_in(cache) == set()


def test_a_whole_part_needs_no_second_download(site: Site) -> None:
    leave_part(site.url, CONTENTS)
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [f"bytes={len(CONTENTS)}-"]


def test_a_kill_leaves_a_part_and_no_lock(site: Site, cache: Path) -> None:
    hanging = threading.Event()

    def stall(handler: Handler) -> None:
        cut(2 * fetching.CHUNK)(handler)
        hanging.wait(60)

    site.script = [stall]
    program = "import sys; from onepix.files.fetching import fetch; fetch(*sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", program, site.url, SHA256], cwd=ROOT, stderr=subprocess.PIPE)
    part = cached_path(site.url, SHA256).parent / ".weights.pth.part"
    while process.poll() is None and not (part.exists() and part.stat().st_size == 2 * fetching.CHUNK):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    hanging.set()
    assert process.returncode == -signal.SIGKILL, said
    assert left_in(cache) == {".weights.pth.part"}
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [None, f"bytes={2 * fetching.CHUNK}-"]


# --- Downloads that go wrong


@pytest.mark.parametrize("answer", [says(500), says(503), says(408), says(425), says(429), hang_up])
def test_what_may_pass_is_tried_again(answer: Answer, site: Site) -> None:
    site.script = [answer, answer]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert site.asked == [None, None, None]


def test_a_stalled_connection_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "STALLED", 0.3)
    given_up = threading.Event()

    def stall(handler: Handler) -> None:
        cut(1000)(handler)
        given_up.wait(60)

    def go_on(handler: Handler) -> None:
        given_up.set()
        with_ranges(handler)

    site.script = [stall, go_on]
    assert fetch(site.url, SHA256).read_bytes() == CONTENTS
    assert given_up.is_set()


def test_a_server_that_stays_broken(site: Site, cache: Path) -> None:
    leave_part(site.url, CONTENTS[:1000])
    site.script = [says(503)] * 9
    path = cached_path(site.url, SHA256)
    expected = f"HTTP 503 Service Unavailable; try again later, or put the file at {path} by hand"
    assert refusal(fetch, site.url, SHA256) == f"{site.url}: {expected}"
    assert len(site.asked) == patience.ATTEMPTS
    assert left_in(cache) == {".weights.pth.part"}


def test_connections_that_stay_cut(site: Site, cache: Path) -> None:
    site.script = [cut(1000), *[hang_up] * 9]
    message = refusal(fetch, site.url, SHA256)
    assert re.match(rf"{re.escape(site.url)}: [^<>()]+; try again later, or put the file at ", message)
    assert site.asked == [None, *["bytes=1000-"] * (patience.ATTEMPTS - 1)]
    (part,) = cache.rglob("*.part")
    assert part.read_bytes() == CONTENTS[:1000]


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "Not Found"), (403, "Forbidden"), (410, "Gone"), (416, "Requested Range Not Satisfiable")],
)
def test_what_will_not_pass_is_told_at_once(status: int, said: str, site: Site, cache: Path) -> None:
    site.script = [says(status)]
    path = cached_path(site.url, SHA256)
    expected = f"HTTP {status} {said}; check the address, or put the file at {path} by hand"
    assert refusal(fetch, site.url, SHA256) == f"{site.url}: {expected}"
    assert site.asked == [None]
    assert left_in(cache) == set()


def test_no_content_is_no_file(site: Site) -> None:
    site.script = [says(204)]
    assert "HTTP 204 No Content" in refusal(fetch, site.url, hashlib.sha256(b"").hexdigest())


def test_redirects_without_end(site: Site) -> None:
    site.script = [says(302, Location="/again")] * 99
    assert "redirects" in refusal(fetch, site.url, SHA256)
    assert len(site.asked) < 99


def test_a_redirect_to_another_scheme(site: Site) -> None:
    site.script = [says(302, Location="ftp://example.org/net.pth")]
    assert "ftp://example.org/net.pth" in refusal(fetch, site.url, SHA256)
    assert len(site.asked) == 1


def test_a_redirect_to_a_page(site: Site, cache: Path) -> None:
    site.script = [says(302, Location="/login?next=weights"), page()]
    final = site.url.replace("/models/weights.pth", "/login?next=weights")
    expected = f"{site.url}: served an HTML page (redirected to {final}), expected a file with SHA-256 {SHA256}; "
    assert refusal(fetch, site.url, SHA256).startswith(expected)
    assert len(site.asked) == 2
    assert left_in(cache) == set()


@pytest.mark.parametrize(
    "answer",
    [
        page(b"no tag at all"),
        page(b"whatever", "TEXT/HTML"),
        page(b"\xef\xbb\xbf\r\n <!DOCTYPE html><p>Hello", "application/octet-stream"),
        page(PAGE.upper(), None),
    ],
)
def test_a_page_is_told_at_once(answer: Answer, site: Site, cache: Path) -> None:
    site.script = [answer]
    expected = f"{site.url}: served an HTML page, expected a file with SHA-256 {SHA256[:8]}…; "
    assert refusal(fetch, site.url, SHA256[:8]).startswith(expected)
    assert site.asked == [None]
    assert left_in(cache) == set()


def test_a_page_does_not_cost_the_part(site: Site) -> None:
    part = leave_part(site.url, CONTENTS[:1000])
    site.script = [page()]
    assert "served an HTML page" in refusal(fetch, site.url, SHA256)
    assert part.read_bytes() == CONTENTS[:1000]


def test_a_continued_file_may_look_like_a_page(site: Site) -> None:
    site.contents = CONTENTS[:1000] + PAGE
    sha256 = hashlib.sha256(site.contents).hexdigest()
    site.script = [lambda handler: handler.send(200, CONTENTS[:1000], Content_Length=len(site.contents))]
    assert fetch(site.url, sha256).read_bytes() == site.contents
    assert site.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("wanted", "shown"), [(ABC, ABC), (ABC[:10], f"one that starts with {ABC[:10]}")], ids=["whole", "prefix"]
)
def test_a_wrong_digest(wanted: str, shown: str, site: Site, cache: Path) -> None:
    assert refusal(fetch, site.url, wanted) == f"{site.url}: SHA-256 is {SHA256}, expected {shown}"
    assert site.asked == [None]
    assert left_in(cache) == set()


def test_a_wrong_file_stays_until_the_right_one_is_whole(site: Site) -> None:
    path = cached_path(site.url, SHA256)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    site.script = [says(404)]
    refusal(fetch, site.url, SHA256)
    assert path.read_bytes() == b"mine"


def test_a_dead_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:
        url = f"http://127.0.0.1:{dead.getsockname()[1]}/net.pth"
    path = cached_path(url, ABC)
    expected = f"{os.strerror(errno.ECONNREFUSED)}; try again later, or put the file at {path} by hand"
    assert refusal(fetch, url, ABC) == f"{url}: {expected}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_not_tried_again(site: Site) -> None:
    path = cached_path(site.url, SHA256)
    path.parent.mkdir(parents=True)
    (path.parent / ".weights.pth.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        fetch(site.url, SHA256)
    assert caught.value.errno == errno.ENOSPC
    assert site.asked == [None]


# --- Offline


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("yes", True), ("0", False), ("", False), (None, False)])
def test_is_offline(value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("ONEPIX_OFFLINE", value)
    assert is_offline() is expected


def test_offline_without_the_file(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    where = cache / SHA256[:8] / "weights.pth"
    assert refusal(fetch, site.url, SHA256) == (
        f"{site.url}: not in the cache, and ONEPIX_OFFLINE is set; put the file (SHA-256 {SHA256}) at {where}"
    )
    assert f"(SHA-256 {SHA256[:9]}…) at {where}" in refusal(fetch, site.url, SHA256[:9])
    assert site.asked == []
    assert not cache.exists()


def test_offline_with_the_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(site.url, SHA256)
    monkeypatch.setenv("ONEPIX_OFFLINE", "1")
    assert fetch(site.url, SHA256) == path
    path.write_bytes(b"abc")
    assert refusal(fetch, site.url, SHA256) == f"{path}: SHA-256 is {ABC}, expected {SHA256}"
    assert path.read_bytes() == b"abc"
    assert site.asked == [None]
