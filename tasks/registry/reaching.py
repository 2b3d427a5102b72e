"""Calls to MLflow: how long they may take, whom they are made as, and what is said when they fail."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from mlflow.exceptions import MlflowException

from tasks.errors import OperatingError


class ModelRegistryError(OperatingError):
    """The registry does not hold what is asked for."""


class RegistryUnreachableError(ModelRegistryError):
    """MLflow does not answer as it should, after repeated attempts."""


def without_passwords(text: str) -> str:
    """A text with the user and password of every URL in it made unreadable."""
    return re.sub(r"(?<=://)[^/\s]*@", "***@", text)


def hand_over_credentials(uri: str) -> str:
    """The URI without user and password, which go into MLflow's own variables: MLflow prints URIs in its messages."""
    parts = urlsplit(uri)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at or parts.scheme not in ("http", "https"):
        return uri
    user, _, password = userinfo.partition(":")
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    return parts._replace(netloc=host).geturl()


@contextmanager
def asking(address: str, action: str) -> Iterator[None]:
    """Turn whatever MLflow raises in the block into one error that names address and action.

    Raises:
        RegistryUnreachableError: if the block raises an error of MLflow or of the system.
    """
    try:
        yield
    except (MlflowException, OSError) as error:  # OSError: requests' own, and a full disk
        raise unreachable(address, action, error) from None  # the cause may print the password


def unreachable(address: str, action: str, error: Exception) -> RegistryUnreachableError:
    """The error for a call that failed, without a password in it."""
    words = " ".join(without_passwords(str(error)).partition("[SQL:")[0].split())
    if "database is locked" in words:
        way_out = "another program writes to it; run the command again, or let an MLflow server keep the database"
    else:
        way_out = "is it running, and is INSPECTION_MLFLOW_TRACKING_URI right? Run the command again when it answers"
    return RegistryUnreachableError(f"MLflow at {address}: cannot {action}: {words}; {way_out}")
