"""Tries to get requests for /admin past a policy that denies them, and reads what the application heard.

smuggler.py h1 ADDRESS PORT LOG     the log is recorder.py's
smuggler.py h2 ADDRESS PORT LOG     the log is nginx's: a line for each request, method and target

Fails with every case whose answer is not the expected one, or of which the application heard something else than requests
that were judged.
"""

import collections
import json
import re
import socket
import struct
import sys
import urllib.parse

HIDDEN = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /ok HTTP/1.1\r\nHost: x\r\n"
# No answer at all, or one of the mesh in the middle of a body: whatever it is, it is not the application's.
BROKEN = None
ADDRESS, PORT = None, None


def connect():
    return socket.create_connection((ADDRESS, PORT), timeout=20)


def answers(sock, count):
    """The statuses of so many answers, and what stands in their heads; fewer if the connection ends."""
    file, statuses, heads = sock.makefile("rb"), [], []
    while len(statuses) < count:
        try:
            line = file.readline()
        except ConnectionError:
            break
        if not line:
            break
        status, length, head = int(line.split()[1]), 0, line
        while (line := file.readline()) not in (b"\r\n", b""):
            head += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        file.read(length)
        statuses.append(status)
        heads.append(head.lower())
    return statuses, heads


def get(target, *more):
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(line + b"\r\n" for line in more) + b"\r\n"


