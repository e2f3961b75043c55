"""Every setting, typed and read once; no other module reads the environment."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

TEMPLATE_WORDS = ("change", "replace", "example", "secret", "your-", "password", "placeholder", "dummy")
MIN_SECRET_LENGTH = 32


class SettingsFault(Exception):
    """The settings cannot be used. `faults` has one line each, naming the setting and the remedy."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class FileSource(PydanticBaseSettingsSource):
    """`NAME_FILE` holds the path of a file whose content is the value: the form in which secrets are mounted."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self._environ = environ

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Read one file, or answer nothing; `load_settings` tells of a file that cannot be read."""
        path = self._environ.get(f"{field_name.upper()}_FILE")
        if not path or _file_fault(field_name, self._environ):
            return None, field_name, False
        return Path(path).read_text(encoding="utf-8").strip(), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every setting that a file gives."""
        found = ((name, self.get_field_value(None, name)[0]) for name in self.settings_cls.model_fields)
        return {name: value for name, value in found if value is not None}


class Settings(BaseSettings):
    """One value per documented name; durations carry their unit in the name, sizes are in bytes."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True,
        hide_input_in_errors=True, populate_by_name=True,
    )  # fmt: skip

    host: str = Field("127.0.0.1", description="Address that `duly serve` listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that `duly serve` listens on.")
    environment: Literal["development", "staging", "production"] = Field(
        "development", description="Staging and production refuse weak settings and log JSON."
    )
    debug: bool = Field(False, description="More detail in the log. Refused in production.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["console", "json"] | None = Field(
        None, description="Form of a log line; default console in development and json elsewhere."
    )
    log_sql: bool = Field(False, description="Log each statement, without its values.")

    data_dir: Path = Field(Path("data"), description="Folder of the SQLite file and of the key made in development.")
    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("database_url", "neon_db_url"),
        description="PostgreSQL or SQLite address, in any form that a host prints; default SQLite in DATA_DIR.",
    )
    database_pool_size: int = Field(5, ge=1, le=100, description="PostgreSQL connections kept open per worker.")
    database_max_overflow: int = Field(10, ge=0, le=200, description="PostgreSQL connections opened beyond that.")
    database_prepared_statements: bool | None = Field(
        None, description="Off behind PgBouncer in transaction mode; found out from the address when not set."
    )
    auto_migrate: bool = Field(True, description="Upgrade the schema at start.")
    startup_timeout_seconds: float = Field(5, ge=0, le=300, description="How long to wait for the database at start.")
    redis_url: SecretStr | None = Field(None, description="redis:// or rediss:// address; optional.")
    web_concurrency: int = Field(1, ge=1, le=64, description="Worker processes; SQLite always has one.")

    secret_key: SecretStr | None = Field(
        None, description="Signs tokens; 32 characters or more. Development makes one in DATA_DIR."
    )
    secret_key_previous: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Earlier values of SECRET_KEY, by commas: what they signed stays good."
    )
    field_encryption_key: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Encrypts addresses and agents; by commas, newest first. Default: derived from SECRET_KEY."
    )
    jwt_expiration_hours: float | None = Field(None, gt=0, le=720, description="Life of an access token, in hours.")
    access_token_minutes: float | None = Field(None, gt=0, le=43200, description="The same in minutes; default 15.")
    refresh_token_days: float = Field(7, gt=0, le=365, description="Life of an unused refresh token.")
    session_max_days: float = Field(30, gt=0, le=3650, description="Longest life of a session after login.")
    password_hasher: Literal["argon2id", "bcrypt"] = Field("argon2id", description="How new passwords are hashed.")
    bcrypt_rounds: int = Field(12, ge=10, le=16, description="Cost of bcrypt, as a power of two.")
    password_min_length: int = Field(8, ge=8, le=64, description="Least length of a password, in characters.")
    local_accounts: bool = Field(True, description="Off: no account endpoint; only outside issuers' tokens count.")
    registration: Literal["open", "verified", "closed"] = Field(
        "open",
        description="Who may register; `verified`: only after answering a mail, and without telling who has one.",
    )
    admin_registration_token: SecretStr | None = Field(
        None, description="Registers the first administrator over HTTP, once; 32 characters or more."
    )
    audit_retention_days: float = Field(365, ge=0, le=36500, description="Age at which audit entries go; 0: never.")

    better_auth_url: str | None = Field(None, description="Address of a Better Auth server whose tokens are trusted.")
    better_auth_secret: SecretStr | None = Field(None, description="Its secret, where it signs HS256 tokens.")
    trusted_issuers: Annotated[tuple[dict[str, Any], ...], NoDecode] = Field(
        (), description="JSON list of further token issuers."
    )

    smtp_host: str | None = Field(None, description="Mail server; without one, development prints mails.")
    smtp_port: int = Field(587, ge=1, le=65535, description="Port of the mail server.")
    smtp_username: str | None = Field(None, description="Name to sign in to the mail server with.")
    smtp_password: SecretStr | None = Field(None, description="Password for it.")
    smtp_from: str | None = Field(None, description="Sender of every mail, such as Duly <tasks@example.com>.")
    smtp_security: Literal["none", "starttls", "tls"] = Field("starttls", description="How the connection is secured.")

    rate_limit_enabled: bool = Field(True, description="Turn callers away who ask too often.")
    rate_limit_anonymous: str = Field(
        "200/hour", description="For each address (IPv6: each /64) that is not signed in."
    )
    rate_limit_user: str = Field("60000/minute", description="For each signed-in user.")
    rate_limit_login: str = Field("20/minute;100/hour", description="Logins from one address.")
    rate_limit_register: str = Field("20/hour", description="Registrations from one address.")
    rate_limit_refresh: str = Field("60/minute;600/hour", description="Refreshes from one address.")
    rate_limit_mail: str = Field("10/minute;40/hour", description="Requests about mails from one address.")

    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Browser origins that may call, by commas or as JSON; the Better Auth origin is always in."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Addresses or networks whose X-Forwarded-For and X-Forwarded-Proto count."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field((), description="Host names served; empty: all.")
    public_url: str | None = Field(None, description="Address under which people reach this server.")
    max_body_bytes: int = Field(1024 * 1024, ge=1024, le=1024**3, description="Largest request body.")
    request_timeout_seconds: float = Field(30, gt=0, le=600, description="After this a request is answered 504.")
    docs_enabled: bool = Field(True, description="Serve /docs, /redoc and /openapi.json.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over `.env`; a mounted file counts like the environment."""
        return init_settings, env_settings, FileSource(settings_cls, os.environ), dotenv_settings

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator(
        "cors_origins", "trusted_proxies", "allowed_hosts", "secret_key_previous", "field_encryption_key", mode="before"
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return _json(value)
        return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)

    @field_validator("trusted_issuers", mode="before")
    @classmethod
    def _issuers(cls, value: object) -> object:
        return _json(value) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="after")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and ("://" not in origin or origin.count("/") > 3):
                raise ValueError("each origin is scheme://host[:port], such as https://app.example.com")
        return tuple(origin.rstrip("/") for origin in value)

    @model_validator(mode="after")
    def _one_lifetime(self) -> "Settings":
        hours, minutes = self.jwt_expiration_hours, self.access_token_minutes
        if hours is not None and minutes is not None and abs(hours * 60 - minutes) > 1e-9:
            raise ValueError("JWT_EXPIRATION_HOURS and ACCESS_TOKEN_MINUTES differ; keep one of the two")
        return self

    @property
    def access_token_seconds(self) -> int:
        """Life of an access token: `JWT_EXPIRATION_HOURS` or `ACCESS_TOKEN_MINUTES`, default 15 minutes."""
        if self.jwt_expiration_hours is not None:
            return max(1, round(self.jwt_expiration_hours * 3600))
        return max(1, round((self.access_token_minutes or 15) * 60))

    @property
    def is_strict(self) -> bool:
        """Staging and production: weak settings stop the start."""
        return self.environment != "development"


