"""Speaks to an agent as no agent would: raw TLS and HTTP/2 towards a pod of the mesh.

hostile.py stream TO [--chain FILE --key FILE] [--tls12] [--target ADDRESS:PORT] [--headers BYTES] [--flood KIND]
hostile.py stall TO BYTES            sends the first bytes of a handshake, and waits for the end
hostile.py flood TO COUNT UNTIL      keeps so many handshakes half done until the file UNTIL exists
hostile.py listen TO                 sends nothing, and prints what the server says first
hostile.py claim FROM TO             binds the socket to an address of somebody else's, then connects
hostile.py raw FROM TO               sends a connection request of its own making, and waits for the answer

A chain is a file with a certificate in hexadecimal in each line, a key is PKCS #8 in hexadecimal. The last line of
output is a report in JSON.
"""

import argparse
import base64
import errno
import json
import os
import select
import socket
import ssl
import struct
import sys
import tempfile
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_HEADERS = 4
# What begins a ClientHello: a handshake record of 512 bytes, of which the rest never comes.
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)
DEADLINE = 20
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75


def address(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def report(**said):
    print(json.dumps(said), flush=True)


def ending(error):
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower()
    if isinstance(error, OSError) and error.errno:
        return errno.errorcode[error.errno]
    return str(error)


def credentials(context, chain, key):
    """ssl reads files in PEM only."""
    with tempfile.NamedTemporaryFile("w") as pem:
        with open(key) as file:
            body = base64.encodebytes(bytes.fromhex(file.read())).decode()
        pem.write(f"-----BEGIN PRIVATE KEY-----\n{body}-----END PRIVATE KEY-----\n")
        with open(chain) as file:
            for line in file:
                pem.write(ssl.DER_cert_to_PEM_cert(bytes.fromhex(line)))
        pem.flush()
        context.load_cert_chain(pem.name)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def integer(value):
    """A length in HPACK, with a prefix of seven bits."""
    if value < 127:
        return bytes([value])
    out, value = b"\x7f", value - 127
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def field(name, value):
    """A header, literally and not remembered."""
    return b"\x00" + integer(len(name)) + name + integer(len(value)) + value


def block(target, size):
    fields = field(b":method", b"CONNECT") + field(b":authority", target.encode())
    while size > 0:
        part = min(size, 8000)
        fields += field(b"padding", b"p" * part)
        size -= part
    return fields


def status(fragment):
    """The :status that begins a block of headers."""
    known = {0x88: 200, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    if fragment[0] in known:
        return known[fragment[0]]
    length = fragment[1] & 127
    value = fragment[2:2 + length]
    if not fragment[1] & 128:
        return int(value)
    bits, digits = "".join(f"{byte:08b}" for byte in value), ""
    while len(digits) < 3:
        if bits[:5] in ("00000", "00001", "00010"):
            digits, bits = digits + str(int(bits[:5], 2)), bits[5:]
        else:
            digits, bits = digits + str(int(bits[:6], 2) - 0x19 + 3), bits[6:]
    return int(digits)


def exactly(sock, length):
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise EOFError("eof")
        data += part
    return data


def answers(sock):
    """What the agent has to say: the answers to streams, the streams it resets, and how it ends the connection."""
    said = {"statuses": [], "resets": 0, "goaway": None, "goaway_text": "", "end": None, "data": ""}
    try:
        while said["end"] is None:
            head = exactly(sock, 9)
            kind, stream = head[3], struct.unpack(">I", head[5:])[0]
            payload = exactly(sock, int.from_bytes(head[:3], "big"))
            if kind == HEADERS and stream:
                said["statuses"].append(status(payload))
            elif kind == RST_STREAM:
                said["resets"] += 1
            elif kind == DATA:
                said["data"] += payload.decode(errors="replace")
            elif kind == GOAWAY:
                said["goaway"] = struct.unpack(">I", payload[4:8])[0]
                said["goaway_text"] = payload[8:].decode(errors="replace")
            if said["statuses"] and (said["statuses"] != [200] or said["data"]):
                said["end"] = "answered"
    except (OSError, EOFError) as error:
        said["end"] = ending(error)
    return said


def stream(args):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["nodemesh/1"])
    if args.tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if args.chain:
        credentials(context, args.chain, args.key)
    try:
        tcp = socket.create_connection(address(args.to), timeout=DEADLINE)
        sock = context.wrap_socket(tcp)
    except OSError as error:
        return report(established=False, end=ending(error))
    request = block(args.target or args.to, args.headers)
    out = PREFACE + frame(SETTINGS, 0, 0)
    if args.flood == "resets":
        for number in range(1, 6001, 2):
            out += frame(HEADERS, END_HEADERS, number, request)
            out += frame(RST_STREAM, 0, number, struct.pack(">I", 8))
    elif args.flood == "continuations":
        out += frame(HEADERS, 0, 1, request)
        out += frame(CONTINUATION, 0, 1, field(b"padding", b"p")) * 1000
    elif args.flood == "silence":
        out = b""
    else:
        out += frame(HEADERS, END_HEADERS, 1, request)
    try:
        sock.sendall(out)
    except OSError:
        # It was ended before it had read all; what it said about that can still be read.
        pass
    report(established=True, version=sock.version(), **answers(sock))


def stall(args):
    sock = socket.create_connection(address(args.to), timeout=DEADLINE)
    sock.sendall(HELLO[:args.bytes])
    try:
        end = "eof" if not sock.recv(100) else "data"
    except OSError as error:
        end = ending(error)
    report(end=end)


def flood(args):
    """Counts connections that ended before the handshake's deadline: those that were not let in."""
    to, family = address(args.to), socket.AF_INET6 if "[" in args.to else socket.AF_INET
    poller, open_since, opened, turned_away = select.epoll(), {}, 0, 0
    full = False
    while not os.path.exists(args.until):
        while len(open_since) < args.count:
            sock = socket.socket(family)
            sock.setblocking(False)
            sock.connect_ex(to)
            poller.register(sock, select.EPOLLOUT | select.EPOLLRDHUP)
            open_since[sock.fileno()] = (sock, time.monotonic())
            opened += 1
        for number, events in poller.poll(0.1):
            sock, since = open_since[number]
            if events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP):
                turned_away += time.monotonic() - since < 3
                poller.unregister(sock)
                sock.close()
                del open_since[number]
            else:
                try:
                    sock.send(HELLO)
                    poller.modify(sock, select.EPOLLRDHUP)
                except OSError:
                    pass
        if turned_away and not full:
            full = True
            print("full", flush=True)
    report(opened=opened, turned_away=turned_away)


