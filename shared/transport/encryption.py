"""TLS to the broker: whom to believe, and who this process is."""

from __future__ import annotations

import os
import ssl

import pika

from tunemesh.shared.errors import BadInput

CA, CERTIFICATE, KEY = "TUNEMESH_BROKER_CA", "TUNEMESH_BROKER_CERT", "TUNEMESH_BROKER_KEY"
"""Files: the authority that has signed the broker's certificate (by default those of the system); this
process's own certificate, where the broker asks for one; its key, where that is a file of its own."""


def options(host: str) -> pika.SSLOptions:
    """For a broker called ``host``, whose certificate must say so.

    Raises:
        BadInput: a file that is named cannot be used.
    """
    context = ssl.create_default_context()
    authority, certificate, key = (os.environ.get(name) or None for name in (CA, CERTIFICATE, KEY))
    if authority is not None:
        # That one alone: whoever names it does not mean all that the system trusts.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(authority)
        except OSError as error:  # ssl.SSLError is one
            raise BadInput(f"{CA} is {authority}, which holds no certificate: {_cause(error)}") from None
    if key is not None and certificate is None:
        raise BadInput(f"{KEY} is set without {CERTIFICATE}")
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except OSError as error:
            where = f"{CERTIFICATE} is {certificate}" + (f" and {KEY} is {key}" if key is not None else "")
            raise BadInput(f"{where}: no certificate with its key: {_cause(error)}") from None
    return pika.SSLOptions(context, host)


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    return ""


def _cause(error: OSError) -> str:
    return str(error.strerror or error)