def post(*lines, body=b""):
    return POST + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def framing_cases():
    for name, lines in {
        "CL.TE": [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
        "TE.CL": [b"Transfer-Encoding: chunked", b"Content-Length: 4"],
        "TE.TE": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
        "TE.TE again": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        "TE that nobody knows": [b"Transfer-Encoding: xchunked"],
        "TE not at the end": [b"Transfer-Encoding: chunked, identity"],
        "TE twice in a list": [b"Transfer-Encoding: chunked, chunked"],
        "TE with a blank before the colon": [b"Transfer-Encoding : chunked"],
        "TE behind a blank": [b" Transfer-Encoding: chunked"],
        "TE folded": [b"Transfer-Encoding:\r\n chunked"],
        "TE quoted": [b'Transfer-Encoding: "chunked"'],
        "TE with a parameter": [b"Transfer-Encoding: chunked;q=1"],
        "TE with a vertical tab": [b"Transfer-Encoding: \x0bchunked"],
        "TE with NUL": [b"Transfer-Encoding: chunked\0"],
        "TE behind a bare LF": [b"X: a\nTransfer-Encoding: chunked"],
        "TE behind a bare CR": [b"X: a\rTransfer-Encoding: chunked"],
        "TE empty": [b"Transfer-Encoding:"],
        "CL twice": [b"Content-Length: 0", b"Content-Length: 35"],
        "CL list": [b"Content-Length: 0, 35"],
        "CL plus": [b"Content-Length: +0"],
        "CL minus": [b"Content-Length: -0"],
        "CL hexadecimal": [b"Content-Length: 0x0"],
        "CL with a blank": [b"Content-Length: 0 0"],
        "CL empty": [b"Content-Length:"],
        "CL too large": [b"Content-Length: 184467440737095516160"],
        "CL with a fraction": [b"Content-Length: 0.0"],
        "CL with letters": [b"Content-Length: 0\xd9\xa0"],
        "CL with a blank before the colon": [b"Content-Length : 35"],
        "folded header": [b"X: a", b" b"],
        "NUL in a header": [b"X: a\0b"],
        "NUL in a name": [b"X\0Y: a"],
        "bare CR in a header": [b"X: a\rb"],
        "a name with a blank": [b"X Y: a"],
        "a name in parentheses": [b"(X): a"],
        "no name": [b": a"],
        "no colon": [b"X"],
        "two Hosts": [b"Host: y"],
    }.items():
        yield name, post(*lines, body=b"0\r\n\r\n" + HIDDEN), [400]
    bare = post(b"Content-Length: 0").replace(b"\r\n", b"\n")
    yield "bare LF", bare + HIDDEN, [400]
    yield "TE in HTTP/1.0", b"POST /ok HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN, [400]
    chunked = b"Transfer-Encoding: chunked"
    for name, body in {
        "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
        "plus": b"+5\r\nhello\r\n0\r\n\r\n",
        "minus": b"-1\r\nhello\r\n0\r\n\r\n",
        "blank before": b" 5\r\nhello\r\n0\r\n\r\n",
        "blank within": b"5 0\r\nhello\r\n0\r\n\r\n",
        "bare LF": b"5\nhello\r\n0\r\n\r\n",
        "bare LF in an extension": b"0;a\n" + b"\r\n" + HIDDEN,
        "too large": b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "wrapped round": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        "none": b"\r\nhello\r\n0\r\n\r\n",
        "data goes on": b"5\r\nhello!\r\n0\r\n\r\n",
        "LF behind data": b"5\r\nhello\n0\r\n\r\n",
        "underscore": b"5_0\r\nhello\r\n0\r\n\r\n",
        "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
        "bare LF in trailers": b"0\r\nX: a\n\n",
    }.items():
        yield "chunk size: " + name, post(chunked, body=body + HIDDEN), BROKEN


def pipelined_cases():
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
    length = b"Content-Length: %d" % len(HIDDEN)
    yield "a second request", post(b"Content-Length: 0") + HIDDEN, [200, 403]
    yield "behind a chunked body", post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n") + HIDDEN, [200, 403]
    yield "a body that looks like a request", post(length, body=HIDDEN), [200]
    yield "a chunk that looks like a request", post(b"Transfer-Encoding: chunked", body=chunk), [200]
    yield "in capitals", post(b"TRANSFER-ENCODING: CHUNKED", body=chunk), [200]
    yield "a GET with a body", get(b"/ok", length) + HIDDEN, [200]
    yield "a chunk extension", post(b"Transfer-Encoding: chunked", body=b"0;a=\"b\"\r\n\r\n") + HIDDEN, [200, 403]
    yield "trailers about framing", post(
        b"Transfer-Encoding: chunked", body=b"0\r\nContent-Length: 35\r\nTransfer-Encoding: chunked\r\nHost: y\r\n\r\n"
    ) + HIDDEN, BROKEN
    yield "underscores", post(b"Content-Length: 0", b"Transfer_Encoding: chunked", b"Content_Length: 35") + HIDDEN, [200, 403]
    yield "connection names framing", post(b"Connection: content-length", length, body=HIDDEN), [200]
    yield "an empty line before", b"\r\n" + HIDDEN, [403]
    yield "an upgrade to HTTP/2", get(
        b"/ok", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"
    ) + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, [200, 505]
    yield "an upgrade with a body", post(b"Connection: upgrade", b"Upgrade: websocket", length, body=HIDDEN), [200]
    yield "an upgrade that is denied", get(b"/admin", b"Connection: upgrade", b"Upgrade: websocket"), [403]
    yield "waiting for 100", post(b"Expect: 100-continue", b"Content-Length: 0") + HIDDEN, [200, 403]


def line_cases():
    for name, line, expected in [
        ("lower case", b"get /admin HTTP/1.1", [403]),
        ("mixed case", b"GeT /admin HTTP/1.1", [403]),
        ("tab", b"GET\t/admin HTTP/1.1", [400]),
        ("two blanks", b"GET  /admin HTTP/1.1", [400]),
        ("HTTP/0.9", b"GET /admin", [400]),
        ("a version that is none", b"GET /admin HTTP/1.1x", [400, 505]),
        ("HTTP/2.0", b"GET /admin HTTP/2.0", [400, 505]),
        ("two versions", b"GET /admin HTTP/1.1 HTTP/1.1", [400]),
        ("a blank before", b" GET /admin HTTP/1.1", [400]),
        ("LF before", b"\nGET /admin HTTP/1.1", [400]),
        ("a method that nobody knows", b"FROB /admin HTTP/1.1", [403]),
        ("a long method", b"A" * 40 + b" /admin HTTP/1.1", [403]),
        ("NUL", b"GET /\0admin HTTP/1.1", [400]),
        ("a fragment", b"GET /ok#/../admin HTTP/1.1", [400]),
        ("not ASCII", b"GET /\xc0\xafadmin HTTP/1.1", [400]),
        ("a target that is none", b"GET admin HTTP/1.1", [400]),
        ("CONNECT", b"CONNECT x:80 HTTP/1.1", [405]),
    ]:
        yield "request line: " + name, line + b"\r\nHost: x\r\n\r\n", {"one of": expected}
    for path in [
        b"/admin", b"//admin", b"/%61dmin", b"/%61%64min", b"/x/../admin", b"/x/%2e%2e/admin", b"/x/%2E%2e/admin",
        b"/./admin", b"/x%2f..%2fadmin", b"/x%2F..%2Fadmin", b"/x\\..\\admin", b"/x%5c..%5cadmin", b"/\\admin",
        b"/admin/", b"/admin?x", b"/admin;a=b", b"/x;y/../admin", b"/..//admin", b"/%2fadmin", b"/.%2e/admin",
        b"/x/..;/admin", b"/..;/admin", b"/;/..;/admin", b"/adm%69n", b"/%2e/admin", b"/x//../admin", b"/%c0%afadmin",
        b"/%00admin", b"/%adm", b"/admin%", b"/x/.;/../admin", b"/admin%3fx", b"/admin%2f", b"/%e0%80%afadmin",
    ]:
        yield "path " + repr(path)[2:-1], get(path), {"one of": [400, 403]}
    # Spellings of something else, which stay that.
    for path in [b"/%2561dmin", b"/x/%252e%252e/admin", b"/ok?/../admin", b"/administrator/../ok", b"/ADMIN"]:
        yield "path " + repr(path)[2:-1], get(path), [200]


def host_cases():
    def absolute(target, host):
        return b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"

    for name, raw, expected in [
        ("a denied host", absolute(b"/ok", b"secret.example"), [403]),
        ("in capitals", absolute(b"/ok", b"SECRET.Example:80"), [403]),
        ("with a dot", absolute(b"/ok", b"secret.example."), [403]),
        ("in the target", absolute(b"http://secret.example/ok", b"x"), [403]),
        ("in the target with a user", absolute(b"http://x@secret.example/ok", b"x"), [400]),
        ("in the target, denied path", absolute(b"http://x/admin", b"x"), [403]),
        ("in the target, no path", absolute(b"http://secret.example", b"x"), [403]),
        ("only in the header, which does not count", absolute(b"http://x/ok", b"secret.example"), [200]),
        ("with a user", absolute(b"/ok", b"x@secret.example"), [400]),
        ("with a path", absolute(b"/ok", b"x/secret.example"), [400]),
        ("two in one", absolute(b"/ok", b"x, secret.example"), [400]),
        ("none", b"GET /ok HTTP/1.1\r\n\r\n", [400]),
        ("empty", absolute(b"/ok", b""), [200, 400]),
        ("none in HTTP/1.0", b"GET /ok HTTP/1.0\r\n\r\n", [200]),
    ]:
        yield "host " + name, raw, {"one of": expected}


def identity_cases():
    yield "identity", get(
        b"/ok", b"X-Forwarded-Client-Cert: forged", b"x_forwarded_client_cert: forged", b"X-Forwarded_Client-Cert: forged",
        b"Nodemesh-Client: forged", b"nodemesh_client: forged", b"Nodemesh-Version: forged", b"nodemesh-anything: forged",
        b"Connection: x-hop, close-not", b"X-Hop: forged", b"Proxy-Connection: forged", b"X-Kept: kept",
    ), [200]


def strict(stream):
    """The requests in what a connection of the application got; the last may be incomplete."""
    requests = []
    while stream:
        head, found, rest = stream.partition(b"\r\n\r\n")
        if not found:
            break
        lines = head.split(b"\r\n")
        assert not re.search(rb"[\r\n\0]", b"".join(lines)), ("a bare control character", head)
        first = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/1\.1", lines[0])
        assert first, ("no request line", head)
        fields = []
        for line in lines[1:]:
            field = re.fullmatch(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", line)
            assert field, ("no header", head)
            fields.append((field[1].lower(), field[2]))
        alike = [name.replace(b"_", b"-") for name, _ in fields]
        lengths = [value for name, value in fields if name == b"content-length"]
        codings = [value for name, value in fields if name == b"transfer-encoding"]
        assert len(lengths) + len(codings) <= 1 and alike.count(b"host") == 1, ("ambiguous", head)
        assert alike.count(b"content-length") + alike.count(b"transfer-encoding") <= 1, ("ambiguous", head)
        assert b"upgrade" not in alike or (b"upgrade", b"websocket") in fields, ("another protocol", head)
        assert b"http2-settings" not in alike and b"forged" not in head, ("not taken out", head)
        requests.append((first[2], fields))
        stream = rest
        if codings:
            assert codings == [b"chunked"], head
            while True:
                size, found, rest = stream.partition(b"\r\n")
                if not found:
                    return requests
                assert re.fullmatch(rb"[0-9a-fA-F]+", size), ("a chunk size", size)
                size = int(size, 16)
                stream = rest
                if size == 0:
                    break
                assert stream[size:][:2] in (b"\r\n", b"\r", b""), ("behind a chunk", stream)
                stream = stream[size + 2:]
            while True:
                line, found, rest = stream.partition(b"\r\n")
                if not found:
                    return requests
                stream = rest
                if not line:
                    break
                name = line.split(b":")[0].lower()
                assert name not in (b"content-length", b"transfer-encoding", b"host"), ("a trailer", line)
        elif lengths:
            assert re.fullmatch(rb"[0-9]+", lengths[0]), ("a length", head)
            stream = stream[int(lengths[0]):]
    return requests


def meaning(target):
    """The path that an application could read."""
    target = re.sub(rb"^[a-zA-Z]+://[^/]*", b"", target)
    path = urllib.parse.unquote_to_bytes(re.split(rb"[?#]", target)[0]).replace(b"\\", b"/")
    segments = []
    for segment in path.split(b"/"):
        segment = segment.split(b";")[0]
        if segment == b"..":
            segments = segments[:-1]
        elif segment not in (b"", b"."):
            segments.append(segment)
    return b"/" + b"/".join(segments)


def heard(log):
    """The requests that the application got, connection by connection."""
    streams = {}
    for line in open(log):
        piece = json.loads(line)
        streams.setdefault(piece["connection"], []).append(piece["bytes"].encode("latin-1"))
    return [request for pieces in streams.values() for request in strict(b"".join(pieces))]


def check(requests):
    for target, fields in requests:
        assert not meaning(target).startswith(b"/admin"), ("a request that was not to be", target)
        host = dict(fields).get(b"host", b"").lower()
        assert not host.startswith(b"secret"), ("a host that was not to be", target, host)


def h1(log):
    failed = []
    sentinel = 0
    for cases in (framing_cases, pipelined_cases, line_cases, host_cases, identity_cases):
        for name, raw, expected in cases():
            try:
                before = collections.Counter(target for target, _ in heard(log))
                with connect() as sock:
                    try:
                        sock.sendall(raw)
                    except ConnectionError:
                        pass
                    one_of = expected["one of"] if isinstance(expected, dict) else None
                    count = 1 if one_of else 2 if expected is BROKEN else len(expected)
                    statuses, heads = answers(sock, count)
                sentinel += 1
                with connect() as sock:
                    sock.sendall(get(b"/sentinel/%d" % sentinel))
                    assert answers(sock, 1)[0] == [200], "what follows suffers"
                requests = heard(log)
                check(requests)
                now = list((collections.Counter(target for target, _ in requests) - before).elements())
                assert [t for t in now if t.startswith(b"/sentinel")] == [b"/sentinel/%d" % sentinel], now
                if expected is BROKEN:
                    assert statuses[:1] in ([], [400], [502], [413]) or statuses[1:] == [403] or statuses == [200], statuses
                elif one_of:
                    assert len(statuses) == 1 and statuses[0] in one_of, (statuses, heads)
                else:
                    assert statuses == expected, (statuses, heads)
                if expected is not BROKEN:
                    told = [t for t in now if not t.startswith(b"/sentinel")]
                    assert len(told) == statuses.count(200), ("the application heard", told)
                for status, head in zip(statuses, heads):
                    assert (b"nodemesh-error" in head) == (status != 200), head
            except (AssertionError, OSError) as error:
                failed.append((name, repr(error)))
    return failed


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    def text(data):
        return bytes([len(data)]) + data
    return b"\x00" + text(name) + text(value)


def h2_headers(fields):
    return b"".join(literal(name, value) for name, value in fields)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
HEADERS, RST_STREAM, GOAWAY = 1, 3, 7
STATUSES = {0x88: 200, 0x89: 204, 0x8c: 400, 0x8d: 404}


def h2_outcome(sock):
    """What becomes of stream 1: a status if it is one of those with an index or written out, or how it broke off."""
    file = sock.makefile("rb")
    while True:
        try:
            head = file.read(9)
        except ConnectionError:
            return "closed"
        if len(head) < 9:
            return "closed"
        length, kind = int.from_bytes(head[:3], "big"), head[3]
        payload = file.read(length)
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if kind == GOAWAY and int.from_bytes(payload[4:8], "big") != 0:
            return "closed"
        if stream == 1 and kind == RST_STREAM:
            return "reset"
        if stream == 1 and kind == HEADERS:
            return "answered" if payload[0] == 0x88 else "refused"


def h2(log):
    pseudo = {b":method": b"GET", b":scheme": b"http", b":authority": b"x", b":path": b"/ok"}

    def fields(*more, **changed):
        own = {b":" + name.encode(): value for name, value in changed.items()}
        head = [(name, own.get(name, value)) for name, value in pseudo.items()]
        return [field for field in head if field[1] is not None] + list(more)

    refused = ("refused", "reset", "closed")
    cases = [
        ("good", fields(), ("answered",)),
        ("denied", fields(path=b"/admin"), ("refused",)),
        ("spelt otherwise", fields(path=b"/x/..%2f%61dmin"), ("refused",)),
        ("no path", fields(path=None), refused),
        ("an empty path", fields(path=b""), refused),
        ("a path that is none", fields(path=b"admin"), refused),
        ("a URL as the path", fields(path=b"http://x/admin"), refused),
        ("a blank in the path", fields(path=b"/ok /admin"), refused),
        ("a request in the path", fields(path=b"/ok HTTP/1.1\r\nHost: x\r\n\r\nGET /admin"), refused),
        ("a fragment", fields(path=b"/ok#/../admin"), ("answered",) + refused),
        ("a method with a request", fields(method=b"GET /admin HTTP/1.1\r\nx: "), refused),
        ("two paths", fields((b":path", b"/admin")), refused),
        ("a pseudo-header that is none", fields((b":admin", b"1")), refused),
        ("a status", fields((b":status", b"200")), refused),
        ("a pseudo-header late", fields((b"x", b"y"), (b":path", b"/admin"), path=None), refused),
        ("no method", fields(method=None), refused),
        ("a denied host", fields(authority=b"secret.example"), ("refused",)),
        ("a denied host in the header", fields((b"host", b"secret.example"), authority=None), refused),
        ("two hosts", fields((b"host", b"secret.example")), ("refused",)),
        ("two hosts in headers", fields((b"host", b"x"), (b"host", b"secret.example"), authority=None), ("refused",)),
        ("one host twice", fields((b"host", b"x")), ("answered",)),
        ("a host in the header", fields((b"host", b"x"), authority=None), ("answered",)),
        ("no host", fields(authority=None), ("answered",)),
        ("an authority with a user", fields(authority=b"x@secret.example"), refused),
        ("an authority with a path", fields(authority=b"x/admin"), refused),
        ("transfer-encoding", fields((b"transfer-encoding", b"chunked")), refused),
        ("connection", fields((b"connection", b"close")), refused),
        ("upgrade", fields((b"upgrade", b"h2c")), refused),
        ("a name in capitals", fields((b"X-Admin", b"1")), refused),
        ("a name with a blank", fields((b"x y", b"1")), refused),
        ("a name with a colon", fields((b"x:y", b"1")), refused),
        ("a line break", fields((b"x", b"1\r\ntransfer-encoding: chunked")), refused),
        ("NUL", fields((b"x", b"a\0b")), refused),
        ("two lengths", fields((b"content-length", b"0"), (b"content-length", b"5")), refused),
        ("a length that is wrong", fields((b"content-length", b"5")), refused),
        ("CONNECT", [(b":method", b"CONNECT"), (b":authority", b"x:80")], refused),
        ("extended CONNECT", fields((b":protocol", b"websocket"), method=b"CONNECT"), refused),
        ("identity", fields((b"x-forwarded-client-cert", b"forged"), (b"nodemesh-client", b"forged"),
                            (b"x_forwarded_client_cert", b"forged")), ("answered",)),
    ]
    failed = []
    for name, head, expected in cases:
        with connect() as sock:
            try:
                sock.sendall(PREFACE + frame(HEADERS, 5, 1, h2_headers(head)))
            except ConnectionError:
                pass
            found = h2_outcome(sock)
        if found not in expected:
            failed.append((name, found))
    for line in open(log):
        if "admin" in line.lower() or "secret" in line or "forged" in line:
            failed.append(("the application heard", line))
    return failed


def main():
    global ADDRESS, PORT
    ADDRESS, PORT = sys.argv[2], int(sys.argv[3])
    failed = {"h1": h1, "h2": h2}[sys.argv[1]](sys.argv[4])
    for one in failed:
        print(*one, file=sys.stderr)
    sys.exit(1 if failed else 0)


main()
