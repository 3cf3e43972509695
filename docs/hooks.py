"""What the site's builder is told: links that leave the documentation become plain names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """A page before it is made HTML. `../examples/` is a link on the code's site, and none here."""
    depth = len(PurePosixPath(page.file.src_uri).parts) - 1

    def plain(link: re.Match[str]) -> str:
        ups = len(re.findall(r"\.\./", link[2]))
        return f"`{link[1]}`" if ups > depth else link[0]

    return _LINK.sub(plain, markdown)
