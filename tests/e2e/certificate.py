"""Certificates that sign themselves."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def make_key(algorithm="EC"):
    if algorithm == "EC":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 2048)


def make_certificate(
    chain, key, *, algorithm="EC", name="localhost", days=30, length=1, password=None
):
    """Writes both as PEM, may be to one file; `chain` again. length: how often it stands there."""
    private = make_key(algorithm)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(private, hashes.SHA256())
    )
    encryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    pem = serialization.Encoding.PEM
    texts = {
        chain: certificate.public_bytes(pem) * length,
        key: private.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption),
    }
    if chain == key:
        texts = {chain: b"".join([certificate.public_bytes(pem), texts[key]])}
    for path, text in texts.items():
        path.touch(mode=0o600)
        path.write_bytes(text)
    return chain


def serial_of(certificate):
    """Of a PEM file, or of what getpeercert(True) gives."""
    if isinstance(certificate, bytes):
        certificate = ssl.DER_cert_to_PEM_cert(certificate).encode()
    else:
        certificate = certificate.read_bytes()
    return x509.load_pem_x509_certificate(certificate).serial_number
