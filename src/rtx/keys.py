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

    def sessions(self, user_id: str) -> str:
        return f"{self._prefix}sessions:{user_id}"

    # pubsub role

    def market_data(self, symbol: str) -> str:
        return f"{self._prefix}market_data:{symbol}"

    def executions(self, account_id: int) -> str:
        return f"{self._prefix}executions:{account_id}"

    def alerts(self, account_id: int | str) -> str:
        return f"{self._prefix}alerts:{account_id}"

    def alert_rules(self) -> str:
        """Which accounts have alert rules, and when they were changed."""
        return f"{self._prefix}alert_rules"

    def probe(self, token: str, *, beside: str = "") -> str:
        """A subscriber's own channel; in the cluster slot of the channel `beside`, if given."""
        name = f"{self._prefix}rtx:probe:{token}"
        return f"{name}:{{{beside}}}" if beside else name

    # limits role

    def limit(self, name: str, subject: int | str) -> str:
        return f"{self._prefix}ratelimit:{name}:{subject}"

    def limit_config(self) -> str:
        """Definitions of limits that were changed at run time."""
        return f"{self._prefix}ratelimit:config"

    def concurrency(self, name: str, subject: int | str) -> str:
        """Who of an id holds a place of those that it may have at once."""
        return f"{self._prefix}concurrency:{name}:{subject}"

    # companions

    @staticmethod
    def field(key: str, field: str) -> str:
        """`account:1` and `balance` give `account:1:balance`."""
        return f"{key}:{field}"

    @staticmethod
    def companion(key: str, what: str) -> str:
        """`executions:1` and `log` give `{executions:1}:log`, in the same cluster slot."""
        return f"{{{key}}}:{what}"

    @staticmethod
    def lease(key: str) -> str:
        """Who may fill a cached value now, or that it is known to be absent."""
        return f"{{{key}}}:lease"

    @staticmethod
    def version(key: str) -> str:
        """The newest version of the row that a cached value was ever made from."""
        return f"{{{key}}}:version"

    def parts(self, key: str) -> tuple[str, str]:
        """A key's entity and what follows it: `staging:account:1:mid` gives `account`, `1:mid`.

        The entity of a key of another namespace is empty.
        """
        if not key.startswith(self._prefix):
            return "", key
        entity, _, rest = key.removeprefix(self._prefix).partition(":")
        return entity, rest

    def subject_of(self, channel: str) -> str:
        """The id at the end of a channel: `market_data:EURUSD` gives `EURUSD`."""
        return channel.removeprefix(self._prefix).partition(":")[2]
