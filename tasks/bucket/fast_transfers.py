"""Whole objects through obstore, which takes a small part of boto3's time for them."""

import logging
import re
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import boto3
from botocore.client import BaseClient
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

NEEDLESS_ATTEMPTS = 10
CREDENTIALS_KEPT = timedelta(minutes=10)  # boto3 renews what expires at least so long before
_PLAIN_KEY = re.compile(r"(?!\.{1,2}(/|$))[\w .,+=@~()!-]+(/(?!\.{1,2}(/|$))[\w .,+=@~()!-]+)*")

_log = logging.getLogger(__name__)


class FastTransfers:
    """Reads and writes whole objects through obstore, or gives up without a reason: one attempt, for plain keys.

    obstore alters or refuses some keys (``a//b``, ``..``), knows nothing of boto3's proxies, and does not tell whether
    Amazon has encrypted an object, so that its ETag is no MD5. All that is left to boto3; where boto3 succeeds
    `NEEDLESS_ATTEMPTS` times in a row after this has failed, the server and obstore do not go together, and it ends.

    Args:
        bucket: name of the bucket.
        endpoint_url: address of the server, None for Amazon S3.
        session: whose credentials are used, renewed by boto3 where they expire.
        client: whose region and timeouts are used.
    """

    def __init__(
        self, bucket: str, endpoint_url: str | None, session: boto3.session.Session, client: BaseClient
    ) -> None:
        self._needless = 0
        self._store: S3Store | None = None
        parts = urlsplit(endpoint_url or "")
        if session.get_credentials() is None or "@" in parts.netloc or getproxies():
            return
        config = client.meta.config
        region = client.meta.region_name
        address: Any = {} if endpoint_url is None else {"endpoint": endpoint_url, "virtual_hosted_style_request": False}
        try:
            self._store = S3Store(
                bucket,
                region="us-east-1" if region in (None, "aws-global") else region,
                client_options={
                    "allow_http": parts.scheme == "http",
                    "connect_timeout": timedelta(seconds=config.connect_timeout),
                    "read_timeout": timedelta(seconds=config.read_timeout),
                    "timeout": timedelta(days=1),  # of the whole request: a large image may come slowly
                },
                retry_config={"max_retries": 0},
                credential_provider=Boto3CredentialProvider(session, ttl=CREDENTIALS_KEPT),
                **address,
            )
        except Exception:  # boto3 does its work
            _log.info("s3://%s: obstore cannot be used", bucket)

    def takes(self, key: str) -> bool:
        """Whether it is worth while to ask for this key."""
        return self._store is not None and self._needless < NEEDLESS_ATTEMPTS and bool(_PLAIN_KEY.fullmatch(key))

    def read(self, key: str, etag: str) -> bytes | None:
        """The object's bytes, all of them and of this version by what the server says; None for whatever else."""
        assert self._store is not None
        try:
            answer = self._store.get(key, options={"if_match": f'"{etag}"'})
            data, meta = answer.bytes().to_bytes(), answer.meta
        except Exception:  # boto3 asks again and finds out; this error may hold what must not reach a log
            return None
        return data if (meta["e_tag"] or "").strip('"') == etag and meta["size"] == len(data) else None

    def write(self, key: str, data: bytes, content_type: str) -> str | None:
        """Write an object in one piece; gives its ETag, None for whatever else came of it: it may be written or not."""
        assert self._store is not None
        try:
            answer = self._store.put(key, data, attributes={"Content-Type": content_type}, use_multipart=False)
        except Exception:  # boto3 writes it again and finds out
            return None
        return (answer["e_tag"] or "").strip('"') or None

    def note(self, *, needless: bool) -> None:
        """Say whether the latest attempt was of use, or boto3 has done what it could not."""
        self._needless = self._needless + 1 if needless else 0
