"""What nobody should send, and a request for each place of the OpenAPI document where it could be sent."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote_from_bytes

from tests.raw_asgi import Asked, Headers

MARK = "zq7"
"""Part of every text below, so that a test can see whether an answer repeats it."""
OWNERS = "/api/{user_id}/"

# As they stand in a JSON document.
JSON_TEXTS = [
    rf'"{MARK}\u0000end"', rf'"\u0000{MARK}"', rf'"{MARK}\ud800"', rf'"\udc00\ud800{MARK}"',
    rf'"{MARK}\u001b[31m\u0007"', f'"{MARK}\u202egnp.exe"', f'"{MARK}\ufeff\ufffe\uffff"',
    f'"{MARK}{"e" + chr(0x301) * 3000}"', f'"{MARK}{"ﷺ" * 3000}"', f'"{MARK}{"A" * 100_000}"',
    f'"{MARK}\'; DROP TABLE users; --"', f'"{MARK} %_\\\\ * \\" OR 1=1"', f'"../../{MARK}"',
    f'"<script>alert({MARK})</script>"', rf'"\r\nSet-Cookie: {MARK}=1\r\n\r\n"', f'"{{{{7*7}}}} ${{{MARK}}}"',
    f'"{MARK}@{MARK}"', f'"{MARK}@example.com"', f'"0000-00-00T00:00:00Z{MARK}"',
    '"9999-12-31T23:59:59.999999-23:59"', '"0001-01-01T00:00:00+23:59"', '"2026-02-30T25:61:61Z"',
    '"2026-06-30T23:59:60Z"', '""', '" "', r'"\u3000"', '"null"', '"NaN"', '"-1"', '"1e400"', '"٣"', '"💥"',
]  # fmt: skip
JSON_VALUES = [
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" + "0" * 5000,
    "-1" + "0" * 5000, "1e400", "-1e400", "1E-400", "0." + "1" * 5000, "NaN", "Infinity", "-Infinity", "-0", "1.0",
    "2147483648", "true", "false", "null", "[]", "{}", "[null]", '{"": null}', f'{{"{MARK}": 1, "{MARK}": 2}}',
    "[" * 100_000, '{"a":' * 100_000, "[" * 60 + "]" * 60, "[" * 60_000 + "]" * 60_000, "[" + "0," * 50_000 + "0]",
    f'["{MARK}"]', f'[{{"{MARK}": ["{MARK}"]}}]',
]  # fmt: skip
BODIES = [
    b"", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b"}", b"{}{}", b'{"a":1,}', b"{'a':1}", b"//",
    b"\xed\xa0\x80", b'"' + MARK.encode() + b"\xc3\x28" + b'"', b"PK\x03\x04" + bytes(range(256)) * 20,
    b"\x1f\x8b\x08" + b"\x00" * 100, MARK.encode() * 10_000, b"{" + b'"a":{' * 70 + b"}" * 71, b"a=1&b=2",
    b"--x\r\n\r\n--x--", "{}".encode("utf-16"),
    json.dumps({f"{MARK}{number}": MARK for number in range(2000)}).encode(),
    b'{"' + MARK.encode() * 20_000 + b'":1}',
]  # fmt: skip
# As they stand in a path or a query, percent-encoded or as they are.
WIRE_TEXTS = [
    b"%00", b"zq7%00", b"%ED%A0%80zq7", b"%FF%FEzq7", b"%C0%AF", b"%zz", b"%", b"zq7%0d%0aSet-Cookie:%20zq7=1",
    b"%E2%80%AEzq7", b"A" * 20_000, b"%F0%9F%92%A5", b"9223372036854775808", b"-9223372036854775809",
    b"1" + b"0" * 5000, b"1e400", b"NaN", b"-1", b"%27%3B%20DROP%20TABLE%20users%3B--zq7", b"..%2f..%2fzq7",
    b"%252e%252e", b"null", b"", b"%20", b"+", b"zq7<script>", b"{zq7}", b"[]=zq7", b"\xff\xfezq7",
    b"2026-02-30T00:00:00Z", b"0001-01-01T00:00:00%2B23:59", b"9999-12-31T23:59:59-23:59",
]  # fmt: skip
QUERIES = [
    b"zq7=1", b"%ff=zq7", b"&&&===", b"=zq7", b"zq7" * 10_000, b"limit=1&limit=zq7", b"a[b]=zq7&a[c]=1", b"\xff\xfe",
    b"%00=%00", b"&".join(b"zq7%d=1" % number for number in range(2000)), b"limit[]=1", b"?", b";zq7",
    b"limit=1;offset=zq7",
]  # fmt: skip
HEADER_VALUES = [
    b"", b" ", b"zq7", b"\xff\xfezq7", b"zq7\x00", b"\x80" * 300, b"zq7" * 5000, b",,,zq7", b'"zq7', b"zq7;;=;", b"*",
    b'"' * 500, b"W/" * 500, b"9" * 400, b"-1", b"1e400", b"zq7\r\nX: y", b"bytes=0-,0-,0-zq7", b"*/*;q=zq7",
    b"\xe2\x80\xae", b"application/", b"application/json; charset=zq7", b"multipart/form-data",
    b"multipart/form-data; boundary=" + b"-" * 200, b"application/x-www-form-urlencoded", b"gzip, deflate, zq7",
    b"Basic enE3OnpxNw==", b"Bearer", b"Bearer zq7.zq7.zq7", b"Bearer \xff", b"Bearer eyJhbGciOiJub25lIn0.e30.",
    b"Bearer " + b"a" * 20_000, b"Bearer " + b"." * 3000, b"bearer bearer",
]  # fmt: skip
HEADERS = [
    b"authorization", b"content-type", b"content-encoding", b"content-length", b"accept", b"accept-encoding",
    b"accept-language", b"x-request-id", b"origin", b"cookie", b"host", b"if-match", b"if-none-match",
    b"idempotency-key", b"range", b"user-agent", b"x-forwarded-for", b"x-forwarded-proto", b"forwarded",
    b"transfer-encoding", b"expect", b"access-control-request-method",
]  # fmt: skip


class Operation:
    """One operation of the document, and good requests to it."""

    def __init__(self, document: dict[str, Any], path: str, method: str, ids: dict[str, str]) -> None:
        self._document = document
        self._operation = document["paths"][path][method]
        self.name = f"{method.upper()} {path}"
        self._method = method.upper()
        self._path = path
        self._ids = ids

    def _parameters(self, place: str) -> list[str]:
        return [found["name"] for found in self._operation.get("parameters", ()) if found["in"] == place]

    def good(self) -> Asked:
        """A request of which nothing is hostile; whether it succeeds depends on what there is."""
        path = self._path.format_map(self._ids)
        headers: Headers = ((b"content-type", b"application/json"),) if self.body() is not None else ()
        return (
            Asked(self._method, path, headers=headers, pieces=(json.dumps(self.current_body()).encode(),))
            if headers
            else Asked(self._method, path)
        )

    def body(self) -> dict[str, Any] | None:
        """A good JSON body with every field that the schema has; None where none is read."""
        content = self._operation.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        return None if schema is None else self._sample(schema)

    def current_body(self) -> dict[str, Any]:
        """The same without a version, which would be stale as soon as one of them was accepted."""
        return {name: value for name, value in (self.body() or {}).items() if name != "version"}

    def _sample(self, schema: dict[str, Any]) -> Any:
        schema = self._resolved(schema)
        if "properties" in schema:
            one_of = [choice["required"][0] for choice in schema.get("oneOf", ())]
            wanted = {name: field for name, field in schema["properties"].items() if name not in one_of[1:]}
            found = {name: self._sample(field) for name, field in wanted.items()}
            # Fields that only make sense together are in the example of the whole.
            together = schema.get("examples", [{}])[0] if "action" in found else {}
            return {**found, **together}
        for keyword in ("examples", "enum"):
            if schema.get(keyword):
                return schema[keyword][0]
        if schema.get("format") == "password":
            return "tangerine-orbit-92"
        if schema.get("format") == "email":
            return "new@example.com"
        kind = schema.get("type")
        if kind == "array":
            return [self._sample(schema["items"])]
        return {"string": "text", "integer": 1, "number": 1, "boolean": True}.get(str(kind))

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        for keyword in ("anyOf", "allOf"):
            if keyword in schema and "type" not in schema:
                schema = {**schema, **schema[keyword][0]}
        if "$ref" in schema:
            return self._resolved(self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return schema

    def hostile(self) -> Iterator[Asked]:
        """Every place of it, filled with everything."""
        good = self.good()
        yield from self._hostile_paths(good)
        for name in self._parameters("query"):
            for text in WIRE_TEXTS:
                yield replace(good, query=name.encode() + b"=" + text)
        for query in QUERIES:
            yield replace(good, query=query)
        yield from self._hostile_headers(good)
        if self.body() is not None:
            yield from self._hostile_bodies(good)
        yield from self._hostile_forms(good)

    def _hostile_paths(self, good: Asked) -> Iterator[Asked]:
        for name in self._parameters("path"):
            for text in WIRE_TEXTS:
                wild = quote_from_bytes(text, safe="%/+<>{}[]=:,;-")
                yield replace(good, path=self._path.format_map({**self._ids, name: wild}))

    def _hostile_headers(self, good: Asked) -> Iterator[Asked]:
        for name in HEADERS:
            others = tuple(pair for pair in good.headers if pair[0] != name)
            for value in HEADER_VALUES:
                yield replace(good, headers=(*others, (name, value)))
            yield replace(good, headers=(*good.headers, (name, b"zq7"), (name, b"zq7")))
        many = tuple((b"x-%d" % number, b"zq7") for number in range(2000))
        yield replace(good, headers=(*good.headers, *many))

    def _hostile_bodies(self, good: Asked) -> Iterator[Asked]:
        for raw in (*BODIES, *(value.encode("utf-8", "surrogatepass") for value in JSON_VALUES + JSON_TEXTS)):
            yield replace(good, pieces=(raw,))
            yield replace(good, pieces=(raw[:1], raw[1:], b""))
        body = self.current_body()
        for name in self.body() or {}:
            for value in JSON_VALUES + JSON_TEXTS:
                yield replace(good, pieces=(with_raw(body, name, value),))
        for value in JSON_TEXTS:
            # As the name of a field, and deep inside.
            yield replace(good, pieces=(b"{" + value.encode("utf-8", "surrogatepass") + b":1}",))
            yield replace(good, pieces=(with_raw(body, "x", f'[{{"a":[{value}]}}]'),))

    def _hostile_forms(self, good: Asked) -> Iterator[Asked]:
        for kind, found in self._operation.get("requestBody", {}).get("content", {}).items():
            if kind == "application/json":
                continue
            boundary = "; boundary=x" if kind.startswith("multipart/") else ""
            form = replace(good, headers=((b"content-type", f"{kind}{boundary}".encode()),))
            for raw in (*BODIES, *QUERIES):
                yield replace(form, pieces=(raw,))
            for name in self._resolved(found["schema"])["properties"]:
                for text in WIRE_TEXTS:
                    part = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
                    whole = part % (name.encode(), text, text) if boundary else name.encode() + b"=" + text
                    yield replace(form, pieces=(whole,))


def with_raw(body: dict[str, Any], name: str, value: str) -> bytes:
    """The body as JSON, with this text in the place of one field's value, whether it is JSON or not."""
    fields = [f"{json.dumps(key)}:{json.dumps(held)}" for key, held in body.items() if key != name]
    return ("{" + ",".join([*fields, f"{json.dumps(name)}:{value}"]) + "}").encode("utf-8", "surrogatepass")


def operations(document: dict[str, Any], ids: dict[str, str]) -> list[Operation]:
    """All of them, so that a new one is attacked as soon as it is documented.

    `ids` are what path parameters stand for; where a path names its owner, that is `caller_id`.
    """
    methods = ("get", "post", "put", "patch", "delete")
    return [
        Operation(document, path, method, ids | {"user_id": ids["caller_id"]} if path.startswith(OWNERS) else ids)
        for path, item in document["paths"].items()
        for method in item
        if method in methods
    ]
