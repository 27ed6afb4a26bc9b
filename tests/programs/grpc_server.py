"""A server that answers calls as gRPC does over HTTP/2, as the first bytes of their messages say.

grpc_server.py PORT

`status N`: one message, then the status N. `drip`: a message every 50 ms for ever. Says when a stream was reset. It does not
look at heads: what it is asked stands in the body.
"""

import json
import socket
import struct
import sys
import threading
import time

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"\x88" + literal(b"content-type", b"application/grpc")


class Connection:
    def __init__(self, sock):
        self.sock = sock
        self.file = sock.makefile("rb")
        self.lock = threading.Lock()
        self.reset = set()
        self.begun = set()

    def send(self, kind, flags, stream, payload):
        frame = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        with self.lock:
            self.sock.sendall(frame)

    def message(self, stream, text):
        self.send(DATA, 0, stream, b"\x00" + struct.pack(">I", len(text)) + text)

    def drip(self, stream):
        try:
            while stream not in self.reset:
                self.message(stream, b"drip\n")
                time.sleep(0.05)
        except OSError:
            pass

    def called(self, stream, said):
        self.send(HEADERS, END_HEADERS, stream, HEAD)
        if said.startswith(b"drip"):
            threading.Thread(target=self.drip, args=(stream,), daemon=True).start()
        else:
            self.message(stream, b"said\n")
            status = said.split()[1]
            self.send(HEADERS, END_HEADERS | END_STREAM, stream, literal(b"grpc-status", status))

    def serve(self):
        assert self.file.read(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        self.send(SETTINGS, 0, 0, b"")
        while head := self.file.read(9):
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
            payload = self.file.read(size)
            if kind == SETTINGS and not flags & ACK:
                self.send(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                self.send(PING, ACK, 0, payload)
            elif kind == DATA and payload and stream not in self.begun:
                self.begun.add(stream)
                self.called(stream, payload)
            elif kind == RESET:
                self.reset.add(stream)
                print(json.dumps({"reset": stream}), flush=True)


def serve(sock):
    try:
        Connection(sock).serve()
    except (OSError, AssertionError):
        pass


def main():
    port = int(sys.argv[1])
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    print(json.dumps({"listening": port}), flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


main()
