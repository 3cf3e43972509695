"""The page of metrics names every metric there is, with its kind and its labels."""

from __future__ import annotations

import re

import rtx
from rtx.gateway import create_app
from rtx.monitoring import server_names as names
from rtx.monitoring.families import Families
from rtx.monitoring.metrics import families
from rtx.monitoring.server_facts import Facts, Service
from rtx.monitoring.servers import describe
from rtx.settings import Settings
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reference" / "metrics.md"
Described = dict[str, tuple[str, frozenset[str]]]


def documented(prefix: str) -> Described:
    rows = re.findall(
        rf"^\| `({prefix}_\w+)` \| (\w+) \|([^|]*)\| (\S.*) \|$", PAGE.read_text("utf-8"), re.M
    )
    found = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows
    }
    assert len(found) == len(rows), "a metric is there twice"
    return found


def described(out: Families, but: frozenset[str] = frozenset()) -> Described:
    found: Described = {}
    for family in out:
        labels = frozenset(family._labelnames) - but
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, labels)
    return found


async def test_every_metric_of_a_process_is_there(shared_server: str) -> None:
    settings = Settings.load(
        url=shared_server,
        cache={"near": ("accounts",)},
        concurrency={"orders": {"limit": 1}},
    )
    async with rtx.open(settings) as layer:
        layer.feeds.came([rtx.Tick("A", bid=1.0, ask=2.0)])
        assert described(families(layer, create_app(layer).state.gateway)) == documented("rtx")


def test_every_metric_of_a_server_is_there() -> None:
    numbers = dict.fromkeys([*names.GAUGES, *names.COUNTERS, "server_time_usec"], "1")
    lines = {
        "db0": "keys=1,expires=1,avg_ttl=1",
        "cmdstat_get": "calls=1,usec=1,rejected_calls=0,failed_calls=0",
        "errorstat_ERR": "count=1",
        "slave0": "ip=a,port=1,state=online,offset=1,lag=0",
        "master0": "name=m,status=ok,address=a:1,slaves=1,sentinels=1",
    }
    primary = Facts(
        info={k: v for k, v in numbers.items() if k != "sentinel_masters"} | lines,
        latencies=[("command", 1, 1)],
        slow_length=1,
        certificate_ends=1.0,
    )
    replica = Facts(info={"role": "slave", **dict.fromkeys(names.MASTER_LINK, "up")})
    master = {"name": "m", **dict.fromkeys(names.SENTINEL_SETTINGS, "1")}
    sentinel = Facts(info=numbers | lines, service=Service(master=master))
    out = Families()
    own = {"instance": "s", "group": "all"}
    for facts in (primary, replica, sentinel):
        describe(out, facts, own)
    assert described(out, frozenset(own)) == documented("redis")
