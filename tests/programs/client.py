"""Connects with blocking sockets or asyncio, reads the server's line, and prints what it saw as one line of JSON.

client.py blocking|asyncio ADDRESS PORT
"""

import asyncio
import errno
import ipaddress
import json
import socket
import sys


def show(name):
    ip = ipaddress.ip_address(name[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return f"{ip}:{name[1]}" if ip.version == 4 else f"[{ip}]:{name[1]}"


def report(sock, line):
    return {
        "connected": True,
        "getpeername": show(sock.getpeername()),
        "getsockname": show(sock.getsockname()),
        "answer": json.loads(line),
    }


def blocking(address, port):
    with socket.create_connection((address, port), timeout=10) as sock:
        return report(sock, sock.makefile("rb").readline())


async def asynchronous(address, port):
    reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 10)
    line = await asyncio.wait_for(reader.readline(), 10)
    seen = report(writer.get_extra_info("socket"), line)
    writer.close()
    await writer.wait_closed()
    return seen


def main():
    how, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        seen = blocking(address, port) if how == "blocking" else asyncio.run(asynchronous(address, port))
    except OSError as error:
        seen = {"connected": False, "error": errno.errorcode.get(error.errno, str(error))}
    print(json.dumps(seen))


main()
