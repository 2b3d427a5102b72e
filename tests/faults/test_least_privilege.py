"""The policies of infra/iam against a server that enforces them: each step runs with its own and can do nothing else.

moto's server checks signatures and the actions and resources of policies. It knows the condition `StringLike` not at
all, which the fixture adds; it lets bulk deletion (`POST ?delete`) and the source of a copy pass unchecked, so those
are covered by the test that no policy names an action beyond listing, reading and writing.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import cv2
import flask
import numpy as np
import pytest
from botocore.exceptions import ClientError
from moto.core.authorization import enable_iam_authentication
from moto.iam import access_control
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[2]
POLICIES = ROOT / "infra" / "iam"
LINE = "plates"
WEEK = [date(2026, 3, day) for day in range(2, 8)]
LAST_DAY = date(2026, 3, 8)
OTHER_LINE = "panes"  # looks at the same images
LINE_FILE = """name = "{line}"
[images]
prefix = "images/plates/"
normal_list = "normal/plates.csv"
[recipe]
size_px = 32
[network]
features = 16
latent_size = 32
[training]
epochs = 2
batch_size = 16
[quality]
min_sharpness = 0.0
[calibration]
false_reject_rate = 0.05
calibrate_fraction = 0.3
"""
RUN_STEPS = """
import json, os, sys
from deployments.commands.inspection import app
for environment, arguments in json.load(sys.stdin):
    os.environ.update(environment)
    print("--- step", flush=True)
    if app(arguments, standalone_mode=False):
        sys.exit(1)
"""
PREFIXES = ("images", "normal", "masks", "golden", "reports", "mlflow", "secrets")
MAY = {
    "ingest": {"list images", "read images"},
    "scoring": {"list images", "read images", "write reports"},
    "training": {"read images", "read normal", "read masks", "list golden", "read golden"},
    "promotion": {"read images", "list golden", "read golden"},
    "golden-write": {"read images", "list golden", "read golden", "write golden"},
    "report-reader": {"list reports", "read reports"},
    "models-read": {"list mlflow", "read mlflow"},
    "models-write": {"list mlflow", "read mlflow", "write mlflow"},
}
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass
class Cloud:
    """One account with two buckets: ours and somebody else's."""

    endpoint_url: str
    bucket: str = field(default_factory=lambda: f"plant-{uuid4().hex[:8]}")
    users: Iterator[int] = field(default_factory=count)

    def client(self, service: str, key: str, secret: str) -> Any:
        """A client of the server with these credentials."""
        keys = {"aws_access_key_id": key, "aws_secret_access_key": secret}
        return boto3.client(service, endpoint_url=self.endpoint_url, region_name="us-east-1", **keys)

    def user(self, *documents: str) -> dict[str, str]:
        """The keys of a new user who has these policies."""
        iam = self.client("iam", *self.admin)
        name = f"{self.bucket}-{next(self.users)}"
        iam.create_user(UserName=name)
        for number, document in enumerate(documents):
            iam.put_user_policy(UserName=name, PolicyName=f"p{number}", PolicyDocument=document)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}

    def __post_init__(self) -> None:
        everything = json.dumps(EVERYTHING).replace("s3:*", "*")
        self.admin = ("x", "x")  # whoever asks may do anything until enforcement begins
        self.admin = tuple(self.user(everything).values())
        for bucket in (self.bucket, f"{self.bucket}-other"):
            self.s3.create_bucket(Bucket=bucket)

    @cached_property
    def s3(self) -> Any:
        """The bucket's owner."""
        return self.client("s3", *self.admin)

    def put_one_object_everywhere(self) -> None:
        """What the operations read and delete."""
        for prefix in PREFIXES:
            self.s3.put_object(Bucket=self.bucket, Key=f"{prefix}/x", Body=b"x")
        self.s3.put_object(Bucket=f"{self.bucket}-other", Key="images/x", Body=b"x")

    def policy(self, name: str) -> str:
        """A policy of infra/iam for our bucket."""
        return (POLICIES / f"{name}.json").read_text(encoding="utf-8").replace("BUCKET", self.bucket)


