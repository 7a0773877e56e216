"""Requests to a server at random times, in a process of its own: statuses, seconds and answers as one line of JSON.

python bench/load.py PORT TARGET BODY --rate 100 --seconds 60

A request costs this process some 60 us, little beside what a server does with it: both may share a core.
"""

import argparse
import contextlib
import hashlib
import json
import random
import select
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

LOST = 30.0  # seconds without an answer


class Call:
    """One request over a connection of its own."""

    def __init__(self, port: int, message: bytes):
        self.began, self.rest, self.parts = time.monotonic(), memoryview(message), []
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    def send(self) -> bool:
        """Sends what the connection takes: whether that was all."""
        with contextlib.suppress(BlockingIOError):
            self.rest = self.rest[self.socket.send(self.rest) :]
        return not self.rest

    def receive(self) -> bool:
        """Reads what is there: whether the server has closed."""
        try:
            while part := self.socket.recv(2**18):
                self.parts.append(part)
        except BlockingIOError:
            return False
        return True

    def answer(self) -> tuple[int, bytes]:
        """Status and body; 0: there is none, or a part of one."""
        head, _, body = b"".join(self.parts).partition(b"\r\n\r\n")
        length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        whole = length and int(length[0].partition(b":")[2]) == len(body)
        return (int(head.split(None, 2)[1]) if whole else 0), body


def load(port: int, message: bytes, rate: float, seconds: float, most: int | None) -> dict[str, Any]:
    """Arrivals of a Poisson process; `most`: so many at once instead, and no more."""
    statuses, times, answers = Counter[int](), [], set[str]()
    calls: dict[int, Call] = {}
    poll, draw, begin = select.epoll(), random.Random(0), time.monotonic()
    due, late, left = begin, 0.0, most

    def finish(call: Call) -> None:
        del calls[call.socket.fileno()]
        call.socket.close()
        status, body = call.answer()
        statuses[status] += 1
        if status == 200:
            times.append(time.monotonic() - call.began)
            answers.add(hashlib.sha256(body).hexdigest())

    while calls or (due < begin + seconds if left is None else left > 0):
        now = time.monotonic()
        while (due <= now and due < begin + seconds) if left is None else left > 0:
            call = Call(port, message)
            calls[call.socket.fileno()] = call
            try:
                wanted = select.EPOLLIN if call.send() else select.EPOLLIN | select.EPOLLOUT
            except OSError:  # still connecting
                wanted = select.EPOLLIN | select.EPOLLOUT
            poll.register(call.socket.fileno(), wanted)
            late, due = max(late, now - due), due + draw.expovariate(rate)
            left = None if left is None else left - 1
        for number, event in poll.poll(max(0.0, min(due - time.monotonic(), 1.0)) if left is None else 1.0):
            call = calls[number]
            try:
                if event & select.EPOLLOUT and call.send():
                    poll.modify(number, select.EPOLLIN)
                ended = event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and call.receive()
            except OSError:
                ended = True
            if ended:
                finish(call)
        if calls and (first := next(iter(calls.values()))).began < time.monotonic() - LOST:
            first.parts = []
            finish(first)
    took = time.monotonic() - begin
    return {
        "statuses": dict(statuses),
        "seconds": sorted(times),
        "answers": sorted(answers),
        "took": took,
        "late": late,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("target")
    parser.add_argument("body", type=Path)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--at-once", type=int, help="so many at once instead")
    args = parser.parse_args()
    body = args.body.read_bytes()
    head = f"POST {args.target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    print(json.dumps(load(args.port, head.encode() + body, args.rate, args.seconds, args.at_once)))
