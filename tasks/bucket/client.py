"""A client of boto3, as the pipeline wants it: its time limits, and nothing that is shared between threads."""

from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.client import BaseClient
from botocore.config import Config
from botocore.utils import parse_timestamp

CONNECT_TIMEOUT_S = 5


def client_config(endpoint_url: str | None, max_connections: int, read_timeout_s: float) -> Config:
    """One attempt for each request, since `ObjectStore` tries again itself; what servers other than Amazon's know."""
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": read_timeout_s,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": max_connections,
    }
    if endpoint_url is not None:
        # host names per bucket and the checksums that botocore 1.36 began to send are not understood everywhere
        options["s3"] = {"addressing_style": "path"}
        options["request_checksum_calculation"] = "when_required"
        options["response_checksum_validation"] = "when_required"
        if urlsplit(endpoint_url).hostname in ("127.0.0.1", "::1", "localhost"):
            options["proxies"] = {}  # a company's proxy cannot reach this machine
    return Config(**options)


def s3_client(endpoint_url: str | None, config: Config) -> tuple[boto3.session.Session, BaseClient]:
    """A client for S3, and the session that it belongs to.

    Raises:
        BotoCoreError, ValueError: if boto3 cannot use its configuration or the endpoint's address.
    """
    # a session of its own: the default session that boto3.client() uses is not safe between threads
    core = botocore.session.Session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_parse_time)
    session = boto3.session.Session(botocore_session=core)
    return session, session.client("s3", endpoint_url=endpoint_url, config=config)


def _parse_time(text: Any) -> datetime:
    """A time as botocore reads it; the form of a listing without dateutil, which takes most of a listing's time."""
    if isinstance(text, str) and text.endswith("Z") and text[10:11] == "T":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            pass
    found: datetime = parse_timestamp(text)
    return found
