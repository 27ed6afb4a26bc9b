"""A connection that its own end believes in and that nobody accepts, held until this program is killed.

unaccepted.py ADDRESS PORT

TCP_REPAIR makes the socket's end of a connection without a word to the other end.
"""

import signal
import socket
import sys

TCP_REPAIR = 19

address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.connect((address, port))
    print("connected", flush=True)
    signal.pause()