def listen(args):
    try:
        sock = socket.create_connection(address(args.to), timeout=DEADLINE)
        said = sock.recv(1000).decode() or "eof"
    except OSError as error:
        said = ending(error)
    report(said=said)


def claim(args):
    """As root in its pod it may have any address."""
    v6 = ":" in address(args.source)[0]
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
    sock.settimeout(DEADLINE)
    if v6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
    try:
        sock.bind(address(args.source))
        sock.connect(address(args.to))
        said = sock.recv(1000).decode() or "eof"
    except OSError as error:
        said = ending(error)
    report(said=said)


def checksum(data):
    words = sum(struct.unpack(f">{len(data) // 2}H", data))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return ~words & 0xFFFF


def raw(args):
    """The answer is caught by a packet socket: whatever comes back to the port that the request names."""
    (source, port), (to, to_port) = address(args.source), address(args.to)
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    tcp = struct.pack(">HHIIBBHHH", port, to_port, 7, 0, 5 << 4, 2, 64240, 0, 0)
    tcp = tcp[:16] + struct.pack(">H", checksum(ends + struct.pack(">BBH", 0, 6, len(tcp)) + tcp)) + tcp[18:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0) + ends
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sender.sendto(ip + tcp, (to, 0))
    end = time.monotonic() + args.wait
    while time.monotonic() < end:
        if not select.select([sniffer], [], [], 0.1)[0]:
            continue
        packet = sniffer.recv(2000)
        head = (packet[0] & 15) * 4
        if packet[9] == 6 and packet[12:16] == socket.inet_aton(to):
            from_port, _, _, _, _, flags = struct.unpack(">HHIIBB", packet[head:head + 14])
            if from_port == to_port:
                kind = "reset" if flags & 4 else "accepted" if flags & 18 == 18 else "other"
                return report(answer=kind)
    report(answer=None)


def main():
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(required=True)
    for mode in (stream, stall, flood, listen, claim, raw):
        arguments = modes.add_parser(mode.__name__)
        arguments.set_defaults(run=mode)
        if mode in (claim, raw):
            arguments.add_argument("source")
        arguments.add_argument("to")
        if mode is stream:
            arguments.add_argument("--chain")
            arguments.add_argument("--key")
            arguments.add_argument("--tls12", action="store_true")
            arguments.add_argument("--target")
            arguments.add_argument("--headers", type=int, default=0)
            arguments.add_argument("--flood", choices=["resets", "continuations", "silence"])
        elif mode is stall:
            arguments.add_argument("bytes", type=int)
        elif mode is flood:
            arguments.add_argument("count", type=int)
            arguments.add_argument("until")
        elif mode is raw:
            arguments.add_argument("--wait", type=float, default=5)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())
