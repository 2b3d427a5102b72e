"""What `pip install ganomaly-inspection` brings to an environment: the detector, its command, and no other name."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OF_A_PLANT = (
    "alembic",
    "boto3",
    "fastapi",
    "jinja2",
    "mlflow",
    "obstore",
    "pandas",
    "prefect",
    "pyarrow",
    "sqlalchemy",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    source, unpacked = folder / "source", folder / "installed"
    names = shutil.ignore_patterns(".*", "var", "build", "*.egg-info", "tests", "__pycache__")
    shutil.copytree(ROOT, source, ignore=names)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, timeout=300)
    with zipfile.ZipFile(*folder.glob("*.whl")) as wheel:
        wheel.extractall(unpacked)
    return unpacked


def test_a_wheel_takes_no_name_from_whoever_installs_it(installed: Path) -> None:
    """Somebody's own `tasks` or `flows` would be replaced, or replace ours."""
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names == {"ganomaly"}
    (entries,) = installed.glob("*.dist-info/entry_points.txt")
    assert entries.read_text().split("\n")[1:2] == ["ganomaly = ganomaly.cli:app"]
    assert "inspection =" not in entries.read_text()


def test_the_detector_needs_nothing_of_the_plant(installed: Path, tmp_path: Path) -> None:
    """A notebook or a served model would have to install Prefect and MLflow, or fail at its first import."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {(*OF_A_PLANT, "tasks", "flows", "deployments", "infra")!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.path.insert(0, {str(installed)!r})
import importlib, pkgutil, ganomaly
for module in pkgutil.walk_packages(ganomaly.__path__, "ganomaly."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(ganomaly.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)
