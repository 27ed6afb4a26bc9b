"""Protocols that are not HTTP, served and spoken.

opaque.py serve PORT DIRECTORY          four servers from PORT on; a TLS certificate lies in DIRECTORY
opaque.py speak ADDRESS PORT SECONDS    speaks to all of them, each client silent for so long before its first word
opaque.py denied ADDRESS PORT           finds that none of them can be spoken to
"""

import json
import os
import socket
import ssl
import struct
import sys
import threading
import time


def whole(sock, count):
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, ("closed after", data)
        data += piece
    return data


# The server speaks first, as mail servers do.
def serve_greeting(sock):
    sock.sendall(b"220 ready\r\n")
    file = sock.makefile("rb")
    while line := file.readline():
        sock.sendall(b"250 " + line)


def speak_greeting(sock, silence):
    file = sock.makefile("rb")
    assert file.readline() == b"220 ready\r\n"
    time.sleep(silence)
    for word in (b"EHLO me\r\n", b"GET / HTTP/1.1\r\n", b"QUIT\r\n"):
        sock.sendall(word)
        assert file.readline() == b"250 " + word


# TLS of the application's own.
def serve_tls(sock):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(sys.argv[3], "cert.pem"), os.path.join(sys.argv[3], "key.pem"))
    with context.wrap_socket(sock, server_side=True) as inside:
        while data := inside.recv(65536):
            inside.sendall(data)


def speak_tls(sock, silence):
    time.sleep(silence)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(sock) as inside:
        for sent in (b"hello", b"GET /admin HTTP/1.1\r\n\r\n", bytes(50000)):
            inside.sendall(sent)
            assert whole(inside, len(sent)) == sent


# Messages with their length before them.
def serve_messages(sock):
    while True:
        length, = struct.unpack(">I", whole(sock, 4))
        sock.sendall(struct.pack(">I", length) + whole(sock, length)[::-1])


def speak_messages(sock, silence):
    time.sleep(silence)
    for sent in (b"\x00\x01\xff", b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 400):
        sock.sendall(struct.pack(">I", len(sent)) + sent)
        assert whole(sock, 4 + len(sent))[4:] == sent[::-1]


# The client ends its half at once, and still gets an answer.
def serve_last(sock):
    while sock.recv(65536):
        pass
    sock.sendall(b"the last word\n")


def speak_last(sock, silence):
    time.sleep(silence)
    sock.shutdown(socket.SHUT_WR)
    file = sock.makefile("rb")
    assert file.read() == b"the last word\n"


KINDS = [
    (serve_greeting, speak_greeting),
    (serve_tls, speak_tls),
    (serve_messages, speak_messages),
    (serve_last, speak_last),
]


def one(serve, sock):
    try:
        with sock:
            serve(sock)
    except (OSError, AssertionError):
        pass


def listen(port, serve):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def accept():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=one, args=(serve, sock), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def speak(address, port, silence):
    failed = []

    def run(number, client):
        try:
            with socket.create_connection((address, port + number), timeout=20) as sock:
                client(sock, silence)
        except Exception as error:
            failed.append((client.__name__, repr(error)))

    clients = [threading.Thread(target=run, args=(number, kind[1])) for number, kind in enumerate(KINDS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return failed


def main():
    if sys.argv[1] == "serve":
        port = int(sys.argv[2])
        for number, (serve, _) in enumerate(KINDS):
            listen(port + number, serve)
        print(json.dumps({"listening": port}), flush=True)
        threading.Event().wait()
    address, port = sys.argv[2], int(sys.argv[3])
    if sys.argv[1] == "speak":
        failed = speak(address, port, float(sys.argv[4]))
    else:
        # The greeting never comes, so nobody waits for it here.
        failed = []
        for number, word in ((1, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"), (2, b"\0\0\0\1x"), (0, b"EHLO me\r\n"), (3, b"\xff")):
            try:
                with socket.create_connection((address, port + number), timeout=20) as sock:
                    sock.sendall(word)
                    if said := sock.recv(100):
                        if not said.startswith(b"HTTP/1.1 400"):
                            failed.append((port + number, said))
            except ConnectionError:
                pass
    print(failed)
    sys.exit(1 if failed else 0)


main()
