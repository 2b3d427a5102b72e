"""What people found on parts: recorded beside the verdicts, never over them."""

from dataclasses import dataclass
from datetime import date

from tasks.audit.lookup import Archive, NothingRecordedError, nothing_recorded
from tasks.errors import OperatingError
from tasks.store.rows import Finding, Review, StoredImage, StoredScore

MOST_DAYS_NAMED = 5


class ReviewError(OperatingError):
    """A finding that cannot be recorded as it is."""


@dataclass(frozen=True)
class ReviewOutcome:
    """A recorded finding and what it says about the verdict.

    Attributes:
        review: as it was recorded.
        image: that it is attached to.
        verdict: the newest one on that image, None if there is none.
        meaning: ``false reject``, ``escape``, ``confirmed`` or ``not judged``.
    """

    review: Review
    image: StoredImage
    verdict: StoredScore | None
    meaning: str


def record_finding(
    archive: Archive, line: str, part_or_key: str, finding: Finding, who: str, note: str = "", day: date | None = None
) -> ReviewOutcome:
    """Record what a person found on a part; nothing is ever changed or removed, a later finding stands beside it.

    It is attached to the newest version of the object; where a part has several views, to the one that looked worst.
    Names of parts may come again on another day: without a `day` the newest production date of that name is meant.

    Raises:
        NothingRecordedError: if the line has no such part or key, or not on that day.
        ReviewError: if nobody is named.
    """
    if not who.strip():
        raise ReviewError(f"who = {who!r}: a finding needs the name of the person who found it; give --who NAME")
    images = archive.store.images.find(part_or_key, line)
    if not images:
        raise nothing_recorded(archive, part_or_key, line)
    days = sorted({image.production_date for image in images})
    if day is not None and day not in days:
        raise NothingRecordedError(
            f"{archive.address} knows no part and no key {part_or_key!r} of line {line} on {day}, but on "
            f"{', '.join(map(str, days[-MOST_DAYS_NAMED:]))}"
        )
    images = [image for image in images if image.production_date == (day or days[-1])]
    newest = {image.key: image for image in sorted(images, key=lambda image: (image.captured_at, image.id))}
    verdicts = {v.image_id: v for v in archive.store.scores.of_images([image.id for image in newest.values()])}
    image = max(newest.values(), key=lambda image: (_badness(verdicts.get(image.id)), image.captured_at))
    recorded = archive.store.decisions.record_review(line, image.id, finding, who.strip(), note)
    verdict = verdicts.get(image.id)
    return ReviewOutcome(recorded, image, verdict, _meaning(finding, verdict))


def _badness(verdict: StoredScore | None) -> float:
    return -1.0 if verdict is None or verdict.normalised_score is None else verdict.normalised_score


def _meaning(finding: Finding, verdict: StoredScore | None) -> str:
    if verdict is None or verdict.verdict == "unusable":
        return "not judged"
    if verdict.verdict == "flagged":
        return "confirmed" if finding == "defect" else "false reject"
    return "escape" if finding == "defect" else "confirmed"
