"""Settings: from `rtx.toml`, then environment variables `RTX_…`, then options.

Frozen; unknown fields and unknown `RTX_` variables are refused; secrets are masked. A nested
field is reached in the environment with two underscores: `RTX_POOL__SIZE=50`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rtx import urls
from rtx.errors import SettingsError
from rtx.security import LoginSettings, Part, TLSSettings
from rtx.setting_groups import (
    AlertSettings,
    CacheSettings,
    ChannelSettings,
    ConcurrencySettings,
    GatewaySettings,
    LimiterSettings,
    LimitSettings,
    MarketDataSettings,
    PoolSettings,
    ReadSettings,
    SessionSettings,
    TelemetrySettings,
    TTLSettings,
)

_QUERY_SECRET = re.compile(r"(?i)([?&][^=&#]*(?:password|passwd|secret|token)[^=&#]*=)[^&#]*")


_API = LimitSettings(limit=100, per=60.0, when_down="open")
_ORDERS = LimitSettings(limit=10, per=1.0)


class Settings(BaseSettings):
    """All settings of a process.

    `url` serves all roles (databases 0, 1, 2) unless a role has a URL of its own, and `login` all
    roles unless a role has one. `load` raises `SettingsError`, naming the field and the remedy.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="RTX_",
        env_nested_delimiter="__",
        validate_default=True,
        hide_input_in_errors=True,
    )

    url: SecretStr = SecretStr("embedded://")
    cache_url: SecretStr | None = None
    pubsub_url: SecretStr | None = None
    limits_url: SecretStr | None = None
    namespace: str = Field("", pattern=r"^[A-Za-z0-9_.:-]*$")
    database_url: SecretStr | None = None
    client_name: str = Field("rtx", pattern=r"^[!-~]+$")
    pool: PoolSettings = PoolSettings()
    login: LoginSettings = LoginSettings()
    cache_login: LoginSettings = LoginSettings()
    pubsub_login: LoginSettings = LoginSettings()
    limits_login: LoginSettings = LoginSettings()
    sentinel_login: LoginSettings = LoginSettings()
    metrics_login: LoginSettings = LoginSettings()
    tls: TLSSettings = TLSSettings()
    ttl: TTLSettings = TTLSettings()
    cache: CacheSettings = CacheSettings()
    reads: ReadSettings = ReadSettings()
    sessions: SessionSettings = SessionSettings()
    channels: ChannelSettings = ChannelSettings()
    market_data: MarketDataSettings = MarketDataSettings()
    limits: Mapping[str, LimitSettings] = {}
    concurrency: Mapping[str, ConcurrencySettings] = {}
    limiter: LimiterSettings = LimiterSettings()
    alerts: AlertSettings = AlertSettings()
    gateway: GatewaySettings = GatewaySettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @field_serializer("url", "cache_url", "pubsub_url", "limits_url", "database_url")
    def _mask(self, value: SecretStr | None) -> str | None:
        return None if value is None else masked_url(value.get_secret_value())

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("url", "cache_url", "pubsub_url", "limits_url"):
            value: SecretStr | None = getattr(self, name)
            if value is not None:
                try:
                    urls.parse(value.get_secret_value())
                except SettingsError as error:
                    raise ValueError(f"{name}: {error}") from None
        if self.reads.cache_from == "replica" and not isinstance(
            urls.parse((self.cache_url or self.url).get_secret_value()),
            urls.Sentinel | urls.Cluster,
        ):
            raise ValueError(
                'reads.cache_from: "replica" needs a server that has replicas; give the caches a '
                "redis+sentinel:// or redis+cluster:// URL, or leave it out"
            )
        sliding = self.sessions.expiry == "sliding"
        if sliding and self.sessions.max_age < self.ttl.session:
            raise ValueError(
                f"sessions.max_age ({self.sessions.max_age:g} s) is shorter than ttl.session "
                f"({self.ttl.session:g} s), so that no use could extend a session; raise it, or "
                "lower ttl.session"
            )
        return self

    @property
    def named_limits(self) -> dict[str, LimitSettings]:
        """The limits in force: `api` and `orders` as documented unless set otherwise.

        `api` stays open while its server is away, unless it is told to be otherwise.
        """
        named = {"api": _API, "orders": _ORDERS, **self.limits}
        if "when_down" not in named["api"].model_fields_set:
            named["api"] = named["api"].model_copy(update={"when_down": _API.when_down})
        return named

    def location(self, role: Literal["cache", "pubsub", "limits"]) -> urls.Location:
        """Where the server of a role is, with the role's login where the URL has none.

        Raises `SettingsError` when a password file cannot be read.
        """
        own: SecretStr | None = getattr(self, f"{role}_url")
        location = urls.parse((own or self.url).get_secret_value())
        login: LoginSettings = getattr(self, f"{role}_login")
        credentials = login.credentials
        if credentials == urls.NO_CREDENTIALS:
            credentials = self.login.credentials
        return urls.with_credentials(location, credentials)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _FileSource(settings_cls))

    @classmethod
    def load(cls, **options: object) -> Settings:
        """Read file, environment and options; raise `SettingsError` naming every bad field."""
        known = {f"RTX_{name}".upper(): field for name, field in cls.model_fields.items()}
        for name in os.environ:
            head, nested, _ = name.upper().partition("__")
            if not head.startswith("RTX_") or (head == "RTX_CONFIG" and not nested):
                continue
            field = known.get(head)
            if field is None or (nested and not isinstance(field.default, Part | Mapping)):
                raise SettingsError(
                    f"unknown environment variable {name}; known are RTX_CONFIG, "
                    f"{', '.join(sorted(known))}, with __ for the fields inside, such as "
                    "RTX_POOL__SIZE"
                )
        given = {name: value for name, value in options.items() if value is not None}
        try:
            return cls(**given)  # type: ignore[arg-type]
        except ValidationError as error:
            problems = [cls._sentence(item) for item in error.errors(include_url=False)]
            raise SettingsError("bad settings: " + "; ".join(problems)) from None
        except ValueError as error:  # a nested environment variable that is not JSON
            raise SettingsError(
                f"bad settings: {error}; write JSON, or one field in a variable such as "
                "RTX_POOL__SIZE"
            ) from None

    @classmethod
    def _sentence(cls, error: ErrorDetails) -> str:
        where = ".".join(map(str, error["loc"]))
        text = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            text = f"unknown field; known are {', '.join(cls._fields_beside(error['loc']))}"
        return f"{where}: {text}" if where else text

    @classmethod
    def _fields_beside(cls, location: tuple[int | str, ...]) -> list[str]:
        part: object = cls
        for name in location[:-1]:
            if isinstance(part, type) and issubclass(part, BaseModel):
                part = part.model_fields[str(name)].annotation
            else:  # a mapping of names to parts
                part = get_args(part)[1]
        return sorted(part.model_fields) if isinstance(part, type(BaseModel)) else []


class _FileSource(PydanticBaseSettingsSource):
    """`rtx.toml` here, or the file that RTX_CONFIG names, which must then exist."""

    def get_field_value(self, field: object, field_name: str) -> tuple[None, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, object]:
        named = os.environ.get("RTX_CONFIG")
        path = Path(named or "rtx.toml")
        if not path.exists():
            if named:
                raise SettingsError(f"RTX_CONFIG names {named}, which does not exist")
            return {}
        try:
            return tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path} cannot be read as TOML: {error}") from None


def masked_url(url: str) -> str:
    """The URL with its passwords, in the login or in the query, replaced by `***`."""
    url = _QUERY_SECRET.sub(r"\1***", url)
    scheme, mark, rest = url.partition("://")
    # Up to the last @: a password may have a raw / or @ in it, and too much masked is no leak.
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    if not (at and colon) or rest.startswith("/"):
        return url
    return f"{scheme}{mark}{user}:***@{host}"
