"""The gateway: HTTP, WebSocket and SSE for clients that do not speak Redis."""

from rtx.errors import MissingExtra

try:
    from rtx.gateway.app import create_app
    from rtx.gateway.orders import MarketOrder, OrderDesk, OrderRejected
    from rtx.gateway.passwords import hash_password, verify_password
    from rtx.gateway.server import serve
except ModuleNotFoundError as error:
    if error.name not in ("litestar", "uvicorn"):
        raise
    raise MissingExtra("gateway", error.name) from None

__all__ = [
    "MarketOrder",
    "OrderDesk",
    "OrderRejected",
    "create_app",
    "hash_password",
    "serve",
    "verify_password",
]
