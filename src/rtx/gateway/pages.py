"""The live page and the documentation: files of this package, served as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litestar import Request, get
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath

from rtx.gateway.problems import Refused
from rtx.gateway.replies import JsonResponse

_HERE = Path(__file__).parent
_PAGE = _HERE / "page"
_DOCS = _HERE / "docs"

# By name and not by the system's table, which differs from machine to machine.
_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain",
}
_HEADERS = {"Cache-Control": "no-cache"}


def _file(folder: Path, name: str) -> JsonResponse[bytes]:
    """A file below the folder; raises `Refused` for anything else."""
    try:
        path = (folder / name.lstrip("/")).resolve()
        kind = _TYPES.get(path.suffix)
        if kind is not None and path.is_relative_to(folder.resolve()):
            return JsonResponse(path.read_bytes(), media_type=kind, headers=_HEADERS)
    except (OSError, ValueError):  # no such file, a folder, or a name with a zero byte
        pass
    raise Refused(404, "not_found", "there is no such file")


@get("/", include_in_schema=False)
async def index() -> JsonResponse[bytes]:
    return _file(_PAGE, "index.html")


@get("/page/{path:path}", include_in_schema=False)
async def page(path: FromPath[str]) -> JsonResponse[bytes]:
    return _file(_PAGE, path)


@get(["/docs/docs.js", "/docs/docs.css"], include_in_schema=False)
async def docs_file(request: Request[Any, Any, Any]) -> JsonResponse[bytes]:
    return _file(_DOCS, request.url.path.rpartition("/")[2])


class DocsPage(OpenAPIRenderPlugin):
    """The routes as a page that needs nothing but this gateway."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return (_DOCS / "index.html").read_bytes()
