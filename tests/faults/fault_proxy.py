"""An HTTP proxy before an S3 server that does wrong on purpose: a process of its own, and the class that steers it.

    python fault_proxy.py --upstream URL [--port 0] [--faults JSON] [--seed 0]

It prints its address when it listens and ends when its standard input does. Requests pass unchanged, so that their
signatures stay right. `--faults` is a list of rules; the first that applies to a request has its way:

    {"fault": NAME or [NAMES],   one of FAULTS, or one of several by lot
     "probability": 1.0,         by lot, drawn from seed, rule, method, key and how often this key was asked for: the
                                 same whatever other threads do meanwhile
     "method": "GET",            any by default
     "key": "regular expression",  searched in the decoded key, for a listing in its prefix
     "listing": false,           true: listings only, false: objects only, both by default
     "nth": [1, 2]}              only the first and second request for each key that this rule could apply to

Control requests: ``PUT /_faults`` replaces the rules and counts anew, ``GET /_faults`` gives the counts of what was
done to requests, ``GET /_faults/kinds`` those of what was asked for, ``POST /_refuse?seconds=2`` cuts all connections
and refuses new ones for so long.

Standard library only, one thread for each connection; some 1,000 requests/s on one core.
"""

import argparse
import http.client
import itertools
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

STALL_S = 3.0

ERRORS = {
    "internal_error": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "too_many_requests": (429, "TooManyRequests"),
    "expired_token": (400, "ExpiredToken"),
    "access_denied": (403, "AccessDenied"),
}
BODY_FAULTS = ("stall_in_body", "close_in_body", "wrong_bytes", "same_wrong_bytes")
"""`wrong_bytes` differ each time, `same_wrong_bytes` do not: an object that is rotten where it lies."""
FAULTS = (*ERRORS, "stall", "reset", *BODY_FAULTS)
PASSING_FAULTS = [name for name in FAULTS if name not in ("expired_token", "access_denied", "same_wrong_bytes")]
"""Those that go away when the same request is sent again."""


@dataclass(frozen=True)
class Rule:
    """When to do what; see the module."""

    fault: str | list[str]
    probability: float = 1.0
    method: str = ""
    key: str = ""
    listing: bool | None = None
    nth: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        """The faults to draw from."""
        return [self.fault] if isinstance(self.fault, str) else self.fault

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in FAULTS]:
            raise ValueError(f"there is no fault {unknown}; there are {FAULTS}")

    def fits(self, method: str, key: str, listing: bool) -> bool:
        """Whether it is about such requests."""
        right_kind = self.method in ("", method) and self.listing in (None, listing)
        return right_kind and re.search(self.key, key) is not None


