"""Rules and their states in Redis.

An account's rules are a hash `{alerts:1}:rules` of JSON by id, and their states a hash
`{alerts:1}:states`, in the slot of the account's alerts. The hash `alert_rules` has a version for
each account that has or had rules, and one of all, which every change sets to the server's time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TypeAlias, cast

import msgspec

from rtx.alerts import rules as rulebook
from rtx.alerts.rules import AlertRule, Owner, RuleState, check, owner
from rtx.alerts.slot import Slot, State, Step
from rtx.errors import BadRule
from rtx.keys import Keys
from rtx.wire import Caller, Script

_log = logging.getLogger("rtx.alerts")

Read: TypeAlias = "dict[str, tuple[AlertRule, State]]"
"""Rules of an account with their states, by id."""


class RuleStore:
    """Reads and writes rules; everything raises `Unavailable` and `ServerError`."""

    def __init__(self, caller: Caller, keys: Keys, per_account: int) -> None:
        self._caller = caller
        self._keys = keys
        self._per_account = per_account
        self._index = keys.alert_rules()
        self._put, self._remove, self._rearm, self._read, self._step, self._touch = (
            Script.load("rtx.alerts", name)
            for name in ("put", "remove", "rearm", "read", "step", "touch")
        )

    def companion(self, account: Owner, what: str) -> str:
        """A key in the slot of the account's alerts."""
        return self._keys.companion(self._keys.alerts(account), what)

    async def put(self, rule: AlertRule) -> bool:
        """Store a rule; False when it was there just so. Raises `BadRule` too."""
        rule = check(rule)
        account = rule.account_id
        if await self._caller.call("HGET", self._index, account) is None:
            # Before there is a rule, so that none is out of the engines' sight if this ends here.
            await self._touch.run(self._caller, [self._index], account)
        keys = [self.companion(account, "rules"), self.companion(account, "states")]
        raw = rulebook.encode(rule)
        done = await self._put.run(self._caller, keys, rule.id, raw, self._per_account)
        if done == -1:
            raise BadRule(
                "account_id",
                f"{account} has {self._per_account} rules, as many as alerts.per_account allows; "
                "remove some",
            )
        if done:
            await self._touch.run(self._caller, [self._index], account)
        return bool(done)

    async def remove(self, account: Owner, id: str) -> bool:
        """Drop a rule; False when there was none."""
        keys = [self.companion(owner(account), "rules"), self.companion(account, "states")]
        done = await self._remove.run(self._caller, keys, id)
        await self._touch.run(self._caller, [self._index], account)
        return bool(done)

    async def rearm(self, account: Owner, id: str) -> bool:
        """Arm a rule anew; False when there is none."""
        done = await self._rearm.run(self._caller, [self.companion(owner(account), "states")], id)
        await self._touch.run(self._caller, [self._index], account)
        return bool(done)

    async def read(self, account: Owner) -> tuple[Read, int]:
        """The rules of an account, and how many there are that nobody here understands."""
        keys = [self.companion(account, "rules"), self.companion(account, "states")]
        raw, flat = cast(list[list[bytes]], await self._read.run(self._caller, keys))
        states = dict(_pairs(flat))
        found: Read = {}
        unreadable = 0
        for id, value in _pairs(raw):
            try:
                rule = check(rulebook.decode(value))
                found[rule.id] = (rule, State.parse(states[id]))
            except (msgspec.MsgspecError, UnicodeError, ValueError, KeyError, BadRule) as error:
                unreadable += 1
                _log.warning("a rule in %s has no sense: %r: %s", keys[0], id, error)
        return found, unreadable

    async def list(self, account: Owner) -> list[RuleState]:
        """The rules of an account with their states, by id."""
        found, _ = await self.read(owner(account))
        return [
            RuleState(rule, state.armed, state.firings, state.fired_at)
            for _, (rule, state) in sorted(found.items())
        ]

    # --- for engines -----------------------------------------------------------------------

    async def version(self) -> bytes | None:
        """Changes whenever any rule was changed."""
        return cast("bytes | None", await self._caller.call("HGET", self._index, "version"))

    async def accounts(self) -> Mapping[str, bytes]:
        """The version of each account that has or had rules."""
        flat = cast(dict[bytes, bytes], await self._caller.call("HGETALL", self._index))
        return {name.decode(): value for name, value in flat.items() if name != b"version"}

    async def state(self, slot: Slot) -> State | None:
        """What the server has of a rule; None when it has none of that id."""
        raw = await self._caller.call("HGET", self.companion(slot.account, "states"), slot.rule.id)
        return State.parse(raw) if isinstance(raw, bytes) else None

    async def step(self, slot: Slot, step: Step) -> tuple[bool, State | None]:
        """Make a step, if it comes after what the server has; whether it did, and the state now."""
        done, raw = cast(
            "tuple[int, bytes | None]",
            await self._step.run(
                self._caller,
                [self.companion(slot.account, "states")],
                slot.rule.id,
                step.revision,
                f"{step.position:020d}",
                "armed" if step.alert is None else "fired",
                0 if step.alert is None else step.alert.timestamp,
            ),
        )
        return bool(done), None if raw is None else State.parse(raw)

    async def take_turn(self, account: str, seconds: float) -> bool:
        """Whether the account's margin is this process's to check, for so many seconds."""
        key = self.companion(account, "turn")
        ms = max(1, round(seconds * 1000))
        return await self._caller.call("SET", key, "1", "NX", "PX", ms) is not None


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
