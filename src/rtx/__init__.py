"""RTX: the real-time data layer of a trading engine, on Redis or Valkey.

async with rtx.open() as layer:
    await layer.prices.put(rtx.Price("BTCUSD", bid=95000.5, ask=95001.5))
    price = await layer.prices.get("BTCUSD")
"""

from rtx import errors
from rtx.alerts import AlertRule
from rtx.database.base import AccountUpdate, Database
from rtx.errors import BadTick, DatabaseUnavailable, RtxError, ServerError, Unavailable
from rtx.layer import DataLayer, open
from rtx.layer_health import Health
from rtx.models import (
    Account,
    Alert,
    Execution,
    Position,
    Price,
    Session,
    SymbolSpec,
    Tick,
)
from rtx.pubsub import (
    Gap,
    History,
    Listener,
    Offset,
    Published,
    Subscription,
    TickPublisher,
    Work,
    Workers,
)
from rtx.ratelimit import Decision, Lease, RateLimited, limited
from rtx.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "Account",
    "AccountUpdate",
    "Alert",
    "AlertRule",
    "BadTick",
    "DataLayer",
    "Database",
    "DatabaseUnavailable",
    "Decision",
    "Execution",
    "Gap",
    "Health",
    "History",
    "Lease",
    "Listener",
    "Offset",
    "Position",
    "Price",
    "Published",
    "RateLimited",
    "RtxError",
    "ServerError",
    "Session",
    "Settings",
    "Subscription",
    "SymbolSpec",
    "Tick",
    "TickPublisher",
    "Unavailable",
    "Work",
    "Workers",
    "errors",
    "limited",
    "open",
]
