"""Reads the settings and tells of every fault at once."""

import difflib
import os
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import ValidationError

from duly.settings.sources import SettingsFault, file_fault
from duly.settings.values import Settings

TEMPLATE_WORDS = ("change", "replace", "example", "secret", "your-", "password", "placeholder", "dummy")
MIN_SECRET_LENGTH = 32


def load_settings(**overrides: Any) -> Settings:
    """Read the environment, mounted files and `.env`.

    Raises `SettingsFault` with every fault at once: wrong types, contradictions, unknown `DULY_*` names, names in
    `.env` that are close to a known one, and whatever staging and production refuse.
    """
    faults = _contradictions() + _misspelt()
    faults += [fault for name in Settings.model_fields if (fault := file_fault(name, os.environ))]
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
    for name in ("secret_key", "admin_registration_token", "metrics_token"):
        if (secret := getattr(settings, name)) is not None:
            faults += _weak_secret(name.upper(), secret.get_secret_value(), settings.is_strict)
    for name in ("field_encryption_key", "secret_key_previous"):
        for secret in getattr(settings, name):
            faults += _weak_secret(name.upper(), secret.get_secret_value(), settings.is_strict)
    if settings.smtp_host is not None and settings.smtp_from is None:
        faults.append("SMTP_FROM: is missing; give the sender of the mails, such as Duly <tasks@example.com>")
    faults += _half_of_tls(settings)
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


def _half_of_tls(settings: Settings) -> list[str]:
    """One without the other would serve in clear, or let everybody in, against the wish."""
    if settings.tls_certificate is None and settings.tls_private_key is not None:
        return ["TLS_CERTIFICATE: is missing beside TLS_PRIVATE_KEY; name the certificate's PEM file"]
    if settings.tls_certificate is not None and settings.tls_private_key is None:
        return ["TLS_PRIVATE_KEY: is missing beside TLS_CERTIFICATE; name its key's PEM file"]
    if settings.tls_certificate is None and settings.tls_client_ca is not None:
        return ["TLS_CLIENT_CA: needs TLS_CERTIFICATE and TLS_PRIVATE_KEY; name both"]
    return []


def _weak_secret(name: str, value: str, strict: bool) -> list[str]:
    if len(value) < MIN_SECRET_LENGTH:
        return [f"{name}: has {len(value)} characters; use {MIN_SECRET_LENGTH} or more (openssl rand -base64 48)"]
    if strict and (len(set(value)) < 10 or any(word in value.lower() for word in TEMPLATE_WORDS)):
        return [f"{name}: looks like a template or a default; use random characters (openssl rand -base64 48)"]
    return []
