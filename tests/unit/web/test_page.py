"""The page lists its modules."""

from __future__ import annotations

import re
from pathlib import Path

from flask.testing import FlaskClient

from shared.config import Settings
from shared.queue import InMemoryQueue
from web import create_app
from web.page import ENTRY, modules_of

STATIC = Path(__file__).parents[3] / "web" / "static"


def linked(html: str, rel: str) -> list[str]:
    return re.findall(rf'<link rel="{rel}" href="/static/(js/[^"]+)">', html)


def make_client(settings: Settings) -> FlaskClient:
    return create_app(settings, queue=InMemoryQueue()).test_client()


def test_every_module_of_the_page_is_listed_once(settings: Settings) -> None:
    html = make_client(settings).get("/").text
    now, later = linked(html, "modulepreload"), linked(html, "later")
    assert sorted(now + later) == sorted(str(path.relative_to(STATIC)) for path in (STATIC / "js").glob("*.js"))
    assert now[0] == ENTRY
    assert "js/job.js" in later


def test_page_of_a_share_link_needs_all_modules_at_once(settings: Settings) -> None:
    html = make_client(settings).get("/s/abc").text
    assert "js/job.js" in linked(html, "modulepreload")
    assert linked(html, "later") == []


def test_page_that_has_not_changed_is_not_sent_again(settings: Settings) -> None:
    client = make_client(settings)
    first = client.get("/", headers={"Accept-Encoding": "gzip"})
    assert first.headers["Cache-Control"] == "no-cache"
    again = client.get("/", headers={"Accept-Encoding": "gzip", "If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304


def test_imports_are_told_from_types_and_comments(tmp_path: Path) -> None:
    (tmp_path / "js").mkdir()
    sources = {
        "main.js": """
            /** @param {import("./type.js").Type} a */
            import { one, // a comment
              two } from "./a.js";
            // import { three } from "./comment.js";
            const load = () => import("./b.js");
            const words = "import";
        """,
        "a.js": 'import "./c.js";\nexport { four } from "./main.js";\n',
        "b.js": 'import { two } from "./a.js";\nimport d from "./d.js";\n',
        "c.js": "",
        "d.js": "",
    }
    for name, source in sources.items():
        (tmp_path / "js" / name).write_text("\n".join(line.strip() for line in source.splitlines()))
    now, later = modules_of(tmp_path, ENTRY)
    assert now == ("js/main.js", "js/a.js", "js/c.js")
    assert later == ("js/b.js", "js/d.js")
