"""A server of our own: started with the layer, restarted when it dies, gone with the layer."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from rtx import urls
from rtx.errors import RtxError, SettingsError
from rtx.topology.base import Manner
from rtx.topology.process import ServerProcess
from rtx.topology.standalone import StandaloneTopology
from rtx.wire.connection import Connection, OnPush

_RESTART_AFTER = 1.0
_RESTART_AT_MOST_EVERY = 5.0


class EmbeddedTopology:
    """Runs one server, supervises it, and dials it over its unix socket.

    With a directory the data outlives the process (append-only file, synced every second). Without
    one it lives in a temporary directory and goes with us. Other programs reach it at `public_url`.
    """

    def __init__(self, location: urls.Embedded, manner: Manner) -> None:
        self._location = location
        self._manner = manner
        self._directory: Path | None = None
        self._lock: IO[str] | None = None
        self._process: ServerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._standalone: StandaloneTopology | None = None
        self._told: list[Callable[[], None]] = []
        self.restarts = 0

    @property
    def process(self) -> ServerProcess:
        """The server's process; the layer must be open."""
        if self._process is None:
            raise SettingsError("the embedded server is not started; open the layer first")
        return self._process

    @property
    def public_url(self) -> str:
        return self.process.url

    def on_change(self, told: Callable[[], None]) -> None:
        """Call `told` when the server runs again."""
        self._told.append(told)

    async def open(self) -> None:
        config = {}
        if self._location.directory:
            self._directory, self._lock = claim_directory(self._location.directory)
            config = {"appendonly": "yes", "appendfsync": "everysec"}
        else:
            self._directory = Path(tempfile.mkdtemp(prefix="rtx-"))
        try:
            self._process = ServerProcess(self._directory, config=config)
            await self._process.start()
        except BaseException:
            await self.close()
            raise
        location = urls.Standalone(self._process.local)
        self._standalone = StandaloneTopology(location, self._manner)
        self._supervisor = asyncio.create_task(self._supervise(), name="rtx-embedded")

    async def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
        if self._lock is not None:
            self._lock.close()
        elif self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    async def dial(
        self,
        db: int,
        on_close: Callable[[Connection], None],
        on_push: OnPush | None = None,
        liveness: float | None = None,
    ) -> Connection:
        if self._standalone is None:
            raise SettingsError("the embedded server is not started; open the layer first")
        return await self._standalone.dial(db, on_close, on_push, liveness)

    async def _supervise(self) -> None:
        pause = _RESTART_AFTER
        while True:
            await self.process.wait()
            await asyncio.sleep(pause)
            try:
                await self.process.start()
            except RtxError:
                pause = min(pause * 2, _RESTART_AT_MOST_EVERY)
            else:
                self.restarts += 1
                for told in self._told:
                    told()
                pause = _RESTART_AFTER


def claim_directory(name: str) -> tuple[Path, IO[str]]:
    """Create the directory and hold its lock; two servers on one set of files would ruin them."""
    directory = Path(name).expanduser().absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "rtx.lock").open("w")
    except OSError as error:
        raise SettingsError(
            f"directory {directory} cannot be used: {error.strerror}; name a writable one"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise SettingsError(
            f"{directory} is in use by another rtx process; connect to its server with RTX_URL, "
            "or name another directory"
        ) from None
    return directory, lock
