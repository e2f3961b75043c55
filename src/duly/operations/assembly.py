"""Puts together what identity, audit and mail work with, for the server, the worker and the command line alike."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from duly.audit.chain import AuditChain
from duly.audit.log import AuditLog
from duly.cache.cache import Cache
from duly.cache.redis import REDIS_SECONDS, RedisCache
from duly.db.database import address_from
from duly.db.unit import Database
from duly.files.opening import open_files
from duly.files.scanning import Clamd, open_scanner
from duly.files.store import FileStore
from duly.identity.context import Identity
from duly.identity.lockout import Lockout
from duly.identity.one_time import OneTimeTokens
from duly.identity.post import Postman
from duly.identity.revocations import Revocations
from duly.identity.sessions import SessionKeeper
from duly.kit.ciphers import FieldCipher
from duly.kit.jwt import AccessTokens
from duly.kit.passwords import PasswordHasher
from duly.kit.secrets import derive_key, derive_keys
from duly.live.links import PostgresLink, RedisLink
from duly.live.signals import Signals
from duly.mail.letters import LetterWriter
from duly.operations import startup
from duly.operations.schedule import BackupSchedule
from duly.operations.upkeep import Upkeep
from duly.outbox.outbox import Outbox
from duly.outbox.relay import Relay
from duly.settings import Settings

log = logging.getLogger(__name__)

ISSUER = "duly"
# Enough for a crowd that signs in at once; beyond it a login is told to come back rather than wait for minutes.
LOGIN_QUEUE = 256


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything below the web. Whoever has them closes the hasher and the file store."""

    secrets: tuple[str, ...]
    cipher: FieldCipher
    access: AccessTokens
    revocations: Revocations
    identity: Identity
    chain: AuditChain
    postman: Postman
    files: FileStore | None
    scanner: Clamd | None
    backups: BackupSchedule | None
    upkeep: Upkeep


async def assemble(settings: Settings, database: Database) -> Parts:
    """Raises `SettingsFault` when the database's fields are encrypted under a key that is not here."""
    secrets = tuple(startup.find_secrets(settings))
    cipher = FieldCipher(startup.field_keys(settings))
    await startup.check_field_keys(settings, database, cipher)
    audit = AuditLog(cipher, derive_key(secrets[0], "audit"))
    chain = AuditChain(audit.read, derive_keys(secrets, "audit"))
    first, *previous = derive_keys(secrets, "access-token")
    access = AccessTokens(first, ISSUER, ISSUER, settings.access_token_seconds, previous=previous)
    revocations = Revocations()
    identity = Identity(
        hasher=PasswordHasher(settings.password_hasher, settings.bcrypt_rounds, queue=LOGIN_QUEUE),
        sessions=SessionKeeper(
            secrets=secrets,
            access=access,
            access_seconds=settings.access_token_seconds,
            refresh_life=timedelta(days=settings.refresh_token_days),
            longest=timedelta(days=settings.session_max_days),
            revocations=revocations,
            audit=audit,
            cipher=cipher,
        ),
        audit=audit,
        outbox=Outbox(cipher, derive_key(secrets[0], "outbox-recipient")),
        tokens=OneTimeTokens(derive_keys(secrets, "one-time-token")),
        lockout=Lockout(derive_key(secrets[0], "lockout")),
        password_minimum=settings.password_min_length,
        registration=settings.registration,
    )
    postman = Postman(database, identity, LetterWriter(startup.public_url(settings)), startup.make_mailer(settings))
    relay = Relay(database, identity.outbox, postman.deliver)
    files = open_files(settings)
    backups = BackupSchedule(settings, settings.backup_dir) if settings.backup_dir else None
    upkeep = Upkeep(database, relay, chain, files, audit_days=settings.audit_retention_days, backups=backups)
    scanner = open_scanner(settings)
    return Parts(secrets, cipher, access, revocations, identity, chain, postman, files, scanner, backups, upkeep)


def make_signals(settings: Settings) -> Signals | None:
    """What tells the other processes of changes; None where there are none, or where nothing could come through."""
    address = address_from(settings)
    if address.dialect == "sqlite":
        return None
    if settings.redis_url is not None:
        return Signals(RedisLink(settings.redis_url.get_secret_value()))
    if address.transaction_pooler:
        log.info("A transaction pooler carries no signals: what another process changes is seen within a second")
        return None
    return Signals(PostgresLink(address))


def make_cache(settings: Settings, secrets: Sequence[str], *, redis_seconds: float = REDIS_SECONDS) -> Cache:
    """The cache, with Redis behind it where there is one. Whoever has it closes it."""
    if settings.redis_url is None:
        return Cache()
    url = settings.redis_url.get_secret_value()
    return Cache(RedisCache(url, derive_key(secrets[0], "cache"), seconds=redis_seconds))
