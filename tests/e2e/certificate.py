"""Certificates that sign themselves, made with the openssl command."""

import ssl
import subprocess

EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
RSA = ("-newkey", "rsa:2048")


def make_certificate(chain, key, *, algorithm=EC, name="localhost", days=30):
    """Writes both as PEM; they may be one file."""
    made = subprocess.run(
        ["openssl", "req", "-x509", *algorithm, "-nodes", "-days", str(days)]
        + ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
        + ["-keyout", "-"],
        check=True, capture_output=True, text=True, timeout=20,
    ).stdout  # fmt: skip
    key_text, begin, chain_text = made.partition("-----BEGIN CERTIFICATE-----")
    texts = {key: key_text}
    texts[chain] = begin + chain_text + (key_text if chain == key else "")
    for path, text in texts.items():
        path.touch(mode=0o600)
        path.write_text(text)
    return chain


def serial_of(certificate):
    """Of a PEM file, or of what getpeercert(True) says."""
    if not isinstance(certificate, bytes):
        certificate = certificate.read_bytes()
    else:
        certificate = ssl.DER_cert_to_PEM_cert(certificate).encode()
    return subprocess.run(
        ["openssl", "x509", "-noout", "-serial"],
        input=certificate, check=True, capture_output=True, timeout=20,
    ).stdout  # fmt: skip
