"""What positions and accounts are worth at the latest prices."""

from rtx.marking.board import BoardStats, PriceBoard
from rtx.marking.marked import Marked, MarkedAccount, MarkedPosition, MarkedStats

__all__ = [
    "BoardStats",
    "Marked",
    "MarkedAccount",
    "MarkedPosition",
    "MarkedStats",
    "PriceBoard",
]
