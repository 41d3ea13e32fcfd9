"""Orders over HTTP, in one database file: a small app as it lives with storageformat-operator.

    PUT /orders/eu/berlin/17     JSON → 201, once it is on disk
    GET /orders/eu/berlin/17     200 and the JSON, or 404
    GET /orders                  {"count": …, "digest": …, "format": …}: the digest depends on the records alone
    GET /orders?start=/eu&end=/f {"orders": [[key, value], …]} with start <= key < end, in the format's key order
    GET /healthz                 200 once the database is open

It opens its database in whatever format the file has, and converts nothing: that is the sidecar's part. From the
environment: DATABASE (a path), PORT, SEED_RECORDS (how many records an empty database begins with).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from format_store import Store, open_store

LONGEST_BODY = 1 << 20
LONGEST_LIST = 1000
SEED_BATCH = 1000
CITIES = ("eu/berlin", "eu/paris", "eu/roma", "us/boston", "us/reno", "za/durban")


class Orders:
    """The database. One thread at a time: a record and its commit belong together."""

    def __init__(self, path: str) -> None:
        # synchronous=FULL: when commit() returns, the record is on disk.
        self._store: Store = open_store(path, synchronous="FULL")
        self._lock = threading.Lock()

    @property
    def format(self) -> str:
        return str(self._store.format)

    @property
    def is_alive(self) -> bool:
        """Whether commits still have somebody to do them; False after the disk failed under one."""
        return bool(self._store.conn.is_alive())

    def put(self, key: str, value: Any) -> None:
        with self._lock:
            self._store[key] = value
            self._store.commit()  # raises what went wrong with the record, too

    def get(self, key: str) -> Any:
        with self._lock:
            return self._store[key]

    def scan(self, start: str | None, end: str | None, limit: int) -> list[tuple[str, Any]]:
        with self._lock:
            return list(islice(self._store.scan(start, end), limit))

    def summary(self) -> dict[str, Any]:
        """The same for the same records, in whatever format and order they are stored."""
        count = total = 0
        with self._lock:
            for key, value in self._store.items():
                count += 1
                total += int.from_bytes(hashlib.sha256(_canonical([key, value])).digest())
        return {"count": count, "digest": f"{total % 2**256:064x}", "format": self.format}

    def seed(self, count: int) -> bool:
        """Fill an empty database, all or nothing. False: it was not empty."""
        with self._lock:
            if len(self._store) > 0:
                return False
            records = seed_records(count)
            while batch := list(islice(records, SEED_BATCH)):
                self._store.update(batch)
                self._store.conn.select_one("SELECT 1")  # not more in memory than one batch
            self._store.commit()
            return True

    def close(self) -> None:
        with self._lock:
            self._store.close()


def seed_records(count: int) -> Iterator[tuple[str, Any]]:
    """Records of about a kilobyte that are the same on every machine."""
    for number in range(count):
        noise = hashlib.shake_128(str(number).encode()).hexdigest(400)
        value = {"id": number, "amount": number % 997, "paid": number % 3 == 0, "note": noise}
        yield f"/{CITIES[number % len(CITIES)]}/{number}", value


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    orders: Orders

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key = _key(url.path)
        if url.path == "/healthz":
            alive = self.orders.is_alive
            self._answer(200 if alive else 503, {"format": self.orders.format})
        elif key is None:
            self._answer(404, {"error": "there are /orders and /healthz"})
        elif not key:
            self._list(parse_qs(url.query))
        else:
            try:
                self._answer(200, self.orders.get(key))
            except KeyError:
                self._answer(404, {"error": f"no order {key}"})

    def do_PUT(self) -> None:
        key = _key(urlsplit(self.path).path)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            self.close_connection = True  # the body was not read
            self._answer(413, {"error": f"send at most {LONGEST_BODY} bytes, with Content-Length"})
            return
        body = self.rfile.read(int(length))
        if not key:
            self._answer(404, {"error": "put to /orders/SOME/KEY"})
            return
        try:
            value = json.loads(body, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            self._answer(400, {"error": f"not JSON: {error}"})
            return
        try:
            self.orders.put(key, value)
        except Exception as error:  # whatever it was: nothing was promised
            self._answer(503, {"error": f"not stored: {error}"})
            return
        self._answer(201, {"key": key})

    def _list(self, query: dict[str, list[str]]) -> None:
        if not query:
            self._answer(200, self.orders.summary())
            return
        start, end = (query.get(name, [None])[0] for name in ("start", "end"))
        limit = query.get("limit", [str(LONGEST_LIST)])[0]
        if not limit.isdecimal():
            self._answer(400, {"error": "limit: a number"})
            return
        found = self.orders.scan(start, end, min(int(limit), LONGEST_LIST))
        self._answer(200, {"orders": found})

    def _answer(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # its name there
        """A line per request would be most of the log."""


def _key(path: str) -> str | None:
    """`/eu/berlin/17` for `/orders/eu/berlin/17`; empty for /orders; None for any other path."""
    first, _, rest = path.lstrip("/").partition("/")
    if first != "orders":
        return None
    return f"/{unquote(rest)}" if rest else ""


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve(orders: Orders, port: int) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    server = Server(("", port), type("BoundHandler", (Handler,), {"orders": orders}))
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    print(f"serving on port {server.server_port}, {orders.format}", flush=True)
    while not stop.wait(0.5):
        if not orders.is_alive:
            # A commit met a disk that failed. Begin anew: what was acknowledged is there.
            print("the database's thread is gone", file=sys.stderr, flush=True)
            os._exit(1)
    server.shutdown()
    orders.close()
    print("closed", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Orders over HTTP.")
    add = parser.add_argument
    add("--database", default=os.environ.get("DATABASE", "/data/orders.db"), metavar="PATH")
    add("--port", type=int, default=int(os.environ.get("PORT", "8080")))
    add(
        "--fill",
        type=int,
        default=int(os.environ.get("SEED_RECORDS") or "0"),
        metavar="N",
        help="records that an empty database begins with",
    )
    arguments = parser.parse_args()
    orders = Orders(arguments.database)
    if arguments.fill > 0 and orders.seed(arguments.fill):
        print(f"filled with {arguments.fill} records", flush=True)
    return serve(orders, arguments.port)


if __name__ == "__main__":
    sys.exit(main())
