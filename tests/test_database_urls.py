"""Database addresses: every form that hosts print is read alike, and what cannot be kept is refused by name."""

import asyncio
import datetime as dt
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from duly.db.url import DatabaseAddress, parse_database_url
from tests.fixtures.database import POSTGRES_URL, skip_or_fail

SERVER = parse_database_url(POSTGRES_URL, Path())
HERE = Path("/srv/data")


def postgres(*places: str, **fields: Any) -> DatabaseAddress:
    pairs = [place.rpartition(" ") for place in places]
    hosts, ports = tuple(host for host, _, _ in pairs), tuple(int(port) for _, _, port in pairs)
    return DatabaseAddress("postgresql", hosts=hosts, ports=ports, **fields)


UP = {"user": "u", "password": "p"}
NEON = "ep-cool-rain-123.eu-central-1.aws.neon.tech"
POOLED = "ep-cool-rain-123-pooler.eu-central-1.aws.neon.tech"
SUPABASE = {"user": "postgres.abcdefgh", "password": "p", "database": "postgres"}
READ: list[tuple[str, DatabaseAddress]] = [
    # Neon
    (f"postgresql://u:p@{POOLED}/neondb?sslmode=require&channel_binding=require",
     postgres(f"{POOLED} 5432", **UP, database="neondb", ssl="require", transaction_pooler=True)),
    (f"postgresql+psycopg://u:p@{POOLED}/neondb?sslmode=require&channel_binding=require",
     postgres(f"{POOLED} 5432", **UP, database="neondb", ssl="require", transaction_pooler=True)),
    (f"psql 'postgresql://u:p@{NEON}/neondb?sslmode=require'",
     postgres(f"{NEON} 5432", **UP, database="neondb", ssl="require")),
    (f"postgres://u:p@{NEON}/neondb?options=endpoint%3Dep-cool-rain-123&sslmode=verify-full&sslrootcert=system",
     postgres(f"{NEON} 5432", **UP, database="neondb", ssl="verify-full", sslrootcert="system",
              server_settings={"options": "endpoint=ep-cool-rain-123"})),
    # Supabase: direct, session pooler, transaction pooler
    ("postgresql://postgres:p@db.abcdefgh.supabase.co:5432/postgres",
     postgres("db.abcdefgh.supabase.co 5432", **SUPABASE | {"user": "postgres"})),
    ("postgresql://postgres.abcdefgh:p@aws-0-eu-west-1.pooler.supabase.com:5432/postgres",
     postgres("aws-0-eu-west-1.pooler.supabase.com 5432", **SUPABASE)),
    ("postgresql://postgres.abcdefgh:p@aws-0-eu-west-1.pooler.supabase.com:6543/postgres",
     postgres("aws-0-eu-west-1.pooler.supabase.com 6543", **SUPABASE, transaction_pooler=True)),
    ("postgres://postgres.abcdefgh:p@aws-0-eu-west-1.pooler.supabase.com:6543/postgres"
     "?sslmode=require&supa=base-pooler.x&pgbouncer=true&connection_limit=1",
     postgres("aws-0-eu-west-1.pooler.supabase.com 6543", **SUPABASE, ssl="require", transaction_pooler=True)),
    # Vercel, Prisma
    ("postgres://default:p@ep-a-1-pooler.us-east-1.aws.neon.tech:5432/verceldb?pgbouncer=true&connect_timeout=15"
     "&sslmode=require&connection_limit=1&pool_timeout=10&schema=public",
     postgres("ep-a-1-pooler.us-east-1.aws.neon.tech 5432", user="default", password="p", database="verceldb",
              ssl="require", transaction_pooler=True)),
    ('"postgresql://u:p@h:5432/d?schema=my+%22own%22&sslaccept=strict"',
     postgres("h 5432", **UP, database="d", ssl="verify-full", server_settings={"search_path": '"my ""own"""'})),
    # Heroku, Railway, Render, Fly, Docker, DigitalOcean, RDS, CockroachDB
    ("postgres://u3x:p4y@ec2-1-2-3-4.compute-1.amazonaws.com:5432/d5z",
     postgres("ec2-1-2-3-4.compute-1.amazonaws.com 5432", user="u3x", password="p4y", database="d5z")),
    ("postgres://u:p@h.compute-1.amazonaws.com:5432/d?sslmode=no-verify",
     postgres("h.compute-1.amazonaws.com 5432", **UP, database="d", ssl="require")),
    ("postgresql://postgres:p@monorail.proxy.rlwy.net:41234/railway",
     postgres("monorail.proxy.rlwy.net 41234", user="postgres", password="p", database="railway")),
    ("postgresql://postgres:p@postgres.railway.internal:5432/railway",
     postgres("postgres.railway.internal 5432", user="postgres", password="p", database="railway")),
    ("postgresql://u:p@dpg-abc-a/d", postgres("dpg-abc-a 5432", **UP, database="d")),
    ("postgres://u:p@app-db.flycast:5432/d?sslmode=disable",
     postgres("app-db.flycast 5432", **UP, database="d", ssl="disable")),
    ("postgresql+asyncpg://user:password@my_db/todo_db",
     postgres("my_db 5432", user="user", password="password", database="todo_db")),
    ("postgresql://u@h/d?sslmode=verify-full&sslrootcert=/c/ca.crt&sslcert=/c/c.crt&sslkey=/c/c.key",
     postgres("h 5432", user="u", database="d", ssl="verify-full", sslrootcert="/c/ca.crt", sslcert="/c/c.crt",
              sslkey="/c/c.key")),
    ("postgresql://doadmin:p@db-1.b.db.ondigitalocean.com:25060/defaultdb?sslmode=verify-ca&sslrootcert=/c/ca.crt",
     postgres("db-1.b.db.ondigitalocean.com 25060", user="doadmin", password="p", database="defaultdb",
              ssl="verify-ca", sslrootcert="/c/ca.crt")),
    ("postgresql://u:p@free-tier.gcp.cockroachlabs.cloud:26257/d?sslmode=verify-full&options=--cluster%3Dtired-cat-1",
     postgres("free-tier.gcp.cockroachlabs.cloud 26257", **UP, database="d", ssl="verify-full",
              server_settings={"options": "--cluster=tired-cat-1"})),
    ("postgresql://me%40srv:p@srv.postgres.database.azure.com/d?sslmode=require",
     postgres("srv.postgres.database.azure.com 5432", user="me@srv", password="p", database="d", ssl="require")),
    # SQLAlchemy
    ("postgresql+asyncpg://u:p@h/d?ssl=require&prepared_statement_cache_size=0",
     postgres("h 5432", **UP, database="d", ssl="require", transaction_pooler=True)),
    ("postgresql+psycopg2://u:p@/d?host=h1:5433&host=h2&target_session_attrs=read-write",
     postgres("h1 5433", "h2 5432", **UP, database="d", target_session_attrs="read-write")),
    ("postgresql+psycopg://u:p@h/d?application_name=duly+web&statement_timeout=5000",
     postgres("h 5432", **UP, database="d",
              server_settings={"application_name": "duly web", "statement_timeout": "5000"})),
    # Spelling
    ("postgresql://u:p%40ss%3A%2F%3F%25%23w+rd@h/d",
     postgres("h 5432", user="u", password="p@ss:/?%#w+rd", database="d")),
    ("postgresql://u:p@ss:w#rd!@h/d", postgres("h 5432", user="u", password="p@ss:w#rd!", database="d")),
    ("postgresql://u:%E2%82%AC@h/my%20db", postgres("h 5432", user="u", password="€", database="my db")),
    ("postgresql://u@h", postgres("h 5432", user="u")),
    ("postgresql://h/d", postgres("h 5432", database="d")),
    ("postgresql:///d", postgres(database="d")),
    ("postgresql://", postgres()),
    ("postgresql://u@:5433/d", DatabaseAddress("postgresql", ports=(5433,), user="u", database="d")),
    ("POSTGRESQL://u:p@H:5432/D?", postgres("H 5432", **UP, database="D")),
    (" postgresql://u:@h/d\n", postgres("h 5432", user="u", database="d")),
    ("postgresql://u:p@[2001:db8::1]:5433/d", postgres("2001:db8::1 5433", **UP, database="d")),
    ("postgresql://u:p@[fdaa::3%25eth0]/d", postgres("fdaa::3%eth0 5432", **UP, database="d")),
    ("postgresql://u:p@h1,h2:5433,[::1]:5434/d?port=", postgres("h1 5432", "h2 5433", "::1 5434", **UP, database="d")),
    ("postgresql://u:p@h1,h2/d?port=5433,5434", postgres("h1 5433", "h2 5434", **UP, database="d")),
    ("postgresql://u:p@/d?host=/var/run/postgresql", postgres("/var/run/postgresql 5432", **UP, database="d")),
    ("postgresql://u:p@:5433/d?host=/run/pg", postgres("/run/pg 5433", **UP, database="d")),
    ("postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/d", postgres("/var/run/postgresql 5432", **UP, database="d")),
    ("postgresql://u:p@%2frun%2Fpg:5433/d", postgres("/run/pg 5433", **UP, database="d")),
    ("postgresql://u:p@/d?host=/cloudsql/proj:region:inst",
     postgres("/cloudsql/proj:region:inst 5432", **UP, database="d")),
    ("postgresql:///?dbname=d&user=u&password=p%2Bq+r&host=h",
     postgres("h 5432", user="u", password="p+q+r", database="d")),
    ("postgresql://u:p@h:6543/d?pgbouncer=false", postgres("h 6543", **UP, database="d")),
    ("postgresql://u:p@h/d?prepareThreshold=0", postgres("h 5432", **UP, database="d", transaction_pooler=True)),
    ("postgresql://u:p@h/d?ssl=true&sslmode=verify-full", postgres("h 5432", **UP, database="d", ssl="verify-full")),
]  # fmt: skip


