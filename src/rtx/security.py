"""Settings of logins and TLS. Verification is on unless it is switched off by name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, SecretStr, model_validator

from rtx import urls
from rtx.errors import SettingsError


class Part(BaseModel):
    """Base of every group of settings: frozen, and unknown fields are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )


class LoginSettings(Part):
    """User and password for servers whose URL has none; the password may be in a file."""

    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.password is not None and self.password_file is not None:
            raise ValueError("set password or password_file, not both")
        if self.username is not None and self.password is None and self.password_file is None:
            raise ValueError("a username needs a password or a password_file")
        return self

    @property
    def credentials(self) -> urls.Credentials:
        """What is sent at connect. Raises `SettingsError` when the file cannot be read."""
        if self.password is not None:
            return urls.Credentials(self.username, self.password.get_secret_value())
        if self.password_file is None:
            return urls.NO_CREDENTIALS
        try:
            text = self.password_file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"password_file {self.password_file} cannot be read: {error}"
            ) from None
        return urls.Credentials(self.username, text.strip("\r\n"))


class TLSSettings(Part):
    """TLS of `rediss://` URLs: an own CA, a client certificate. Files are PEM.

    With `verify` off the server may be anybody: for experiments on one machine only.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    verify: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.key is not None and self.cert is None:
            raise ValueError("a key needs its cert")
        return self

    def context(self) -> ssl.SSLContext:
        """A client's context. Raises `SettingsError` when a file is missing or is not PEM."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path)
            raise SettingsError(f"TLS files cannot be used ({files}): {error}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context
