"""Greets a port of this host once for each line of its input: a server's name, or "-" for none."""

import random
import socket
import ssl
import sys

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
OPTIONS = [ssl.OP_NO_TICKET, ssl.OP_NO_COMPRESSION, ssl.OP_CIPHER_SERVER_PREFERENCE, ssl.OP_NO_RENEGOTIATION]
CIPHERS = ["DEFAULT", "HIGH", "ECDHE+AESGCM", "ECDHE+CHACHA20", "ALL:@SECLEVEL=0"]
CURVES = ["prime256v1", "secp384r1", "secp521r1"]

for name in map(str.strip, sys.stdin):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    low, high = sorted(random.choices(VERSIONS, k=2))
    context.minimum_version, context.maximum_version = low, high
    context.options |= random.choice(OPTIONS)
    context.set_ciphers(random.choice(CIPHERS))
    if random.random() < 0.3:
        context.set_ecdh_curve(random.choice(CURVES))
    if random.random() < 0.5:
        context.set_alpn_protocols(["p" * random.randint(1, 255) for _ in range(random.randint(1, 9))])
    if random.random() < 0.3:
        context.post_handshake_auth = True
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
            context.wrap_socket(connection, server_hostname=None if name == "-" else name)
    except OSError:
        pass  # Nobody answers.
