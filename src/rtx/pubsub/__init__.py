"""Channels: market data, executions and alerts."""

from rtx.pubsub.base import Gap, Policy, Subscription
from rtx.pubsub.hub import Hub, HubStats
from rtx.pubsub.journal import History, Journal, JournalSubscription
from rtx.pubsub.market_data import MarketData, Published
from rtx.pubsub.offset import Offset

__all__ = [
    "Gap",
    "History",
    "Hub",
    "HubStats",
    "Journal",
    "JournalSubscription",
    "MarketData",
    "Offset",
    "Policy",
    "Published",
    "Subscription",
]
