"""URLs: one frozen type per topology, or a sentence that says what is wrong and no secret."""

from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtx.errors import SettingsError
from rtx.urls import (
    Address,
    Cluster,
    Credentials,
    Embedded,
    Location,
    Sentinel,
    Standalone,
    parse,
    with_credentials,
)


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("redis://", Standalone(Address("127.0.0.1", 6379))),
        ("redis://host", Standalone(Address("host", 6379))),
        ("valkey://host:7000/3", Standalone(Address("host", 7000), db=3)),
        ("redis://host?db=4", Standalone(Address("host", 6379), db=4)),
        ("redis://host/", Standalone(Address("host", 6379))),
        ("redis://[::1]:7000", Standalone(Address("::1", 7000))),
        ("rediss://host", Standalone(Address("host", 6379), tls=True)),
        ("valkeys://host", Standalone(Address("host", 6379), tls=True)),
        ("redis://:pw@host", Standalone(Address("host", 6379), Credentials(None, "pw"))),
        ("redis://me:pw@host", Standalone(Address("host", 6379), Credentials("me", "pw"))),
        ("redis://me:p@w:@host", Standalone(Address("host", 6379), Credentials("me", "p@w:"))),
        ("redis://me:p%2Fw%40@host", Standalone(Address("host", 6379), Credentials("me", "p/w@"))),
        ("unix:///run/redis.sock", Standalone(Address("", 0, "/run/redis.sock"))),
        ("unix:///run/with@sign?db=2", Standalone(Address("", 0, "/run/with@sign"), db=2)),
        (
            "unix://me:pw@/run/my%20redis.sock",
            Standalone(Address("", 0, "/run/my redis.sock"), Credentials("me", "pw")),
        ),
        ("embedded://", Embedded()),
        ("embedded://data/here", Embedded("data/here")),
        ("embedded:///var/lib/rtx", Embedded("/var/lib/rtx")),
        (
            "redis+sentinel://h1,h2:26380/trading",
            Sentinel((Address("h1", 26379), Address("h2", 26380)), "trading"),
        ),
        (
            "rediss+sentinel://:pw@h1/trading/2",
            Sentinel((Address("h1", 26379),), "trading", Credentials(None, "pw"), 2, True),
        ),
        (
            "valkey+cluster://h1,h2:7001",
            Cluster((Address("h1", 6379), Address("h2", 7001))),
        ),
    ],
)
def test_each_form_has_its_type(url: str, location: Location) -> None:
    assert parse(url) == location
    hash(location)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "begins with a scheme and ://; use redis://host:6379"),
        ("host:6379", "begins with a scheme and ://"),
        ("redis:/host", "begins with a scheme and ://"),
        ("http://host", "unknown URL scheme 'http'; use redis://host:6379"),
        ("redis://host:port", "malformed host or port in a redis URL, at 'host'"),
        ("redis://host:0", "write host or host:port"),
        ("redis://host:65536", "write host or host:port"),
        ("redis://host:-1", "write host or host:port"),
        ("redis://:6379", "write host or host:port"),
        ("redis://[::1", "malformed redis URL"),
        ("redis://h1,h2", "names one host; for several use redis+sentinel:// or redis+cluster://"),
        ("redis://host/first", "the database in a redis URL is a number, not 'first'"),
        ("redis://host/1/2", "is a number, not '1/2'"),
        ("redis://host/-1", "is a number"),
        ("redis://host?db=x", "is a number, not 'x'"),
        ("redis://host?dbb=1", "unknown part in a redis URL: dbb; only ?db= is understood"),
        ("redis://host#1", "a fragment"),
        ("unix://relative/path", "a unix URL is unix:///absolute/path.sock"),
        ("unix:///", "a unix URL is unix:///absolute/path.sock"),
        ("redis+sentinel://h1", "names sentinels and a service"),
        ("redis+sentinel:///name", "names sentinels and a service"),
        ("redis+sentinel://h1,,h2/name", "write host or host:port"),
        ("redis+sentinel://h1/name/x", "is a number, not 'x'"),
        ("redis+cluster://", "names nodes only"),
        ("redis+cluster://h1/1", "names nodes only"),
    ],
)
def test_a_malformed_url_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(url)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2@host:6379",
        ":hunter2@host",
        "redis://:hunter2",
        "redis://user:hunter2",
        "redis://:hunter2/x@host:6379",
        "redis://:x/hunter2@host",
        "redis://:hunter2?x@host",
        "redis://:hunter2#x@host",
        "redis://:x#hunter2@host",
        "redis://user:hunter2@host:port",
        "redis://user:hunter2@h1,h2",
        "redis://user:hunter2@host/x",
        "redis://user:hunter2@[::1",
        "redis://:hunter2\u2100@host",
        "redis+sentinel://:hunter2@h1",
        "redis+cluster://:hunter2@h1/1",
        "redis://user:6379/hunter2@host",
        "unix://:hunter2@host/path",
        "other://:hunter2@host",
    ],
)
def test_no_error_repeats_a_password(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@host:6379/1",
        "rediss://:hunter2@host",
        "unix://user:hunter2@/run/redis.sock?db=1",
        "redis+sentinel://user:hunter2@h1,h2:26380/trading",
        "rediss+cluster://user:hunter2@h1,h2:7001",
    ],
)
def test_no_text_of_a_location_has_its_password(url: str) -> None:
    location = parse(url)
    for text in (str(location), repr(location), f"{location}"):
        assert "hunter2" not in text
    assert ":***@" in str(location)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:6379/1",
        "rediss://[::1]:7000",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://h1:26379,h2:26380/trading",
        "rediss+cluster://h1:6379,h2:7001",
        "embedded:///var/lib/rtx",
    ],
)
def test_a_location_without_secrets_reads_as_its_url(url: str) -> None:
    assert str(parse(url)) == url


def test_a_login_from_the_settings_serves_urls_without_one() -> None:
    login = Credentials("me", "pw")
    bare, own = parse("redis://host"), parse("redis://you:other@host")
    assert with_credentials(bare, login) == parse("redis://me:pw@host")
    assert with_credentials(own, login) == own
    assert with_credentials(Embedded(), login) == Embedded()


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for url in (text, f"redis://{text}", f"redis+sentinel://{text}", f"unix://{text}"):
        try:
            location = parse(url)
        except SettingsError:
            continue
        str(location)


names = st.text(alphabet=string.ascii_letters + string.digits + "-", min_size=1, max_size=20)


@given(
    user=st.none() | st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1),
    password=st.text(alphabet=st.characters(exclude_categories=("Cs",)), min_size=1),
    port=st.integers(1, 65535),
    db=st.integers(0, 10**6),
)
def test_any_login_that_is_percent_encoded_arrives_as_it_was(
    user: str | None, password: str, port: int, db: int
) -> None:
    login = f"{quote(user or '', safe='')}:{quote(password, safe='')}"
    assert parse(f"redis://{login}@host:{port}/{db}") == Standalone(
        Address("host", port), Credentials(user, password), db
    )
