"""The demo: a server, a database, prices, a broker and the gateway in one process."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

from pydantic import SecretStr

import rtx
from rtx.database.sql import SqlDatabase
from rtx.demo.announcer import Announcer
from rtx.demo.broker import PaperBroker
from rtx.demo.risk import RiskWatch
from rtx.demo.trader import trade
from rtx.errors import FeedError
from rtx.feeds import INSTRUMENTS, FeedReport, Pump, ReplayFeed, SimulatedFeed
from rtx.gateway import create_app, serve
from rtx.layer import DataLayer
from rtx.models import SymbolSpec
from rtx.settings import Settings

_ACCOUNTS = [
    ("RTX-000001", Decimal("10000.00")),
    ("RTX-000002", Decimal("50000.00")),
    ("RTX-000003", Decimal("1000.00")),
]
_TRADER_SYMBOLS = ["EURUSD", "GBPUSD", "USDJPY", "XAUUSD"]
_PROGRESS_EVERY = 0.2


@dataclass(frozen=True)
class DemoOptions:
    """What `rtx demo` was asked for; `rate` in ticks per second, `port` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000
    replay: Path | None = None
    symbol: str | None = None
    speed: float = 1.0
    seed: int | None = None
    rate: float = 80.0
    directory: Path | None = None


@dataclass(frozen=True)
class Started:
    """Everything runs: the live page, the server for other programs, the accounts."""

    url: str
    redis_url: str
    accounts: list[int]


@dataclass(frozen=True)
class ReplayProgress:
    """How far a replay has come: `progress` from 0 to 1, `rate` in ticks per second."""

    progress: float
    published: int
    rate: float


@dataclass(frozen=True)
class ReplayDone:
    """A replay has come to its end."""

    report: FeedReport


@dataclass(frozen=True)
class Notice:
    """Something a person should know."""

    text: str


Work: TypeAlias = Callable[[], Coroutine[None, None, None]]
DemoEvent: TypeAlias = Started | ReplayProgress | ReplayDone | Notice
Report: TypeAlias = Callable[[DemoEvent], None]


async def run_demo(options: DemoOptions, stop: asyncio.Event, report: Report) -> None:
    """Run until `stop` is set; events go to `report`.

    Raises `SettingsError`, `FeedError` or `Unavailable` when it cannot start.
    """
    # A bad file is told before anything is started.
    replay = _replay(options)
    async with AsyncExitStack() as stack:
        if options.directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rtx-demo-")))
        else:
            directory = options.directory
        settings = _settings(directory)
        if settings.gateway.auth == "open" and not _is_loopback(options.host):
            report(Notice(f"anyone who reaches {options.host} may trade: set RTX_GATEWAY__AUTH"))
        database_url = settings.database_url
        assert database_url is not None
        database = SqlDatabase(database_url.get_secret_value())
        layer = await stack.enter_async_context(rtx.open(settings, database=database))
        accounts = await _fill(database, _specs(replay))
        announcer = Announcer(layer, lambda text: report(Notice(text)))
        broker = PaperBroker(layer, announcer)
        risk = RiskWatch(layer, announcer, lambda text: report(Notice(text)))
        app = create_app(layer, orders=broker)
        redis_url = layer.embedded_url or str(settings.location("cache"))

        await _together(
            lambda started: serve(app, options.host, options.port, ready=started, stop=stop),
            lambda url: report(Started(url, redis_url, accounts)),
            [
                lambda: risk.run(accounts),
                lambda: _feed(layer, options, replay, report),
                *_bots(broker, accounts, options),
            ],
        )


async def _together(
    serving: Callable[[Callable[[str], None]], Coroutine[None, None, None]],
    ready: Callable[[str], None],
    others: list[Work],
) -> None:
    """Serve, run the others once it serves, and end them with it."""
    started = asyncio.Event()

    def on_ready(url: str) -> None:
        ready(url)
        started.set()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_after(started, work)) for work in others]
            await serving(on_ready)
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:  # one cause is enough, and a person has to read it
        raise errors.exceptions[0] from None


def _bots(broker: PaperBroker, accounts: list[int], options: DemoOptions) -> list[Work]:
    if options.replay is not None or len(accounts) < 2:
        return []
    rng = random.Random(options.seed)
    return [lambda: trade(broker, accounts[1], _TRADER_SYMBOLS, rng)]


def _replay(options: DemoOptions) -> ReplayFeed | None:
    if options.replay is None:
        return None
    return ReplayFeed(options.replay, options.symbol, options.speed)


def _settings(directory: Path) -> Settings:
    """The configured settings, with a server, a database and open doors where none are named."""
    settings = Settings.load()
    given = settings.model_fields_set
    changes: dict[str, object] = {}
    if not given & {"url", "cache_url", "pubsub_url", "limits_url"}:
        changes["url"] = SecretStr(f"embedded://{directory / 'server'}")
    if settings.database_url is None:
        directory.mkdir(parents=True, exist_ok=True)
        path = (directory / "demo.sqlite3").absolute()
        changes["database_url"] = SecretStr(f"sqlite+aiosqlite:///{path}")
    if "auth" not in settings.gateway.model_fields_set and not settings.gateway.users:
        changes["gateway"] = settings.gateway.model_copy(update={"auth": "open"})
    return settings.model_copy(update=changes)


def _specs(replay: ReplayFeed | None) -> list[SymbolSpec]:
    specs = {name: instrument.spec for name, instrument in INSTRUMENTS.items()}
    if replay is not None and replay.symbol is not None and replay.symbol not in specs:
        # A stranger: terms that hold for a currency pair, so that it can be shown and traded.
        name = replay.symbol
        specs[name] = SymbolSpec(name, name, name[:3], name[3:], 5, 100_000.0, 0.01)
    return list(specs.values())


async def _fill(database: SqlDatabase, specs: Iterable[SymbolSpec]) -> list[int]:
    """Give a new database its symbols and accounts; an old one keeps what it has."""
    await database.add_symbols(specs)
    ids = await database.account_ids()
    return ids or await database.add_accounts(_ACCOUNTS)


async def _after(started: asyncio.Event, work: Work) -> None:
    await started.wait()
    await work()


async def _feed(
    layer: DataLayer, options: DemoOptions, replay: ReplayFeed | None, report: Report
) -> None:
    if replay is None:
        simulated = SimulatedFeed(seed=options.seed, rate=options.rate)
        await Pump(simulated, layer.market_data.publish_many, layer.feeds).run()
        return
    pump = Pump(replay, layer.market_data.publish_many, layer.feeds)
    telling = asyncio.create_task(_tell_progress(pump, replay, report))
    try:
        done = await pump.run()
    except FeedError as error:
        report(Notice(f"the replay broke off: {error}"))
        done = pump.report
    finally:
        telling.cancel()
    report(ReplayDone(done))


async def _tell_progress(pump: Pump, replay: ReplayFeed, report: Report) -> None:
    while True:
        await asyncio.sleep(_PROGRESS_EVERY)
        now = pump.report
        rate = now.published / now.seconds if now.seconds else 0.0
        report(ReplayProgress(replay.progress, now.published, rate))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
