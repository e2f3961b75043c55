"""A mail server for measurements: `python -m bench.mail_sink PORT STATE`, with STATE ok, refusing or hanging."""

import asyncio
import sys

STATES = ("ok", "refusing", "hanging")


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: str) -> None:
    """As much of RFC 5321 as a client needs to hand over a mail, or to be refused for good."""
    if state == "hanging":
        while await reader.read(1024):
            pass
        return
    writer.write(b"220 sink\r\n")
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"QUIT":
            writer.write(b"221 bye\r\n")
            return
        if verb == b"RCPT" and state == "refusing":
            writer.write(b"550 5.1.1 no such box\r\n")
        elif verb == b"DATA":
            writer.write(b"354 go on\r\n")
            while await reader.readline() != b".\r\n":
                pass
            writer.write(b"250 2.0.0 taken\r\n")
        else:
            writer.write(b"250 fine\r\n")


async def serve(port: int, state: str) -> None:
    """Until the process is ended."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _converse(reader, writer, state)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
