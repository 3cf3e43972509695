"""What is counted of alert rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class AlertRuleStats:
    """Counters since the layer was opened; `rules` and `owed` are of the moment.

    `refused`: alerts that another process had published. `owed`: what the server is still to be
    told; `dropped`: what was never told it, because more was owed than is kept. `unvalued`:
    accounts that lacked a fresh price. `unreadable`: rules that this version does not understand.
    """

    rules: int = 0
    evaluated: int = 0
    late: int = 0
    fired: int = 0
    refused: int = 0
    rearmed: int = 0
    owed: int = 0
    failed: int = 0
    dropped: int = 0
    gaps: int = 0
    windows_cut: int = 0
    reloads: int = 0
    unreadable: int = 0
    margin_checks: int = 0
    unvalued: int = 0
