"""An HTTP/2 server that does one thing with every request, whatever that asks for: raw frames.

http2_server.py PORT KIND [NUMBER]

reset CODE      answers a head with a head and a piece of a body, and the end of a body with a reset for this reason
trailers        answers with a head, a body and trailers
silent          answers nothing, and prints a line for each request and for each that is reset, with the reason
goaway COUNT    echoes so many streams of each connection, then tells with a GOAWAY that it leaves out all others

Prints a line for each connection.
"""

import json
import socket
import struct
import sys
import threading
import time

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
OK = b"\x88"
# What is left of a connection that was told to end is waited for so long.
PARTING = 20


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def tell(**said):
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def exactly(file, count):
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def answered(kind, number, stream, body):
    """The answer to a request that is whole, but for `silent`."""
    if kind == "reset":
        return frame(RST_STREAM, 0, stream, struct.pack(">I", number))
    if kind == "trailers":
        trailers = field(b"grpc-status", b"7") + field(b"grpc-message", b"by%20the%20server") + field(b"x-end", b"1")
        return (frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, body or b"body")
                + frame(HEADERS, END_HEADERS | END_STREAM, stream, trailers))
    return frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, END_STREAM, stream, body)


def serve(sock, kind, number):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file, bodies, served, last, parting = sock.makefile("rb"), {}, 0, None, None
    tell(connection=sock.getpeername()[1])
    exactly(file, 24)
    sock.sendall(frame(SETTINGS, 0, 0))
    while parting is None or time.monotonic() < parting:
        head = exactly(file, 9)
        what, flags, stream = struct.unpack(">BBI", head[3:9])
        payload = exactly(file, int.from_bytes(head[:3], "big"))
        if what == SETTINGS and not flags & ACK:
            sock.sendall(frame(SETTINGS, ACK, 0))
        elif what == PING and not flags & ACK:
            sock.sendall(frame(PING, ACK, 0, payload))
        elif what == RST_STREAM:
            bodies.pop(stream, None)
            if kind == "silent":
                tell(reset=struct.unpack(">I", payload)[0])
        elif what in (HEADERS, DATA):
            if last is not None and stream > last:
                continue
            bodies[stream] = bodies.get(stream, b"") + (payload if what == DATA else b"")
            if what == DATA and payload:
                credit = struct.pack(">I", len(payload))
                sock.sendall(frame(WINDOW_UPDATE, 0, 0, credit))
            if what == HEADERS and kind == "reset":
                sock.sendall(frame(HEADERS, END_HEADERS, stream, OK) + frame(DATA, 0, stream, b"piece"))
            if what == HEADERS and kind == "silent":
                tell(asked=stream)
            if what == HEADERS and kind == "goaway":
                served += 1
                if served == number:
                    last, parting = stream, time.monotonic() + PARTING
                    sock.sendall(frame(GOAWAY, 0, 0, struct.pack(">II", last, 0)))
            if flags & END_STREAM and kind != "silent":
                sock.sendall(answered(kind, number, stream, bodies.pop(stream)))


def attend(sock, kind, number):
    with sock:
        try:
            serve(sock, kind, number)
        except (OSError, EOFError):
            pass


def main():
    port, kind = int(sys.argv[1]), sys.argv[2]
    number = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
    tell(listening=port)
    while True:
        threading.Thread(target=attend, args=(listener.accept()[0], kind, number), daemon=True).start()


main()
