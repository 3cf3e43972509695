"""Finding every server and sentinel that the settings lead to, and looking at each, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rtx import urls
from rtx.errors import AccessDenied, RtxError, ServerError
from rtx.monitoring.doctor import parsing
from rtx.monitoring.doctor.groups import Nodes, Sentinel, Service, address_of
from rtx.monitoring.doctor.looking import ANSWER_WITHIN, DEADLINE, Dial, HostOf, look_at
from rtx.monitoring.doctor.server import Server
from rtx.settings import Settings
from rtx.topology import Role
from rtx.topology.base import Manner
from rtx.topology.embedded import EmbeddedTopology
from rtx.urls import Address
from rtx.wire import Connection, ConnectOptions

_SENTINELS = 32  # a service has a handful; more names are no reason to dial them all
_SERVERS = 1_000


@dataclass(frozen=True, slots=True)
class Sight:
    """All that was seen: every server once, and the groups that they form."""

    servers: tuple[Server, ...]
    services: tuple[Service, ...] = ()
    clusters: tuple[Nodes, ...] = ()


class Gathering:
    """Looks around once, by the settings."""

    def __init__(self, settings: Settings, host_of: HostOf) -> None:
        self._settings = settings
        self._host_of = host_of
        # A look wants few connections, and an ill server must not hold it up.
        self._pool = settings.pool.model_copy(
            update={
                "connect_timeout": min(settings.pool.connect_timeout, ANSWER_WITHIN),
                "read_timeout": ANSWER_WITHIN,
                "write_timeout": ANSWER_WITHIN,
            }
        )

    async def look(self) -> Sight:
        """Raises `SettingsError` for settings that no server can be reached with."""
        roles: dict[urls.Location, frozenset[Role]] = {}
        for role in Role:
            location = self._settings.location(role.value)
            roles[location] = roles.get(location, frozenset()) | {role}
        sights = await asyncio.gather(*(self._look_behind(*one) for one in roles.items()))
        return Sight(
            tuple(_joined(server for sight in sights for server in sight.servers)),
            tuple(service for sight in sights for service in sight.services),
            tuple(cluster for sight in sights for cluster in sight.clusters),
        )

    async def _look_behind(self, location: urls.Location, roles: frozenset[Role]) -> Sight:
        over_tls = not isinstance(location, urls.Embedded) and location.tls
        manner = Manner(
            self._pool,
            self._settings.client_name,
            self._settings.tls.context() if over_tls else None,
            self._settings.sentinel_login.credentials,
        )
        match location:
            case urls.Standalone():
                server = Server(str(location), location, roles, location.address)
                db = location.db or 0
                return Sight((await self._server(server, manner, location, db),))
            case urls.Embedded():
                return await self._embedded(location, manner, roles)
            case urls.Sentinel():
                return await self._service(location, manner, roles)
            case urls.Cluster():
                return await self._cluster(location, manner, roles)

    async def _server(
        self,
        server: Server,
        manner: Manner,
        location: urls.Standalone | urls.Sentinel | urls.Cluster,
        db: int = 0,
    ) -> Server:
        assert server.address is not None
        options = manner.options(location.credentials, db=db, tls=location.tls)
        return await look_at(server, _dial(server.address, options), self._host_of)

    async def _embedded(
        self, location: urls.Embedded, manner: Manner, roles: frozenset[Role]
    ) -> Sight:
        topology = EmbeddedTopology(location, manner)
        server = Server(str(location), location, roles)
        try:
            await topology.open()
            dial: Dial = lambda: topology.dial(0, lambda _: None)  # noqa: E731
            return Sight((await look_at(server, dial, self._host_of),))
        except RtxError as error:
            return Sight((replace(server, error=str(error)),))
        finally:
            await topology.close()

    # --- sentinels -------------------------------------------------------------------------

    async def _service(
        self, location: urls.Sentinel, manner: Manner, roles: frozenset[Role]
    ) -> Sight:
        options = manner.options(manner.sentinel_credentials, tls=location.tls)
        sentinels: dict[Address, Sentinel] = {}
        wanted = list(location.sentinels)
        while wanted:
            looks = (_look_at_sentinel(each, options, location.service) for each in wanted)
            sentinels.update(zip(wanted, await asyncio.gather(*looks), strict=True))
            # A sentinel that is called by another name in the URL is known by its id.
            ids = {each.id for each in sentinels.values()}
            told = {
                address: fields.get("runid", "")
                for each in sentinels.values()
                for fields in each.others
                if (address := address_of(fields))
            }
            wanted = [one for one, id in told.items() if one not in sentinels and id not in ids]
            wanted = wanted[: _SENTINELS - len(sentinels)]
        named = [address for each in sentinels.values() if (address := each.named)]
        named += [
            address
            for each in sentinels.values()
            for fields in each.replicas
            if (address := address_of(fields))
        ]
        servers = await self._several(dict.fromkeys(named), location, manner, roles)
        servers = tuple(_joined(servers))
        service = Service(location, roles, tuple(sentinels.values()), servers)
        return Sight(servers, services=(service,))

    # --- clusters --------------------------------------------------------------------------

    async def _cluster(
        self, location: urls.Cluster, manner: Manner, roles: frozenset[Role]
    ) -> Sight:
        seen: dict[Address, Server] = {}
        wanted = list(location.nodes)
        while wanted:
            servers = await self._several(wanted, location, manner, roles)
            seen.update(zip(wanted, servers, strict=True))
            told = (node.address for server in seen.values() for node in server.nodes if node.here)
            wanted = [address for address in dict.fromkeys(told) if address not in seen]
            wanted = wanted[: _SERVERS - len(seen)]
        servers = tuple(_joined(seen.values()))
        return Sight(servers, clusters=(Nodes(location, servers),))

    async def _several(
        self,
        addresses: Iterable[Address],
        location: urls.Sentinel | urls.Cluster,
        manner: Manner,
        roles: frozenset[Role],
    ) -> tuple[Server, ...]:
        looks = (
            self._server(
                Server(str(address), location, roles, address, alone=False), manner, location
            )
            for address in list(addresses)[:_SERVERS]
        )
        return tuple(await asyncio.gather(*looks))


def _dial(address: Address, options: ConnectOptions) -> Dial:
    return lambda: Connection.dial(address, options)


async def _look_at_sentinel(address: Address, options: ConnectOptions, service: str) -> Sentinel:
    try:
        async with asyncio.timeout(DEADLINE):
            connection = await Connection.dial(address, options)
            try:
                return await _ask_sentinel(address, connection, service)
            finally:
                await connection.close()
    except TimeoutError:
        return Sentinel(address, error=f"it did not answer all within {DEADLINE:g} s")
    except RtxError as error:
        return Sentinel(address, error=str(error), denied=isinstance(error, AccessDenied))


async def _ask_sentinel(address: Address, connection: Connection, service: str) -> Sentinel:
    commands = {
        "INFO": ("INFO",),
        "ACL LIST": ("ACL", "LIST"),
        "SENTINEL MYID": ("SENTINEL", "MYID"),
        "SENTINEL MASTER": ("SENTINEL", "MASTER", service),
        "SENTINEL REPLICAS": ("SENTINEL", "REPLICAS", service),
        "SENTINEL SENTINELS": ("SENTINEL", "SENTINELS", service),
        "SENTINEL CKQUORUM": ("SENTINEL", "CKQUORUM", service),
    }
    replies = dict(zip(commands, await connection.batch([*commands.values()]), strict=True))
    unseen = {n: str(r) for n, r in replies.items() if isinstance(r, AccessDenied)}
    master, quorum = replies["SENTINEL MASTER"], replies["SENTINEL CKQUORUM"]
    failed = isinstance(quorum, ServerError) and not isinstance(quorum, AccessDenied)
    error = ""
    if isinstance(master, ServerError) and not isinstance(master, AccessDenied):
        error = f"it does not know the service {service!r}: {master}"
    several = {
        name: tuple(parsing.fields_of(item) for item in reply) if isinstance(reply, list) else ()
        for name, reply in replies.items()
    }
    return Sentinel(
        address,
        error=error,
        id=parsing.text(replies["SENTINEL MYID"]),
        info=parsing.lines_of(replies["INFO"]),
        users=parsing.users_of(replies["ACL LIST"]),
        primary=parsing.fields_of(master),
        replicas=several["SENTINEL REPLICAS"],
        others=several["SENTINEL SENTINELS"],
        quorum=str(quorum) if failed else "",
        unseen=unseen,
    )


def _joined(servers: Iterable[Server]) -> list[Server]:
    """One entry per server: two URLs may lead to the same one, which its run id tells."""
    joined: dict[str, Server] = {}
    for server in servers:
        key = server.info.get("run_id", "") or server.url
        known = joined.get(key)
        roles = server.roles if known is None else known.roles | server.roles
        joined[key] = replace(known or server, roles=roles)
    return list(joined.values())
