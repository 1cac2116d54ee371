"""`rediss://`: every client requires a certificate that it can verify, unless configured otherwise."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.exceptions import RedisError

from checkpoints.locks import ClusterLocks
from shared import startup
from shared.config import Settings
from shared.queue import QUEUE_NAME, make_celery
from tests.certificates import make_certificate

pytestmark = pytest.mark.integration


def copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def relay(client: socket.socket, server: socket.socket) -> None:
    with client, server:
        back = threading.Thread(target=copy, args=(server, client))
        back.start()
        copy(client, server)
        back.join()


def serve(listener: socket.socket, context: ssl.SSLContext, behind: int) -> None:
    """Terminate TLS and forward connections to a server without it."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            client = context.wrap_socket(plain, server_side=True)
            server = socket.create_connection(("127.0.0.1", behind))
        except OSError:  # a client that does not trust the certificate
            plain.close()
            continue
        threading.Thread(target=relay, args=(client, server), daemon=True).start()


@pytest.fixture(scope="module")
def tls(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run a Redis behind TLS; yield its URL and the certificate."""
    certificate, key = make_certificate(tmp_path_factory.mktemp("tls"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    behind = urlsplit(redis_url).port
    assert behind is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener, context, behind), daemon=True).start()
        yield f"rediss://127.0.0.1:{listener.getsockname()[1]}/0", certificate
        listener.shutdown(socket.SHUT_RDWR)


def through_celery(settings: Settings) -> None:
    """Publish a message, as web does, and read it, as a worker does."""
    app = make_celery(settings)
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)
        with connection.SimpleQueue(QUEUE_NAME) as queue:
            queue.clear()


def through_checkpoint_locks(settings: Settings) -> None:
    with ClusterLocks.from_url(settings.redis_url).client as client:
        client.ping()


CLIENTS = [startup.check_redis, through_celery, through_checkpoint_locks]


def make_settings(url: str, monkeypatch: pytest.MonkeyPatch, verify: str | None = None) -> Settings:
    monkeypatch.setenv("MT3_REDIS_URL", url)
    if verify is not None:
        monkeypatch.setenv("MT3_REDIS_TLS_VERIFY", verify)
    return Settings()


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("query", "verify"), [("", None), ("?ssl_cert_reqs=CERT_REQUIRED", "0"), ("", "true")])
def test_untrusted_certificate_is_refused_by_every_client(
    tls: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    client: Callable[[Settings], None],
    query: str,
    verify: str | None,
) -> None:
    settings = make_settings(tls[0] + query, monkeypatch, verify)
    with pytest.raises((OSError, RedisError, Exception), match="certificate verify failed"):
        client(settings)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("query", "verify"), [("", "false"), ("?ssl_cert_reqs=none", None), ("?ssl_cert_reqs=CERT_NONE", None)]
)
def test_untrusted_certificate_is_accepted_if_configured(
    tls: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    client: Callable[[Settings], None],
    query: str,
    verify: str | None,
) -> None:
    client(make_settings(tls[0] + query, monkeypatch, verify))


@pytest.mark.parametrize("client", CLIENTS)
def test_private_authority_is_trusted_if_configured(
    tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, client: Callable[[Settings], None]
) -> None:
    client(make_settings(f"{tls[0]}?ssl_ca_certs={tls[1]}", monkeypatch))


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_for_another_name_is_refused(
    tls: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, client: Callable[[Settings], None]
) -> None:
    url = tls[0].replace("127.0.0.1", "localhost")
    with pytest.raises((OSError, RedisError, Exception), match=r"(?i)hostname mismatch"):
        client(make_settings(f"{url}?ssl_ca_certs={tls[1]}", monkeypatch))


def test_url_without_tls_is_unchanged() -> None:
    url = "redis://:secret@127.0.0.1:6379/0"
    assert Settings(redis_url=url).redis_url == url
    with Redis.from_url(Settings(redis_url="rediss://h/0").redis_url) as client:
        assert client.connection_pool.connection_kwargs["ssl_cert_reqs"] == "required"


def test_invalid_certificate_check_gives_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="ssl_cert_reqs must be required, optional or none"):
        make_settings("rediss://h/0?ssl_cert_reqs=perhaps", monkeypatch)