@pytest.mark.parametrize(("url", "address"), READ, ids=[url[:70] for url, _ in READ])
@pytest.mark.covers("A013", "B002", "B010", "C019", "D015", "E048", "E050", "E102")
def test_every_form_of_a_postgresql_address(url: str, address: DatabaseAddress) -> None:
    assert parse_database_url(url, HERE) == address


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (None, "/srv/data/duly.db"),
        ("", "/srv/data/duly.db"),
        ("  ", "/srv/data/duly.db"),
        ("sqlite:///relative.db", f"{Path.cwd()}/relative.db"),
        ("sqlite:///./data/duly.db", f"{Path.cwd()}/data/duly.db"),
        ("sqlite:////srv/abs.db", "/srv/abs.db"),
        ("sqlite+aiosqlite:////srv/abs.db?check_same_thread=false", "/srv/abs.db"),
        ("sqlite+apsw:////srv/abs.db", "/srv/abs.db"),
        ("SQLITE+pysqlite:////srv/my%20file.db?timeout=5", "/srv/my file.db"),
        ("sqlite:///~/duly.db", str(Path("~/duly.db").expanduser())),
        ("sqlite:////srv/a%b#c.db", "/srv/a%b#c.db"),
        ("sqlite:///file:/srv/abs.db?uri=true&mode=rwc", "/srv/abs.db"),
        ("file:relative.db", f"{Path.cwd()}/relative.db"),
        ("file:./dev.db?connection_limit=1", f"{Path.cwd()}/dev.db"),
        ("file:/srv/abs.db?mode=rw&cache=shared", "/srv/abs.db"),
        ("file:///srv/a%3Fb.db", "/srv/a?b.db"),
        ("file://localhost/srv/abs.db", "/srv/abs.db"),
    ],
)
@pytest.mark.covers("A146")
def test_every_form_of_a_sqlite_address(url: str | None, path: str) -> None:
    address = parse_database_url(url, HERE)
    assert address == DatabaseAddress("sqlite", path=Path(path))
    assert address.safe_text == f"sqlite:///{path}"


