"""The certificate authority of a test cluster, and the kubeconfig files that its certificates make.

Keys are ECDSA P-256 (milliseconds to make) where nobody wants another kind, files of keys are readable by their owner only. An
authority lies in a folder and can be loaded from it again. Certificates last a year: longer than any test cluster, and than Kueue
wants its own to be good for.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
_CLOCK_SKEW = datetime.timedelta(minutes=5)
_Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """Files in PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """An authority whose `ca.crt` and `ca.key` lie in `folder`; what it issues lies there too."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, common_name: str, *, hosts: Sequence[str] = (), rsa_key: bool = False) -> "Authority":
        """Make a new authority; one that is already in the folder is kept. `hosts`: names that its own certificate is good for.

        `rsa_key`: for who reads no other.
        """
        authority = cls(folder=folder)
        if not authority.key.exists():
            folder.mkdir(parents=True, exist_ok=True)
            key: _Key = (
                rsa.generate_private_key(public_exponent=65537, key_size=2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())
            )
            name = _name(common_name, ())
            usage = x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
                data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            builder = (
                _builder(name, name, key.public_key())
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(usage, critical=True)
            )
            if hosts:
                builder = builder.add_extension(_hosts(hosts), critical=False)
            authority.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
            _write_private(authority.key, _pem(key))
        return authority

    @property
    def certificate(self) -> Path:
        """What clients and servers trust."""
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        """Signs."""
        return self.folder / "ca.key"

    def issue(self, file_name: str, common_name: str, *, organizations: Sequence[str] = (), hosts: Sequence[str] = ()) -> KeyPair:
        """A certificate for a client (Kubernetes reads user and groups from name and organizations) and, with `hosts`, for a server.

        `hosts` are DNS names and IP addresses. Files FILE_NAME.crt and FILE_NAME.key in the authority's folder, written anew.
        """
        ca = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        ca_key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        builder = (
            _builder(_name(common_name, organizations), ca.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if hosts:
            builder = builder.add_extension(_hosts(hosts), critical=False)
        pair = KeyPair(certificate=self.folder / f"{file_name}.crt", key=self.folder / f"{file_name}.key")
        _write_private(pair.key, _pem(key))
        pair.certificate.write_bytes(builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return pair


def signing_key(path: Path) -> Path:
    """A private key without a certificate, for the tokens of service accounts; one that is there is kept."""
    if not path.exists():
        _write_private(path, _pem(ec.generate_private_key(ec.SECP256R1())))
    return path


def write_kubeconfig(path: Path, *, server: str, authority: Authority, client: KeyPair | None = None, token: str | None = None) -> Path:
    """A kubeconfig with a client certificate or a bearer token.

    It names the files of keys: from keys inside it the official Python client makes files in /tmp, and leaves them there when it is killed.
    """
    user: dict[str, str] = {"token": token} if token else {}
    if client:
        user = {"client-certificate": str(client.certificate.resolve()), "client-key": str(client.key.resolve())}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(authority.certificate.resolve())}}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_private(path, yaml.safe_dump(config).encode())
    return path


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization) for organization in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _hosts(hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_host(host) for host in hosts])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: _Key) -> bytes:
    # Kubernetes reads keys of service accounts in the traditional form, and others in both.
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, traditional, serialization.NoEncryption())


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
