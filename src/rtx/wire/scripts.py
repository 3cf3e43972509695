"""Lua scripts kept in `.lua` files, called by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources

from rtx.errors import ServerError
from rtx.wire.caller import Caller
from rtx.wire.options import Argument
from rtx.wire.replies import Reply


class Script:
    """A script and its SHA-1 digest.

    `run` sends EVALSHA; a server that does not know the script (restarted, flushed, failed over)
    has not run it, so the whole text is then sent without a risk of doing it twice.
    """

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def load(cls, package: str, name: str) -> Script:
        """The script `lua/{name}.lua` of a package."""
        return cls((resources.files(package) / "lua" / f"{name}.lua").read_text("utf-8"))

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
