"""Keeps the first flight of one TLS client: capture.py FILE PORT, then let the client dial 127.0.0.1:PORT."""

import socket
import sys

file, port = sys.argv[1], int(sys.argv[2])
with socket.create_server(("127.0.0.1", port)) as server:
    client, _ = server.accept()
    client.settimeout(1)  # the client waits for a ServerHello now
    flight = b""
    try:
        while part := client.recv(65536):
            flight += part
    except TimeoutError:
        pass
with open(file, "wb") as out:
    out.write(flight)
