"""How gunicorn runs the web process. `WEB_CONCURRENCY` and `--bind` are gunicorn's own."""

import os

worker_class = "gthread"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
threads = 24  # uploads and waiting polls sit in threads
timeout = 120
graceful_timeout = 10
keepalive = 15
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108, PTH112 - gunicorn's advice
control_socket_disable = True
