"""Checks of access: whether a server can be reached, and who else could."""

from __future__ import annotations

from collections.abc import Iterator

from rtx import urls
from rtx.monitoring.doctor.checks import Seen
from rtx.monitoring.doctor.server import Server, check, is_remote

_STRANGERS = (
    "whoever reaches the port can read accounts, forge prices and executions, and run programs "
    "through the server"
)
_DAY = 86_400.0
_SOON, _AT_ONCE = 30 * _DAY, 7 * _DAY
_ALL = {"+@all", "allcommands"}


@check(
    "critical",
    title="cannot be reached",
    why="nothing of {roles} works there: reads come from the database at best, the rest fails; of "
    "a replica, one failure more is an outage",
    fix="start the server, or correct the URL or the firewall; one that takes connections and says "
    "nothing is frozen or stuck: look at its process and its disk",
)
def unreachable(server: Server) -> Iterator[Seen]:
    if server.error and not server.denied:
        yield Seen(server.error, facts={"roles": ", ".join(server.role_names)})


@check(
    "critical",
    title="the login was refused",
    why="no program with this user and password gets anything from {roles}",
    fix="correct the login in the URL or in the settings ([login], password_file); see the users "
    "with ACL LIST",
)
def login_refused(server: Server) -> Iterator[Seen]:
    if server.error and server.denied:
        yield Seen(server.error, facts={"roles": ", ".join(server.role_names)})


@check(
    "critical",
    "warning",
    title="no password, and not on loopback only",
    why=_STRANGERS + "; protected mode alone keeps them out until somebody switches it off",
    fix="ACL SETUSER default resetpass >A-LONG-SECRET, then ACL SAVE or CONFIG REWRITE; or bind "
    "127.0.0.1 if nobody else needs it",
    needs=("CONFIG GET",),
)
def no_password(server: Server) -> Iterator[Seen]:
    if not server.open_to_all or server.loopback_only:
        return
    guarded = server.config.get("protected-mode") == "yes"
    yield Seen(
        f"default user nopass, bind {server.config.get('bind') or 'all addresses'}, "
        f"protected-mode {server.config.get('protected-mode', '?')}",
        "warning" if guarded else "critical",
    )


@check(
    "critical",
    "warning",
    title="a user needs no password",
    why=_STRANGERS + ", as far as this user may",
    fix="ACL SETUSER {user} resetpass >A-LONG-SECRET, or ACL DELUSER {user}; then ACL SAVE",
    needs=("ACL LIST", "CONFIG GET"),
)
def user_without_password(server: Server) -> Iterator[Seen]:
    for user, rules in server.users.items():
        if user != "default" and "on" in rules and "nopass" in rules:
            yield Seen(
                f"user {user} {' '.join(rules)}",
                "warning" if server.loopback_only else "critical",
                {"user": user},
            )


@check(
    "info",
    title="protected mode is off",
    why="a password that is lost in a restart (an ACL file that was not saved) opens the server to "
    "everyone, with nothing left to stop them",
    fix="CONFIG SET protected-mode yes, then CONFIG REWRITE",
    needs=("CONFIG GET",),
)
def protected_mode_off(server: Server) -> Iterator[Seen]:
    # Without a password it is told already, with what matters more.
    if server.config.get("protected-mode") == "no" and not (
        server.loopback_only or server.open_to_all
    ):
        yield Seen(f"protected-mode no, bind {server.config.get('bind') or 'all addresses'}")


@check(
    "warning",
    "info",
    title="the default user is on and may do everything",
    why="an application's bug, or its password in the wrong hands, can FLUSHALL, CONFIG SET and "
    "run scripts; a user per role can do only what its role needs",
    fix="give each role a user of its own (deploy/users.acl), put it into the settings, then "
    "ACL SETUSER default off",
    needs=("ACL LIST",),
)
def default_user_may_do_all(server: Server) -> Iterator[Seen]:
    rules = server.users.get("default", ())
    if "on" in rules and _ALL & set(rules):
        yield Seen(f"user default {' '.join(rules)}", "info" if server.loopback_only else "warning")


@check(
    "warning",
    title="traffic to this server is not encrypted",
    why="who can listen on the way reads passwords, accounts and orders, and can change prices",
    fix="set up TLS on the server (tls-port, tls-cert-file) and use rediss://, or keep to a "
    "private network that you trust as much",
)
def traffic_in_the_clear(server: Server) -> Iterator[Seen]:
    location = server.location
    if not (isinstance(location, urls.Embedded) or location.tls) and is_remote(location):
        yield Seen(f"{server.location} is not on this machine and is not rediss://")


@check(
    "warning",
    "critical",
    title="the server's certificate ends soon",
    why="from that moment no program that verifies it can connect: everything stops at once, on "
    "every server that was given its certificate on the same day",
    fix="rtx config certs (or your authority) makes another; put it where tls-cert-file is, then "
    "CONFIG SET tls-cert-file FILE has it read without a restart",
)
def certificate_ends_soon(server: Server) -> Iterator[Seen]:
    left = server.certificate_left
    if left is not None and left < _SOON:
        days = left / _DAY
        yield Seen(f"it ends in {days:.1f} days", "critical" if left < _AT_ONCE else None)


@check(
    "warning",
    title="every user of the machine can use the server's unix socket",
    why="a socket goes past bind and the firewall: any program on the machine reads accounts and "
    "forges prices",
    fix="unixsocketperm 770 in the conf file, a group for the programs that may, and a restart",
    needs=("CONFIG GET",),
)
def socket_open_to_all(server: Server) -> Iterator[Seen]:
    perm = server.config.get("unixsocketperm", "0")
    opened = perm.isdecimal() and int(perm[-1]) & 2
    if server.config.get("unixsocket") and opened and server.open_to_all:
        yield Seen(f"unixsocket {server.config['unixsocket']}, unixsocketperm {perm}, no password")


@check(
    "info",
    title="logins or commands were refused",
    why="a program with a wrong password or too few rights gets nothing, and somebody who tries "
    "passwords looks the same",
    fix="ACL LOG names the client, the user and what it wanted; correct its password or rights, "
    "then ACL LOG RESET",
    needs=("INFO",),
)
def access_denied(server: Server) -> Iterator[Seen]:
    counts = {
        kind: server.number(f"acl_access_denied_{kind}")
        for kind in ("auth", "cmd", "key", "channel")
    }
    if any(counts.values()):
        told = ", ".join(f"{kind} {count:,}" for kind, count in counts.items() if count)
        yield Seen(f"acl_access_denied since the server started: {told}")
