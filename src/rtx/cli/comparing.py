"""Two runs of `rtx bench` side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtx.cli import terminal
from rtx.errors import SettingsError

if TYPE_CHECKING:
    from rtx.cli.measuring import Measurement, Run

_SAME = 0.1  # runs of one build differ by as much on a machine that does other things too


def load_run(path: Path) -> Run:
    """A file that `rtx bench --json` wrote. Raises `SettingsError`."""
    import msgspec

    from rtx.cli.measuring import Run

    try:
        return msgspec.json.decode(path.read_bytes(), type=Run)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}; `rtx bench --json {path}` writes it"
        ) from None
    except msgspec.DecodeError as error:
        raise SettingsError(
            f"{path} is no run of this version's `rtx bench --json`: {error}; measure again"
        ) from None


def show_comparison(before: Run, after: Run) -> None:
    """Ratios, after divided by before: latencies below 1 and throughput above 1 are better."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("after / before")
    for name in ("p50", "p99", "p99.9", "per second", "from", "to"):
        table.add_column(name, justify="right")
    earlier = {use.use: use for use in before.uses}
    for use in after.uses:
        old = earlier.pop(use.use, None)
        if old is None:
            table.add_row(use.use, *("–",) * 4, "–", f"{use.per_second:,.0f}/s")
            continue
        cells = [Text(f"{_ratio(new, was):.2f}", style=_style(_ratio(was, new)))
                 for new, was in zip(_latencies(use), _latencies(old), strict=True)]  # fmt: skip
        faster = _ratio(use.per_second, old.per_second)
        cells.append(Text(f"{faster:.2f}", style=_style(faster)))
        figures = (f"{old.per_second:,.0f}/s", f"{use.per_second:,.0f}/s")
        table.add_row(use.use, *cells, *figures)
    for left in earlier.values():
        table.add_row(left.use, *("–",) * 4, f"{left.per_second:,.0f}/s", "–")
    terminal.stdout().print(table)
    for line in differences(before, after):
        terminal.note(line)


def differences(before: Run, after: Run) -> list[str]:
    """What else is different between the runs, a line each."""
    found: list[str] = []
    for name in ("rtx", "python", "machine", "servers", "seconds_per_use", "at_once"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(f"{name.replace('_', ' ')}: {_plain(old)} before, {_plain(new)} after")
    return found


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _latencies(use: Measurement) -> tuple[float, float, float]:
    return use.p50_us, use.p99_us, use.p999_us


def _ratio(new: float, old: float) -> float:
    return new / old if old else float("inf")


def _style(better: float) -> str:
    """Colour only what is more than noise."""
    if better > 1 + _SAME:
        return "green"
    return "red" if better < 1 / (1 + _SAME) else ""
