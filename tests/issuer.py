"""An OpenID Connect issuer as a real HTTP server on the loopback address, with keys of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

AUDIENCE = "https://lethe.example"
DISCOVERY = "/.well-known/openid-configuration"


@dataclass
class Issuer:
    """`answers` says what each path gives: status, headers and body. `asked` lists the paths as they came."""

    url: str
    keys: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def publish(self, *more: dict[str, Any]) -> None:
        """Serve the public part of the keys, `more` JWKs beside them, and a discovery document."""
        public = [{**json.loads(_jwk(key)), "kid": kid, "use": "sig"} for kid, key in self.keys.items()]
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        self.answers = {DISCOVERY: _json(document), "/jwks": _json({"keys": [*public, *more]})}

    def public_pem(self, kid: str) -> bytes:
        pem: bytes = self.keys[kid].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Of a good token; a change to None leaves the claim out."""
        good = {
            "iss": self.url, "aud": AUDIENCE, "sub": "ada", "tenant": "acme", "scope": "openid jobs:read",
            "iat": int(time.time()), "exp": int(time.time()) + 600,
        }  # fmt: skip
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, kid: str = "rsa", headers: dict[str, Any] | None = None, **changes: Any) -> str:
        algorithm = "ES256" if kid == "ec" else "RS256"
        return jwt.encode(self.claims(**changes), self.keys[kid], algorithm, {"kid": kid} | (headers or {}))


def _jwk(key: Any) -> str:
    kind = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
    text: str = kind.to_jwk(key.public_key())
    return text


def _json(document: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()


def new_key(kind: str) -> Any:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            status, headers, body = issuer.answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = Issuer(
            f"http://127.0.0.1:{server.server_address[1]}", {kind: new_key(kind) for kind in ("rsa", "ec")}
        )
        issuer.publish()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield issuer
        server.shutdown()
