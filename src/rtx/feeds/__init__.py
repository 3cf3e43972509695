"""Prices coming in: simulated, replayed from files, from OANDA, from any exchange."""

from rtx.feeds.base import Feed, FeedReport, FeedStats, Pump, pump
from rtx.feeds.exchange import ExchangeFeed
from rtx.feeds.instruments import INSTRUMENTS, Instrument
from rtx.feeds.layouts import LAYOUTS
from rtx.feeds.oanda import OandaFeed
from rtx.feeds.replay import ReplayFeed, parse_speed
from rtx.feeds.simulated import SimulatedFeed

__all__ = [
    "INSTRUMENTS",
    "LAYOUTS",
    "ExchangeFeed",
    "Feed",
    "FeedReport",
    "FeedStats",
    "Instrument",
    "OandaFeed",
    "Pump",
    "ReplayFeed",
    "SimulatedFeed",
    "parse_speed",
    "pump",
]
