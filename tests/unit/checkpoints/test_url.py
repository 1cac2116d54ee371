"""A file comes from a web address as it is, or the error says what the server did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile
from checkpoints.sources.url import UrlSource

BODY = bytes(range(256)) * 10_000
FILE = CheckpointFile("weights.bin", len(BODY), "0" * 64, ())


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/weights")
            self.end_headers()
            return
        if self.path not in ("/weights", "/endless", "/broken"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        try:
            self.wfile.write(BODY[:1000] if self.path == "/broken" else BODY)
            while self.path == "/endless":
                self.wfile.write(BODY)
        except ConnectionError:
            pass  # the client has had enough

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/weights", "/moved"])
def test_bytes_arrive_and_are_reported(server: str, tmp_path: Path, path: str) -> None:
    reported: list[int] = []
    UrlSource(server + path).fetch(FILE, tmp_path / "part", reported.append)
    assert (tmp_path / "part").read_bytes() == BODY
    assert reported == sorted(reported)
    assert reported[-1] == len(BODY)


def test_missing_file_is_named_by_the_servers_answer(server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the server answered 404 Not Found"):
        UrlSource(server + "/nothing").fetch(FILE, tmp_path / "part", lambda _: None)


def test_nobody_listening(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no connection"):
        UrlSource("http://127.0.0.1:9/weights").fetch(FILE, tmp_path / "part", lambda _: None)


def test_body_that_breaks_off_is_left_for_the_store_to_judge(server: str, tmp_path: Path) -> None:
    UrlSource(server + "/broken").fetch(FILE, tmp_path / "part", lambda _: None)
    assert (tmp_path / "part").stat().st_size == 1000


def test_endless_body_is_cut_short(server: str, tmp_path: Path) -> None:
    UrlSource(server + "/endless").fetch(FILE, tmp_path / "part", lambda _: None)
    assert FILE.size < (tmp_path / "part").stat().st_size <= FILE.size + (1 << 20)


def test_what_progress_raises_is_let_through(server: str, tmp_path: Path) -> None:
    def cancel(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        UrlSource(server + "/weights").fetch(FILE, tmp_path / "part", cancel)


def test_other_schemes_are_refused() -> None:
    with pytest.raises(TypeError, match="no http"):
        UrlSource("file:///etc/passwd")
