"""`rtx config`: what is in force and from where, what is wrong, a starter, password hashes."""

from __future__ import annotations

import json
import os
import pty
import re
from contextlib import suppress
from pathlib import Path

import pytest

from rtx.cli.starter import starter
from rtx.gateway.passwords import verify_password
from rtx.settings import Settings
from tests.cli.conftest import Rtx
from tests.conftest import eventually

UNSET = (
    *("cache_url", "pubsub_url", "limits_url", "database_url", "username", "password"),
    *("password_file", "password_hash", "accounts", "ca", "cert", "key", "max_jump"),
    *("max_jump_of", "concurrency"),
)
"""Settings without a default, of which the starter file shows the form only."""


async def test_show_says_where_each_setting_comes_from_and_masks_secrets(
    rtx: Rtx, tmp_path: Path
) -> None:
    (tmp_path / "rtx.toml").write_text(
        '[pool]\nsize = 20\n[gateway.users.alice]\npassword_hash = "s3cret"\naccounts = [1]\n'
    )
    ended = await rtx(
        "config",
        "show",
        "--json",
        env={"RTX_URL": "redis://bob:s3cret@h:1", "RTX_POOL__MIN_IDLE": "3"},
    )
    shown = json.loads(ended.out)
    assert "s3cret" not in ended.out
    assert shown["settings"]["url"] == "redis://bob:***@h:1"
    assert shown["settings"]["pool"]["size"] == 20
    assert shown["settings"]["limits"]["orders"] == {
        "limit": 10,
        "per": 1.0,
        "algorithm": "sliding_log",
        "when_down": "closed",
    }
    assert shown["origins"]["url"] == "RTX_URL"
    assert shown["origins"]["pool.size"] == "rtx.toml"
    assert shown["origins"]["pool.min_idle"] == "RTX_POOL__MIN_IDLE"
    assert shown["origins"]["pool.max_age"] == "default"
    assert shown["origins"]["gateway.users.alice.accounts"] == "rtx.toml"


async def test_show_is_a_line_a_setting(rtx: Rtx) -> None:
    ended = await rtx("config", "show", "--url", "redis://h:1")
    assert re.search(r'^url +"redis://h:1" +--url$', ended.out, re.M)
    assert re.search(r"^pool\.size +100 +default$", ended.out, re.M)


async def test_check_finds_every_problem_at_once(rtx: Rtx, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("nonsense = 1\n[pool]\nsize = 0\n[ttl]\nprice = -1\n")
    ended = await rtx("config", "check", bad)
    assert ended.code == 1
    assert ended.err.count("error: ") == 3
    for said in ("nonsense: ", "pool.size: ", "ttl.price: "):
        assert said in ended.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("url = ", "cannot be read as TOML"),
        ('[gateway.users.a]\npassword_hash = "x"', "hash-password"),
        ('database_url = "mysql://h/db"', "database URL"),
        ('url = "redis://h"\n[ttl]\nprice = "soon"', "ttl.price"),
    ],
    ids=lambda text: text.split()[0],
)
async def test_check_finds_what_would_fail_only_later(
    rtx: Rtx, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "rtx.toml").write_text(text)
    ended = await rtx("config", "check")
    assert ended.code == 1
    assert said in ended.err


async def test_check_names_an_unknown_variable_besides_the_rest(rtx: Rtx, tmp_path: Path) -> None:
    (tmp_path / "rtx.toml").write_text("nonsense = 1")
    ended = await rtx("config", "check", env={"RTX_NONE": "1"})
    assert "RTX_NONE" in ended.err
    assert "nonsense: " in ended.err


async def test_the_starter_file_passes_its_check(rtx: Rtx, tmp_path: Path) -> None:
    ended = await rtx("config", "render")
    (tmp_path / "rtx.toml").write_text(ended.out)
    checked = await rtx("config", "check")
    assert (checked.code, checked.out) == (0, "ok: rtx.toml\n")


@pytest.mark.parametrize("uncommented", [False, True])
def test_the_starter_file_has_every_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncommented: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = Settings.load()
    text = starter()
    if uncommented:
        text = re.sub(rf"^#(?=\w+ = )(?!({'|'.join(UNSET)}) = )", "", text, flags=re.M)
    (tmp_path / "rtx.toml").write_text(text)
    loaded = Settings.load()
    for name in Settings.model_fields:
        if name != "limits":
            assert getattr(loaded, name) == getattr(defaults, name)
    assert loaded.named_limits == defaults.named_limits


def test_the_starter_file_names_every_setting_and_fits_the_page() -> None:
    text = starter()
    assert max(map(len, text.splitlines())) <= 100
    for name, field in Settings.model_fields.items():
        assert re.search(rf"^#?(\[{name}[\].]|{name} = )", text, re.M), name
        inner = getattr(field.annotation, "model_fields", {})
        for part in inner:
            assert re.search(rf"^#?({part} = |\[{name}\.{part})", text, re.M), f"{name}.{part}"


async def test_a_password_from_standard_input_is_hashed(rtx: Rtx) -> None:
    ended = await rtx("config", "hash-password", stdin=b"correct horse\n")
    assert verify_password("correct horse", ended.out.strip())
    assert ended.err == ""


async def test_an_empty_password_is_refused(rtx: Rtx) -> None:
    ended = await rtx("config", "hash-password", stdin=b"\n")
    assert ended.code == 1
    assert ended.err.startswith("error: an empty password")


async def test_in_a_terminal_it_asks_twice_and_shows_nothing(rtx: Rtx) -> None:
    screen, terminal = pty.openpty()
    os.set_blocking(screen, False)
    hashing = await rtx.start("config", "hash-password", stdin_file=terminal, stderr_file=terminal)
    os.close(terminal)
    shown = ""

    def asked(times: int) -> bool:
        nonlocal shown
        with suppress(BlockingIOError, OSError):
            shown += os.read(screen, 4096).decode()
        return shown.count(": ") >= times

    for times in (1, 2):
        await eventually(lambda times=times: asked(times))
        os.write(screen, b"correct horse\n")
    ended = await hashing.end()
    os.close(screen)
    assert "correct" not in shown
    assert verify_password("correct horse", ended.out.strip())
