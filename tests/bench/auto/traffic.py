"""Concurrent clients of one service, each with a connection of its own."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Burst:
    """What a burst of requests took: requests per second, and CPU seconds of the service per request."""

    rate: float
    cpu_s: float


def send(url: str, service: psutil.Process, bodies: Sequence[bytes], clients: int, *, steered: bool) -> Burst:
    """Send the bodies to /generate from so many clients; each sends its next request when it has its answer.

    steered: whether every answer must name a vector; the others must name none. Raises RuntimeError otherwise.
    """
    shares = [bodies[client::clients] for client in range(clients)]
    cpu, start = _cpu_seconds(service), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = [answer for share in pool.map(lambda share: _ask(url, share), shares) for answer in share]
    seconds, cpu = time.perf_counter() - start, _cpu_seconds(service) - cpu
    for answer in answers:
        if bool(json.loads(answer)["steering"]["applied"]) is not steered:
            raise RuntimeError(f"unexpected steering: {answer.decode()}")
    return Burst(len(bodies) / seconds, cpu / len(bodies))


def _ask(url: str, bodies: Sequence[bytes]) -> list[bytes]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    answers = []
    try:
        for body in bodies:
            connection.request("POST", "/generate", body, HEADERS)
            response = connection.getresponse()
            answers.append(response.read())
            if response.status != http.client.OK:
                raise RuntimeError(f"HTTP {response.status}: {answers[-1].decode()}")
    finally:
        connection.close()
    return answers


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
