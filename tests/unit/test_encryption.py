"""TLS to a broker: whose certificate is believed, and who must have one."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from tunemesh.shared.errors import BadInput
from tunemesh.shared.transport import encryption
from tunemesh.shared.transport.address import parameters_for

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")

URL = "amqps://user:password@localhost:1/"


def run(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a broker and a client that it has signed."""
    folder = tmp_path_factory.mktemp("keys")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj")
    run(folder, *new, "/CN=authority", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    for name in ("broker", "client"):
        run(folder, *new, f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = (
            "x509",
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
        )
        run(folder, *signed, "-days", "2", "-extfile", "names", "-out", f"{name}.pem")
    return folder


def greeted(keys: Path, url: str = URL) -> str:
    """Shake hands, as a connection to ``url`` does, with a server that asks for a certificate: what it is
    told, or the server's or the client's refusal."""
    (found,) = parameters_for(url, "test", {})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "broker.pem", keys / "broker.key")
    context.load_verify_locations(keys / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)

    def serve() -> None:
        try:
            with context.wrap_socket(theirs, server_side=True) as peer:
                peer.sendall(str(dict(each[0] for each in peer.getpeercert()["subject"])).encode())  # type: ignore[index,misc]
        except OSError:
            theirs.close()

    server = threading.Thread(target=serve)
    server.start()
    try:
        options = found.ssl_options
        with options.context.wrap_socket(ours, server_hostname=options.server_hostname) as peer:
            return peer.recv(1000).decode() or "closed"
    except OSError as error:
        return str(error)
    finally:
        ours.close()
        server.join()


def test_a_broker_is_believed_whose_certificate_is_signed_by_the_authority_that_is_named(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(encryption.CERTIFICATE, str(keys / "client.pem"))
    monkeypatch.setenv(encryption.KEY, str(keys / "client.key"))
    assert "certificate verify failed" in greeted(keys)
    monkeypatch.setenv(encryption.CA, str(keys / "ca.pem"))
    assert greeted(keys) == "{'commonName': 'client'}"
    assert "doesn't match" in greeted(keys, URL.replace("localhost", "elsewhere")) or "mismatch" in greeted(
        keys, URL.replace("localhost", "elsewhere")
    )


def test_who_has_no_certificate_is_sent_away_by_a_broker_that_wants_one(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(encryption.CA, str(keys / "ca.pem"))
    assert "client" not in greeted(keys)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            {encryption.CA: "no-such-file"},
            "TUNEMESH_BROKER_CA is no-such-file, which holds no certificate: No such",
        ),
        ({encryption.CA: "ca.key"}, "which holds no certificate"),
        ({encryption.KEY: "client.key"}, "TUNEMESH_BROKER_KEY is set without TUNEMESH_BROKER_CERT"),
        ({encryption.CERTIFICATE: "client.pem"}, "no certificate with its key"),
        ({encryption.CERTIFICATE: "client.pem", encryption.KEY: "broker.key"}, "no certificate with its key"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_one_line(
    names: dict[str, str], said: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(keys)
    for name, file in names.items():
        monkeypatch.setenv(name, file)
    with pytest.raises(BadInput, match=said) as refused:
        parameters_for(URL, "test", {})
    assert "\n" not in str(refused.value)
    assert "password" not in str(refused.value)
    parameters_for(URL.replace("amqps", "amqp"), "test", {})
