"""Lua scripts kept in `.lua` files, called by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources

from rtx.errors import ServerError
from rtx.wire.caller import Caller
from rtx.wire.options import Argument
from rtx.wire.replies import Reply

NAMES: dict[str, str] = {}
"""Names of scripts, such as `cache.fill`, by their digest and by their text."""


class Script:
    """A script and its SHA-1 digest.

    `run` sends EVALSHA; a server that does not know the script (restarted, flushed, failed over)
    has not run it, so the whole text is then sent without a risk of doing it twice. `name` is what
    it is called in traces.
    """

    __slots__ = ("sha", "text")

    def __init__(self, text: str, name: str | None = None) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        if name is not None:
            NAMES[self.sha] = NAMES[text] = name

    @classmethod
    def load(cls, package: str, name: str) -> Script:
        """The script `lua/{name}.lua` of a package."""
        text = (resources.files(package) / "lua" / f"{name}.lua").read_text("utf-8")
        return cls(text, f"{package}.{name}".removeprefix("rtx."))

    async def run(
        self,
        caller: Caller,
        keys: Sequence[str],
        *args: Argument,
        timeout: float | None = None,
    ) -> Reply:
        """Run the script; all keys must be in one cluster slot. Raises as `Caller.call`.

        `timeout` in seconds bounds each of the two calls that this may take.
        """
        try:
            return await caller.call("EVALSHA", self.sha, len(keys), *keys, *args, timeout=timeout)
        except ServerError as error:
            if error.prefix != "NOSCRIPT":
                raise
        return await caller.call("EVAL", self.text, len(keys), *keys, *args, timeout=timeout)
