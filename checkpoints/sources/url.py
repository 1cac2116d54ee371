"""Fetches a file from an address on the web, over HTTPS or HTTP, redirects followed.

The bytes go to disk as they come; what they are is for the store to verify.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from checkpoints.errors import SourceError
from checkpoints.files import CheckpointFile

_BLOCK_BYTES = 1 << 20
_AGENT = {"User-Agent": "mt3-infer-service"}


@dataclass(frozen=True)
class UrlSource:
    """The file at an address."""

    url: str
    timeout: float = 30.0  # seconds without a byte

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("https", "http"):
            raise TypeError(f"{self.url!r} is no http(s) address")

    @property
    def label(self) -> str:
        """The host."""
        return urlsplit(self.url).netloc

    def fetch(self, file: CheckpointFile, part: Path, progress: Callable[[int], None]) -> None:
        """Write the body to `part`, from its beginning."""
        request = urllib.request.Request(self.url, headers=_AGENT)  # noqa: S310 (checked above)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as body, part.open("wb") as out:  # noqa: S310
                # One byte more than promised is enough to know that it is wrong, however much it sends.
                while out.tell() <= file.size and (block := body.read(_BLOCK_BYTES)):
                    out.write(block)
                    progress(out.tell())
        except urllib.error.HTTPError as error:
            raise SourceError(f"the server answered {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise SourceError(f"no connection ({error.reason})") from error
        except (TimeoutError, HTTPException, ConnectionError) as error:
            raise SourceError(f"the connection broke off ({error or type(error).__name__})") from error
