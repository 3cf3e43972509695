"""The `rtx` command: one module per command, loaded when it is called."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    for module in ("typer", "rich"):
        if find_spec(module) is None:
            from rtx.errors import MissingExtra

            sys.stderr.write(f"error: {MissingExtra('cli', module)}\n")
            sys.exit(1)
    from rtx.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a question mark, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
