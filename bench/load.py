"""Requests to a server at random times, in a process of its own: statuses, seconds and answers as one line of JSON.

python bench/load.py PORT TARGET BODY --rate 100 --seconds 60
"""

import argparse
import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

LOST = 30.0  # seconds without an answer


class Call(asyncio.Protocol):
    """One request over a connection of its own."""

    def __init__(self, message: bytes, told: asyncio.Future[bytes]):
        self.message, self.told, self.parts = message, told, []

    def connection_made(self, transport: Any) -> None:
        transport.write(self.message)

    def data_received(self, data: bytes) -> None:
        self.parts.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.told.done():
            self.told.set_result(b"".join(self.parts))


async def asked(port: int, message: bytes) -> tuple[int, bytes]:
    """Status and body of an answer; 0: there was none."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[bytes] = loop.create_future()
    transport = None
    try:
        transport, _ = await loop.create_connection(lambda: Call(message, told), "127.0.0.1", port)
        head, _, body = (await asyncio.wait_for(told, LOST)).partition(b"\r\n\r\n")
    except (OSError, asyncio.TimeoutError):
        return 0, b""
    finally:
        if transport is not None:
            transport.close()
    length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    whole = length and int(length[0].partition(b":")[2]) == len(body)
    return (int(head.split()[1]) if whole else 0), body


async def load(port: int, message: bytes, rate: float, seconds: float, most: int | None) -> dict[str, Any]:
    """Arrivals of a Poisson process; `most`: so many at once instead, and no more."""
    statuses, times, answers = Counter[int](), [], set[str]()

    async def one() -> None:
        began = time.monotonic()
        status, body = await asked(port, message)
        statuses[status] += 1
        if status == 200:
            times.append(time.monotonic() - began)
            answers.add(hashlib.sha256(body).hexdigest())

    draw, tasks, begin = random.Random(0), [], time.monotonic()
    if most is not None:
        await asyncio.gather(*[one() for _ in range(most)])
    else:
        due = begin
        while (due := due + draw.expovariate(rate)) < begin + seconds:
            await asyncio.sleep(max(0, due - time.monotonic()))
            tasks.append(asyncio.ensure_future(one()))
        await asyncio.gather(*tasks)
    times.sort()
    return {"statuses": dict(statuses), "seconds": times, "answers": sorted(answers), "took": time.monotonic() - begin}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("target")
    parser.add_argument("body", type=Path)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--at-once", type=int, help="so many at once instead")
    args = parser.parse_args()
    body = args.body.read_bytes()
    head = f"POST {args.target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    found = asyncio.run(load(args.port, head.encode() + body, args.rate, args.seconds, args.at_once))
    print(json.dumps(found))
