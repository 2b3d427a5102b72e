"""The golden set of a line: images with known verdicts, under a prefix of their own, and the list that names them.

The list is ``labels.csv`` with the columns ``image`` (name below the prefix) and ``kind`` (``good``, or the name of a
defect). Further columns may be empty or missing: ``mask`` (name of a picture that is not black where the defect is),
``part``, ``sha256``, ``source`` (key that the image was copied from), ``who``, ``added_at``.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pandas as pd

from ganomaly.images.preparation import prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.bucket.failures import ObjectMissingError
from tasks.errors import OperatingError
from tasks.registry.versions import ModelVersion
from tasks.store.rows import Review, StoredImage
from tasks.store.runs import new_run_id
from tasks.systems import Systems
from tasks.training.normal_list import as_text

LABELS = "labels.csv"
GOOD = "good"
COLUMNS = ("image", "kind", "mask", "part", "sha256", "source", "who", "added_at")
NAMED = 5


class GoldenSetError(OperatingError):
    """A golden set that cannot be used or changed as it is."""


@dataclass(frozen=True)
class GoldenImage:
    """One image of a golden set.

    Attributes:
        image: name below the set's prefix.
        kind: ``good``, or the name of a defect.
        mask: name of the picture that shows where the defect is; empty where there is none.
        part: the item that it shows; images of one part count as one.
        sha256: of its bytes, hexadecimal; empty where the list does not say.
        source: key that it was copied from.
        who: added it.
        added_at: when, as the list says.
    """

    image: str
    kind: str
    mask: str = ""
    part: str = ""
    sha256: str = ""
    source: str = ""
    who: str = ""
    added_at: str = ""

    @property
    def is_defective(self) -> bool:
        """Whether it shows a defect."""
        return self.kind != GOOD


def read_golden_set(systems: Systems) -> list[GoldenImage]:
    """The line's golden images in the order of their list; none where the line has no list.

    Raises:
        GoldenSetError: for a list that is no table, lacks a column, or names an image twice; says where.
    """
    key = systems.line.golden_prefix + LABELS
    # listed, not asked for: who may not list gets the same answer for what is missing as for what is forbidden
    if not any(found.key == key for found in systems.objects.list_objects(key)):
        return []
    where, rows = systems.objects.uri(key), []
    reader = csv.DictReader(io.StringIO(as_text(systems.objects.get(key)), newline=None), strict=True)
    try:
        if missing := [name for name in ("image", "kind") if name not in (reader.fieldnames or [])]:
            raise GoldenSetError(f"{where}: has no column {', '.join(missing)}; it needs image and kind")
        for row in reader:
            values = {name: (row.get(name) or "").strip() for name in COLUMNS}
            if not values["image"] or not values["kind"]:
                raise GoldenSetError(f"{where}, line {reader.line_num}: image and kind must not be empty")
            rows.append(GoldenImage(**values | {"part": values["part"] or values["image"]}))
    except csv.Error as error:
        raise GoldenSetError(f"{where}, line {reader.line_num}: is no CSV table ({error})") from None
    if twice := [name for name, count in Counter(row.image for row in rows).items() if count > 1]:
        raise GoldenSetError(f"{where}: names {twice[0]!r} twice")
    return rows


def fetch_golden(systems: Systems, images: Sequence[GoldenImage]) -> Iterator[tuple[GoldenImage, bytes]]:
    """The images with their bytes, one after the other, each with its SHA-256.

    Raises:
        GoldenSetError: if one is not there, or is not the one that was added.
    """
    for image in images:
        key = systems.line.golden_prefix + image.image
        try:
            data = systems.objects.get(key)
        except ObjectMissingError:
            raise GoldenSetError(
                f"{systems.objects.uri(key)}: is not there, but {LABELS} names it; put it back or remove its row"
            ) from None
        sha256 = hashlib.sha256(data).hexdigest()
        if image.sha256 not in ("", sha256):
            raise GoldenSetError(
                f"{systems.objects.uri(key)}: its SHA-256 is {sha256[:12]}, {LABELS} says {image.sha256[:12]}: it was "
                "replaced; put the image back or correct its row"
            )
        yield replace(image, sha256=sha256), data


def refuse_trained_on(systems: Systems, images: Sequence[GoldenImage], version: ModelVersion) -> None:
    """See that a version learned from none of the images.

    Args:
        systems: of the line.
        images: with their SHA-256, see `fetch_golden`.
        version: of the line's model.

    Raises:
        GoldenSetError: names the first images that it did learn from.
    """
    if both := trained_on(systems.registry.snapshot_manifest(version), images):
        named = ", ".join(repr(image.image) for image in both[:NAMED])
        raise GoldenSetError(
            f"{len(both)} golden images of {systems.line.name} were used to train {version.uri}, for example {named}: "
            f"they prove nothing about it; remove their rows from {systems.line.golden_prefix}{LABELS} (a new training "
            "leaves golden images out)"
        )


def trained_on(manifest: pd.DataFrame, images: Sequence[GoldenImage]) -> list[GoldenImage]:
    """Those of the images, with their SHA-256, that are in a snapshot, under whatever key."""
    known = set(manifest["sha256"])
    return [image for image in images if image.sha256 in known]


def add_to_golden_set(systems: Systems, part_or_key: str, kind: str | None, who: str) -> list[GoldenImage]:
    """Copy the images of a reviewed part into the line's golden set; gives those that are new in it.

    All views of a good part, and that one view of a defective part which the reviewer's finding is attached to.

    Args:
        systems: of the line.
        part_or_key: a part, or the key of one image.
        kind: of defect; default ``good`` or ``defect``, as the newest review says.
        who: adds it.

    Raises:
        GoldenSetError: if the part was never reviewed, the review contradicts ``kind``, or a model learned from it.
    """
    line = systems.line
    if not who.strip():
        raise GoldenSetError(f"who = {who!r}: the golden set keeps the name of who added an image; give --who NAME")
    images, review = _reviewed(systems, part_or_key)
    found = GOOD if review.finding == "good" else "defect"
    kind = (kind or found).strip()
    if (kind == GOOD) != (found == GOOD):
        raise GoldenSetError(
            f"{part_or_key!r}: {review.who} found it {review.finding}, so that its kind cannot be {kind!r}; "
            f"record another finding first with `inspection review {line.name}`"
        )
    chosen = images if found == GOOD else [image for image in images if image.id == review.image_id]
    copies = {image.sha256: _copy_of(image, kind, who.strip()) for image in chosen}
    sources = {image.sha256: image for image in chosen}
    champion, challenger = systems.registry.champion(line.name), systems.registry.challenger(line.name)
    for version in (champion, challenger):
        if version is not None:
            refuse_trained_on(systems, list(copies.values()), version)
    with systems.store.leases.held(f"{line.name} golden set", new_run_id(), systems.settings.lease_s):
        before = [image for image, _ in fetch_golden(systems, read_golden_set(systems))]
        for known in before:
            if known.sha256 in copies and known.kind != kind:
                raise GoldenSetError(
                    f"{part_or_key!r}: is in the golden set as {known.image} with kind {known.kind!r}; "
                    f"if it is {kind!r}, change its row in {line.golden_prefix}{LABELS}"
                )
        new = [copy for sha256, copy in copies.items() if sha256 not in {image.sha256 for image in before}]
        for copy in new:
            source = sources[copy.sha256]
            data = systems.objects.get(source.key, source.etag)
            systems.objects.put(line.golden_prefix + copy.image, data, "application/octet-stream")
        if new:
            systems.objects.put(line.golden_prefix + LABELS, labels_csv([*before, *new]), "text/csv; charset=utf-8")
    return new


def labels_csv(images: Sequence[GoldenImage]) -> bytes:
    """The list of a golden set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(image, name) for name in COLUMNS] for image in images)
    return text.getvalue().encode()