def _file_fault(field_name: str, environ: Mapping[str, str]) -> str | None:
    name = f"{field_name.upper()}_FILE"
    path = environ.get(name)
    if not path:
        return None
    if environ.get(field_name.upper()):
        return f"{name}: {field_name.upper()} is set too; keep one of the two"
    try:
        Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        return f"{name}: cannot read {path} ({reason}); give a readable file"
    return None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("is not valid JSON") from None


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, mounted files and `.env`.

    Raises `SettingsFault` with every fault at once: wrong types, contradictions, unknown `DULY_*` names, names in
    `.env` that are close to a known one, and whatever staging and production refuse.
    """
    faults = _contradictions() + _misspelt()
    faults += [fault for name in Settings.model_fields if (fault := _file_fault(name, os.environ))]
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsFault(faults + [_fault_line(fault) for fault in error.errors(include_input=False)]) from None
    faults += _weaknesses(settings)
    if faults:
        raise SettingsFault(faults)
    return settings


def _fault_line(fault: Any) -> str:
    name = str(fault["loc"][0]).upper() if fault["loc"] else ""
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _known_names() -> set[str]:
    names = {name.upper() for name in Settings.model_fields} | {"NEON_DB_URL"}
    return names | {f"{name}_FILE" for name in names}


def _dotenv_names() -> dict[str, str | None]:
    return dotenv_values(".env") if Path(".env").is_file() else {}


def _contradictions() -> list[str]:
    """Both database names set and different: refused, because either choice could write to the wrong place."""
    values = {**_dotenv_names(), **os.environ}
    first, second = values.get("DATABASE_URL"), values.get("NEON_DB_URL")
    if first and second and first != second:
        return ["DATABASE_URL: NEON_DB_URL is set too and differs; keep one of the two"]
    return []


def _misspelt() -> list[str]:
    known = _known_names()
    unknown = [name for name in os.environ if name.upper().startswith("DULY_")]
    unknown += [name for name in _dotenv_names() if name.upper() not in known]
    faults = []
    for name in dict.fromkeys(unknown):
        bare = name.upper().removeprefix("DULY_")
        close = difflib.get_close_matches(bare, known, n=1, cutoff=0.85)
        if close:
            faults.append(f"{name}: is no setting; did you mean {close[0]}?")
        elif name.upper().startswith("DULY_"):
            faults.append(f"{name}: is no setting; remove it or see the table of settings in the README")
    for name in os.environ:
        close = [] if name in known else difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.93)
        if close and close[0] not in os.environ and name not in _COMMON_NAMES:
            faults.append(f"{name}: is no setting; did you mean {close[0]}?")
    return faults


_COMMON_NAMES = frozenset({"HOSTS", "PORTS"})


def _weaknesses(settings: Settings) -> list[str]:
    """What staging and production refuse; development starts and says nothing."""
    faults = []
    if settings.secret_key is not None:
        faults += _weak_secret("SECRET_KEY", settings.secret_key.get_secret_value(), settings.is_strict)
    for name in ("field_encryption_key", "secret_key_previous"):
        for secret in getattr(settings, name):
            faults += _weak_secret(name.upper(), secret.get_secret_value(), settings.is_strict)
    if settings.admin_registration_token is not None:
        token = settings.admin_registration_token.get_secret_value()
        faults += _weak_secret("ADMIN_REGISTRATION_TOKEN", token, settings.is_strict)
    if settings.smtp_host is not None and settings.smtp_from is None:
        faults.append("SMTP_FROM: is missing; give the sender of the mails, such as Duly <tasks@example.com>")
    if not settings.is_strict:
        return faults
    if settings.secret_key is None and settings.better_auth_secret is None:
        faults.append("SECRET_KEY: is missing; set 32 or more random characters (openssl rand -base64 48)")
    if settings.better_auth_secret is not None:
        faults += _weak_secret("BETTER_AUTH_SECRET", settings.better_auth_secret.get_secret_value(), strict=True)
    if settings.debug:
        faults.append("DEBUG: must be off outside development")
    if "*" in settings.cors_origins:
        faults.append("CORS_ORIGINS: * is refused outside development; list the origins of your frontends")
    if settings.local_accounts and not settings.public_url:
        faults.append("PUBLIC_URL: is missing; set the https address under which people reach this server")
    return faults


def _weak_secret(name: str, value: str, strict: bool) -> list[str]:
    if len(value) < MIN_SECRET_LENGTH:
        return [f"{name}: has {len(value)} characters; use {MIN_SECRET_LENGTH} or more (openssl rand -base64 48)"]
    if strict and (len(set(value)) < 10 or any(word in value.lower() for word in TEMPLATE_WORDS)):
        return [f"{name}: looks like a template or a default; use random characters (openssl rand -base64 48)"]
    return []
