"""Rate limits in front of web applications: ASGI middleware, the fields, the client's address.

`rtx.web.fastapi` has the dependencies for FastAPI.
"""

from rtx.web.addresses import by_address, client_address, counted_address
from rtx.web.deciding import HasLimits, Hold, Rule
from rtx.web.middleware import RateLimits
from rtx.web.ruling import Policy, Ruling

__all__ = [
    "HasLimits",
    "Hold",
    "Policy",
    "RateLimits",
    "Rule",
    "Ruling",
    "by_address",
    "client_address",
    "counted_address",
]
