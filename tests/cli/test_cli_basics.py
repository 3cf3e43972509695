"""What holds for every command: help, versions, bad input and servers that are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rtx as package
from tests.cli.conftest import Rtx

COMMANDS = (
    *("demo", "serve", "feed", "server", "watch", "tail", "doctor", "latency", "bench", "config"),
)
CLOSED = "redis://127.0.0.1:1"


async def test_the_version_is_that_of_the_package(rtx: Rtx) -> None:
    ended = await rtx("--version")
    assert (ended.code, ended.out) == (0, f"rtx {package.__version__}\n")


async def test_help_names_every_command_and_fits_80_columns(rtx: Rtx) -> None:
    ended = await rtx("--help")
    assert ended.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in ended.out
    assert "\x1b" not in ended.out


@pytest.mark.parametrize(
    "command", [*COMMANDS[:-1], "server failover", "config show", "config check"]
)
async def test_each_command_has_examples(rtx: Rtx, command: str) -> None:
    ended = await rtx(*command.split(), "--help")
    assert ended.code == 0
    assert "Example" in ended.out
    assert f"rtx {command}" in ended.out


def test_help_loads_nothing_that_is_slow() -> None:
    slow = {"litestar", "uvicorn", "ccxt", "sqlalchemy", "httpx", "rich.live", "rtx.demo.run"}
    code = f"import sys, rtx.cli.app; sys.exit(', '.join({slow} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["watch"], {}, "RTX_URL"),
        (["tail", "1"], {}, "RTX_URL"),
        (["feed"], {}, "RTX_URL"),
        (["doctor"], {}, "RTX_URL"),
        (["latency"], {}, "RTX_URL"),
        (["serve"], {}, "--embedded"),
        (["watch"], {"RTX_URL": "embedded://"}, "this process alone"),
        (["watch"], {"RTX_FOO": "1"}, "RTX_FOO"),
        (["watch"], {"RTX_URL": "http://h"}, "unknown URL scheme 'http'"),
        (["watch", "--url", "redis://h:port"], {}, "malformed host"),
        (["watch"], {"RTX_POOL__SIZE": "none"}, "pool.size"),
        (["watch"], {"RTX_CONFIG": "none.toml"}, "none.toml"),
        (["watch"], {"RTX_URL": CLOSED}, "127.0.0.1:1"),
        (["tail", "1"], {"RTX_URL": CLOSED}, "127.0.0.1:1"),
        (["feed"], {"RTX_URL": CLOSED}, "127.0.0.1:1"),
        (["serve", "--port", "0"], {"RTX_URL": CLOSED}, "127.0.0.1:1"),
        (["bench"], {"RTX_URL": CLOSED}, "127.0.0.1:1"),
        (["latency"], {"RTX_URL": CLOSED}, "127.0.0.1:1"),
        (["feed", "none.csv"], {"RTX_URL": CLOSED}, "none.csv"),
        (["feed", "."], {"RTX_URL": CLOSED}, "a directory"),
        (["feed", "none.csv", "--speed", "fast"], {"RTX_URL": CLOSED}, "'fast'"),
        (["feed", "none.csv", "--speed", "0"], {"RTX_URL": CLOSED}, "speed"),
        (["feed", "--rate", "-1"], {"RTX_URL": CLOSED}, "rate"),
        (["feed", "--symbol", "NONE"], {"RTX_URL": CLOSED}, "NONE"),
        (["demo", "--speed", "fast"], {}, "'fast'"),
        (["demo", "--replay", "none.csv"], {}, "none.csv"),
        (["bench", "--json", "no/such/dir.json"], {"RTX_URL": CLOSED}, "no/such/dir.json"),
        (["config", "check", "none.toml"], {}, "none.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_bad_input_and_outages_are_one_line(
    rtx: Rtx, arguments: list[str], env: dict[str, str], said: str
) -> None:
    ended = await rtx(*arguments, env=env)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    assert said in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["wacth"], "wacth"),
        (["tail"], "account"),
        (["tail", "one"], "account"),
        (["tail", "1", "--after", "42"], "epoch:seq"),
        (["watch", "--count", "0"], "count"),
        (["watch", "--limit", "orders"], "orders:1"),
        (["tail", "1", "--last", "5", "--after", "e:1"], "exclude each other"),
        (["tail", "1", "--no-executions", "--no-alerts"], "nothing to follow"),
        (["latency", "--rate", "5000"], "rate"),
        (["serve", "--port", "70000"], "port"),
        (["feed", "--source", "replay"], "FILE"),
        (["feed", "--speed", "60"], "--speed means nothing"),
        (["feed", "f.csv", "--symbol", "A,B"], "one --symbol"),
        (["feed", "--source", "oanda"], "--account and --symbol"),
        (["server", "--topology", "ring"], "topology"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
async def test_wrong_usage_ends_with_2_and_names_the_help(
    rtx: Rtx, arguments: list[str], said: str
) -> None:
    ended = await rtx(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "help" in ended.err


async def test_an_error_has_no_colour_in_a_pipe_and_a_password_is_not_shown(rtx: Rtx) -> None:
    ended = await rtx("watch", env={"RTX_URL": "redis://alice:s3cret@127.0.0.1:1"})
    assert ended.code == 1
    assert "s3cret" not in ended.err
    assert "\x1b" not in ended.err


async def test_the_settings_file_is_read(rtx: Rtx, tmp_path: Path) -> None:
    (tmp_path / "rtx.toml").write_text(f'url = "{CLOSED}"\n')
    ended = await rtx("watch")
    assert "127.0.0.1:1" in ended.err