def check_golden_set(systems: Systems) -> tuple[list[GoldenImage], list[str]]:
    """The images, and what is wrong with the set: missing, replaced, unusable, twice, or trained on; a line for each.

    Raises:
        GoldenSetError: for a list that cannot be read.
    """
    images, wrong, whole = read_golden_set(systems), [], []
    recipe, gate = _newest_recipe(systems)
    for image in images:
        try:
            ((found, data),) = fetch_golden(systems, [image])
        except GoldenSetError as error:
            wrong.append(str(error))
            continue
        whole.append(found)
        prepared = prepare_image(data, recipe, gate)
        if not prepared.usable:
            wrong.append(f"{image.image}: unusable: {prepared.detail}")
    for sha256, count in Counter(image.sha256 for image in whole).items():
        if count > 1:
            names = [image.image for image in whole if image.sha256 == sha256]
            wrong.append(f"{names[1]}: is the same image as {names[0]}")
    for version in (systems.registry.champion(systems.line.name), systems.registry.challenger(systems.line.name)):
        if version is not None:
            both = trained_on(systems.registry.snapshot_manifest(version), whole)
            wrong += [f"{image.image}: was used to train {version.uri}" for image in both]
    return images, wrong


def _newest_recipe(systems: Systems) -> tuple[Recipe, QualityGate]:
    """How the champion sees images; without one, what the line's file says."""
    champion = systems.registry.champion(systems.line.name)
    if champion is None:
        return systems.line.recipe.model_copy(update={"align": "none"}), systems.line.quality
    detector = systems.registry.load_detector(champion, systems.settings.work_dir / "models", "cpu")
    return detector.config.recipe, detector.config.quality


def _reviewed(systems: Systems, part_or_key: str) -> tuple[list[StoredImage], Review]:
    """The newest version of each of the part's images, and the newest finding on one of them."""
    line = systems.line.name
    images = systems.store.images.find(part_or_key, line)
    if not images:
        raise GoldenSetError(
            f"line {line} knows no part and no key {part_or_key!r}; give the part as the report names it"
        )
    reviews = systems.store.decisions.reviews([image.id for image in images])
    if not reviews:
        raise GoldenSetError(
            f"{part_or_key!r}: nobody has said what it is; record it first with `inspection review {line} "
            f"{part_or_key} --finding good` or `--finding defect`"
        )
    reviewed = {image.id: image for image in images}[reviews[-1].image_id]
    # part names may come again on another day
    newest = {image.key: image for image in images if image.production_date == reviewed.production_date}  # oldest first
    newest[reviewed.key] = reviewed
    return list(newest.values()), reviews[-1]


def _copy_of(image: StoredImage, kind: str, who: str) -> GoldenImage:
    folder, part = (re.sub(r"[^\w.-]+", "_", text) for text in (kind, image.part))
    name = f"{folder}/{part}-{image.sha256[:12]}{PurePosixPath(image.key).suffix}"
    added_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return GoldenImage(name, kind, "", image.part, image.sha256, image.key, who, added_at)
