"""`rtx config`: settings shown, checked, started from; passwords hashed; certificates made."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from rtx.cli import options, terminal
from rtx.cli.running import errors_as_lines
from rtx.errors import SettingsError

app = typer.Typer(
    help="Show, check and start settings; hash passwords; make certificates.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("show")
def show(url: options.Url = None, json: options.Json = False) -> None:
    """Show the settings in force, secrets masked, and where each comes from.

    \b
    Examples:
      rtx config show
      RTX_POOL__SIZE=20 rtx config show --json
    """
    from rtx.cli.provenance import origins

    with errors_as_lines():
        settings = options.load(url)
        origin = origins(settings, {} if url is None else {"url": "--url"})
        if json:
            dumped = settings.model_dump(mode="json")
            dumped["limits"] = {
                name: limit.model_dump() for name, limit in settings.named_limits.items()
            }
            text = msgspec.json.encode({"settings": dumped, "origins": dict(origin.places)})
            terminal.stdout().out(msgspec.json.format(text, indent=2).decode())
            return
        width = max(len(name) for name, _ in origin.values)
        for name, value in origin.values:
            shown = msgspec.json.encode(value).decode()
            terminal.stdout().print(
                f"{name:{width}}  {shown:<22}  {origin.places[name]}", markup=False, soft_wrap=True
            )


@app.command("check")
def check(
    file: Annotated[
        Path | None, typer.Argument(help="Settings file, instead of rtx.toml or RTX_CONFIG.")
    ] = None,
) -> None:
    """Check the settings file together with the environment, and name every problem.

    Exit code 1 when there is one. Connects to nothing; `rtx doctor` does.

    \b
    Examples:
      rtx config check
      rtx config check /etc/rtx/rtx.toml
    """
    from rtx.cli.provenance import problems, settings_file

    with errors_as_lines():
        if file is not None:
            if not file.exists():
                raise SettingsError(f"no such file: {file}; check the path")
            os.environ["RTX_CONFIG"] = str(file)
        found = problems()
        for problem in found:
            terminal.error(problem)
        if found:
            raise typer.Exit(1)
        path = settings_file()
        what = "the environment and the defaults" if path is None else str(path)
        terminal.stdout().print(f"ok: {what}", markup=False)


@app.command("hash-password")
def hash_password() -> None:
    """Hash a password for gateway.users in the settings.

    Asks for it in a terminal, else reads one line from standard input.

    \b
    Examples:
      rtx config hash-password
      printf %s "$PASSWORD" | rtx config hash-password
    """
    with errors_as_lines():
        from rtx.gateway.passwords import hash_password as hashed

        if sys.stdin.isatty():
            password = typer.prompt("password", hide_input=True, confirmation_prompt=True, err=True)
        else:
            try:
                password = sys.stdin.readline().rstrip("\r\n")
            except UnicodeDecodeError:
                raise SettingsError("the password is not UTF-8 text; write it in UTF-8") from None
        if not password:
            raise SettingsError("an empty password protects nothing; give one of 12 or more signs")
        terminal.stdout().out(hashed(password))


@app.command("certs")
def certs(
    hosts: Annotated[
        list[str] | None,
        typer.Argument(help="Names and addresses of the servers.", metavar="HOST..."),
    ] = None,
    directory: Annotated[Path, typer.Option(help="Where they go.")] = Path("certs"),
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they hold.")] = 365,
) -> None:
    """Make certificates for development: an authority, and what it signs for servers and clients.

    Without hosts they are for this machine: localhost, 127.0.0.1 and ::1. An authority that is
    there already stays. The keys are not encrypted: in production use your own authority.

    \b
    Examples:
      rtx config certs
      rtx config certs node-1 node-2 10.0.0.7 --directory /etc/rtx/tls
    """
    from rtx.cli.certs import make_certs

    with errors_as_lines():
        for path in make_certs(directory, hosts or ["localhost", "127.0.0.1", "::1"], days):
            terminal.stdout().print(str(path), markup=False, soft_wrap=True)


@app.command("render")
def render() -> None:
    """Print a starter rtx.toml: every setting, its default, and what it does.

    \b
    Example:
      rtx config render > rtx.toml
    """
    from rtx.cli.starter import starter

    with errors_as_lines():
        terminal.stdout().out(starter(), end="")
