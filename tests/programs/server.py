"""Accepts with blocking sockets or asyncio, and tells each client whom it saw, as one line of JSON.

server.py blocking|asyncio PORT NAME
"""

import asyncio
import ipaddress
import json
import socket
import sys


def show(name):
    ip = ipaddress.ip_address(name[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return f"{ip}:{name[1]}" if ip.version == 4 else f"[{ip}]:{name[1]}"


def line(name, accepted, sock):
    seen = {
        "server": name,
        "accept": show(accepted),
        "getpeername": show(sock.getpeername()),
        "getsockname": show(sock.getsockname()),
    }
    return json.dumps(seen).encode() + b"\n"


def listen(port):
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)


def blocking(port, name):
    server = listen(port)
    print(json.dumps({"listening": port}), flush=True)
    while True:
        sock, accepted = server.accept()
        with sock:
            sock.sendall(line(name, accepted, sock))
            sock.settimeout(10)
            while sock.recv(64):
                pass


async def asynchronous(port, name):
    async def serve(reader, writer):
        # asyncio keeps what accept() returned as the transport's peer name.
        writer.write(line(name, writer.get_extra_info("peername"), writer.get_extra_info("socket")))
        await writer.drain()
        await asyncio.wait_for(reader.read(), 10)
        writer.close()

    server = await asyncio.start_server(serve, sock=listen(port))
    print(json.dumps({"listening": port}), flush=True)
    await server.serve_forever()


def main():
    how, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if how == "blocking":
        blocking(port, name)
    else:
        asyncio.run(asynchronous(port, name))


main()
