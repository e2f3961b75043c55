"""A small keep-alive JSON client, used to seed and to check the servers, never to measure them."""

import http.client
import json
import time
from types import TracebackType
from typing import Any, Self

from bench.failure import BenchError

TIMEOUT_SECONDS = 30.0
TOO_MANY = 429


class Client:
    """One keep-alive connection to 127.0.0.1; not safe to share between threads."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()

    def send(self, method: str, path: str, *, token: str = "", body: str = "") -> tuple[int, Any]:
        """Status and parsed JSON (None for an empty or other body); OSError when the server cannot be reached.

        A server that limits its callers is asked again when it says: a large account is filled faster than it admits.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body:
            headers["Content-Type"] = "application/json"
        try:
            while True:
                self._connection.request(method, path, body or None, headers)
                answer = self._connection.getresponse()
                data = answer.read()
                seconds = answer.headers["Retry-After"]
                if answer.status != TOO_MANY or seconds is None:
                    break
                time.sleep(float(seconds))
        except (http.client.HTTPException, OSError) as error:
            self._connection.close()
            raise OSError(f"{method} {path}: {error or type(error).__name__}") from error
        try:
            return answer.status, json.loads(data) if data else None
        except ValueError:
            return answer.status, None

    def expect(self, method: str, path: str, *, token: str = "", body: dict[str, Any] | str = "") -> Any:
        """The JSON of a 2xx answer; any other status, or no answer, is a BenchError that quotes it."""
        text = body if isinstance(body, str) else json.dumps(body)
        try:
            status, answer = self.send(method, path, token=token, body=text)
        except OSError as error:
            raise BenchError(f"no answer: {error}") from error
        if not 200 <= status < 300:
            raise BenchError(f"{method} {path} answered {status}: {json.dumps(answer)[:500]}")
        return answer
