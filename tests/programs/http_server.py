"""An HTTP/1.1 server that says what it was asked, and misbehaves on request.

http_server.py PORT NAME [SECONDS]

Each answer begins after so many seconds.
"""

import base64
import hashlib
import http.server
import json
import socket
import struct
import sys
import threading
import time


def pattern(count):
    block = bytes(range(256)) * 256
    while count > 0:
        piece = block[: min(count, len(block))]
        yield piece
        count -= len(piece)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    name = ""
    connections = 0
    # What was asked so far, for `/seen`.
    asked = []
    delay = 0.0
    lock = threading.Lock()

    def setup(self):
        super().setup()
        with Handler.lock:
            Handler.connections += 1
            self.number = Handler.connections

    def log_message(self, *args):
        pass

    def body(self):
        """The request's body: its length, its digest, its trailers."""
        digest, count, trailers = hashlib.sha256(), 0, []
        if self.headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                if size == 0:
                    break
                while size:
                    piece = self.rfile.read(min(size, 65536))
                    digest.update(piece)
                    count += len(piece)
                    size -= len(piece)
                self.rfile.readline()
            while (line := self.rfile.readline().strip()) != b"":
                trailers.append(line.decode())
        else:
            left = int(self.headers.get("content-length", 0))
            while left:
                piece = self.rfile.read(min(left, 65536))
                if not piece:
                    raise ConnectionError("the body was cut")
                digest.update(piece)
                count += len(piece)
                left -= len(piece)
        return count, digest.hexdigest(), trailers

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()

    def do_any(self):
        time.sleep(Handler.delay)
        path, _, argument = self.path.lstrip("/").partition("/")
        if path == "early":
            self.answer(413, b"too much\n", [("Connection", "close")])
            self.close_connection = True
            return
        if path == "upgrade":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101)
            self.send_header("Upgrade", self.headers["Upgrade"])
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept)
            self.end_headers()
            while piece := self.rfile.read1(65536):
                self.wfile.write(piece)
            self.close_connection = True
            return
        count, digest, trailers = self.body()
        if path == "bytes":
            self.send_response(200)
            self.send_header("Content-Length", argument)
            self.end_headers()
            for piece in pattern(int(argument)):
                self.wfile.write(piece)
        elif path == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Trailer", "X-Digest")
            self.end_headers()
            sent = hashlib.sha256()
            for piece in pattern(int(argument)):
                sent.update(piece)
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\nNodemesh-Error: forged\r\nX-Digest: %s\r\n\r\n" % sent.hexdigest().encode())
        elif path == "until-close":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in pattern(int(argument)):
                self.wfile.write(piece)
            self.close_connection = True
        elif path == "cut":
            self.send_response(200)
            if argument == "length":
                self.send_header("Content-Length", "1000000")
            elif argument == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            piece = b"x" * 1000
            self.wfile.write(b"3e8\r\n%s\r\n" % piece if argument == "chunked" else piece)
            self.wfile.flush()
            time.sleep(0.2)
            self.reset()
        elif path == "reset":
            self.reset()
        elif path == "hints":
            self.send_response_only(103)
            self.send_header("Link", "</style.css>; rel=preload")
            self.send_header("Connection", "keep-alive")
            self.send_header("nodemesh-error", "forged")
            self.end_headers()
            self.answer(200, b"hinted\n")
        elif path == "close":
            self.answer(200, b"closing\n")
            # Without a word: the next request on this connection meets a closed one.
            self.close_connection = True
        elif path == "wait":
            # Nothing is sent; tells when the client goes.
            print(json.dumps({"waiting": self.path}), flush=True)
            self.connection.settimeout(30)
            try:
                gone = not self.connection.recv(1)
            except ConnectionError:
                gone = True
            print(json.dumps({"gone": gone}), flush=True)
            self.close_connection = True
        elif path == "drip" and not argument.isdigit():
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"5\r\ndrip\n\r\n")
                time.sleep(0.05)
        elif path == "status":
            self.answer(int(argument), b"")
        elif path == "sleep":
            time.sleep(int(argument) / 1000)
            self.answer(200, b"slept\n")
        elif path == "drip":
            self.send_response(200)
            self.send_header("Content-Length", argument)
            self.end_headers()
            for _ in range(int(argument)):
                self.wfile.write(b".")
                time.sleep(0.05)
        elif path == "seen":
            with Handler.lock:
                asked = list(Handler.asked)
            self.answer(200, json.dumps(asked).encode() + b"\n")
        else:
            said = {
                "server": self.name,
                "connection": self.number,
                "client": self.client_address[0].removeprefix("::ffff:"),
                "method": self.command,
                "target": self.path,
                "version": self.request_version,
                "headers": [[name.lower(), value] for name, value in self.headers.items()],
                "bytes": count,
                "sha256": digest,
                "trailers": trailers,
            }
            with Handler.lock:
                Handler.asked.append(said)
            headers = [("Content-Type", "application/json"), ("nodemesh-error", "forged"), ("X-App", "1")]
            # What the client wants the answer to say.
            for wanted in self.headers.get_all("X-Answer", []):
                name, _, value = wanted.partition("=")
                headers.append((name, value))
            self.answer(200, json.dumps(said).encode() + b"\n", headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_any


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 512

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.bind(self.server_address)

    def handle_error(self, request, client_address):
        pass


def main():
    port = int(sys.argv[1])
    Handler.name = sys.argv[2]
    Handler.delay = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    server = Server(("::", port), Handler)
    print(json.dumps({"listening": port}), flush=True)
    server.serve_forever()


main()