class Faults:
    """The rules in force, and what was done so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.done: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._lock = Lock()
        self._rules: list[Rule] = []
        self._asked: Counter[tuple[int, str, str]] = Counter()

    def replace(self, rules: list[dict[str, Any]]) -> None:
        """Other rules from now on; all counting starts anew."""
        made = [Rule(**rule) for rule in rules]
        with self._lock:
            self._rules = made
            self._asked.clear()
            self.done.clear()
            self.kinds.clear()

    def draw(self, method: str, path: str) -> tuple[str, random.Random]:
        """The fault for this request (``""``: none) and a source of chance for it."""
        key, listing = _key_of(path)
        with self._lock:
            self.kinds[f"{method} {'listing' if listing else 'object'}"] += 1
        for at, rule in enumerate(self._rules):
            if not rule.fits(method, key, listing):
                continue
            with self._lock:
                self._asked[at, method, key] += 1
                nth = self._asked[at, method, key]
            chance = random.Random(f"{self.seed} {at} {method} {key} {nth}")
            if (not rule.nth or nth in rule.nth) and chance.random() < rule.probability:
                return chance.choice(rule.names), chance
        return "", random.Random()

    def count(self, fault: str) -> None:
        """Note that it was done; ``""`` for a request that passed."""
        with self._lock:
            self.done[fault or "passed"] += 1


def _key_of(path: str) -> tuple[str, bool]:
    """The key that is asked for, or the prefix that is listed, and whether it is a listing."""
    parts = urlsplit(path)
    key = unquote(parts.path).lstrip("/").partition("/")[2]
    if key:
        return key, False
    return parse_qs(parts.query).get("prefix", [""])[0], True


class Proxy(ThreadingHTTPServer):
    """The listening socket; closed and opened again to refuse connections."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, upstream: str, faults: Faults) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.faults = faults
        self.refuse_s = 0.0
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection and remember it, to cut it."""
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what this is for."""

    def shutdown_request(self, request: Any) -> None:
        """Close without a farewell, which would turn a reset into an orderly end."""
        request.close()

    def cut_connections(self) -> None:
        """End those that are open."""
        for connection in list(self.connections):
            _reset(connection)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client, with one of its own to the server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Proxy

    def setup(self) -> None:
        """Make ready to ask the server."""
        super().setup()
        self.upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)

    def finish(self) -> None:
        """Forget the connection."""
        self.server.connections.discard(self.connection)
        self.upstream.close()
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """No log."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith(("/_faults", "/_refuse")):
            self._obey(body)
            return
        fault, chance = self.server.faults.draw(self.command, self.path)
        if fault == "stall":
            self._give_up(fault, after_s=STALL_S)
        elif fault == "reset":
            self._give_up(fault)
        elif fault in ERRORS:
            self._send(fault, *_error(*ERRORS[fault], has_body=self.command != "HEAD"))
        else:
            self._spoil(fault, chance, *self._ask(body))

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815

    def _ask(self, body: bytes) -> tuple[bytes, bytes]:
        """Head and body of the server's answer."""
        try:
            return self._ask_once(body)
        except (ConnectionError, http.client.HTTPException):  # it ended a connection that was idle
            self.upstream.close()
            return self._ask_once(body)

    def _ask_once(self, body: bytes) -> tuple[bytes, bytes]:
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() != "expect":  # answered here already
                self.upstream.putheader(name, value)
        self.upstream.endheaders(body)
        answer = self.upstream.getresponse()
        content = answer.read()
        dropped = ["transfer-encoding", "connection"] + (["content-length"] if self.command != "HEAD" else [])
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
        if self.command != "HEAD":
            headers.append(("Content-Length", str(len(content))))
        return _head(answer.status, answer.reason, headers), content

    def _spoil(self, fault: str, chance: random.Random, head: bytes, body: bytes) -> None:
        is_object = self.command == "GET" and not _key_of(self.path)[1] and b" 200 " in head[:16]
        if fault.endswith("wrong_bytes"):  # of a listing nobody could notice
            if is_object and body:
                same = random.Random(_key_of(self.path)[0])
                body = _other_bytes(body, chance if fault == "wrong_bytes" else same)
            else:
                fault = ""
        elif fault:  # an answer without a body breaks off within its head: what was written stays written
            sent = head + body[: len(body) // 2] if body else head[:20]
            self.connection.sendall(sent)
            self._give_up(fault, after_s=STALL_S if fault == "stall_in_body" else 0)
            return
        self._send(fault, head, body)

    def _send(self, fault: str, head: bytes, body: bytes) -> None:
        self.server.faults.count(fault)
        self.connection.sendall(head + body)

    def _give_up(self, fault: str, after_s: float = 0) -> None:
        self.server.faults.count(fault)
        self.close_connection = True
        time.sleep(after_s)
        if fault == "reset":
            _reset(self.connection)

    def _obey(self, body: bytes) -> None:
        refuse = self.path.startswith("/_refuse")
        if self.command == "PUT":
            self.server.faults.replace(json.loads(body))
        faults = self.server.faults
        text = json.dumps(faults.kinds if self.path.endswith("/kinds") else faults.done).encode()
        self.connection.sendall(_head(200, "OK", [("Content-Length", str(len(text)))]) + text)
        if refuse:  # answered first: this connection is cut as well
            self.server.refuse_s = float(parse_qs(urlsplit(self.path).query)["seconds"][0])
            Thread(target=self.server.shutdown).start()


def _reset(connection: socket.socket) -> None:
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that waits for the next request
        connection.close()
    except OSError:  # gone already
        pass


def _head(status: int, reason: str, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _error(status: int, code: str, *, has_body: bool) -> tuple[bytes, bytes]:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    return _head(status, code, headers), text if has_body else b""


def _other_bytes(body: bytes, chance: random.Random) -> bytes:
    wrong = bytearray(body)
    wrong[chance.randrange(len(wrong))] ^= chance.randrange(1, 256)
    return bytes(wrong)


def _serve(port: int, upstream: str, faults: Faults) -> None:
    for start in itertools.count():
        with Proxy(port, upstream, faults) as proxy:
            port = proxy.server_address[1]
            if start == 0:
                print(f"http://127.0.0.1:{port}", flush=True)  # noqa: T201
            proxy.serve_forever(poll_interval=0.05)
            proxy.cut_connections()  # before anybody can see that new ones are refused
        time.sleep(proxy.refuse_s)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Run the proxy until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--faults", default="[]")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults = Faults(arguments.seed)
    faults.replace(json.loads(arguments.faults))
    Thread(target=_end_with_input, daemon=True).start()
    _serve(arguments.port, arguments.upstream, faults)


class FaultProxy:
    """A running proxy, for the ``with`` block.

    Args:
        upstream: the server's address.
        faults: the rules, see the module.
        seed: of all chance.

    Attributes:
        url: its address.
    """

    def __init__(self, upstream: str, faults: list[dict[str, Any]] | None = None, seed: int = 0) -> None:
        options = ["--upstream", upstream, "--seed", str(seed), "--faults", json.dumps(faults or [])]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError(f"the fault proxy ended with status {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # closes its input, which ends it

    def set_faults(self, faults: list[dict[str, Any]]) -> None:
        """Other rules from now on, none for an honest server; counts begin anew."""
        self._control("PUT", "/_faults", json.dumps(faults).encode())

    def counts(self) -> Counter[str]:
        """How often each fault was done under these rules, and under "passed" how many requests were left alone."""
        return Counter(json.loads(self._control("GET", "/_faults")))

    def kinds(self) -> Counter[str]:
        """How often what was asked for since then: "GET object", "GET listing", "PUT object", ..."""
        return Counter(json.loads(self._control("GET", "/_faults/kinds")))

    def refuse(self, seconds: float) -> None:
        """Cut all connections and refuse new ones for so long, from when this gives back."""
        self._control("POST", f"/_refuse?seconds={seconds}")
        address = urlsplit(self.url)
        while True:
            try:
                socket.create_connection((address.hostname, address.port), timeout=5).close()
            except ConnectionError:
                return
            time.sleep(0.01)

    def _control(self, method: str, path: str, body: bytes | None = None) -> bytes:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(urllib.request.Request(self.url + path, body, method=method), timeout=30) as answer:
            return bytes(answer.read())


if __name__ == "__main__":
    main()
