"""The files of the pages, which need no token: they hold nothing of a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_files(folder: Path) -> dict[str, Path]:
    """Returns the files of a page by the paths of their URLs.

    A path that is not there is no file, so none leads out of the folder.
    """
    files = (path for path in sorted(folder.iterdir()) if path.suffix in TYPES)
    return {"/" if path.name == "index.html" else f"/{path.name}": path for path in files}


FILES = page_files(Path(__file__).parent / "page")
# Other pages of the package load these, too.
SHARED = {path: FILES[path] for path in ("/base.css", "/dom.js", "/icon.svg")}
# The page loads nothing from elsewhere, runs no text as a script, stands in no other page, and
# sends its forms nowhere. With trusted types a browser refuses text as HTML, too.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a browser asks each time whether its copy is the present one
}
OF_THE_ICON = {"Cache-Control": "max-age=3600"}  # Chromium asks for it at each change of the address's hash


def file_headers(path: Path, content: bytes) -> dict[str, str]:
    """Returns the headers of a file; its ETag is a checksum of the content."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    more = OF_THE_ICON if path.suffix == ".svg" else {}
    return {**HEADERS, **more, "Content-Type": TYPES[path.suffix], "ETag": etag}


def is_known(etag: str, if_none_match: str | None) -> bool:
    """Returns whether a client that sends `If-None-Match` has the content of an ETag already."""
    if if_none_match is None:
        return False
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in if_none_match.split(","))
