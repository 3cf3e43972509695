"""Every key and channel name, built in one place.

The general form is `{namespace}:{entity}:{id}:{field}`. Companion keys put the whole main key in
a hash tag (`{account:1}:lease`), so that they share its cluster slot and leave its name alone.
"""

from __future__ import annotations

SYSTEM = "system"
"""The id of the alert channel that goes to everyone: `alerts:system`."""


class Keys:
    """Builds names under one optional namespace: `staging` gives `staging:price:EURUSD`."""

    __slots__ = ("_prefix", "namespace")

    def __init__(self, namespace: str = "") -> None:
        self.namespace = namespace
        self._prefix = f"{namespace}:" if namespace else ""

    def __repr__(self) -> str:
        return f"Keys({self.namespace!r})"

    # cache role

    def account(self, account_id: int) -> str:
        return f"{self._prefix}account:{account_id}"

    def price(self, symbol: str) -> str:
        return f"{self._prefix}price:{symbol}"

    def positions(self, account_id: int) -> str:
        return f"{self._prefix}positions:{account_id}"

    def symbol(self, symbol: str) -> str:
        return f"{self._prefix}symbol:{symbol}"

    def session(self, hashed_token: str) -> str:
        return f"{self._prefix}session:{hashed_token}"

    # pubsub role

    def market_data(self, symbol: str) -> str:
        return f"{self._prefix}market_data:{symbol}"

    def executions(self, account_id: int) -> str:
        return f"{self._prefix}executions:{account_id}"

    def alerts(self, account_id: int | str) -> str:
        return f"{self._prefix}alerts:{account_id}"

    # limits role

    def limit(self, name: str, subject: int | str) -> str:
        return f"{self._prefix}ratelimit:{name}:{subject}"

    # companions

    @staticmethod
    def field(key: str, field: str) -> str:
        """`account:1` and `balance` give `account:1:balance`."""
        return f"{key}:{field}"

    @staticmethod
    def companion(key: str, what: str) -> str:
        """`executions:1` and `log` give `{executions:1}:log`, in the same cluster slot."""
        return f"{{{key}}}:{what}"

    def subject_of(self, channel: str) -> str:
        """The id at the end of a channel: `market_data:EURUSD` gives `EURUSD`."""
        return channel.removeprefix(self._prefix).partition(":")[2]
