"""Files made to run, to burst, or to land elsewhere: none does, and the server stays small."""

import asyncio
import gzip
import http.server
import io
import socket
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.application import PASSWORD, Api, Person
from tests.fixtures.server import Server, StartServer
from tests.fixtures.tab import Tab
from tests.raw_asgi import Asked, ask
from tests.test_attachments import kept

shared = pytest.mark.asyncio(loop_scope="module")
MIB = 1024**2
ACTIVE = ("html", "svg", "xml", "javascript", "ecmascript", "css", "flash", "wasm", "multipart", "x-shockwave")
Bomb = Callable[[], bytes]
# A picture that is called a script or a page.
REFUSED = {"jpeg.js", "png.html"}


def zipped(name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """A picture that says it is this large, and holds almost nothing."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0"), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def hostile_files(script: str) -> dict[str, bytes]:
    """25 files by name. Whichever browser runs or shows one as its author meant runs `script`."""
    code = script.encode()
    page = b"<html><body><script>" + code + b"</script></body></html>"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>' + code + b"</script></svg>"
    xhtml = b'<html xmlns="http://www.w3.org/1999/xhtml"><script>' + code + b"</script></html>"
    mhtml = b"MIME-Version: 1.0\nContent-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n"
    bomb = zipped("bomb", bytes(20 * MIB))
    return {
        "page.html": page,
        "page.htm": b"\xef\xbb\xbf<!DOCTYPE html>" + page,
        "page.xhtml": b'<?xml version="1.0"?>' + xhtml,
        "page.mhtml": mhtml + page + b"\n--b--\n",
        "utf16.html": page.decode().encode("utf-16"),
        "utf7.html": b"+ADw-script+AD4-" + code + b"+ADw-/script+AD4-",
        "nul.html": b"\0\0" + page,
        "image.svg": svg,
        "image.svgz": gzip.compress(svg),
        "sheet.xml": b'<?xml version="1.0"?><?xml-stylesheet type="text/xsl" href="#"?>' + xhtml,
        "script.js": code,
        "module.mjs": b"export default 1;" + code,
        "style.css": b"@import url('//127.0.0.1/ran');body{background:url('/ran')}",
        "gif.js": b"GIF89a=1;" + code + b"//",
        "jpeg.js": b"\xff\xd8\xff\xe0/*" + bytes(20) + b"*/=1;" + code,
        "png.html": png(1, 1) + page,
        "pdf.html": b"%PDF-1.4\n" + page,
        "action.pdf": b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS("
        + code
        + b")>>>>endobj\ntrailer<</Root 1 0 R>>",
        "zip.html": page + zipped("page.html", page),
        "archive.zip": zipped("../../../../tmp/outside.html", page),
        "bomb.zip": zipped("bomb.zip", bomb),
        "bomb.gz": gzip.compress(bytes(20 * MIB)),
        "bomb.png": png(60_000, 60_000),
        "movie.swf": b"FWS\x06" + bytes(40) + page,
        "link.url": b"[InternetShortcut]\r\nURL=javascript:" + code,
    }


class Trap(http.server.ThreadingHTTPServer):
    """A site of somebody else: `pages` by path, and in `visited` every path that was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.visited: list[str] = []
        super().__init__(("127.0.0.1", 0), _TrapHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def ran(self) -> list[str]:
        return [path for path in self.visited if path.startswith("/ran")]


class _TrapHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        trap = self.server
        assert isinstance(trap, Trap)
        trap.visited.append(self.path)
        body = trap.pages.get(self.path, b"")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """It says nothing."""


@pytest.fixture
def trap() -> Iterator[Trap]:
    with Trap() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield site
        site.shutdown()
        thread.join()


class Client:
    """Somebody signed in to a real server, with a task."""

    def __init__(self, server: Server) -> None:
        self.http = httpx.Client(base_url=f"{server.base_url}/api/v1", trust_env=False, timeout=60)
        answer = self.http.post("/auth/register", json={"email": "ann@example.com", "password": PASSWORD}).json()
        self.token = str(answer["access_token"])
        self.http.headers["Authorization"] = f"Bearer {self.token}"
        self.address = f"/tasks/{self.http.post('/tasks', json={'title': 'a task'}).json()['id']}/attachments"

    def attach(self, name: str, data: bytes, kind: str = "text/html") -> dict[str, Any]:
        answer = self.http.post(self.address, files={"file": (name, data, kind)})
        assert answer.status_code == 201, (name, answer.text)
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
def client(start_server: StartServer) -> Iterator[Client]:
    client = Client(start_server())
    yield client
    client.http.close()


@pytest.mark.covers("A127")
def test_none_of_25_hostile_files_runs_in_chromium(client: Client, trap: Trap, tab: Tab) -> None:
    files = hostile_files(f"fetch('{trap.url}/ran')")
    assert len(files) == 25
    base = str(client.http.base_url).rstrip("/")
    urls = []
    for name, data in files.items():
        if name in REFUSED:
            # Under the name that its author gave it it is not even taken.
            answer = client.http.post(client.address, files={"file": (name, data)})
            assert (answer.status_code, answer.json()["code"]) == (422, "FILE_CONTENT_MISMATCH")
        file = client.attach(f"{name}.bin" if name in REFUSED else name, data)
        assert not [word for word in ACTIVE if word in file["content_type"]], file
        urls.append(f"{base}{client.address}/{file['id']}")
        down = client.http.get(urls[-1])
        assert down.content == data
        assert down.headers["content-disposition"].startswith("attachment;")
    tab.call("Browser.setDownloadBehavior", behavior="deny")
    tab.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Bearer {client.token}"})
    trap.pages["/control"] = files["page.html"]
    tab.call("Page.navigate", url=f"{trap.url}/control")
    wait_for(lambda: trap.ran)
    trap.visited.clear()
    tab.open(f"{trap.url}/empty")
    for url in urls:
        assert tab.call("Page.navigate", url=url).get("errorText") == "net::ERR_ABORTED", url
        assert tab.run("location.href") == f"{trap.url}/empty"
    embed(tab, trap, urls)
    assert trap.ran == []
    tab.call("Page.navigate", url="about:blank")


def embed(tab: Tab, trap: Trap, urls: list[str]) -> None:
    """Put them into a page in every way that a page takes something in, and let it go on for a while."""
    ways = (
        "<script src='{}'></script><script type=module src='{}'></script><link rel=stylesheet href='{}'><img src='{}'>"
        "<iframe src='{}'></iframe><object data='{}'></object><embed src='{}'><video src='{}'></video>"
    )
    body = "".join(ways.replace("{}", url) for url in urls)
    body += "<script>onload = () => fetch('/all-is-loaded')</script>"
    trap.pages["/embedding"] = body.encode()
    tab.call("Page.navigate", url=f"{trap.url}/embedding")
    wait_for(lambda: "/all-is-loaded" in trap.visited)
    time.sleep(0.5)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def form(name: bytes, data: bytes = b"data", *, head: bytes = b"", tail: bytes = b"\r\n--x--\r\n") -> bytes:
    """A body with one file, whose name is put in as it is."""
    opened = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + name + b'"\r\n' + head + b"\r\n"
    return opened + data + tail


NAMES: dict[bytes, str] = {
    b"../../etc/passwd": "passwd",
    b"..\\..\\windows\\win.ini": "win.ini",
    b"C:\\x\\y.txt": "y.txt",
    b"\\\\server\\share\\z.txt": "z.txt",
    b"/etc/cron.d/evil": "evil",
    b"a\x00b.txt": "ab.txt",
    b"\x00": "file",
    b"": "file",
    b".": "file",
    b"....//....//x": "x",
    b"%2e%2e%2fx": "%2e%2e%2fx",
    b"x%0d%0aSet-Cookie: a=b": "xSet-Cookie: a=b",
    b"x\x0bSet-Cookie: a=b": "xSet-Cookie: a=b",
    "photo\u202egpj.exe".encode(): "photogpj.exe",
    "\u2066x\u2069\u2028y".encode(): "xy",
    b"caf\xe9.txt": "caf\xe9.txt",
    b"con.txt": "con.txt",
    b"x; filename*=UTF-8''y": "x; filename*=UTF-8''y",
    b"x%22; name=%22y": 'x"; name="y',
    b"<script>alert(1)</script>.txt": "script>.txt",
    b"n" * 3000 + b".txt": "n" * 251 + ".txt",
}


@shared
@pytest.mark.covers("A127")
async def test_hostile_names_are_cleaned_and_nothing_leaves_the_store(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    outside = {path for path in house.settings.data_dir.rglob("*") if "files" not in path.parts}
    for sent, name in NAMES.items():
        before = set(kept(house))
        answer = await upload(house, carol, task["id"], form(sent))
        assert answer[0] == 201, (sent, answer)
        [new] = set(kept(house)) - before
        assert new.read_bytes() == b"data"
        listed = (await carol.get(f"/tasks/{task['id']}/attachments")).json()["items"]
        assert listed[-1]["name"] == name
        down = await carol.get(f"/tasks/{task['id']}/attachments/{listed[-1]['id']}")
        assert down.status_code == 200
        assert "set-cookie" not in down.headers
        assert down.headers["content-disposition"].isprintable()
    assert outside == {path for path in house.settings.data_dir.rglob("*") if "files" not in path.parts}


async def upload(api: Api, person: Person, task_id: str, *pieces: bytes, kind: bytes = b"x") -> tuple[int, bytes]:
    headers = (
        (b"content-type", b"multipart/form-data; boundary=" + kind), (b"transfer-encoding", b"chunked"),
        (b"authorization", f"Bearer {person.access_token}".encode()),
    )  # fmt: skip
    answer = await ask(api.app, Asked("POST", f"/api/v1/tasks/{task_id}/attachments", headers=headers, pieces=pieces))
    return answer.status, answer.body


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ndata\r\n'
FIELD = b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\ndata\r\n'
NESTED = b'--y\r\nContent-Disposition: file; filename="b"\r\n\r\nb\r\n--y--'
BODIES: list[tuple[tuple[bytes, ...], set[int]]] = [
    ((PART * 5000 + b"--x--\r\n",), {400}),
    ((FIELD * 5000 + b"--x--\r\n",), {400}),
    ((PART + PART + b"--x--\r\n",), {422}),
    ((form(b"a", tail=b""),), {400}),
    ((form(b"a", tail=b"\r\n--x"),), {400}),
    ((form(b"a", head=b"X-Huge: " + b"a" * 2_000_000 + b"\r\n"),), {400}),
    ((form(b"a", head=b"X-Many: a\r\n" * 50_000),), {400}),
    ((form(b"a" * 2_000_000),), {400}),
    ((b"--x\r\n" * 100_000,), {400, 422}),
    ((b"\r\n--" * 500_000,), {400, 422}),
    ((b"-" * 2_000_000,), {400, 422}),
    ((b"--x\r\nContent-Disposition: form-data; filename=\"a\"\r\n\r\ndata\r\n--x--\r\n",), {400}),
    ((b"--x\r\n\r\ndata\r\n--x--\r\n",), {400}),
    ((form(b"a", NESTED, head=b"Content-Type: multipart/mixed; boundary=y\r\n"),), {201}),
    ((form(b"a", head=b"Content-Length: 999999999\r\n"),), {201}),
    ((form(b"a", head=b"Content-Length: -1\r\nContent-Transfer-Encoding: base64\r\n"),), {201}),
    ((form(b"a", b"\r\n--" * 300_000),), {201}),
    ((form(b"a", b"\r" * 1_500_000),), {201}),
    (tuple(form(b"a")[place : place + 1] for place in range(len(form(b"a")))), {201}),
]  # fmt: skip


@shared
@pytest.mark.parametrize("number", range(len(BODIES)))
async def test_hostile_bodies_are_refused_or_are_one_file(house: Api, carol: Person, number: int) -> None:
    pieces, statuses = BODIES[number]
    task = await carol.add_task()
    before = kept(house)
    status, body = await upload(house, carol, task["id"], *pieces)
    assert status in statuses, body
    assert len(kept(house)) - len(before) == (status == 201)
    assert (await carol.get(f"/tasks/{task['id']}/attachments")).json()["total"] == (status == 201)


@shared
async def test_odd_boundaries_and_charsets_are_refused_or_mean_what_they_say(house: Api, carol: Person) -> None:
    task = await carol.add_task()
    for kind in (b"", b'""', b"y", b"x" * 5000, b"\xff", b"x; charset=zip", b"x; charset=utf-16", b"x; charset=idna",
                 b"x; charset=unicode_escape", b"x; charset=\x00"):  # fmt: skip
        status, body = await upload(house, carol, task["id"], form(b"a.txt"), kind=kind)
        assert status in {201, 400, 422}, (kind, body)


def exchange(server: Server, request: bytes) -> bytes:
    address = urlsplit(server.base_url)
    answer = b""
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=20) as connection:
        connection.sendall(request)
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            pass
    return answer


def test_a_length_that_lies_makes_no_file(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(request_timeout_seconds=3)
    client = Client(server)
    body = form(b"a.txt")
    head = (
        f"POST /api/v1{client.address} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\n"
        "Connection: close\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    ).encode()
    for length in (len(body) + 1000, 3_000_000):
        answer = exchange(server, head + b"Content-Length: %d\r\n\r\n" % length + body)
        assert answer.split()[1] in {b"504", b"408", b"400"}, answer
    answer = exchange(server, head + b"Content-Length: %d\r\n\r\n" % (len(body) - 12) + body)
    assert answer.split()[1] in {b"400", b"422"}, answer
    assert client.http.get(client.address).json()["total"] == 0
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file() and path.stat().st_size != 5]
    assert "Traceback" not in server.log()
    client.http.close()


def peak(process_id: int) -> int:
    """The most memory that the process has held since it was last reset, in bytes."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


@pytest.mark.covers("A127")
def test_many_large_files_at_once_take_little_memory(start_server: StartServer) -> None:
    server = start_server(attachment_quota_bytes=10 * 1024**3)
    client = Client(server)
    data = bytes(range(256)) * (25 * MIB // 256)
    file = client.attach("warm.bin", data)
    client.http.get(f"{client.address}/{file['id']}")
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    before = peak(server.process.pid)
    asyncio.run(load(server, client, data, file["id"]))
    grown = peak(server.process.pid) - before
    assert grown < 64 * MIB, f"{grown / MIB:.0f} MiB more"
    client.http.close()


async def load(server: Server, client: Client, data: bytes, file_id: str) -> None:
    """Six uploads at once, twice, six readers who have stopped in the middle, and bodies that are all head."""
    headers = {"Authorization": f"Bearer {client.token}"}
    async with httpx.AsyncClient(base_url=f"{server.base_url}/api/v1", trust_env=False, timeout=60) as http_client:
        for _ in range(2):
            sent = [http_client.post(client.address, files={"file": ("a", data)}, headers=headers) for _ in range(6)]
            assert {answer.status_code for answer in await asyncio.gather(*sent)} == {201}
        streams = [http_client.stream("GET", f"{client.address}/{file_id}", headers=headers) for _ in range(6)]
        opened = [await stream.__aenter__() for stream in streams]
        await asyncio.sleep(0.5)
        assert {answer.status_code for answer in opened} == {200}
        for stream in streams:
            await stream.__aexit__(None, None, None)
        kind = {**headers, "Content-Type": "multipart/form-data; boundary=x"}
        for body in (PART * 300_000, b"--x\r\n" + b"X" * (20 * MIB)):
            answer = await http_client.post(client.address, content=body, headers=kind)
            assert answer.status_code in {400, 413, 422}
