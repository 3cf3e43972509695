"""Certificates for development: an authority of one's own, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtx.errors import SettingsError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_DAY = datetime.timedelta(days=1)
_CA_DAYS = 3_650


def make_certs(directory: Path, hosts: Sequence[str], days: int) -> list[Path]:
    """Make `ca.pem`, and `server.pem` and `client.pem` with their keys; returns what was made.

    `hosts` are the names and addresses that clients reach the servers by; `days` how long their
    certificates hold. An authority that is there stays, and signs again. Keys are readable by
    their owner alone. Raises `SettingsError`.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError:
        raise SettingsError(
            'certificates need the package "cryptography"; pip install "rtx-datalayer[tls]"'
        ) from None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        ca, key, made = _authority(directory)
        made += _signed(directory, "server", hosts, days, ca, key)
        return made + _signed(directory, "client", (), days, ca, key)
    except OSError as error:
        raise SettingsError(f"{directory}: {error.strerror}; choose another directory") from None


def _authority(
    directory: Path,
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey, list[Path]]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    path, key_path = directory / "ca.pem", directory / "ca.key"
    if path.exists() and key_path.exists():
        try:
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            loaded = serialization.load_pem_private_key(key_path.read_bytes(), None)
        except ValueError as error:
            raise SettingsError(f"{path} or its key cannot be read: {error}") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise SettingsError(
                f"{key_path} is not a key that was made here; use another directory"
            )
        return certificate, loaded, []
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("RTX development CA")
    certificate = (
        _builder(name, name, key, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key, _write(directory, "ca", certificate, key)


def _signed(
    directory: Path,
    name: str,
    hosts: Sequence[str],
    days: int,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
) -> list[Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    # Nodes and replicas show their certificates to each other, as clients do.
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(_name(hosts[0] if hosts else f"rtx {name}"), ca.subject, key, days)
    if hosts:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _write(directory, name, certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)  # clocks differ
        .not_valid_after(now + days * _DAY)
    )


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _host(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode())
    except UnicodeError:
        raise SettingsError(f"{host!r} is no host name and no address") from None


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write(
    directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> list[Path]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Made with its rights, so that nobody can have read it before they were set.
    key_path.unlink(missing_ok=True)
    with os.fdopen(os.open(key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return [path, key_path]
