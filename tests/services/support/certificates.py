"""An authority and the certificates it signs, made anew for each test."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """Writes `ca.pem` and, for each name, `NAME.pem` and `NAME.key`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.path = folder / "ca.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = name_of(f"authority {folder.name}")
        builder = begin(self._name, self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        write(self.path, builder.sign(self._key, hashes.SHA256()))

    def issue(self, name: str, hosts: Sequence[str] = ()) -> tuple[Path, Path]:
        """Certificate and key for these hosts; none: for localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        loopback = [x509.IPAddress(ip_address(host)) for host in ("127.0.0.1", "::1")]
        local = [x509.DNSName("localhost"), *loopback]
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts] or local
        builder = begin(name_of(name), self._name, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        write(certificate, builder.sign(self._key, hashes.SHA256()))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, secret


def name_of(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
    )


def write(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
