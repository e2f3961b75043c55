"""The list of settings: name, type, limits, default and the one line that documents each."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from duly.settings.sources import FileSource


class Settings(BaseSettings):
    """One value per documented name; durations carry their unit in the name, sizes are in bytes."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", env_ignore_empty=True, extra="ignore", frozen=True,
        hide_input_in_errors=True, populate_by_name=True,
    )  # fmt: skip

    host: str = Field("127.0.0.1", description="Address that `duly serve` listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that `duly serve` listens on.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of a certificate and its chain, for `duly serve` to speak HTTPS itself."
    )
    tls_private_key: Path | None = Field(None, description="PEM file of its key, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of an authority; only clients with a certificate of it are answered."
    )
    environment: Literal["development", "staging", "production"] = Field(
        "development", description="Staging and production refuse weak settings and log JSON."
    )
    debug: bool = Field(False, description="More detail in the log. Refused in production.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["console", "json"] | None = Field(
        None, description="Form of a log line; default console in development and json elsewhere."
    )
    log_sql: bool = Field(False, description="Log each statement, without its values.")
    slow_statement_seconds: float = Field(0.5, ge=0, le=60, description="Log a statement that takes longer; 0: none.")

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

    backup_dir: Path | None = Field(None, description="Folder of scheduled backups; without one none are made.")
    backup_every_hours: float = Field(24, gt=0, le=8760, description="Time between two scheduled backups.")
    backup_keep: int = Field(14, ge=1, le=10000, description="Scheduled backups kept; older ones are removed.")

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
    better_auth_read_scope: str | None = Field(
        None, description="Scope that its tokens need; without one each has all rights of its user."
    )
    better_auth_write_scope: str | None = Field(None, description="Scope that they need as well to change anything.")
    trusted_issuers: Annotated[tuple[dict[str, Any], ...], NoDecode] = Field(
        (), description="JSON list of further token issuers."
    )
    min_rsa_bits: int = Field(
        2048, ge=2048, le=8192, description="Least length of the issuers' RSA keys; 3072 has 128 bits of strength."
    )

    live_enabled: bool = Field(True, description="Serve live updates: /events and /ws.")
    attachments_enabled: bool = Field(True, description="Let tasks have attachments.")
    files_dir: Path | None = Field(None, description="Folder of the attachments; default files in DATA_DIR.")
    files_url: SecretStr | None = Field(
        None, description="Object store to keep them in instead, such as s3://bucket/prefix?region=eu-central-1."
    )
    attachment_max_bytes: int = Field(25 * 1024**2, ge=1024, le=1024**3, description="Largest attachment.")
    attachment_quota_bytes: int = Field(1024**3, ge=1024, le=1024**5, description="All attachments of one user.")
    attachment_extensions: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Endings that the names of attachments may have, by commas, such as pdf,png,jpg; empty: any."
    )
    clamd_url: str | None = Field(
        None, description="ClamAV's daemon, asked about each upload: tcp://host:3310 or unix:///run/clamav/clamd.ctl."
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
    max_body_bytes: int = Field(1024 * 1024, ge=1024, le=1024**3, description="Largest request body, uploads apart.")
    max_connections: int = Field(4096, ge=16, le=1_000_000, description="Client connections of one worker.")
    drain_notice_seconds: float = Field(
        0.5, ge=0, le=60, description="After SIGTERM, how long readiness says 503 before connections are refused."
    )
    request_timeout_seconds: float = Field(30, gt=0, le=600, description="After this a request is answered 504.")
    docs_enabled: bool = Field(True, description="Serve /docs, /redoc and /openapi.json.")
    metrics_token: SecretStr | None = Field(
        None, description="Bearer token that /metrics asks for; without one it answers this machine alone."
    )
    telemetry_enabled: bool = Field(
        False, description="Send traces, metrics and logs by OTLP, as the OTEL_* variables say; needs the extra `otel`."
    )
    sentry_dsn: SecretStr | None = Field(
        None, description="Error tracker that unhandled faults are sent to; needs the extra `sentry`."
    )

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
        "cors_origins", "trusted_proxies", "allowed_hosts", "secret_key_previous", "field_encryption_key",
        "attachment_extensions", mode="before",
    )  # fmt: skip
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return _json(value)
        return tuple(part for part in (piece.strip() for piece in value.split(",")) if part)

    @field_validator("attachment_extensions", mode="after")
    @classmethod
    def _endings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        endings = tuple(ending.lower().removeprefix("*").removeprefix(".") for ending in value)
        for ending in endings:
            if not re.fullmatch(r"[a-z0-9_+-]{1,20}", ending):
                raise ValueError("each is the last ending of a name alone, such as pdf or gz")
        return endings

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


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("is not valid JSON") from None
