"""An application that ends TLS itself: it says how many bytes of text came first, then echoes one line.

Usage: tls_app.py ADDRESS PORT [ADDRESS PORT ...]. A PROXY header of version 1 before TLS is read and told, too.
"""

import datetime
import socket
import ssl
import tempfile
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from listening import run


def context() -> ssl.SSLContext:
    """With a certificate that is as good as any other here."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "app.example")])
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now)
    certificate = builder.not_valid_after(now + datetime.timedelta(days=1)).sign(key, hashes.SHA256())
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file.write(key.private_bytes(serialization.Encoding.PEM, *plain))
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
        file.flush()
        made.load_cert_chain(file.name)
    return made


CONTEXT = context()


def header(connection: socket.socket) -> bytes:
    """A PROXY header that stands before TLS."""
    if connection.recv(1, socket.MSG_PEEK) != b"P":
        return b""
    line = b""
    while not line.endswith(b"\r\n"):
        line += connection.recv(1)
    return line


def serve(connection: socket.socket) -> None:
    with connection:
        try:
            before = header(connection)
            with CONTEXT.wrap_socket(connection, server_side=True) as tls, tls.makefile("rb") as file:
                tls.sendall(b"%d\n" % len(before) + file.readline())
        except OSError as error:
            print("lost", error, flush=True)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        print("accepted", flush=True)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


run(accept)
