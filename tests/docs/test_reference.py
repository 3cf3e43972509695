"""The reference names what the code has: all of it, and nothing else."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest
import typer
from pydantic import BaseModel, SecretStr

import rtx
import rtx.gateway
from rtx import codecs, errors
from rtx.cli.app import app
from rtx.database import Duplicate
from rtx.errors import RtxError
from rtx.gateway import OrderRejected, create_app
from rtx.models import Account, Alert, Execution, Position, Session, SymbolSpec, Tick
from rtx.ratelimit import RateLimited
from rtx.settings import Settings
from tests.conftest import ROOT

REFERENCE = ROOT / "docs" / "reference"


def rows(page: str) -> list[list[str]]:
    """The cells of every table row of a page, without heads and rules."""
    found: list[list[str]] = []
    head = True
    for line in (REFERENCE / page).read_text("utf-8").splitlines():
        if not line.startswith("|"):
            head = True
        elif head:
            head = False
        elif not line.startswith("|---"):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def names(page: str) -> dict[str, list[str]]:
    """Rows by the first name in backticks of their first cell."""
    return {
        name: cells
        for cells in rows(page)
        for name in re.findall(r"`([^`]+)`", cells[0])[:1]
        if not re.search(r"[/: {]", name)
    }


# --- settings --------------------------------------------------------------------------------


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting with its default, `…` where it is required."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name}.")
            continue
        models = [part for part in get_args(inner) if inspect.isclass(part)]
        mapped = [part for part in models if issubclass(part, BaseModel)]
        if mapped:
            yield from fields(mapped[0], f"{prefix}{name}.NAME.")
        else:
            yield f"{prefix}{name}", "…" if field.is_required() else field.default


def as_written(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if default == "…":
        return "required"
    if default is None:
        return "none"
    if default is True:
        return "on"
    if default in ("", ()):
        return "empty"
    if isinstance(default, int | float):
        return f"{default:.15g}"
    return f"`{default}`"


def test_every_setting_is_there_with_its_default() -> None:
    documented = {name: cells[1] for name, cells in names("settings.md").items()}
    known = {name: as_written(default) for name, default in fields(Settings)}
    page = (REFERENCE / "settings.md").read_text("utf-8")
    for name in [name for name in known if re.match(r"\w+_login\.", name)]:
        group, _, field = name.partition(".")  # all logins have the fields of `login`
        assert f"`[{group}]`" in page
        assert known.pop(name) == known[f"login.{field}"]
    assert documented == known


def test_the_limits_that_are_there_from_the_start_are_as_documented() -> None:
    page = (REFERENCE / "settings.md").read_text("utf-8")
    for name, limit in Settings().named_limits.items():
        assert f"`{name}` ({limit.limit} in {limit.per:g} s)" in page


# --- errors ----------------------------------------------------------------------------------


def test_every_error_is_there_with_its_facts() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, RtxError)
    ]
    expected = {
        kind.__name__: [
            f"`{kind.__base__.__name__}`",
            f"`{kind.code}`",
            "yes" if kind.retryable else "no",
        ]
        for kind in (*classes, Duplicate, RateLimited)
        if kind.__base__ is not None
    }
    expected[OrderRejected.__name__] = ["`RtxError`", "its own", "depends"]
    documented = {
        name: cells[1:4] for name, cells in names("errors.md").items() if name[0].isupper()
    }
    assert documented == expected


# --- gateway ---------------------------------------------------------------------------------


async def test_every_route_is_there(layer: rtx.DataLayer) -> None:
    documented = {re.findall(r"`([A-Z]+ /[^`]*)`", cells[0])[0] for cells in rows_of_routes()}
    served = set()
    for route in create_app(layer).routes:
        path = re.sub(r":\w+}", "}", route.path)
        if path.startswith(("/page/", "/docs/")):
            continue  # the files of the pages
        methods = sorted(getattr(route, "methods", None) or {"WS"})
        served |= {f"{method} {path}" for method in methods if method not in ("OPTIONS", "HEAD")}
    assert documented == served


def rows_of_routes() -> list[list[str]]:
    return [cells for cells in rows("gateway.md") if re.match(r"`[A-Z]+ /", cells[0])]


def codes_in_the_source() -> set[str]:
    """The codes that the gateway and its broker refuse with."""
    found: set[str] = set()
    package = ROOT / "src" / "rtx"
    for path in [*(package / "gateway").glob("*.py"), *(package / "demo").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                texts = [
                    item.value
                    for item in node.args[:2]
                    if isinstance(item, ast.Constant) and isinstance(item.value, str)
                ]
                if node.func.id in ("Refused", "OrderRejected", "Problem") and texts:
                    found.add(texts[0])
    return found


def test_every_code_of_the_gateway_is_there() -> None:
    documented = {
        code
        for cells in rows("gateway.md")
        if len(cells) == 3 and re.fullmatch(r"(\d{3}|stream|, )+", cells[1])
        for code in re.findall(r"`(\w+)`", cells[0])
    }
    assert documented == codes_in_the_source() | {"database_unavailable"}


# --- JSON ------------------------------------------------------------------------------------


def json_blocks(page: str) -> list[str]:
    text = (REFERENCE / page).read_text("utf-8")
    return re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)


MODELS = [Account, None, Position, SymbolSpec, Session, Tick, Execution, Alert, rtx.AlertRule]


@pytest.mark.parametrize(
    ("model", "text"),
    list(zip(MODELS, json_blocks("keys-and-channels.md"), strict=True)),
    ids=lambda item: item.__name__ if inspect.isclass(item) else "",
)
def test_the_json_of_the_contract_is_what_is_written(model: Any, text: str) -> None:
    given = json.loads(text)
    if model is None:
        price = codecs.decode_price(text.encode())
        written = codecs.encode_price(price.symbol, price.bid, price.ask, price.time)
    elif isinstance(given, list):
        written = codecs.encode(codecs.decode_positions(text.encode()))
    else:
        written = codecs.encode(msgspec.json.decode(text, type=model))
    assert json.loads(written) == given
    first = given[0] if isinstance(given, list) else given
    again = json.loads(written)
    assert list(again[0] if isinstance(again, list) else again) == list(first)


def test_the_names_of_keys_are_those_that_are_used() -> None:
    page = (REFERENCE / "keys-and-channels.md").read_text("utf-8")
    keys = rtx.keys.Keys()
    for name in (
        keys.account("{account_id}"),  # type: ignore[arg-type]
        keys.price("{symbol}"),
        keys.positions("{account_id}"),  # type: ignore[arg-type]
        keys.symbol("{symbol}"),
        keys.market_data("{symbol}"),
        keys.executions("{account_id}"),  # type: ignore[arg-type]
        keys.alerts("{account_id}"),
        keys.limit("api", "{user_id}"),
        keys.limit("orders", "{account_id}"),
        keys.concurrency("{name}", "{id}"),
        keys.companion(keys.executions(1), "log"),
        keys.companion(keys.executions(1), "meta"),
    ):
        assert f"`{name}`" in page, name


def test_every_command_is_there() -> None:
    root: Any = typer.main.get_command(app)
    known = set()
    for name, command in root.commands.items():
        inner = getattr(command, "commands", None)
        known |= {f"rtx {name} {one}" for one in inner or ()}
        if not inner or command.invoke_without_command:
            known.add(f"rtx {name}")
    documented = {re.findall(r"`([^`]+)`", cells[0])[0] for cells in rows("commands.md")}
    assert documented == known
