"""Settings: where they come from, which one wins, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rtx.errors import SettingsError
from rtx.setting_groups import PoolSettings
from rtx.settings import Settings, masked_url
from rtx.urls import Credentials, Embedded, Standalone


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own, for `rtx.toml`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(**options: object) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.load(**options)
    assert error.value.__cause__ is None
    return str(error.value)


# --- sources -------------------------------------------------------------------------------


def test_without_any_source_the_defaults_are_the_documented_ones() -> None:
    settings = Settings.load()
    assert settings.location("cache") == settings.location("limits") == Embedded()
    pool = settings.pool
    assert (pool.size, pool.min_idle, pool.max_age, pool.pool_timeout) == (100, 10, 300, 4)
    assert (pool.idle_timeout, pool.read_timeout, pool.write_timeout) == (300, 3, 3)
    assert pool.max_retries == 3
    ttl = settings.ttl
    assert (ttl.account, ttl.price, ttl.positions, ttl.symbol, ttl.session) == (
        *(60, 1, 30, 3600, 86_400),
    )
    limits = settings.named_limits
    assert (limits["api"].limit, limits["api"].per) == (100, 60)
    assert (limits["orders"].limit, limits["orders"].per) == (10, 1)


def test_options_go_before_the_environment_and_that_before_the_file(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "rtx.toml").write_text(
        'namespace = "file"\nclient_name = "file"\n[pool]\nsize = 1\nmin_idle = 1\nmax_retries = 1'
    )
    monkeypatch.setenv("RTX_CLIENT_NAME", "environment")
    monkeypatch.setenv("RTX_POOL__SIZE", "2")
    monkeypatch.setenv("RTX_POOL__MIN_IDLE", "2")
    settings = Settings.load(pool={"size": 3})
    assert (settings.namespace, settings.client_name) == ("file", "environment")
    assert (settings.pool.size, settings.pool.min_idle, settings.pool.max_retries) == (3, 2, 1)


def test_an_option_that_is_none_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTX_NAMESPACE", "environment")
    assert Settings.load(namespace=None).namespace == "environment"


def test_rtx_config_names_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "rtx.toml").write_text('namespace = "here"')
    (here / "other.toml").write_text('namespace = "other"')
    monkeypatch.setenv("RTX_CONFIG", str(here / "other.toml"))
    assert Settings.load().namespace == "other"
    monkeypatch.setenv("RTX_CONFIG", "missing.toml")
    assert refused() == "RTX_CONFIG names missing.toml, which does not exist"


def test_variables_of_any_case_and_maps_of_limits_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("rtx_pool__size", "7")
    monkeypatch.setenv("RTX_LIMITS__QUOTES__LIMIT", "5")
    monkeypatch.setenv("RTX_LIMITS__QUOTES__PER", "250ms")
    settings = Settings.load()
    assert settings.pool.size == 7
    assert settings.named_limits["quotes"].per == 0.25
    assert set(settings.named_limits) == {"api", "orders", "quotes"}


def test_each_role_may_have_a_url_of_its_own() -> None:
    settings = Settings.load(url="redis://one", limits_url="redis://two/7")
    assert settings.location("cache") == settings.location("pubsub")
    limits = settings.location("limits")
    assert isinstance(limits, Standalone)
    assert (limits.address.host, limits.db) == ("two", 7)


# --- durations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (2, 2.0),
        (0.5, 0.5),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1d", 86_400.0),
        ("100 ms", 0.1),
    ],
)
def test_durations_may_have_units(text: object, seconds: float) -> None:
    assert Settings.load(ttl={"price": text}).ttl.price == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "ms", "one", "1w", "-1s", "0", 0, "0ms", "inf", "nan s"])
def test_what_is_no_duration_is_refused_by_its_field(text: object) -> None:
    assert refused(ttl={"price": text}).startswith("bad settings: ttl.price: ")


# --- refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"poool": 1}, "poool: unknown field; known are alerts, cache, cache_login,"),
        ({"pool": {"siz": 1}}, "pool.siz: unknown field; known are connect_timeout, idle_timeout"),
        (
            {"limits": {"api": {"limits": 1, "limit": 1, "per": 1}}},
            "known are algorithm, limit, per,",
        ),
        ({"gateway": {"users": {"ann": {"hash": "x"}}}}, "known are accounts, password_hash"),
        ({"limits": {"api": {"limit": 5}}}, "limits.api.per: Field required"),
        ({"pool": {"size": 0}}, "pool.size: Input should be greater than or equal to 1"),
        ({"pool": {"size": "many"}}, "pool.size: Input should be a valid integer"),
        ({"pool": {"max_reply": 10}}, "pool.max_reply: "),
        ({"namespace": "{tag}"}, "namespace: "),
        ({"client_name": "two words"}, "client_name: "),
        ({"url": "http://host"}, "url: unknown URL scheme 'http'; use redis://host:6379"),
        ({"limits_url": "redis://h/x"}, "limits_url: the database in a redis URL is a number"),
        ({"login": {"username": "me"}}, "login: a username needs a password"),
        ({"tls": {"key": "key.pem"}}, "tls: a key needs its cert"),
        ({"gateway": {"auth": "none"}}, "gateway.auth: Input should be 'required' or 'open'"),
    ],
)
def test_a_bad_field_is_named_with_what_it_should_be(
    options: dict[str, object], words: str
) -> None:
    assert words in refused(**options)


def test_every_bad_field_is_named_at_once() -> None:
    said = refused(pool={"size": 0, "min_idle": -1}, namespace="{}")
    assert all(name in said for name in ("pool.size", "pool.min_idle", "namespace"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("RTX_POOL_SIZE", "5", "unknown environment variable RTX_POOL_SIZE; known are RTX_CONFIG"),
        ("RTX_UR", "x", "RTX_URL"),
        ("RTX_URL__HOST", "x", "unknown environment variable RTX_URL__HOST"),
        ("RTX_CONFIG__X", "x", "unknown environment variable RTX_CONFIG__X"),
        ("RTX_POOL__SIZ", "5", "pool.siz: unknown field; known are connect_timeout"),
        ("RTX_POOL", "{not json", 'field "pool"'),
        ("RTX_POOL", "5", "pool: "),
    ],
)
def test_a_bad_variable_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    assert words in refused()


def test_a_bad_file_is_named_with_the_line(here: Path) -> None:
    path = here / "rtx.toml"
    path.write_text('url = "redis://host"\nnamespace = bare\n')
    assert "rtx.toml cannot be read as TOML: Invalid value (at line 2, column 13)" in refused()
    path.write_bytes(b"\xff")
    assert "rtx.toml cannot be read as TOML: " in refused()
    path.write_text("pol = 1")
    assert "pol: unknown field; known are" in refused()
    path.unlink()
    path.mkdir()
    assert "rtx.toml cannot be read as TOML: " in refused()


def test_settings_are_frozen() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.namespace = "other"
    with pytest.raises(ValidationError):
        settings.pool.size = 5
    assert isinstance(settings.pool, PoolSettings)


# --- secrets -------------------------------------------------------------------------------


def test_no_text_of_the_settings_has_a_secret(here: Path) -> None:
    (here / "password").write_text("hunter2\n")
    settings = Settings.load(
        url="redis://user:hunter2@host",
        cache_url="rediss://:hunter2@host/1",
        database_url="postgresql+asyncpg://user:hunter2@host/db?password=hunter2",
        login={"password": "hunter2"},
        limits_login={"username": "me", "password_file": here / "password"},
        gateway={"users": {"ann": {"password_hash": "hunter2"}}},
    )
    texts = [
        *(str(settings), repr(settings), f"{settings}"),
        *(settings.model_dump_json(), str(settings.model_dump()), repr(settings.login)),
        *(repr(settings.location(role)) for role in ("cache", "pubsub", "limits")),
    ]
    for text in texts:
        assert "hunter2" not in text
    assert '"url":"redis://user:***@host"' in settings.model_dump_json()


@pytest.mark.parametrize(
    "options",
    [
        {"url": "redis://:hunter2@host:port"},
        {"url": "redis://:hunter2/x@host"},
        {"url": "hunter2"},
        {"url": "redis://:hunter2@host", "pool": {"size": 0}},
        {"url": "redis://:hunter2@host", "nonsense": 1},
        {"login": {"password": "hunter2", "password_file": "x"}},
        {"login": {"password": ["hunter2"]}},
        {"gateway": {"users": {"ann": {"password_hash": ["hunter2"]}}}},
    ],
)
def test_no_error_of_the_settings_has_a_secret(options: dict[str, object]) -> None:
    assert "hunter2" not in refused(**options)
    with pytest.raises(ValidationError) as raw:
        Settings(**options)  # type: ignore[arg-type]
    assert "hunter2" not in str(raw.value)


def test_no_error_about_a_variable_has_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTX_LOGIN", '{"password": "hunter2"')
    assert "hunter2" not in refused()
    monkeypatch.setenv("RTX_LOGIN", '{"password": "hunter2", "user": "x"}')
    assert "hunter2" not in refused()


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://user:hunter2@host/0", "redis://user:***@host/0"),
        ("redis://:hunter2@host", "redis://:***@host"),
        ("postgresql://u:hun/ter2@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u:hun@ter2@host/db", "postgresql://u:***@host/db"),
        ("postgresql://u:a/b@hunter2@host/db", "postgresql://u:***@host/db"),
        ("postgresql://host/db?password=hunter2", "postgresql://host/db?password=***"),
        (
            "postgresql://host/db?ssl=on&sslpassword=hunter2&x=1",
            "postgresql://host/db?ssl=on&sslpassword=***&x=1",
        ),
        ("unix://user:hunter2@/run/redis.sock", "unix://user:***@/run/redis.sock"),
        ("sqlite+aiosqlite:///dir@host/x.db", "sqlite+aiosqlite:///dir@host/x.db"),
        ("embedded://some@dir", "embedded://some@dir"),
    ],
)
def test_urls_are_masked_wherever_the_password_is(url: str, masked: str) -> None:
    assert masked_url(url) == masked


# --- logins --------------------------------------------------------------------------------


def login_of(settings: Settings, role: str) -> Credentials:
    location = settings.location(role)  # type: ignore[arg-type]
    assert isinstance(location, Standalone)
    return location.credentials


def test_the_nearest_login_wins(here: Path) -> None:
    (here / "secret").write_text("from file\n")
    settings = Settings.load(
        url="redis://host",
        cache_url="redis://own:url@host",
        login={"password": "general"},
        cache_login={"username": "a", "password": "unused"},
        limits_login={"username": "limiter", "password_file": here / "secret"},
    )
    assert login_of(settings, "cache") == Credentials("own", "url")
    assert login_of(settings, "pubsub") == Credentials(None, "general")
    assert login_of(settings, "limits") == Credentials("limiter", "from file")


def test_a_password_file_that_cannot_be_read_is_named(here: Path) -> None:
    settings = Settings.load(url="redis://host", login={"password_file": here / "missing"})
    with pytest.raises(SettingsError, match=r"password_file .*missing cannot be read"):
        settings.location("cache")


@pytest.mark.parametrize("field", ["ca", "cert"])
def test_a_tls_file_that_cannot_be_used_is_named(here: Path, field: str) -> None:
    path = here / "x.pem"
    settings = Settings.load(tls={field: path})
    for text in (None, "no PEM"):
        if text is not None:
            path.write_text(text)
        with pytest.raises(SettingsError, match=r"TLS files cannot be used \(.*x\.pem\)"):
            settings.tls.context()