def heed_prefixes(check: Callable[..., Any]) -> Callable[..., Any]:
    """A policy statement holds only for listings whose prefix is one that its condition names, as on AWS."""

    def is_action_permitted(self: Any, action: str, resource: str = "*", *rest: Any) -> Any:
        wanted = self._statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix")
        if wanted is not None and not fnmatchcase(flask.request.args.get("prefix", ""), wanted):
            return access_control.PermissionResult.NEUTRAL
        return check(self, action, resource, *rest)

    return is_action_permitted


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """A server that enforces policies."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        statement = access_control.IAMPolicyStatement
        patch.setattr(statement, "is_action_permitted", heed_prefixes(statement.is_action_permitted))
        cloud = Cloud("http://{}:{}".format(*server.get_host_and_port()))
        with enable_iam_authentication():
            yield cloud
    server.stop()


def plate(seed: int, *, defect: bool = False) -> bytes:
    """PNG of a striped plate of 64 x 64 px; the defective ones have a dark blot."""
    rng = np.random.default_rng(seed)
    image = 128 + 60 * np.sin(2 * np.pi * np.arange(64) / 8)[None, :] + rng.normal(0, 8, (64, 64))
    if defect:
        cv2.circle(image, (32, 32), 9, 10.0, -1)
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def inspection(cloud: Cloud, folder: Path, *steps: tuple[dict[str, str], list[str]]) -> list[str]:
    """What `inspection` prints for each list of arguments, run in one process with the environment beside it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("INSPECTION_", "AWS_", "PREFECT_", "MLFLOW_"))}
    ours = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "INSPECTION_BUCKET": cloud.bucket,
        "INSPECTION_S3_ENDPOINT_URL": cloud.endpoint_url,
        "INSPECTION_WORK_DIR": str(folder),
        "INSPECTION_LINES_DIR": str(folder / "lines"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_S3_ENDPOINT_URL": cloud.endpoint_url,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    command = [sys.executable, "-c", RUN_STEPS]
    done = subprocess.run(
        command, input=json.dumps(steps), env=kept | ours, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split("--- step\n")[1:]


@pytest.fixture(scope="module")
def plant(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bucket with a week of good plates and a last day, and the folder of the line's file."""
    keys = []
    for number in range(72):
        keys.append(f"images/{LINE}/{WEEK[number % 6]}/p{number:04}/top.png")
        cloud.s3.put_object(Bucket=cloud.bucket, Key=keys[-1], Body=plate(number))
    for number in range(8):
        key = f"images/{LINE}/{LAST_DAY}/d {number}+ä/top.png"  # names that a signature must get right
        cloud.s3.put_object(Bucket=cloud.bucket, Key=key, Body=plate(1000 + number, defect=number < 4))
    cloud.s3.put_object(Bucket=cloud.bucket, Key="normal/plates.csv", Body="\n".join(["key", *keys]).encode())
    folder = tmp_path_factory.mktemp("plant")
    (folder / "lines").mkdir()
    for line in (LINE, OTHER_LINE):
        (folder / "lines" / f"{line}.toml").write_text(LINE_FILE.format(line=line), encoding="utf-8")
    return folder


@pytest.mark.fault(
    area="Security",
    fault="workers have nothing but the policies of infra/iam",
    outcome="ingest, training, a promotion and a night run through, each with its own",
)
def test_each_step_runs_with_its_own_policy(cloud: Cloud, plant: Path) -> None:
    """Broken if a step needs a right that its policy does not give, such as listing the whole bucket."""
    names = ("ingest", "training", "promotion", "scoring")
    ingest, training, promotion, scoring = (cloud.user(cloud.policy(name)) for name in names)
    # the other line's models lie in the bucket, with no MLflow server between: that takes two more policies
    writing = cloud.user(cloud.policy("training"), cloud.policy("models-write"))
    reading = cloud.user(cloud.policy("scoring"), cloud.policy("models-read"))
    in_bucket = {"INSPECTION_MLFLOW_ARTIFACT_ROOT": f"s3://{cloud.bucket}/mlflow"}
    week, cpu = ["--from", str(WEEK[0]), "--to", str(WEEK[-1])], ["--device", "cpu"]
    recorded, _, _, trained = inspection(
        cloud,
        plant,
        (ingest, ["ingest", LINE, *week]),
        (training, ["train", LINE, *cpu]),
        (ingest, ["ingest", OTHER_LINE, *week]),
        (writing | in_bucket, ["train", OTHER_LINE, *cpu]),
    )
    assert "72 recorded" in recorded
    golden = [("good", 3000 + number) for number in range(8)] + [("blot", 4000 + number) for number in range(4)]
    for kind, seed in golden:
        body = plate(seed, defect=kind == "blot")
        cloud.s3.put_object(Bucket=cloud.bucket, Key=f"golden/{LINE}/{kind}/{seed}.png", Body=body)
    labels = "\n".join(["image,kind", *(f"{kind}/{seed}.png,{kind}" for kind, seed in golden)])
    cloud.s3.put_object(Bucket=cloud.bucket, Key=f"golden/{LINE}/labels.csv", Body=labels.encode())
    retrained, promoted = inspection(
        cloud,
        plant,
        (training, ["train", LINE, "--seed", "1", *cpu]),
        (promotion, ["promote", LINE, "--approve", "--who", "ada", *cpu]),
    )
    assert f"models:/ganomaly-{LINE}/2" in retrained
    assert "golden set: " in promoted
    assert f"models:/ganomaly-{OTHER_LINE}/1" in trained
    models = cloud.s3.list_objects_v2(Bucket=cloud.bucket, Prefix="mlflow/")["Contents"]
    assert any(found["Key"].endswith("weights.safetensors") for found in models)
    # a process of its own, as on another machine: MLflow keeps the S3 client that it used first
    nights = inspection(
        cloud,
        plant,
        (scoring, ["nightly", LINE, "--date", str(LAST_DAY), *cpu]),
        (reading | in_bucket, ["nightly", OTHER_LINE, "--date", str(LAST_DAY), *cpu]),
    )
    for line, night in zip((LINE, OTHER_LINE), nights, strict=True):
        assert "8 listed = 8 scored" in night
        written = cloud.s3.list_objects_v2(Bucket=cloud.bucket, Prefix=f"reports/{line}/{LAST_DAY}/")["Contents"]
        assert {"report.html", "flagged.csv", "scores.parquet"} <= {found["Key"].rsplit("/", 1)[1] for found in written}
        assert any("/overlays/" in found["Key"] for found in written)


def operations(cloud: Cloud) -> dict[str, Callable[[Any], Any]]:
    """Everything that somebody might try, by name; each is a function of the client that tries it."""
    ours, other = cloud.bucket, f"{cloud.bucket}-other"
    made: dict[str, Callable[[Any], Any]] = {}
    for prefix in PREFIXES:
        at = {"Bucket": ours, "Key": f"{prefix}/x"}
        made |= {
            f"list {prefix}": lambda s3, prefix=prefix: s3.list_objects_v2(Bucket=ours, Prefix=f"{prefix}/"),
            f"read {prefix}": lambda s3, at=at: s3.get_object(**at),
            f"write {prefix}": lambda s3, at=at: s3.put_object(**at, Body=b"y"),
            f"delete {prefix}": lambda s3, at=at: s3.delete_object(**at),
            f"tag {prefix}": lambda s3, at=at: s3.put_object_tagging(
                **at, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}
            ),
            f"publish {prefix}": lambda s3, at=at: s3.put_object_acl(**at, ACL="public-read"),
        }
    return made | {
        "list the whole bucket": lambda s3: s3.list_objects_v2(Bucket=ours),
        "list by half a name": lambda s3: s3.list_objects_v2(Bucket=ours, Prefix="i"),
        "list old versions": lambda s3: s3.list_object_versions(Bucket=ours, Prefix="images/"),
        "list the buckets": lambda s3: s3.list_buckets(),
        "list another bucket": lambda s3: s3.list_objects_v2(Bucket=other, Prefix="images/"),
        "read another bucket": lambda s3: s3.get_object(Bucket=other, Key="images/x"),
        "write another bucket": lambda s3: s3.put_object(Bucket=other, Key="reports/x", Body=b"y"),
        "create a bucket": lambda s3: s3.create_bucket(Bucket=f"{ours}-{uuid4().hex[:6]}"),
        "change the bucket's policy": lambda s3: s3.put_bucket_policy(Bucket=ours, Policy=json.dumps(EVERYTHING)),
    }


def allowed(cloud: Cloud, keys: dict[str, str]) -> set[str]:
    """The names of the operations that these credentials may do; each finds the objects that it needs."""
    s3, answers = cloud.client("s3", *keys.values()), {}
    cloud.put_one_object_everywhere()
    for name, operation in operations(cloud).items():
        try:
            operation(s3)
            answers[name] = "done"
            cloud.put_one_object_everywhere()
        except ClientError as error:
            answers[name] = error.response["Error"]["Code"]
    assert set(answers.values()) <= {"done", "AccessDenied"}, answers
    return {name for name, answer in answers.items() if answer == "done"}


@pytest.mark.parametrize("name", sorted(MAY))
@pytest.mark.fault(
    area="Security",
    fault="somebody has a worker's S3 keys",
    outcome="they open what that worker needs; no deletion, no other prefix, no other bucket, no policy",
)
def test_a_policy_allows_what_it_says_and_nothing_else(cloud: Cloud, name: str) -> None:
    """Broken if a policy is too wide, or too narrow for what it is for."""
    assert allowed(cloud, cloud.user(cloud.policy(name))) == MAY[name]


def test_it_is_the_policy_that_denies(cloud: Cloud) -> None:
    """Broken if the server refuses anyway, or never: then the tests above would show nothing."""
    assert allowed(cloud, cloud.user(json.dumps(EVERYTHING))) == set(operations(cloud))
    assert allowed(cloud, cloud.user()) == set()


def test_no_policy_names_more_than_listing_reading_and_writing() -> None:
    """Broken if a policy gains deletion, a wildcard, a whole bucket's objects, or forgets which bucket."""
    found = sorted(path.stem for path in POLICIES.glob("*"))
    assert found == sorted(MAY)
    for name in found:
        for statement in json.loads((POLICIES / f"{name}.json").read_text(encoding="utf-8"))["Statement"]:
            actions, resources = (
                [entry] if isinstance(entry := statement[part], str) else entry for part in ("Action", "Resource")
            )
            assert statement["Effect"] == "Allow"
            assert set(actions) <= {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}, name
            folders = {resource.removeprefix("arn:aws:s3:::BUCKET") for resource in resources}
            if actions == ["s3:ListBucket"]:
                assert folders == {""}, name
                assert list(statement["Condition"]) == ["StringLike"], name
            else:
                assert folders <= {f"/{prefix}/*" for prefix in PREFIXES[:-1]}, name
