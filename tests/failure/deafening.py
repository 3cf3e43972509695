"""A proxy that makes connections deaf or dead while those that are opened later may be sound."""

from __future__ import annotations

import asyncio
import re

from tests.wire.faults import Faults, Proxy

_MESSAGE = re.compile(rb">3\r\n\$7\r\nmessage\r\n\$\d+\r\n[^\r]*\r\n\$(\d+)\r\n")


def without_messages(data: bytes) -> bytes:
    """A server's bytes without the messages of channels; each must be whole."""
    kept, place = b"", 0
    for found in _MESSAGE.finditer(data):
        if found.start() >= place:
            kept += data[place : found.start()]
            place = found.end() + int(found[1]) + 2
    return kept + data[place:]


class Deafening(Proxy):
    """Drops messages (`deafen`) or everything (`silence`), both ways, and closes nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._deaf = 0  # connections up to this number
        self._silent = 0  # the connection of this number

    def deafen(self, *, later_ones_too: bool = False) -> None:
        """Hand on no message of any channel on the connections that are open."""
        self._deaf = 1_000_000 if later_ones_too else self.accepted

    def silence(self) -> None:
        """Hand on nothing at all on the newest connection, as after a lost RST."""
        self._silent = self.accepted

    def heal(self) -> None:
        """Hand on everything again."""
        self._deaf = self._silent = 0

    def inject(self, command: bytes) -> None:
        """Send a command to the server on every connection."""
        for server in self._links.values():
            assert server is not None
            server.write(command)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        faults: Faults,
    ) -> None:
        number = self.accepted
        while data := await reader.read(65536):
            await self._thawed.wait()
            if number != self._silent and not writer.is_closing():
                writer.write(data)

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults
    ) -> None:
        number = self.accepted
        while data := await reader.read(65536):
            await self._thawed.wait()
            if number <= self._deaf:
                data = without_messages(data)
            if number != self._silent and not writer.is_closing():
                writer.write(data)
