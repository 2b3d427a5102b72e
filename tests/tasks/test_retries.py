"""Which failures of a network step Prefect tries again."""

import pytest
from prefect import flow, task

from ganomaly import TrainingDataError
from tasks.bucket.failures import ObjectDeniedError, ObjectMissingError, ObjectStoreError
from tasks.registry.reaching import ModelRegistryError, RegistryUnreachableError
from tasks.steps import NETWORK_STEP, RETRY_DELAYS_S

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ObjectStoreError("the endpoint does not answer"), 1 + len(RETRY_DELAYS_S)),
        (RegistryUnreachableError("MLflow does not answer"), 1 + len(RETRY_DELAYS_S)),
        (ObjectMissingError("there is no such object"), 1),
        (ObjectDeniedError("the credentials are wrong"), 1),
        (ModelRegistryError("there is no champion"), 1),
        (TrainingDataError("too few images"), 1),
    ],
)
def test_only_the_networks_failures_are_tried_again(error: Exception, tries: int) -> None:
    """Broken if a short outage ends a night, or if a mistake of the user's is repeated for a minute."""
    calls = []

    @task(**(NETWORK_STEP | {"retry_delay_seconds": 0, "retry_jitter_factor": None}))
    def step() -> None:
        calls.append(1)
        raise error

    @flow
    def steps() -> None:
        step()

    with pytest.raises(type(error)):
        steps()
    assert len(calls) == tries
