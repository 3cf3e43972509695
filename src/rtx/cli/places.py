"""How far a tail has come in each log, kept in a file."""

from __future__ import annotations

import os
from pathlib import Path

import rtx
from rtx.errors import SettingsError


class Places:
    """Positions by channel, as `{"executions:1": "epoch:seq"}`; without a file kept nowhere."""

    def __init__(self, path: Path | None, found: dict[str, rtx.Offset]) -> None:
        self._path = path
        self._found = found

    @classmethod
    def load(cls, path: Path | None) -> Places:
        """Read the file, if it is there. Raises `SettingsError` where it holds something else."""
        import msgspec

        if path is None:
            return cls(None, {})
        try:
            texts = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
            return cls(path, {name: rtx.Offset.parse(text) for name, text in texts.items()})
        except FileNotFoundError:
            return cls(path, {})
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be read: {error.strerror}; name another file with --resume"
            ) from None
        except (msgspec.DecodeError, ValueError) as error:
            raise SettingsError(
                f"{path} holds no positions: {error}; delete it to begin with what comes next"
            ) from None

    def of(self, channel: str) -> rtx.Offset | None:
        """Where to go on; None for a log that nothing is known of."""
        return self._found.get(channel)

    def reached(self, channel: str, position: rtx.Offset) -> None:
        """Keep a position: the file is replaced as a whole. Raises `SettingsError`."""
        import msgspec

        if self._path is None:
            return
        self._found[channel] = position
        text = msgspec.json.encode({name: str(each) for name, each in self._found.items()})
        beside = self._path.with_name(f"{self._path.name}.new")
        try:
            beside.write_bytes(text)
            os.replace(beside, self._path)
        except OSError as error:
            raise SettingsError(
                f"{self._path} cannot be written: {error.strerror}; name another with --resume"
            ) from None
