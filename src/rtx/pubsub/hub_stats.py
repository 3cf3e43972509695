"""What the connections for push messages count."""

from __future__ import annotations

from dataclasses import dataclass

_RECENT = 0.2  # weight of the latest round trip in the moving average


@dataclass(slots=True)
class HubStats:
    """Counters since the layer was opened, and `channels` as of now.

    `cut_offs` are losses in the middle of a message. Of the `probes` published, `probe_failures`
    did not arrive; `probes_unpublished` did not leave; `probe_refusals` are connections that go
    without, because the ACL forbids it. `probe_ms` is the latest round trip, `probe_average_ms`
    the moving average, both in milliseconds; `probe_age_s` the seconds since one came back on the
    connection where that is longest ago.
    """

    channels: int = 0
    received: int = 0
    undecodable: int = 0
    connects: int = 0
    losses: int = 0
    cut_offs: int = 0
    connect_failures: int = 0
    probes: int = 0
    probe_failures: int = 0
    probes_unpublished: int = 0
    probe_refusals: int = 0
    probe_ms: float = 0.0
    probe_average_ms: float = 0.0
    probe_age_s: float = 0.0

    def took(self, ms: float) -> None:
        """A probe came back after so many milliseconds."""
        known = self.probe_average_ms or ms
        self.probe_average_ms = known + _RECENT * (ms - known)
        self.probe_ms = ms