REFUSED = [
    ("mysql://u:canary@h/d", "mysql:// is not understood; Duly runs on PostgreSQL and SQLite"),
    ("mongodb+srv://u:canary@h/d", "mongodb:// is not understood"),
    ("prisma+postgres://accelerate.example/?api_key=canary", "prisma:// is not understood"),
    ("cockroachdb://u:canary@h/d", "cockroachdb:// is not understood"),
    ("host=h user=u password=canary", "no scheme; write postgresql://"),
    ("canary", "no scheme"),
    ("/srv/canary.db", "no scheme"),
    ("postgresql:u:canary@h", "no scheme"),
    ("postgresql+canary://u:p@h/d", "driver after + is not known"),
    ("sqlite+pysqlcipher://:canary@/d.db", "driver after + is not known"),
    ("sqlite://", "in memory"),
    ("sqlite:///", "in memory"),
    ("sqlite:///:memory:", "in memory"),
    ("sqlite+aiosqlite:///:memory:?cache=shared", "in memory"),
    ("file::memory:?cache=shared", "in memory"),
    ("file:canary?mode=memory", "in memory"),
    ("sqlite:///file:canary?mode=memory&uri=true", "in memory"),
    ("sqlite://relative.db", "three slashes"),
    ("sqlite:////srv/data/", "names a folder"),
    ("sqlite:////srv/canary.db?mode=ro", "must be able to write"),
    ("sqlite:////srv/a.db?vfs=memdb", "vfs: is not understood"),
    ("sqlite:////srv/a%00.db", "control character"),
    ("postgresql://u:p@h/d?sslmod=require", "sslmod: is not understood here; remove it"),
    ("postgresql://u:p@h/d?service=canary", "service: is not understood"),
    ("postgresql://u:p@h/d?sslmode=canary", "sslmode: is none of disable, prefer, require"),
    ("postgresql://u:p@h/d?sslmode=disable&ssl=true", "sslmode: is disable, and another"),
    ("postgresql://u@h/d?sslmode=verify-full&sslcert=/c/c.crt", "sslkey: is missing beside sslcert"),
    ("postgresql://u@h/d?sslmode=verify-full&sslkey=/c/c.key", "sslcert: is missing beside sslkey"),
    ("postgresql://u@h/d?sslcert=/c/c.crt&sslkey=/c/c.key", "sslcert: is of no use without TLS; add sslmode=verify"),
    ("postgresql://u:p@h/d?sslmode=require&sslmode=disable", "sslmode: is given twice"),
    ("postgresql://u:p@h/d?sslaccept=canary", "sslaccept:"),
    ("postgresql://u:p@h/d?target_session_attrs=canary", "target_session_attrs: is none of any"),
    ("postgresql://u:canary@h/d?user=other", "user: is given twice"),
    ("postgresql://u:canary@h/d?password=other", "password: is given twice"),
    ("postgresql://u:p@h/d?host=canary", "host: the address names its host twice"),
    ("postgresql://u:can/ary@h/d", "@ after a slash; in a user name or password"),
    ("postgresql://u:can?ary@h/d", "port: is no number from 1 to 65535; in a user name or password"),
    ("postgresql://u:1234/canary@h/d", "@ after a slash; in a user name or password"),
    ("postgresql://u:12?canary@h/d", "one parameter (in a user name or password"),
    ("postgresql://u:p@h:canary/d", "port: is no number"),
    ("postgresql://u:p@h:0/d", "port: is no number"),
    ("postgresql://u:p@h:65536/d", "port: is no number"),
    ("postgresql://u:p@h:٣/d", "port: is no number"),
    ("postgresql://u:p@h1,h2/d?port=1,2,3", "as many as there are hosts"),
    ("postgresql://u:p@h1,/d", "one of the hosts is empty"),
    ("postgresql://u:p@2001:db8::1/d", "in brackets"),
    ("postgresql://u:p@[::1/d", "[address]:port"),
    ("postgresql://u:p@ho st/d", "no host name has"),
    ("postgresql://u:canary%FF@h/d", "not UTF-8"),
    ("postgresql://u:canary%0A@h/d", "control character"),
    ("postgresql://u:canary\n@h/d", "line break"),
    ("${{Postgres.DATABASE_URL}}", "placeholder"),
    ("postgresql://postgres:[YOUR-PASSWORD]@db.x.supabase.co:5432/postgres", "placeholder"),
    ("postgresql://u:<password>@h/d", "placeholder"),
]


