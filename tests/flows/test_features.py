"""A line that is seen through a frozen network: trained, registered, scored, reported and verified like any other."""

import io
import json
from datetime import date

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.train_ganomaly import train_ganomaly
from tasks.bucket.bucket import ObjectStore
from tasks.systems import open_systems
from tests.ganomaly.parts_in_colour import HEIGHT, SCRATCH, WIDTH, draw

pytestmark = pytest.mark.usefixtures("prefect_server")

LINE = "rings"
WEEK, NIGHT = date(2026, 3, 2), date(2026, 3, 3)
TOML = f"""name = "{LINE}"
input = "features"
[images]
key_pattern = "{{date}}/{{part}}.png"
mm_per_px = 0.1
[quality]
min_sharpness = 0.0
[training]
epochs = 1
[calibration]
false_reject_rate = 0.1
"""


@pytest.fixture(params=[80, 24], ids=["held out", "few"])
def plant(bucket: ObjectStore, write_line, request: pytest.FixtureRequest) -> ObjectStore:
    """A bucket with good parts of one day, enough or too few to hold some out, and a night of good and scratched."""
    path = write_line(LINE)
    path.write_text(TOML, encoding="utf-8")

    def put(day: date, name: str, image: np.ndarray) -> None:
        data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
        bucket.put(f"images/{LINE}/{day}/{name}.png", data[: len(data) // 2] if name == "cut" else data, "image/png")

    for number, image in enumerate(draw(request.param, seed=1)):
        put(WEEK, f"p{number:03}", image)
    for number, image in enumerate(draw(12, seed=2)):
        put(NIGHT, f"g{number:03}", image)
    for number, image in enumerate(draw(12, seed=3, defect=True)):
        put(NIGHT, f"d{number:03}", image)
    put(NIGHT, "cut", draw(1, seed=4)[0])
    return bucket


def check_regions(plant: ObjectStore, report_key: str, flagged: set[str]) -> None:
    """See that the scratches are where the regions say, in the list and on the page."""
    folder = report_key.rsplit("/", 1)[0]
    regions = pd.read_csv(io.BytesIO(plant.get(f"{folder}/regions.csv")))
    same = pd.read_parquet(io.BytesIO(plant.get(f"{folder}/regions.parquet")))
    assert list(same.columns) == list(regions.columns)
    assert len(same) == len(regions)
    assert set(regions["key"]) <= flagged
    hottest = regions[(regions["region"] == 1) & regions["part"].str.startswith("d")]
    assert len(hottest) >= 9
    (left, top), (right, bottom) = SCRATCH
    assert hottest["centre_x_px"].between(left - 8, right + 8).all()
    assert hottest["centre_y_px"].between(top - 8, bottom + 8).all()
    np.testing.assert_allclose(regions["extent_mm"], regions["extent_px"] * 0.1)
    np.testing.assert_allclose(regions["area_mm2"], regions["area_px2"] * 0.01)
    worst = hottest.iloc[0]
    page = plant.get(report_key).decode()
    assert f"{worst['width_mm']:.3g} x {worst['height_mm']:.3g} mm, longest {worst['extent_mm']:.3g} mm" in page


def test_a_line_of_features_has_its_nights(plant: ObjectStore) -> None:
    """Broken if a night, an overlay, the report or the registered model cannot do with features."""
    ingested = ingest_images(LINE, WEEK, WEEK)
    is_few = ingested.recorded == 24
    trained = train_ganomaly(LINE, device="cpu")
    assert trained.images == ({"cross": 24} if is_few else {"train": 53, "fit": 8, "calibrate": 19})
    assert ("guaranteed is at most" in trained.promise) == is_few
    night = nightly(LINE, NIGHT, device="cpu")
    assert (night.counts.listed, night.counts.scored, night.counts.unusable, night.counts.failed) == (25, 24, 1, 0)

    systems = open_systems(LINE)
    version = systems.registry.champion(LINE)
    assert version is not None
    scores = systems.store.scores.of_window(LINE, NIGHT, NIGHT, 1, version.calibration_id)
    judged = scores[scores["verdict"] != "unusable"]
    assert roc_auc_score(judged["part"].str.startswith("d"), judged["raw_score"]) > 0.95
    flagged = pd.read_csv(io.BytesIO(plant.get(night.report_key.replace("report.html", "flagged.csv"))))
    assert len(flagged) >= 9
    for key in flagged["heat_map_key"]:
        picture = cv2.imdecode(np.frombuffer(plant.get(key), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (HEIGHT, WIDTH, 3)
    report = plant.get(night.report_key).decode()
    check_regions(plant, night.report_key, set(flagged["key"]))
    assert ("for certain: the limit comes from few parts" in report) == is_few

    model = mlflow.pyfunc.load_model(version.uri)
    key = f"images/{LINE}/{NIGHT}/d000.png"
    served = model.predict(pd.DataFrame({"image": [plant.get(key)]})).iloc[0]
    stored = scores.set_index("key").loc[key]
    assert served["raw_score"] == pytest.approx(stored["raw_score"], rel=1e-5)
    assert served["verdict"] == stored["verdict"]
    told = model.predict(pd.DataFrame({"image": [plant.get(key)]}), params={"regions": True}).iloc[0]["regions"]
    recorded = systems.store.scores.regions(LINE, NIGHT, NIGHT, 1, version.calibration_id)
    recorded = recorded[recorded["key"] == key].reset_index(drop=True)
    asked = pd.DataFrame(json.loads(told))
    pd.testing.assert_frame_equal(asked, recorded[list(asked.columns)], check_dtype=False, rtol=1e-3)
    tags = systems.registry.client.get_model_version(version.name, str(version.version)).tags
    assert "Apache-2.0" in tags["looks"]
    assert tags["input"] == "features"
