"""Database addresses in every form that hosts print, read into one typed value."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from ssl import SSLContext
from typing import Any, Final, Literal
from urllib.parse import quote, unquote, unquote_plus

from duly.db.tls import ClientTls, SslMode, expand, read_tls

DEFAULT_PORT: Final = 5432
# Supabase, and PgBouncer where it stands beside a database, listen here in transaction mode.
TRANSACTION_PORT: Final = 6543

_POSTGRES_DRIVERS = {"", "asyncpg", "psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "pg8000"}
_SQLITE_DRIVERS = {"", "apsw", "aiosqlite", "pysqlite"}

_SESSION_KINDS = {"any", "primary", "standby", "read-write", "read-only", "prefer-standby"}
_SETTINGS = {"application_name", "search_path", "statement_timeout", "lock_timeout", "options"}

# Meant for other clients' pools, drivers or bookkeeping. `channel_binding` is here because the driver has none: the
# strength it asks for comes from sslmode=verify-full. What is in neither list is refused, so that no wish is lost.
_HARMLESS = {
    "channel_binding", "connect_timeout", "connection_limit", "pool_timeout", "pool_size", "max_overflow",
    "pool_recycle", "pool_max_conns", "socket_timeout", "supa", "workaround", "uselibpqcompat", "gssencmode",
    "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslnegotiation",
    "sslcompression", "sslsni", "fallback_application_name", "load_balance_hosts", "async_fallback", "client_encoding",
}  # fmt: skip
_SQLITE_HARMLESS = {"cache", "uri", "check_same_thread", "timeout", "connection_limit", "socket_timeout"}

_PLACEHOLDER = re.compile(r"\$\{\{?[^{}]*\}|\[YOUR-PASSWORD\]|:<[^<>]*>@", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODE_HINT = "in a user name or password, characters such as @ : / ? % are written %40 %3A %2F %3F %25"
_FORMS = "write postgresql://user:password@host/database or sqlite:///path/to/file.db"


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where the data is. `path` is set for SQLite alone; everything after it is for PostgreSQL.

    `hosts` and `ports` go in pairs; a host that begins with `/` is the folder of a Unix socket, and no host means the
    driver's own default. `transaction_pooler` tells that consecutive statements may reach different sessions, so that
    prepared statements must not be kept by name.
    """

    dialect: Literal["sqlite", "postgresql"]
    path: Path | None = None
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    ssl: SslMode = "prefer"
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    server_settings: Mapping[str, str] = field(default_factory=dict)
    target_session_attrs: str | None = None
    transaction_pooler: bool = False

    @property
    def safe_text(self) -> str:
        """The address for logs: no password."""
        if self.path is not None:
            return f"sqlite:///{self.path}"
        user = f"{quote(self.user)}@" if self.user else ""
        pairs = zip(self.hosts, self.ports, strict=False)
        places = ",".join(f"{_bracketed(host)}:{port}" for host, port in pairs)
        return f"postgresql://{user}{places}/{quote(self.database or '')}?sslmode={self.ssl}"

    def asyncpg_arguments(self) -> dict[str, Any]:
        """Keyword arguments for `asyncpg.connect` and `create_pool`, without `timeout` and statement caching.

        Raises ValueError when a certificate file cannot be read.
        """
        arguments = {
            "host": list(self.hosts) or None,
            "port": list(self.ports) or None,
            "user": self.user,
            "password": self.password,
            "database": self.database,
            "ssl": self.ssl_argument(),
            # What operators see in pg_stat_activity, unless the address names it otherwise.
            "server_settings": {"application_name": "duly", **self.server_settings},
            "target_session_attrs": self.target_session_attrs,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def ssl_argument(self) -> str | SSLContext:
        """What asyncpg takes as `ssl`, from the files as they are now. Raises ValueError as `asyncpg_arguments`."""
        return ClientTls(self.ssl, self.sslrootcert, self.sslcert, self.sslkey).argument()


def parse_database_url(url: str | None, data_dir: Path) -> DatabaseAddress:
    """Read an address as Neon, Supabase, Heroku, Railway, Render, Fly, Vercel, Prisma or SQLAlchemy write it.

    None or blank means the SQLite file in `data_dir`. Relative SQLite paths count from the working directory. Raises
    ValueError with one line that says what to change and repeats no value of the address.
    """
    text = _unwrap(url or "")
    if not text:
        return DatabaseAddress("sqlite", path=(data_dir / "duly.db").absolute())
    if _CONTROL.search(text):
        raise ValueError("the address holds a line break or another control character; remove it")
    if _PLACEHOLDER.search(text):
        raise ValueError("the address still holds a placeholder; put the real value in its place")
    scheme, _, rest = text.partition(":")
    name, _, driver = scheme.lower().partition("+")
    if name in ("postgres", "postgresql") and rest.startswith("//"):
        _check_driver(driver, _POSTGRES_DRIVERS)
        return _parse_postgresql(rest[2:])
    if name in ("sqlite", "file"):
        _check_driver(driver, _SQLITE_DRIVERS)
        return _parse_sqlite(name, rest)
    if rest.startswith("//") and re.fullmatch(r"[a-z][a-z0-9._-]{0,30}", name):
        raise ValueError(f"{name}:// is not understood; Duly runs on PostgreSQL and SQLite: {_FORMS}")
    raise ValueError(f"the address has no scheme; {_FORMS}")


def _unwrap(text: str) -> str:
    """What surrounds an address that was copied from a console or an env file read without a shell."""
    text = text.strip().removeprefix("psql ").strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip()
    return text


def _check_driver(driver: str, known: set[str]) -> None:
    if driver not in known:
        raise ValueError("the driver after + is not known; leave it and the + out")


def _parse_sqlite(scheme: str, rest: str) -> DatabaseAddress:
    location, _, query = rest.partition("?")
    if location.startswith("//"):
        host, slash, location = location[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError("a SQLite address has three slashes before a relative path and four before an absolute")
        # file:///x is the absolute /x (RFC 8089); sqlite:///x is the relative x, as SQLAlchemy has it.
        location = f"/{location}" if scheme == "file" and slash else location
    location = _decode(location).removeprefix("file:")
    options = _read_query(query)
    mode = options.pop("mode", "rwc")
    if location in ("", "/") or location.startswith(":memory:") or mode == "memory":
        raise ValueError("a database in memory would forget everything; name a file, as in sqlite:///duly.db")
    if mode not in ("rwc", "rw"):
        raise ValueError("mode: Duly must be able to write; leave it out")
    if location.endswith("/"):
        raise ValueError("the SQLite address names a folder; add the name of a file")
    _refuse_unknown(options, _SQLITE_HARMLESS)
    return DatabaseAddress("sqlite", path=expand(location).absolute())


def _parse_postgresql(rest: str) -> DatabaseAddress:
    cut = min((place for mark in "/?" if (place := rest.find(mark)) >= 0), default=len(rest))
    authority, tail = rest[:cut], rest[cut:]
    path, _, query = tail.partition("?")
    if "@" in path and "@" not in authority:
        raise ValueError(f"the address has its @ after a slash; {_ENCODE_HINT}")
    credentials, _, places = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    options = _read_query(query)
    hosts, ports = _read_hosts(places, options)
    tls = read_tls(options)
    address = DatabaseAddress(
        "postgresql",
        hosts=hosts,
        ports=ports,
        user=_one("user", _decode(user), options.pop("user", "")),
        password=_one("password", _decode(password), options.pop("password", "")),
        database=_one("database", _decode(path[1:]), options.pop("dbname", ""), options.pop("database", "")),
        ssl=tls.mode,
        sslrootcert=tls.rootcert,
        sslcert=tls.cert,
        sslkey=tls.key,
        transaction_pooler=_read_pooler(options, hosts, ports),
        server_settings=_read_settings(options),
        target_session_attrs=_read_session_kind(options),
    )
    _refuse_unknown(options, _HARMLESS)
    return address


def _read_query(query: str) -> dict[str, str]:
    """Parameters by name. `host` may come several times (SQLAlchemy); any other only once, unless equal."""
    options: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        name, _, raw = piece.partition("=")
        name = _decode(name)
        value = _decode(raw) if name in ("user", "password") else _decode(raw, plus=True)
        if name == "host" and name in options:
            value = f"{options[name]},{value}"
        elif options.get(name, value) != value:
            raise ValueError(f"{_named(name)} is given twice; keep one")
        options[name] = value
    return options


def _read_hosts(places: str, options: dict[str, str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    named = options.pop("host", "")
    common = [_port(text) for text in filter(None, options.pop("port", "").split(","))]
    pairs = [_host_and_port(place) for place in places.split(",")] if places else []
    if not any(host for host, _ in pairs):
        common = common or [port for _, port in pairs if port is not None]
        pairs = [_host_and_port(place) for place in named.split(",")] if named else []
    elif named:
        raise ValueError("host: the address names its host twice; keep one")
    if len(common) > 1 and len(common) != len(pairs):
        raise ValueError("port: give one port, or as many as there are hosts")
    if not pairs:
        return (), tuple(common)
    if any(not host for host, _ in pairs):
        raise ValueError("host: one of the hosts is empty")
    fallback = common * len(pairs) if len(common) == 1 else common or [DEFAULT_PORT] * len(pairs)
    ports = tuple(port or other for (_, port), other in zip(pairs, fallback, strict=True))
    return tuple(host for host, _ in pairs), ports


def _host_and_port(place: str) -> tuple[str, int | None]:
    if place.startswith("/"):
        return place, None
    if place[:3].upper() == "%2F":
        folder, _, port = place.partition(":")
        return _decode(folder), _port(port) if port else None
    decoded = _decode(place)
    if decoded.startswith("["):
        host, bracket, port = decoded[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("host: an IPv6 address is written [address]:port")
        port = port[1:]
    else:
        host, _, port = decoded.partition(":")
        if port.count(":"):
            raise ValueError("host: an IPv6 address is written in brackets, as in [::1]:5432")
    if re.search(r"[\s/@?#\[\]]", host):
        raise ValueError(f"host: holds a character that no host name has; {_ENCODE_HINT}")
    return host, _port(port) if port else None


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"port: is no number from 1 to 65535; {_ENCODE_HINT}")
    return int(text)


def _read_pooler(options: dict[str, str], hosts: tuple[str, ...], ports: tuple[int, ...]) -> bool:
    sizes = ("statement_cache_size", "prepared_statement_cache_size", "prepareThreshold", "prepare_threshold")
    no_cache = [options.pop(name, "") == "0" for name in sizes]
    statements = options.pop("prepared_statements", "").lower()
    said = options.pop("pgbouncer", "").lower()
    if said in ("true", "1") or any(no_cache) or statements in ("false", "0"):
        return True
    if said in ("false", "0") or statements in ("true", "1"):
        return False
    return TRANSACTION_PORT in ports or any(host.split(".")[0].endswith("-pooler") for host in hosts)


def _read_settings(options: dict[str, str]) -> dict[str, str]:
    """Sent when the session starts. `options` goes as it is: Neon's `endpoint=` and `-c name=value` travel there."""
    given = {name: options.pop(name) for name in sorted(_SETTINGS & options.keys())}
    settings = {name: value for name, value in given.items() if value}
    schema = _one("schema", options.pop("schema", ""), options.pop("currentSchema", ""))
    if schema and schema != "public":
        settings.setdefault("search_path", '"' + schema.replace('"', '""') + '"')
    return settings


def _read_session_kind(options: dict[str, str]) -> str | None:
    kind = options.pop("target_session_attrs", "")
    if kind and kind not in _SESSION_KINDS:
        raise ValueError(f"target_session_attrs: is none of {', '.join(sorted(_SESSION_KINDS))}")
    return kind or None


def _refuse_unknown(options: dict[str, str], harmless: set[str]) -> None:
    for name in options:
        if name not in harmless:
            raise ValueError(f"{_named(name)} is not understood here; remove it from the address")


def _named(name: str) -> str:
    # A password that was not encoded can end up as a parameter's name, and must not be shown.
    return f"{name}:" if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,40}", name) else f"one parameter ({_ENCODE_HINT})"


def _one(name: str, *values: str) -> str | None:
    found = {value for value in values if value}
    if len(found) > 1:
        raise ValueError(f"{name}: is given twice and differs; keep one")
    return found.pop() if found else None


def _decode(text: str, *, plus: bool = False) -> str:
    try:
        decoded = unquote_plus(text, errors="strict") if plus else unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"a % escape in the address is not UTF-8; {_ENCODE_HINT}") from None
    if _CONTROL.search(decoded):
        raise ValueError("a % escape in the address stands for a control character; remove it")
    return decoded


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("/") else quote(host, safe="")
