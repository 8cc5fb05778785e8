"""AWS Signature Version 4 with the standard library: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html."""

import datetime as dt
import functools
import hashlib
import hmac
import urllib.parse
from typing import NamedTuple

from botocore.credentials import ReadOnlyCredentials
from botocore.utils import normalize_url_path


class Endpoint(NamedTuple):
    """Where requests go; *host* is the Host header: in lower case, with brackets around IPv6, without a default port."""

    hostname: str
    port: int
    host: str
    path: str
    signed_path: str
    region: str

    @classmethod
    def parse(cls, url: str, region: str) -> "Endpoint":
        """From http(s)://host[:port][/path]."""
        parts = urllib.parse.urlsplit(url)
        default = 443 if parts.scheme == "https" else 80
        hostname, port = parts.hostname or "", parts.port or default
        bracketed = f"[{hostname}]" if ":" in hostname else hostname
        host, path = bracketed if port == default else f"{bracketed}:{port}", parts.path or "/"
        return cls(hostname, port, host, path, urllib.parse.quote(normalize_url_path(path), safe="/~"), region)


def signed(endpoint: Endpoint, credentials: ReadOnlyCredentials, action: str, body: bytes, now: dt.datetime) -> bytes:
    """The whole HTTP request for *action* of SQS, signed as of *now* (UTC)."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{endpoint.region}/sqs/aws4_request"
    token, token_name = (f"x-amz-security-token:{credentials.token}\n", "x-amz-security-token;") if credentials.token else ("", "")
    names = f"content-type;host;x-amz-date;{token_name}x-amz-target"
    headers = f"content-type:application/x-amz-json-1.0\nhost:{endpoint.host}\nx-amz-date:{stamp}\n{token}x-amz-target:AmazonSQS.{action}\n"
    canonical = f"POST\n{endpoint.signed_path}\n\n{headers}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(credentials.secret_key, scope), to_sign.encode(), "sha256").hex()
    head = (
        f"POST {endpoint.path} HTTP/1.1\n{headers}accept-encoding:identity\ncontent-length:{len(body)}\n"
        f"authorization:AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}\n\n"
    )
    return head.replace("\n", "\r\n").encode() + body


@functools.lru_cache(maxsize=2)
def _signing_key(secret: str, scope: str) -> bytes:
    return functools.reduce(lambda key, part: hmac.digest(key, part.encode(), "sha256"), scope.split("/"), f"AWS4{secret}".encode())
