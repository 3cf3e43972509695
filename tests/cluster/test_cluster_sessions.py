"""Sessions whose keys are on other nodes than their user's index."""

from __future__ import annotations

import asyncio

import rtx
from rtx.topology.slots import key_slot


async def test_all_sessions_of_a_user_end_on_every_node(
    layer: rtx.DataLayer, other: rtx.DataLayer
) -> None:
    made = await asyncio.gather(*(layer.sessions.create("ann", [n]) for n in range(30)))
    theirs, session = await layer.sessions.create("bob", [1])
    tokens = [token for token, _ in made]
    keys = [layer.sessions._key(token).encode() for token in tokens]
    assert len({key_slot(key) for key in keys} - {key_slot(b"sessions:ann")}) > 20
    assert list(await other.sessions.get_many(tokens)) == tokens
    assert len(await other.sessions.of_user("ann")) == 30
    assert await other.sessions.revoke(tokens[0])
    assert len(await layer.sessions.of_user("ann")) == 29
    assert await other.sessions.revoke_all("ann") == 29
    assert await layer.sessions.get_many([*tokens, theirs]) == {theirs: session}
    token, session = await other.sessions.create("ann", [1])
    assert await layer.sessions.get(token) == session
