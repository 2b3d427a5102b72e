"""Mutates valid image files and keys at random and watches what becomes of them, in processes that may die.

    python tests/faults/fuzz.py --files 100000 --seed 0

Each file goes through `decode_image` and, if it decodes, `prepare_image`; each key through `LineConfig.parse_key` of
several layouts. Allowed is an image, an `ImageError`, a parsed key or None. A further file, of a kind that has a
checksum over every pixel, is damaged where its pixels stand: it must be refused, or decode to the pixels of the whole
one. Everything else is a finding: "decoded but different", another exception, a process that dies, one that is silent
for too long, one that takes too much memory. The file of a finding is saved under its seed and number, from which it
can be made again. Exits with 1 if there was a finding.
"""

import argparse
import faulthandler
import json
import multiprocessing
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
from bad_images import KEYS, valid_files

from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image
from ganomaly.images.preparation import prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.lines.line import LineConfig
from tests.ganomaly.images.files import PROVEN

MAX_PIXELS = 4_000_000
PROGRESS_S = 10.0
START_S = 300.0  # until the first answer of a process, which imports torch
ADDRESS_SPACE_BYTES = 4_000_000_000  # beyond what the process has before its first file: keeps the machine alive
PATTERNS = (
    "{date}/{part}/{view}.{ext}",
    "{date}/{part}.{ext}",
    "{part}_{view}_{date}.png",
    "{view}-{part}/{date}/img.{ext}",
)
EXTREMES = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 32, 64, 127, 128, 255, 256, 1000),
    *(0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
    *(1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
)


# --- mutations: each takes the file, a generator and the other files, and gives another file ------------------------


def _place(data: bytes, rng: random.Random) -> int:
    """A position: mostly near an end, where a file's structure stands."""
    near = rng.randrange(min(len(data), 300))
    return rng.choice((near, near, len(data) - 1 - near, rng.randrange(len(data))))


def flip_bits(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Some bits are turned."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def write_bytes(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Some bytes become others."""
    at = _place(data, rng)
    new = rng.randbytes(rng.randint(1, 16))
    return data[:at] + new + data[at + len(new) :]


def write_extreme(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A number of 1 to 8 bytes becomes an extreme one: sizes, counts and offsets are such numbers."""
    at = _place(data, rng)
    width = rng.choice((1, 2, 2, 4, 4, 4, 8))
    value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
    return data[:at] + value.to_bytes(width, rng.choice(("big", "little"))) + data[at + width :]


def cut(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """The start of this file, the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def insert(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A run of one byte, or of random ones, in between."""
    at, length = _place(data, rng), rng.choice((1, 2, 4, 64, 1000, 70_000))
    run = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
    return data[:at] + run + data[at:]


def remove(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A piece is missing."""
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 2, 4, 64, 500)) :]


def repeat(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A piece stands there many times."""
    at, length = _place(data, rng), rng.randint(1, 200)
    return data[:at] + data[at : at + length] * rng.randint(2, 50) + data[at:]


def change_field(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A number of the structure itself becomes extreme: a chunk's length, a size, a TIFF entry's kind or count."""
    fields = list(_fields(data))
    if not fields:
        return data
    at, width, order = rng.choice(fields)
    value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
    return data[:at] + value.to_bytes(width, order) + data[at + width :]


def borrow_chunk(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A PNG gets a chunk of another one."""
    mine = _png_chunks(data)
    theirs = [(other, chunk) for other in others for chunk in _png_chunks(other)]
    if not mine or not theirs:
        return data
    other, (start, end) = rng.choice(theirs)
    at = rng.choice(mine)[1]
    return data[:at] + other[start:end] + data[at:]


MUTATIONS: tuple[Callable[[bytes, random.Random, Sequence[bytes]], bytes], ...] = (
    flip_bits,
    write_bytes,
    write_extreme,
    cut,
    splice,
    insert,
    remove,
    repeat,
    change_field,
    change_field,
    borrow_chunk,
)


def _png_chunks(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each whole chunk of a PNG; none of another file."""
    chunks: list[tuple[int, int]] = []
    at = 8
    while data.startswith(b"\x89PNG\r\n\x1a\n") and at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        chunks.append((at, end))
        at = end
    return chunks


def _fields(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Position, width and byte order of the numbers that a file's structure is made of."""
    for start, end in _png_chunks(data):
        yield start, 4, "big"
        if end - start >= 20 and data[start + 4 : start + 8] != b"IDAT":
            yield from ((start + 8 + at, 4, "big") for at in range(0, min(28, end - start - 12), 4))
    if data.startswith(b"\xff\xd8"):
        for match in re.finditer(rb"\xff[\xc0-\xcf\xda-\xef]", data[:2000]):
            for at, width in ((1, 1), (2, 2), (4, 1), (5, 2), (7, 2), (9, 1)):
                yield match.start() + at, width, "big"
    if data.startswith(b"BM"):
        yield from ((at, 4, "little") for at in range(2, 54, 4))
    if data[:2] in (b"II", b"MM") and len(data) >= 16:
        yield from _tiff_fields(data)


def _tiff_fields(data: bytes) -> Iterator[tuple[int, int, str]]:
    order, mark = ("little", "<") if data[:2] == b"II" else ("big", ">")
    big = 43 in data[2:4]
    width, first, entry, head = (8, 8, 20, 8) if big else (4, 4, 12, 2)
    yield first, width, order
    (directory,) = struct.unpack_from(mark + ("Q" if big else "I"), data, first)
    yield directory, head, order
    for n in range(24):
        at = directory + head + n * entry
        yield from ((at, 2, order), (at + 2, 2, order), (at + 4, width, order), (at + 4 + width, width, order))


def _mend_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums again: otherwise nothing behind them is reached."""
    mended = bytearray(data)
    for start, end in _png_chunks(data):
        mended[end - 4 : end] = zlib.crc32(data[start + 4 : end - 4]).to_bytes(4, "big")
    return bytes(mended)


@cache
def _corpus() -> Mapping[str, bytes]:
    return valid_files()


def mutated_file(seed: int, number: int) -> bytes:
    """The file of this seed and number, always the same."""
    rng = random.Random(f"{seed}-{number}")
    others = list(_corpus().values())
    data = rng.choice(others)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if data:
            data = rng.choice(MUTATIONS)(data, rng, others)
    return _mend_checksums(data) if rng.random() < 0.7 else data


def mutated_key(seed: int, number: int) -> str:
    """The key of this seed and number, always the same: a right layout with hostile fields, some characters changed."""
    rng = random.Random(f"{seed}-key-{number}")
    pieces = [*(case.key.split("/")[1] for case in KEYS), "top", "_", "-", ".", "2026-03-08", "2026-02-31", "\x00", "/"]
    part, view = ("".join(rng.choices(pieces, k=rng.randint(1, 3))) for _ in range(2))
    day, extension = rng.choice(("2026-03-08", "0000-00-00", "9999-12-31", "2026-3-8")), rng.choice(("png", "", "T1f"))
    key = rng.choice(PATTERNS).format(date=day, part=part, view=view, ext=extension)
    characters = list(unicodedata.normalize(rng.choice(("NFC", "NFD")), key)[:1024])
    for _ in range(rng.choice((0, 0, 1, 5))):
        characters[rng.randrange(len(characters))] = chr(rng.choice((rng.randrange(32, 0x250), rng.randrange(0xD800))))
    return "".join(characters)


# --- what is tried --------------------------------------------------------------------------------------------------

_RECIPE = Recipe(size_px=32)
_OPEN_GATE = QualityGate(min_side_px=1, min_brightness=0, max_saturated_fraction=1, min_contrast=0, min_sharpness=0)


def try_file(data: bytes) -> str:
    """The outcome in a word; whatever else happens is raised."""
    try:
        pixels = decode_image(data, max_pixels=MAX_PIXELS)
    except ImageError as error:
        if "allocate" in error.detail:
            raise MemoryError(error.detail) from error
        return error.reason
    prepared = prepare_image(pixels, _RECIPE, _OPEN_GATE)
    if prepared.pixels is None or prepared.pixels.shape != (32, 32, 1):
        raise ValueError(f"{pixels.shape} {pixels.dtype} prepared as {prepared.reason}: {prepared.detail}")
    return "image"


@cache
def _whole(kind: str) -> tuple[bytes, np.ndarray]:
    return PROVEN[kind], decode_image(PROVEN[kind])


def try_damage(seed: int, number: int) -> str:
    """The outcome in a word; pixels that differ from those of the whole file are raised."""
    rng = random.Random(f"{seed}-damage-{number}")
    data, pixels = _whole(rng.choice([kind for kind in PROVEN if kind.startswith("PNG") or "deflate" in kind]))
    begin = len(data) // 5 if data.startswith(b"\x89PNG") else len(data) // 2  # directories have no checksum
    at, length = rng.randrange(begin, len(data) * 9 // 10), rng.choice((1, 1, 16, 512))
    content = rng.choice((bytes(length), rng.randbytes(length), b""))
    try:
        found = decode_image(data[:at] + content + data[at + length :])
    except ImageError:
        return "damage is refused"
    if not np.array_equal(found, pixels):
        raise ValueError(f"decoded but different: {length} bytes at byte {at} of {len(data)}")
    return "damage that changes nothing"


@cache
def _lines() -> Sequence[LineConfig]:
    return [LineConfig.model_validate({"name": "cells", "images": {"prefix": "", "key_pattern": p}}) for p in PATTERNS]


def try_key(key: str) -> str:
    """The outcome in a word; a key that is parsed must be what its fields say."""
    outcome = "key of another layout"
    for line in _lines():
        fields = line.parse_key(key)
        if fields is None:
            continue
        outcome = "key of an image"
        said = (fields.date.isoformat(), fields.part, fields.view)
        if any(text not in key or "/" in text for text in said) or not fields.part:
            raise ValueError(f"{line.images.key_pattern} took {key!r} for {fields}")
    return outcome


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Which files are tried, what one of them may take, and where findings are saved."""

    seed: int
    seconds: float
    memory_mb: int
    folder: Path


@dataclass
class Summary:
    """What became of the files so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[tuple[int, str]] = field(default_factory=list)
    peak_memory_mb: int = 0
    slowest_s: float = 0.0
    slowest: int = -1

    def note(self, number: int, outcomes: Sequence[str], memory_mb: int, seconds: float) -> None:
        """Count one file and its key."""
        self.outcomes.update(outcomes)
        self.peak_memory_mb = max(self.peak_memory_mb, memory_mb)
        if seconds > self.slowest_s:
            self.slowest_s, self.slowest = seconds, number

    def found(self, job: Job, number: int, finding: str) -> None:
        """Keep a finding, and save its file and key at once."""
        self.findings.append((number, finding))
        job.folder.mkdir(parents=True, exist_ok=True)
        stem = job.folder / f"{job.seed}-{number}"
        stem.with_suffix(".bin").write_bytes(mutated_file(job.seed, number))
        stem.with_suffix(".txt").write_text(f"{finding}\nkey: {mutated_key(job.seed, number)!r}\n", encoding="utf-8")


def _used_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _prepare_process(errors: str) -> None:
    """One thread, a bounded address space, and everything that C libraries print in a file."""
    descriptor = os.open(errors, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 2)
    faulthandler.enable()
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(0)
    with Path("/proc/self/statm").open() as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    limit = taken + ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _work(job: Job, numbers: range, errors: str, answers: Connection) -> None:
    """Try files one after another, telling the outcome of each; ends early after one that took too much memory."""
    _prepare_process(errors)
    for text in ("", "warm up"):
        try_file(_corpus()["png-rgb"])
        try_key(text)
    before = _used_mb()
    for number in numbers:
        start = time.monotonic()
        os.truncate(errors, 0)
        finding = None
        outcomes: list[str] = []
        try:
            outcomes.append(try_file(mutated_file(job.seed, number)))
            outcomes.append(try_key(mutated_key(job.seed, number)))
            outcomes.append(try_damage(job.seed, number))
        except Exception as error:
            finding = f"{type(error).__name__}: {error}"
        memory_mb = _used_mb() - before
        if memory_mb > job.memory_mb:
            finding = f"took {memory_mb} MB"
        answers.send((number, outcomes, memory_mb, time.monotonic() - start, finding))
        if memory_mb > job.memory_mb:
            return


def _run(job: Job, numbers: range, summary: Summary) -> None:
    """Have a range of files tried, with a new process after each that died, fell silent or took too much memory."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        with tempfile.NamedTemporaryFile(prefix="fuzz-") as errors:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(job, numbers, errors.name, theirs), daemon=True)
            process.start()
            theirs.close()
            numbers, silent = _follow(ours, numbers, job, summary)
            if silent or not numbers:
                process.kill()
            process.join()
            if numbers and (silent or process.exitcode != 0):
                said = Path(errors.name).read_text("utf-8", "replace")[:2000]
                ended = "was silent for too long" if silent else f"ended with {process.exitcode}"
                summary.found(job, numbers[0], f"the process {ended}\n{said}")
                numbers = numbers[1:]


def _follow(answers: Connection, numbers: range, job: Job, summary: Summary) -> tuple[range, bool]:
    """Note a process's answers until it ends; gives the numbers it did not answer and whether it fell silent."""
    patience_s = START_S
    while numbers:
        if not answers.poll(patience_s):
            return numbers, True
        try:
            number, outcomes, memory_mb, seconds, finding = answers.recv()
        except EOFError:
            break
        summary.note(number, outcomes, memory_mb, seconds)
        if finding is not None:
            summary.found(job, number, finding)
        numbers = numbers[1:]
        patience_s = job.seconds
    return numbers, False


def fuzz(job: Job, files: int, workers: int, *, first: int = 0, progress: bool = False) -> Summary:
    """Try so many files in so many processes."""
    summaries = [Summary() for _ in range(workers)]
    shards = [range(first + n, first + files, workers) for n in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        runs = [pool.submit(_run, job, shard, mine) for shard, mine in zip(shards, summaries, strict=True)]
        while wait(runs, timeout=PROGRESS_S).not_done:
            if progress:
                done = sum(sum(mine.outcomes.values()) for mine in summaries) // 3
                found = sum(len(mine.findings) for mine in summaries)
                sys.stderr.write(f"{done} of {files} files, {found} findings\n")
        for run in runs:
            run.result()
    return _together(summaries)


def _together(summaries: Sequence[Summary]) -> Summary:
    whole = Summary()
    for mine in summaries:
        whole.outcomes += mine.outcomes
        whole.findings += mine.findings
        whole.peak_memory_mb = max(whole.peak_memory_mb, mine.peak_memory_mb)
        if mine.slowest_s > whole.slowest_s:
            whole.slowest_s, whole.slowest = mine.slowest_s, mine.slowest
    return whole


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000, help="how many files (and as many keys); default 2000")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other files; default 0")
    parser.add_argument("--first", type=int, default=0, help="number of the first file, to repeat a finding; default 0")
    parser.add_argument("--workers", type=int, default=1, help="processes; default 1")
    parser.add_argument("--seconds", type=float, default=20, help="how long a file may take; default 20")
    parser.add_argument("--memory-mb", type=int, default=256, help="how much a process may grow; default 256")
    parser.add_argument("--save", type=Path, default=Path("var/fuzz"), help="folder for findings; default var/fuzz")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser.parse_args()


def main() -> int:
    """The command."""
    asked = _arguments()
    start = time.monotonic()
    job = Job(asked.seed, asked.seconds, asked.memory_mb, asked.save)
    summary = fuzz(job, asked.files, asked.workers, first=asked.first, progress=not asked.json)
    took = time.monotonic() - start
    figures = {
        "files": asked.files,
        "files_per_s": round(asked.files / took, 1),
        "outcomes": dict(summary.outcomes.most_common()),
        "peak_memory_mb": summary.peak_memory_mb,
        "slowest_s": round(summary.slowest_s, 3),
        "slowest": summary.slowest,
        "findings": [f"{asked.save}/{asked.seed}-{number}.bin: {finding}" for number, finding in summary.findings],
    }
    sys.stdout.write((json.dumps(figures) if asked.json else _in_words(figures)) + "\n")
    return 1 if summary.findings else 0


def _in_words(figures: Mapping[str, object]) -> str:
    lines = [f"{figures['files']} files and keys, {figures['files_per_s']} a second"]
    lines += [f"  {count:>8}  {outcome}" for outcome, count in dict(figures["outcomes"]).items()]
    lines.append(f"at most {figures['peak_memory_mb']} MB beyond the start, {figures['slowest_s']} s for one file")
    return "\n".join([*lines, *(figures["findings"] or ["no finding"])])


if __name__ == "__main__":
    sys.exit(main())
