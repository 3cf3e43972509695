"""Password hashes: scrypt, as text `scrypt$N,r,p$salt$key` with base64 parts."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping

from rtx.errors import SettingsError
from rtx.setting_groups import UserSettings

# 16 MiB of memory and a fifth of a second: what OWASP asks for at this memory.
_COST = (2**14, 8, 5)
_MAX_MEMORY = 256 * 2**20  # a hash in the settings cannot ask for more, nor stall the process

# One login costs a fifth of a second of a core, so a burst must not take the cores from the
# event loop, and a flood is turned away instead of queued.
_AT_ONCE = 2
_WAITING = 32


def hash_password(password: str) -> str:
    """Hash a password for `gateway.users.NAME.password_hash` in the settings."""
    salt = os.urandom(16)
    return _text(_COST, salt, _key(password, salt, _COST))


def verify_password(password: str, password_hash: str) -> bool:
    """Whether the password is the hashed one, in constant time.

    Takes a fifth of a second of a core: call it off the event loop. Raises `SettingsError` for
    text that is not a hash of `hash_password`.
    """
    cost, salt, key = _parse(password_hash)
    return hmac.compare_digest(_key(password, salt, cost, len(key)), key)


def _key(password: str, salt: bytes, cost: tuple[int, int, int], length: int = 32) -> bytes:
    n, r, p = cost
    secret = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=_MAX_MEMORY, dklen=length)


def _text(cost: tuple[int, int, int], salt: bytes, key: bytes) -> str:
    return f"scrypt${','.join(map(str, cost))}${b64encode(salt).decode()}${b64encode(key).decode()}"


def _parse(text: str) -> tuple[tuple[int, int, int], bytes, bytes]:
    try:
        scheme, cost, salt, key = text.split("$")
        n, r, p = (int(part) for part in cost.split(","))
        if scheme != "scrypt" or n < 2 or n & (n - 1) or r < 1 or not 1 <= p <= 64:
            raise ValueError
        if 128 * r * (n + p + 2) > _MAX_MEMORY or len(b64decode(key, validate=True)) < 16:
            raise ValueError
        return (n, r, p), b64decode(salt, validate=True), b64decode(key, validate=True)
    except (ValueError, Base64Error):
        raise SettingsError(
            "gateway.users: a password_hash is not one of ours; make it with: "
            "rtx config hash-password"
        ) from None


class Passwords:
    """Checks logins against the users of the settings, off the event loop.

    Raises `SettingsError` when a user's hash is malformed.
    """

    def __init__(self, users: Mapping[str, UserSettings]) -> None:
        self._hashes = {name: user.password_hash.get_secret_value() for name, user in users.items()}
        costs = [_parse(text)[0] for text in self._hashes.values()]
        # Checked for a user that does not exist, so that the time it takes does not tell.
        self._nobody = _text(max(costs, default=_COST), os.urandom(16), os.urandom(32))
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether so many logins wait that another one should be turned away."""
        return self._waiting >= _WAITING

    async def check(self, user: str, password: str) -> bool:
        """Whether the user exists and this is the password; costs the same either way."""
        known = self._hashes.get(user)
        self._waiting += 1
        try:
            async with self._slots:
                right = await asyncio.to_thread(
                    verify_password, password, self._nobody if known is None else known
                )
        finally:
            self._waiting -= 1
        return right and known is not None
