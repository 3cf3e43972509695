"""Channels: market data, executions and alerts."""

from rtx.pubsub.backlog import DropPolicy
from rtx.pubsub.base import Gap, Policy, Subscription
from rtx.pubsub.groups import Work, Workers
from rtx.pubsub.hub import Hub, HubStats
from rtx.pubsub.journal import History, Journal, JournalSubscription
from rtx.pubsub.listener import Handler, HandlerStats, Listener
from rtx.pubsub.market_data import MarketData, Published
from rtx.pubsub.offset import Offset
from rtx.pubsub.probe import Probing
from rtx.pubsub.tick_publisher import PublisherStats, TickPublisher

__all__ = [
    "DropPolicy",
    "Gap",
    "Handler",
    "HandlerStats",
    "History",
    "Hub",
    "HubStats",
    "Journal",
    "JournalSubscription",
    "Listener",
    "MarketData",
    "Offset",
    "Policy",
    "Probing",
    "Published",
    "PublisherStats",
    "Subscription",
    "TickPublisher",
    "Work",
    "Workers",
]
