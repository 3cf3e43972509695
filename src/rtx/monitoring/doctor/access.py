"""Checks of access: whether it can be reached, and who else could."""

from __future__ import annotations

from collections.abc import Iterator

from rtx import urls
from rtx.monitoring.doctor.findings import Problem, check
from rtx.monitoring.doctor.server import Server, is_remote

_STRANGERS = (
    "whoever reaches the port can read accounts, forge prices and executions, and run programs "
    "through the server"
)


@check
def unreachable(server: Server) -> Iterator[Problem]:
    if server.error:
        yield Problem(
            severity="critical",
            title="cannot be reached",
            evidence=server.error,
            why=f"nothing of {', '.join(server.role_names)} works: reads come from the database at "
            "best, the rest fails",
            fix="start the server, or correct the URL, the password or the firewall",
        )


@check
def configuration_hidden(server: Server) -> Iterator[Problem]:
    if not server.error and not server.config:
        yield Problem(
            severity="info",
            title="the configuration cannot be read",
            evidence="CONFIG GET was refused",
            why="checks of memory, persistence and access were left out; keeping it from an "
            "application's user is right",
            fix="run the doctor as an administrator: rtx doctor --url redis://admin:…@host:6379",
        )


@check
def no_password(server: Server) -> Iterator[Problem]:
    if not server.config or not _open_to_all(server) or server.loopback_only:
        return
    guarded = server.config.get("protected-mode") == "yes"
    yield Problem(
        severity="warning" if guarded else "critical",
        title="no password, and not on loopback only",
        evidence=f"default user nopass, bind {server.config.get('bind') or 'all addresses'}, "
        f"protected-mode {server.config.get('protected-mode', '?')}",
        why=_STRANGERS
        + (", once protected mode is switched off to let other machines in" if guarded else ""),
        fix="ACL SETUSER default resetpass >A-LONG-SECRET, then ACL SAVE or CONFIG REWRITE; or "
        "bind 127.0.0.1 if nobody else needs it",
    )


@check
def protected_mode_off(server: Server) -> Iterator[Problem]:
    if server.config.get("protected-mode") != "no" or server.loopback_only:
        return
    if _open_to_all(server):
        return  # told already, with what matters more
    yield Problem(
        severity="info",
        title="protected mode is off",
        evidence=f"protected-mode no, bind {server.config.get('bind') or 'all addresses'}",
        why="a password that is lost in a restart (an ACL file that was not saved) opens the "
        "server to everyone, with nothing left to stop them",
        fix="CONFIG SET protected-mode yes, then CONFIG REWRITE",
    )


@check
def default_user_may_do_all(server: Server) -> Iterator[Problem]:
    rules = server.default_user
    if "on" not in rules or not {"+@all", "allcommands"} & set(rules):
        return
    yield Problem(
        severity="info" if server.loopback_only else "warning",
        title="the default user is on and may do everything",
        evidence=f"user default {' '.join(_without_secrets(rules))}",
        why="an application's bug, or its password in the wrong hands, can FLUSHALL, CONFIG SET "
        "and run scripts; a user per role can do only what its role needs",
        fix="give each role a user of its own in users.acl, put it into the URLs, then "
        "ACL SETUSER default off",
    )


@check
def travels_in_the_clear(server: Server) -> Iterator[Problem]:
    location = server.location
    if isinstance(location, urls.Embedded) or location.tls or not is_remote(location):
        return
    yield Problem(
        severity="warning",
        title="traffic to this server is not encrypted",
        evidence=f"{server.url} is not on this machine and is not rediss://",
        why="who can listen on the way reads passwords, accounts and orders, and can change prices",
        fix="set up TLS on the server and use rediss://, or keep to a private network that you "
        "trust as much",
    )


def _open_to_all(server: Server) -> bool:
    rules = server.default_user
    if rules:
        return "on" in rules and "nopass" in rules
    return not server.config.get("requirepass", "")


def _without_secrets(rules: tuple[str, ...]) -> list[str]:
    return ["#…" if rule.startswith(("#", ">")) else rule for rule in rules]
