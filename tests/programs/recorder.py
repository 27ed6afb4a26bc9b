"""A server that writes down every byte it gets, and answers what it takes for requests.

recorder.py PORT NAME LOG

It reads requests as strictly as can be; the log is for whoever wants to read them otherwise: a line of JSON for each
piece that was received, with the number of its connection.
"""

import json
import socket
import sys
import threading

LOCK = threading.Lock()


class Over(Exception):
    """The connection ended, or is no HTTP."""


class Connection:
    def __init__(self, sock, number, log):
        self.sock, self.number, self.log, self.buffer = sock, number, log, b""

    def fill(self):
        piece = self.sock.recv(65536)
        if not piece:
            raise Over
        with LOCK:
            self.log.write(json.dumps({"connection": self.number, "bytes": piece.decode("latin-1")}) + "\n")
            self.log.flush()
        self.buffer += piece

    def until(self, end):
        while end not in self.buffer:
            self.fill()
        before, self.buffer = self.buffer.split(end, 1)
        return before

    def take(self, count):
        while len(self.buffer) < count:
            self.fill()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def serve(self):
        while True:
            lines = self.until(b"\r\n\r\n").split(b"\r\n")
            fields = [line.split(b":", 1) for line in lines[1:]]
            fields = {name.strip().lower(): value.strip().lower() for name, value in fields}
            if fields.get(b"transfer-encoding") == b"chunked":
                while size := int(self.until(b"\r\n").split(b";")[0], 16):
                    self.take(size + 2)
                while self.until(b"\r\n"):
                    pass
            else:
                self.take(int(fields.get(b"content-length", b"0")))
            if fields.get(b"upgrade") == b"websocket":
                self.sock.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
                while True:
                    self.take(1)
            self.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def serve(sock, number, log):
    try:
        Connection(sock, number, log).serve()
    except (Over, OSError, ValueError):
        pass
    finally:
        sock.close()


def main():
    port, log = int(sys.argv[1]), open(sys.argv[3], "w")
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    print(json.dumps({"listening": port}), flush=True)
    number = 0
    while True:
        sock, _ = listener.accept()
        number += 1
        threading.Thread(target=serve, args=(sock, number, log), daemon=True).start()


main()
