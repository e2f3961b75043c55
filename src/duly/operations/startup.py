"""What must be in order before a process serves: every fault at once, each with its remedy."""

import asyncio
import ipaddress
import logging
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr
from redis.asyncio.connection import parse_url

from duly.db import migrate
from duly.db.database import address_from, open_database
from duly.db.unit import Database
from duly.db.url import DatabaseAddress
from duly.errors import DulyError
from duly.files.opening import open_files
from duly.files.scanning import open_scanner
from duly.files.store import FileStore
from duly.identity import user_queries
from duly.identity.issuer_settings import IssuerConfig, issuers_from
from duly.kit.ciphers import FieldCipher
from duly.kit.clock import now
from duly.kit.secrets import derive_key, derive_keys, encode_bytes, load_or_make_key, read_previous_keys
from duly.limits.limiter import read_policy
from duly.mail.mailers import ConsoleMailer, Mailer, MissingMailer, SmtpMailer, SmtpServer
from duly.operations import extras
from duly.settings import Settings, SettingsFault

log = logging.getLogger(__name__)
RETRY_SECONDS = 0.25
KEY_FILE = "secret_key"
FIELD_PURPOSE = "field-encryption"


def find_secret(settings: Settings) -> str:
    """`SECRET_KEY`; else derived from `BETTER_AUTH_SECRET`; else, in development, made once and kept in DATA_DIR."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    if settings.better_auth_secret is not None:
        return _secret_from(settings.better_auth_secret)
    return load_or_make_key(settings.data_dir / KEY_FILE)


def has_secret(settings: Settings) -> bool:
    """Whether `find_secret` would find one, and not make one."""
    return bool(settings.secret_key or settings.better_auth_secret) or (settings.data_dir / KEY_FILE).exists()


def _secret_from(secret: SecretStr) -> str:
    return encode_bytes(derive_key(secret.get_secret_value(), "secret-key"))


def find_secrets(settings: Settings) -> list[str]:
    """The secret that signs now, and before it those whose signatures are still good."""
    previous = [secret.get_secret_value() for secret in settings.secret_key_previous]
    if settings.secret_key is None and settings.better_auth_secret is None:
        previous += read_previous_keys(settings.data_dir / KEY_FILE)
    return [find_secret(settings), *previous]


def field_keys(settings: Settings) -> list[bytes]:
    """What fields are encrypted with: the keys that are named, or the ones that follow from the secrets."""
    named = [derive_key(key.get_secret_value(), FIELD_PURPOSE) for key in settings.field_encryption_key]
    secrets = find_secrets(settings)
    if settings.secret_key is not None and settings.better_auth_secret is not None:
        secrets.append(_secret_from(settings.better_auth_secret))  # what the keys followed from before it was set
    return named + list(derive_keys(secrets, FIELD_PURPOSE))


async def check_field_keys(settings: Settings, database: Database, cipher: FieldCipher) -> None:
    """See to it that every key is here under which this database's fields are encrypted.

    Raises `SettingsFault` when FIELD_ENCRYPTION_KEY is set and one is missing. Keys that follow from a SECRET_KEY that
    was replaced are only warned of: addresses and agents from before are then unreadable, and say so.
    """
    used = {row[0] for row in await database.fetch(user_queries.FIELD_KEYS)}
    missing = sorted(used - set(cipher.key_ids))
    if missing:
        fault = (
            f"fields of this database are encrypted under the key {', '.join(missing)}, which is not here; add it "
            "behind the new one (or the old SECRET_KEY to SECRET_KEY_PREVIOUS)"
        )
        if settings.field_encryption_key:
            raise SettingsFault([f"FIELD_ENCRYPTION_KEY: {fault}"])
        log.warning("Some %s", fault)
    if cipher.current_id not in used:
        async with database.unit() as unit:
            await unit.fetch(user_queries.ADD_FIELD_KEY, id=cipher.current_id, created_at=now())


def public_url(settings: Settings) -> str:
    """`PUBLIC_URL`, or in development the address that is listened on."""
    scheme = "http" if settings.tls_certificate is None else "https"
    return settings.public_url or f"{scheme}://{settings.host}:{settings.port}"


def make_mailer(settings: Settings) -> Mailer:
    """SMTP where it is set; else the console in development, and elsewhere a mailer that says what is missing."""
    if settings.smtp_host is None:
        return MissingMailer() if settings.is_strict else ConsoleMailer()
    password = settings.smtp_password
    return SmtpMailer(
        SmtpServer(
            host=settings.smtp_host,
            port=settings.smtp_port,
            username=settings.smtp_username,
            password=password.get_secret_value() if password else None,
            sender=settings.smtp_from or "",
            security=settings.smtp_security,
        )
    )


def trusted_issuers(settings: Settings) -> list[IssuerConfig]:
    """The outside issuers that the settings name. Raises ValueError with one line."""
    secret = settings.better_auth_secret
    return issuers_from(
        settings.better_auth_url,
        secret.get_secret_value() if secret else None,
        settings.trusted_issuers,
        better_auth_scopes=(settings.better_auth_read_scope, settings.better_auth_write_scope),
    )


def check_settings(settings: Settings) -> DatabaseAddress:
    """Everything that can be known without waiting. Raises `SettingsFault` naming each fault."""
    faults: list[str] = []
    address = None
    try:
        address = address_from(settings)
        address.asyncpg_arguments()  # reads the certificates that it names
    except ValueError as error:
        faults.append(_named("DATABASE_URL", str(error)))
    try:
        issuers = trusted_issuers(settings)
        if not settings.local_accounts and not issuers:
            faults.append("LOCAL_ACCOUNTS: is off and no issuer is trusted; set BETTER_AUTH_URL or TRUSTED_ISSUERS")
    except ValueError as error:
        faults.append(_named("TRUSTED_ISSUERS", str(error)))
    faults += _wrong_addresses(settings) + _wrong_rates(settings) + extras.find_faults(settings)
    try:
        open_files(settings)
    except ValueError as error:
        faults.append(f"FILES_URL: {error}")
    try:
        open_scanner(settings)
    except ValueError as error:
        faults.append(f"CLAMD_URL: {error}")
    try:
        make_mailer(settings)
    except ValueError as error:
        faults.append(f"SMTP_FROM: {error}; give a sender such as Duly <tasks@example.com>")
    needs_folder = address is None or address.dialect == "sqlite" or not (settings.secret_key or settings.is_strict)
    if needs_folder:
        folder = address.path.parent if address is not None and address.path is not None else settings.data_dir
        faults += _unwritable("DATA_DIR", folder)
    if settings.backup_dir is not None:
        faults += _unwritable("BACKUP_DIR", settings.backup_dir)
    if faults or address is None:
        raise SettingsFault(faults)
    return address


def _named(name: str, fault: str) -> str:
    return fault if fault.partition(":")[0].isupper() else f"{name}: {fault}"


def _wrong_addresses(settings: Settings) -> list[str]:
    faults = []
    for entry in settings.trusted_proxies:
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError:
            faults.append(f"TRUSTED_PROXIES: {entry!r} is no address or network, such as 10.0.0.0/8")
    if settings.public_url is not None:
        parts = urlsplit(settings.public_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            faults.append("PUBLIC_URL: give http:// or https:// and a host, such as https://tasks.example.com")
    if settings.redis_url is not None:
        scheme = settings.redis_url.get_secret_value().partition("://")[0]
        if scheme not in {"redis", "rediss", "unix"} or not _is_readable(settings.redis_url.get_secret_value()):
            faults.append("REDIS_URL: give redis://host:6379/0 or rediss://…")
        else:
            faults += _missing_certificates(settings.redis_url.get_secret_value())
    return faults


def _missing_certificates(redis_url: str) -> list[str]:
    """Without them Redis would be away for good, and all would go on without it."""
    options = parse_url(redis_url)
    faults = []
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = options.get(name)
        if isinstance(path, str) and not os.access(path, os.R_OK):
            faults.append(f"REDIS_URL: {name}: cannot read {path}; name a readable PEM file")
    return faults


def _is_readable(redis_url: str) -> bool:
    try:
        parse_url(redis_url)
    except ValueError:
        return False
    return True


def _wrong_rates(settings: Settings) -> list[str]:
    faults = []
    for name in Settings.model_fields:
        if name.startswith("rate_limit_") and name != "rate_limit_enabled":
            try:
                read_policy(name, getattr(settings, name))
            except ValueError as error:
                faults.append(f"{name.upper()}: {error}")
    return faults


def _unwritable(name: str, folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return [f"{name}: cannot make {folder} ({error.strerror}); give a folder that can be written"]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [f"{name}: {folder} cannot be written; give a folder that can, or change its owner"]
    return []


async def check_files(settings: Settings, files: FileStore) -> None:
    """Write to the store of attachments. Raises `SettingsFault` for a folder that does not take a file.

    An object store that does not answer is only warned of: it may come back, and all but attachments works meanwhile.
    """
    try:
        await files.check()
    except DulyError as error:
        if settings.files_url is not None:
            log.warning("FILES_URL: the object store does not take files; attachments answer 503 until it does")
            return
        folder = settings.files_dir or settings.data_dir / "files"
        reason = getattr(error.__cause__, "strerror", None) or error.code
        fault = f"FILES_DIR: {folder} does not take files ({reason}); give a folder that can be written"
        raise SettingsFault([fault]) from None


async def check_folder(settings: Settings) -> None:
    """The same for a folder alone, before anything listens. Raises `SettingsFault`."""
    files = open_files(settings)
    if settings.files_url is None and files is not None:
        try:
            await check_files(settings, files)
        finally:
            files.close()


async def migrate_at_start(settings: Settings, address: DatabaseAddress) -> None:
    """Upgrade the schema, or with `AUTO_MIGRATE=false` refuse an old one.

    An unreachable database is tried again for `STARTUP_TIMEOUT_SECONDS`. Raises `SettingsFault`.
    """
    deadline = time.monotonic() + settings.startup_timeout_seconds
    revision: str | None = None
    while True:
        try:
            if settings.auto_migrate:
                before, revision = await migrate.upgrade(address)
                if before != revision:
                    log.info("Schema upgraded from %s to %s", before or "nothing", revision)
            else:
                revision = await migrate.current(address)
            break
        except migrate.FAULTS as error:
            if time.monotonic() + RETRY_SECONDS >= deadline:
                raise SettingsFault([unreachable(address, error)]) from None
            await asyncio.sleep(RETRY_SECONDS)
    if revision != migrate.head():
        remedy = "run 'duly migrate upgrade'" if not settings.auto_migrate else "install the version that it belongs to"
        raise SettingsFault([f"AUTO_MIGRATE: the schema is at {revision or 'nothing'}, not {migrate.head()}; {remedy}"])


def unreachable(address: DatabaseAddress, error: Exception) -> str:
    """One line for an operator: which database, what its driver said, and what to do."""
    # What Duly raises is for clients; the driver's own word is behind it.
    told = error.__cause__ if isinstance(error, DulyError) else getattr(error, "orig", None)
    reason = str(told or error).strip().partition("\n")[0] or type(error).__name__
    return f"DATABASE_URL: {address.safe_text} cannot be used ({reason}); start it or correct the address"


async def connect_at_start(settings: Settings, address: DatabaseAddress) -> Database:
    """Open the database. Raises `SettingsFault` with one line."""
    try:
        return await open_database(settings)
    except (DulyError, OSError) as error:
        raise SettingsFault([unreachable(address, error)]) from None
