"""The certificate of an HTTPS server: read, checked, noticed when it is renewed, or made for a try-out.

Files are PEM. With `cryptography`, which the `ssl` module cannot replace: granian (rustls) takes keys only as
PKCS#8, while certbot and openssl write `EC PRIVATE KEY` and `RSA PRIVATE KEY` as well, and a certificate for a
try-out has to be made.
"""

import asyncio
import datetime
import ipaddress
import logging
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cargo_registry.errors import ConfigError
from cargo_registry.storage.disk import reporting

log = logging.getLogger(__name__)

# How often a worker looks whether the files are other ones: who renews them need not know of us.
_LOOK_S = 10
_SELF_SIGNED_DAYS = 365


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the certificate, with the chain behind it, and its key are."""

    certificate: Path
    key: Path
    min_version: Literal["1.2", "1.3"] = "1.2"


def context(tls: Tls) -> ssl.SSLContext:
    """Return what Python needs to serve with the certificate.

    Raises:
        ConfigError: as `loaded`.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    renew(made, tls)
    return made


def renew(context: ssl.SSLContext, tls: Tls) -> None:
    """Make a context that is in use show the certificate as it is now.

    Raises:
        ConfigError: as `loaded`.
    """
    with loaded(tls) as (certificate, key):
        context.load_cert_chain(certificate, key)


@contextmanager
def loaded(tls: Tls) -> Iterator[tuple[Path, Path]]:
    """Give copies of certificate and key that fit each other, the key as PKCS#8; they are gone afterwards.

    Copies, because a renewal may replace the files one after the other at any time.

    Raises:
        ConfigError: a file cannot be read or is not what it should be, or the two do not fit.
    """
    chain = _read(tls.certificate, "certificate")
    key = _pkcs8(tls.key)
    # A folder for this user alone; in memory where the system has such a place.
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: S108
        files = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        files[0].write_bytes(chain)
        files[1].touch(0o600)
        files[1].write_bytes(key)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"The key in `{tls.key}` does not belong to the certificate in `{tls.certificate}`; "
                    "set `server.tls.certificate` and `server.tls.key` to a pair."
                ) from None
            raise ConfigError(
                f"`{tls.certificate}` holds no certificate in PEM that can be used; it must have "
                "`-----BEGIN CERTIFICATE-----`, the server's own first and then those that signed it."
            ) from None
        yield files


def _read(file: Path, setting: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"`{file}`, the `server.tls.{setting}`, cannot be read: {error.strerror}."
        ) from None


def _pkcs8(file: Path) -> bytes:
    data = _read(file, "key")
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise ConfigError(
            f"The key in `{file}` is encrypted; write it without a pass phrase: `openssl pkey -in {file} -out …`."
        ) from None
    except ValueError:
        raise ConfigError(f"`{file}` holds no private key in PEM that can be used.") from None
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Renewals:
    """Tells when the certificate is another one: its files changed, or `look` was called."""

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._asked = asyncio.Event()

    def look(self) -> None:
        """Take the files as they are now, even if they seem to be the same."""
        self._asked.set()

    async def __aiter__(self) -> AsyncIterator[None]:
        """Yield each time there is another certificate that can be used."""
        known = self._identity()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._asked.wait()
            found = self._identity()
            if found == known and not self._asked.is_set():
                continue
            self._asked.clear()
            known = found
            try:
                with loaded(self._tls):
                    pass
            except ConfigError as error:
                # Half of a renewal perhaps: the other half changes the files again.
                log.warning("the certificate is renewed later, the old one stays in use: %s", error)
                continue
            log.info("the certificate in %s is used from now on", self._tls.certificate)
            yield

    def _identity(self) -> list[tuple[int, int, int] | None]:
        return [_identity(self._tls.certificate), _identity(self._tls.key)]


def _identity(file: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


# --- For a try-out ---


def self_signed(folder: Path, hosts: Iterable[str]) -> Tls:
    """Return a certificate for these hosts and this machine that nobody has signed; made if there is none.

    It stays in `folder`, so that users who have told cargo to trust it need not do so again.
    """
    tls = Tls(folder / "self-signed.pem", folder / "self-signed.key")
    names = list(dict.fromkeys(["localhost", "127.0.0.1", "::1", *hosts]))
    if not _still_good(tls, names):
        with reporting():
            folder.mkdir(parents=True, exist_ok=True)
            _make(tls, names)
    return tls


def _still_good(tls: Tls, names: Iterable[str]) -> bool:
    try:
        with loaded(tls):
            found = x509.load_pem_x509_certificate(tls.certificate.read_bytes())
    except (ConfigError, ValueError):
        return False
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=7)
    alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found.not_valid_after_utc > soon and set(map(_alternative, names)) <= set(alternatives)


def _make(tls: Tls, names: Iterable[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cargo-registry self-signed")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName(map(_alternative, names)), critical=False)
        # It can vouch for this server and nothing else, should somebody leave it in a list of authorities.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    tls.key.unlink(missing_ok=True)
    tls.key.touch(0o600)
    tls.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
