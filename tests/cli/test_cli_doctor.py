"""`rtx doctor` as a command: what it prints, to whom, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis_py

from rtx.topology.process import ServerProcess
from tests.cli.conftest import Rtx

HEALTHY = {"maxmemory": "100mb", "appendonly": "yes", "latency-monitor-threshold": "100"}
FIELDS = {"severity", "check", "title", "evidence", "why", "fix", "server", "roles"}


@pytest.fixture
async def client(own_server: ServerProcess) -> AsyncIterator[redis_py.Redis]:
    async with redis_py.Redis.from_url(own_server.url) as client:
        yield client


@pytest.fixture
async def well(rtx: Rtx, own_server: ServerProcess, client: redis_py.Redis) -> Rtx:
    """The command, set to a server that has nothing worse than a warning."""
    for name, value in HEALTHY.items():
        await client.config_set(name, value)
    rtx.env["RTX_URL"] = own_server.url
    return rtx


async def test_findings_are_readable_in_80_columns_and_the_code_is_1_when_one_is_critical(
    rtx: Rtx, own_server: ServerProcess
) -> None:
    rtx.env["RTX_URL"] = own_server.url
    ended = await rtx("doctor")
    assert ended.code == 1
    assert "CRITICAL  state is not persisted\n  check state-not-persisted\n" in ended.out
    for name in ("seen", "why", "fix"):
        assert f"\n  {name:<5} " in ended.out
    assert max(map(len, ended.lines)) <= 80
    assert "\x1b" not in ended.out
    assert "1 critical finding, " in ended.out
    order = [line.split()[0] for line in ended.lines if re.match(r"[A-Z]{4,}  ", line)]
    assert order == sorted(order, key=("CRITICAL", "WARNING", "INFO").index)


async def test_the_code_is_0_where_what_is_shown_is_no_worse_than_a_note(well: Rtx) -> None:
    shown = await well("doctor", "--severity", "critical")
    assert shown.code == 0
    assert "WARNING" not in shown.out
    assert "0 critical findings" in shown.out
    notes = await well("doctor", "--only", "default-user-may-do-all,no-conf-file")
    assert notes.code == 0
    assert notes.out.count("\nINFO  ") == 2
    assert "2 notes; 2 checks" in notes.out


async def test_json_has_the_documented_fields_and_the_code_is_3_for_a_warning(well: Rtx) -> None:
    ended = await well("doctor", "--json")
    assert ended.code == 3
    report = json.loads(ended.out)
    assert set(report) == {"servers", "findings", "unseen", "checks"}
    [server] = report["servers"]
    assert set(server) == {"url", "roles", "part", "version"}
    assert server["part"] == "primary"
    assert all(set(finding) == FIELDS for finding in report["findings"])


async def test_who_may_not_look_is_told_where_and_why(well: Rtx, client: redis_py.Redis) -> None:
    await client.execute_command(
        "ACL", "SETUSER", "app", "on", ">pw", "-@all", "+@connection", "+info", "+role"
    )
    more = {"RTX_LOGIN__USERNAME": "app", "RTX_LOGIN__PASSWORD": "pw"}
    ended = await well("doctor", env=more)
    assert "COULD NOT LOOK  at CONFIG GET\n" in ended.out
    assert "NOPERM" in ended.out
    assert "not made: " in ended.out
    assert max(map(len, ended.lines)) <= 80


async def test_a_wrong_password_is_a_finding_and_is_not_shown(
    well: Rtx, client: redis_py.Redis
) -> None:
    await client.config_set("requirepass", "right")
    ended = await well("doctor", env={"RTX_LOGIN__PASSWORD": "s3cret-guess"})
    assert ended.code == 1
    assert "CRITICAL  the login was refused" in ended.out
    assert "s3cret" not in ended.out + ended.err


async def test_the_command_finds_nobody_at_home(rtx: Rtx) -> None:
    ended = await rtx("doctor", "--url", "redis://127.0.0.1:1")
    assert ended.code == 1
    assert "CRITICAL  cannot be reached" in ended.out
    assert ended.out.count("CRITICAL") == 1


async def test_a_check_that_there_is_not_is_one_line(rtx: Rtx) -> None:
    ended = await rtx("doctor", "--url", "redis://127.0.0.1:1", "--only", "no-such")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: there is no check 'no-such'; they are access-denied, ")


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "NO_COLOR"])
async def test_in_a_terminal_it_is_coloured_unless_that_is_not_wanted(
    rtx: Rtx, own_server: ServerProcess, colour: bool
) -> None:
    rtx.env |= {"RTX_URL": own_server.url, "TERM": "xterm-256color"}
    ours, theirs = pty.openpty()
    running = await rtx.start("doctor", env={} if colour else {"NO_COLOR": "1"}, stdout=theirs)
    os.close(theirs)
    out, ended = await asyncio.gather(asyncio.to_thread(_all_of, ours), running.end())
    assert ended.code == 1
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert "CRITICAL  state is not persisted" in plain
    assert max(map(len, plain.splitlines())) <= 80
    coloured = re.search(r"\x1b\[[0-9;]*31[0-9;]*mCRITICAL", out)
    assert bool(coloured) == colour


def _all_of(descriptor: int) -> str:
    """What a terminal was shown; reading fails at the end, when nobody has it open any more."""
    read = b""
    try:
        while part := os.read(descriptor, 65536):
            read += part
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return read.decode()