@pytest.mark.parametrize(("url", "words"), REFUSED, ids=[ascii(url)[:60] for url, _ in REFUSED])
@pytest.mark.covers("C114")
def test_refused_with_a_line_that_says_why_and_shows_nothing(url: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below, as plain text
        parse_database_url(url, HERE)
    line = str(caught.value)
    assert words in line
    assert "\n" not in line
    assert not any(secret in line for secret in ("canary", "ary@"))


@pytest.mark.parametrize(("url", "address"), READ, ids=[url[:70] for url, _ in READ])
@pytest.mark.covers("C114")
def test_the_text_for_logs_has_no_password_and_leads_to_the_same_place(url: str, address: DatabaseAddress) -> None:
    again = parse_database_url(address.safe_text, HERE)
    assert again.password is None
    assert (again.hosts, again.user, again.database, again.ssl) == (
        address.hosts, address.user, address.database, address.ssl,
    )  # fmt: skip
    assert "password" not in repr(address).replace("'password'", "")
    if address.password and len(address.password) > 3:
        assert address.password not in address.safe_text.replace(f"{address.user}@", "")


def test_a_missing_root_certificate_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing", encoding="ascii")
    for path in (tmp_path / "none.pem", wrong):
        address = parse_database_url(f"postgresql://h/d?sslmode=verify-full&sslrootcert={path}", HERE)
        with pytest.raises(ValueError, match=f"sslrootcert: cannot use {path}"):
            address.asyncpg_arguments()


def test_a_certificate_that_cannot_be_shown_is_named(tmp_path: Path, authority: "Authority") -> None:
    words = f"sslmode=verify-full&sslcert={authority.roots}&sslkey={tmp_path}/none.key"
    with pytest.raises(ValueError, match=f"sslkey: cannot read {tmp_path}/none.key"):
        parse_database_url(f"postgresql://h/d?{words}", HERE).asyncpg_arguments()
    with pytest.raises(ValueError, match="are no certificate and its key"):
        parse_database_url(f"postgresql://h/d?{words.replace(f'{tmp_path}/none.key', str(authority.roots))}",
                           HERE).asyncpg_arguments()  # fmt: skip


@pytest.mark.parametrize(
    ("query", "mode", "checks_name"),
    [
        ("sslmode=verify-full", ssl.CERT_REQUIRED, True),
        ("sslmode=verify-ca", ssl.CERT_REQUIRED, False),
        ("sslmode=require&sslrootcert={roots}", ssl.CERT_REQUIRED, False),
        ("sslrootcert=system", ssl.CERT_REQUIRED, True),
    ],
)
def test_verifying_modes_verify(authority: "Authority", query: str, mode: ssl.VerifyMode, checks_name: bool) -> None:
    url = f"postgresql://h/d?{query.format(roots=authority.roots)}"
    context = parse_database_url(url, HERE).asyncpg_arguments()["ssl"]
    assert (context.verify_mode, context.check_hostname) == (mode, checks_name)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


class Authority:
    """A certificate for `localhost`, signed by itself, and the TLS front of a server that shows it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = dt.datetime.now(dt.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.2"))]
        builder = x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + dt.timedelta(1)
        )
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.roots = folder / "roots.pem"
        self.roots.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        secret = folder / "key.pem"
        form = serialization.PrivateFormat.PKCS8
        secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.roots, secret)
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _, name, __: self.names.append(name)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the server does after an SSLRequest (PostgreSQL protocol, message flow §SSL), then hand the bytes on."""
        assert (await reader.readexactly(8))[4:] == (80877103).to_bytes(4, "big")
        writer.write(b"S")
        try:
            await writer.start_tls(self.context)
            behind, ahead = await asyncio.open_connection(SERVER.hosts[0], SERVER.ports[0])
            await asyncio.gather(pump(reader, ahead), pump(behind, writer))
        except OSError:
            writer.close()


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
    target.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def tls_front(authority: Authority) -> AsyncIterator[int]:
    server = await asyncio.start_server(authority.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def database() -> AsyncIterator[str]:
    name = f"duly urls {uuid.uuid4().hex[:12]}"
    try:
        owner = await asyncpg.connect(**SERVER.asyncpg_arguments(), timeout=5)
    except (OSError, asyncpg.PostgresError) as error:
        skip_or_fail(f"PostgreSQL is needed at TEST_POSTGRES_URL ({error}): apt-get install postgresql, and start it")
        raise
    await owner.execute(f'CREATE DATABASE "{name}"')
    yield name.replace(" ", "%20")
    await owner.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await owner.close()


async def ask(url: str, question: str = "select current_database()") -> Any:
    connection = await asyncpg.connect(**parse_database_url(url, HERE).asyncpg_arguments(), timeout=10)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


PLACE = f"{SERVER.hosts[0]}:{SERVER.ports[0]}"
CREDENTIALS = f"{SERVER.user}:{SERVER.password or ''}"


@pytest.mark.parametrize(
    "form",
    [
        f"postgresql://{CREDENTIALS}@{PLACE}/DB",
        f"postgres://{CREDENTIALS}@{PLACE}/DB?pgbouncer=true&connect_timeout=15&connection_limit=1",
        f"postgresql+psycopg://{CREDENTIALS}@{PLACE}/DB?sslmode=prefer&channel_binding=prefer",
        f"postgresql+asyncpg://{CREDENTIALS}@/DB?host={PLACE}&ssl=disable",
        f"postgresql://127.0.0.1:1,{PLACE}/DB?user={SERVER.user}&password={SERVER.password or ''}",
        f"postgresql://{CREDENTIALS}@{PLACE}/DB?target_session_attrs=read-write",
    ],
)
@pytest.mark.covers("C026", "E048", "E102")
async def test_a_real_server_is_reached(database: str, form: str) -> None:
    assert await ask(form.replace("DB", database)) == database.replace("%20", " ")


async def test_a_real_server_takes_the_settings(database: str) -> None:
    base = f"postgresql://{CREDENTIALS}@{PLACE}/{database}"
    assert await ask(f"{base}?options=-c%20work_mem%3D7MB%20--search_path%3Da", "show work_mem") == "7MB"
    assert await ask(f"{base}?application_name=duly+1&schema=My%20own", "show application_name") == "duly 1"
    assert await ask(f"{base}?schema=My%20own", "show search_path") == '"My own"'


def has_socket(folder: str) -> bool:
    return Path(folder, f".s.PGSQL.{SERVER.ports[0]}").exists()


async def test_a_unix_socket_is_reached(database: str) -> None:
    folder = await ask(f"postgresql://{CREDENTIALS}@{PLACE}/{database}", "show unix_socket_directories")
    folder = folder.split(",")[0].strip()
    if not has_socket(folder):
        pytest.skip("the server has no socket on this machine")
    for form in (f"/{database}?host={folder}", f"{folder.replace('/', '%2F')}:{SERVER.ports[0]}/{database}"):
        url = f"postgresql://{CREDENTIALS}@{form}"
        assert await ask(url, "select inet_server_addr() is null") is True


@pytest.mark.parametrize(
    ("query", "host"),
    [
        ("sslmode=require&channel_binding=require", "localhost"),
        ("ssl=require", "127.0.0.1"),
        ("sslmode=prefer", "localhost"),
        ("", "localhost"),
        ("sslmode=verify-full&sslrootcert=ROOTS", "localhost"),
        ("sslmode=verify-ca&sslrootcert=ROOTS", "127.0.0.1"),
        ("sslmode=require&sslrootcert=ROOTS", "127.0.0.1"),
    ],
)
@pytest.mark.covers("B002", "C019", "E050")
async def test_tls_is_used_and_the_host_is_named(database: str, authority: Authority, query: str, host: str) -> None:
    authority.names.clear()
    async with tls_front(authority) as port:
        url = f"postgresql+psycopg://{CREDENTIALS}@{host}:{port}/{database}?{query}"
        assert await ask(url.replace("ROOTS", str(authority.roots))) == database.replace("%20", " ")
    # Neon finds the endpoint by this name.
    assert authority.names == [host if host == "localhost" else None]


@pytest.mark.parametrize(
    ("query", "host"),
    [
        ("sslmode=verify-full&sslrootcert=ROOTS", "127.0.0.1"),
        ("sslmode=verify-full&sslrootcert=system", "localhost"),
        ("sslmode=verify-ca", "localhost"),
        ("sslaccept=strict", "localhost"),
    ],
)
async def test_a_server_that_cannot_prove_itself_is_refused(
    database: str, authority: Authority, query: str, host: str
) -> None:
    async with tls_front(authority) as port:
        url = f"postgresql://{CREDENTIALS}@{host}:{port}/{database}?{query}"
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(url.replace("ROOTS", str(authority.roots)))


@pytest.mark.covers("B010")
async def test_required_tls_is_never_given_up(database: str) -> None:
    if await ask(f"postgresql://{CREDENTIALS}@{PLACE}/{database}", "show ssl") == "on":
        pytest.skip("the server speaks TLS itself")
    with pytest.raises(ConnectionError, match="rejected SSL"):
        await ask(f"postgresql://{CREDENTIALS}@{PLACE}/{database}?sslmode=require")
