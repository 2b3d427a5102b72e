"""Which images show the same part: groups of near-duplicates, where nobody wrote part ids down.

Two photos of one part differ in exposure, noise, crop, a small shift or turn. Photos of two parts of a well aligned
line differ less than that in their pixels: bottles on a fixture correlate at 0.99. So likeness is judged relative to
how the images of the line vary:

1. each image is moved onto the line's mean image (Lucas and Kanade 1981; shift, turn and growth within small bounds),
   and the mean is subtracted;
2. directions in which the line varies strongly are divided by that variation (whitening);
3. the nearest neighbours of each image, found among the images around a few pivots and not among all pairs, are moved
   onto it one by one, and a pair is a link when its cosine lies far above what unlike images of a line reach;
4. where pairs are either alike or unlike and nearly none between, plain correlation makes links, too: few parts, whose
   differences whitening would divide by, or textures, which it would strip down to their noise.

Links become groups whose members all resemble the member in the middle, so that a chain of links does not run through
the whole line. The images are put into an order of their own first: the result does not depend on theirs.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ganomaly.parts.registration import Floats, inner_of, limits_of, register, standard, unit, warp

Indices = NDArray[np.intp]

SIDE_PX = 64
"""Larger images are shrunk to this: noise averages out, what tells parts apart stays."""
BLUR_PX = 1.2
ROUNDS = 2
"""How often the sample is moved onto its mean image and the mean image drawn again."""

SAMPLE = 1152
"""Images that suffice to learn how the line varies: IMAGES_PER_DIRECTION times DIRECTIONS ..."""
TEMPLATE_SAMPLE = 384
"""... and what its mean image is."""
DIRECTIONS = 384
IMAGES_PER_DIRECTION = 3
NOISE = 3e-5
"""Of the largest variance: what is less is noise and JPEG, and is not made to count like what varies."""
FEWEST_DIRECTIONS = 64
"""In fewer directions chance makes unlike images resemble each other."""
ALIKE = 0.9
"""Correlation with the mean removed: of images that reach it only one counts in the mean of the plain cosine."""
LINK = 0.75
"""Whitened cosine of a link, between missed photos and united parts: docs/experiments.md ..."""
CLEAR_LINK, CLEAR_UNLIKE = 0.5, 0.4
"""... and on lines where nearly no neighbours lie between these two, as on most whose parts vary in many ways."""
PARTS_LINK = 0.9
"""Plain cosine of a link ..."""
PARTS_UNLIKE = 0.8
"""... on lines where nearly no pairs lie between it and this: elsewhere plain likeness proves nothing."""
BETWEEN_SHARE = 0.15
"""Pairs between the two per pair that is alike, among neighbours and in a sample of all pairs ..."""
BETWEEN_OF_ALL = 0.01
"""... where it may also be this share of all that were tried: many images hide the few pairs that are alike."""
TRIED_PAIRS = 1500
MIDDLE = 0.7
"""Each member of a group reaches this share of a link's cosine towards the member in the middle."""

SEARCHED = 128
"""Directions of the search, the strongest ones."""
NEIGHBOURS = 6
LARGE = 20_000
NEIGHBOURS_OF_LARGE = 2
"""Of more than LARGE images: comparing a pair takes most of the time."""
CANDIDATE = 0.25
"""Cosine before a pair is moved onto each other from which it is worth that."""
CELL = 256
PROBES = 8
BLOCK = 256


def content_ids(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.str_]:
    """Content hash of each of N images, uint8 (H, W, C): 16 hexadecimal digits each, (N,)."""
    return np.array(
        [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).hexdigest() for image in images],
        dtype="<U16",
    )


def find_groups(images_nhwc: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Group near-duplicate images of one line.

    Takes about a millisecond for each image and memory for 2 x 128 numbers each; the order of the images does not
    matter. Images of one grey level resemble only their exact copies.

    Args:
        images_nhwc: prepared images (recipe space), uint8 (N, S, S, C).

    Returns:
        The number of its group for each image, (N,), from 0 up in the order of the groups' first images.
    """
    _, first, copy_of = np.unique(content_ids(images_nhwc), return_index=True, return_inverse=True)
    groups = _group_unlike(images_nhwc, first)[copy_of]  # in the order of the hashes from here on
    _, first_of, number = np.unique(groups, return_index=True, return_inverse=True)
    ranks = np.empty(len(first_of), dtype=np.intp)
    ranks[np.argsort(first_of)] = np.arange(len(first_of))
    return ranks[number]


def _group_unlike(images_nhwc: NDArray[np.uint8], chosen: Indices) -> Indices:
    """Groups of the chosen images, of which no two are equal."""
    if len(chosen) < 2:
        return np.zeros(len(chosen), dtype=np.intp)
    gallery = _Gallery(images_nhwc, chosen)
    line = _Line.learn(gallery)
    if line is None:
        return np.arange(len(chosen))
    warps, aligned, as_is = _embed_all(gallery, line)
    pairs = np.unique(np.concatenate([_candidates(aligned), _candidates(as_is)]), axis=0)
    cosines = line.compare(gallery, warps, pairs)
    line = line.judged_by(cosines)
    return _stars(gallery, line, warps, pairs, line.likeness(cosines))


@dataclass(frozen=True)
class _Gallery:
    """Images shrunk and smoothed when they are asked for, so that memory holds no second copy of all of them."""

    images_nhwc: NDArray[np.uint8]
    chosen: Indices

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: Indices | slice) -> Floats:
        """Grey, at most SIDE_PX wide: float32 (K, s, s)."""
        side = min(SIDE_PX, self.images_nhwc.shape[1])
        sigma = BLUR_PX * side / SIDE_PX
        views = []
        for i in self.chosen[indices]:
            grey = self.images_nhwc[i].mean(axis=2, dtype=np.float32)
            if side < grey.shape[0]:
                grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
            views.append(cv2.GaussianBlur(grey, (0, 0), sigma))
        return np.array(views, np.float32)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


@dataclass(frozen=True)
class _Space:
    """Vectors without what all images of the line share, each direction in units of the line's variation.

    Attributes:
        mean_f: float32 (F,).
        basis_fd: float32 (F, D), strongest variation first.
    """

    mean_f: Floats
    basis_fd: Floats

    @classmethod
    def learn(cls, inner_nf: Floats) -> Self:
        """Learn from images, as many directions as they suffice for."""
        mean = inner_nf.mean(axis=0)
        residual = inner_nf - mean
        variance, left = np.linalg.eigh(residual @ residual.T)
        size = min(DIRECTIONS, max(1, len(inner_nf) // IMAGES_PER_DIRECTION))
        largest = np.argsort(-variance)[:size]
        variance = np.maximum(variance[largest], 1e-9)
        directions = residual.T @ (left[:, largest] / np.sqrt(variance))
        basis = directions / np.sqrt(np.maximum(variance, NOISE * variance[0]))
        return cls(mean, basis.astype(np.float32))

    def embed(self, inner_kf: Floats) -> Floats:
        """Vectors of length 1, float32 (K, D)."""
        return unit(np.asarray((inner_kf - self.mean_f) @ self.basis_fd, np.float32))


def _unlike(inner_nf: Floats) -> Indices:
    """Images of which no two correlate by ALIKE or more once the mean is removed."""
    residual = unit(inner_nf - inner_nf.mean(axis=0))
    correlation = residual @ residual.T
    free = np.linalg.norm(residual, axis=1) > 0
    kept = []
    for i in range(len(residual)):
        if free[i]:
            kept.append(i)
            free &= correlation[i] < ALIKE
    return np.array(kept, dtype=np.intp)


@dataclass(frozen=True)
class _Line:
    """What all images of a line have in common, and how they vary.

    Attributes:
        template_1ss: the mean image.
        aligned: of the images moved onto it; every image of the sample counts.
        as_is: the same of images that were not moved: where a line has no common image, moving may harm.
        parts_mean_f: mean of images that are not alike.
        distinct: whether pairs are either alike or unlike and nearly none between, so that plain correlation tells.
        link: whitened cosine of a link.
    """

    template_1ss: Floats
    aligned: _Space
    as_is: _Space
    parts_mean_f: Floats
    distinct: bool
    link: float = LINK

    @classmethod
    def learn(cls, gallery: _Gallery) -> Self | None:
        """Learn from a sample; None if all its images look the same."""
        chosen = np.linspace(0, len(gallery) - 1, min(len(gallery), SAMPLE)).astype(np.intp)
        views = gallery[chosen]
        few = views[np.linspace(0, len(views) - 1, min(len(views), TEMPLATE_SAMPLE)).astype(np.intp)]
        template = standard(few).mean(axis=0, keepdims=True)
        for _ in range(ROUNDS):
            template = standard(warp(few, _onto(few, template))).mean(axis=0, keepdims=True)
        warps = np.concatenate([_onto(views[block], template) for block in _blocks(len(views))])
        inner = inner_of(warp(views, warps))
        unlike = _unlike(inner)
        if len(unlike) < 2:
            return None
        line = cls(template, _Space.learn(inner), _Space.learn(inner_of(views)), inner[unlike].mean(axis=0), False)
        return replace(line, distinct=line._is_distinct(gallery, chosen, warps, inner))

    def _is_distinct(self, gallery: _Gallery, chosen: Indices, warps_k4: Floats, inner_kf: Floats) -> bool:
        vectors = unit(inner_kf - self.parts_mean_f)
        first, second = np.nonzero(np.triu(vectors @ vectors.T >= CANDIDATE, 1))
        tried = np.linspace(0, len(first) - 1, min(len(first), TRIED_PAIRS)).astype(np.intp)
        pairs = np.stack([first[tried], second[tried]], axis=1)
        part = _Gallery(gallery.images_nhwc, gallery.chosen[chosen])
        cosines = self.compare(part, warps_k4, pairs)[:, 1]
        between = int(((cosines >= PARTS_UNLIKE) & (cosines < PARTS_LINK)).sum())
        return (
            between <= BETWEEN_OF_ALL * len(cosines)
            or _share_between(cosines, PARTS_UNLIKE, PARTS_LINK) <= BETWEEN_SHARE
        )

    def judged_by(self, cosines_p2: Floats) -> Self:
        """The same with the cosines of a link that neighbours, (P, 2), leave room for."""
        whitened, plain = cosines_p2.T
        distinct = self.distinct and _share_between(plain, PARTS_UNLIKE, PARTS_LINK) <= BETWEEN_SHARE
        clear = _share_between(whitened, CLEAR_UNLIKE, CLEAR_LINK) <= BETWEEN_SHARE
        return replace(self, distinct=distinct, link=CLEAR_LINK if clear else LINK)

    def likeness(self, cosines_p2: Floats) -> Floats:
        """How alike pairs are, (P,): 1 is a link."""
        whitened, plain = cosines_p2.T
        likeness = np.full(len(cosines_p2), -1, np.float32)
        if self.aligned.basis_fd.shape[1] >= FEWEST_DIRECTIONS:
            likeness = whitened / np.float32(self.link)
        return np.maximum(likeness, plain / PARTS_LINK) if self.distinct else likeness

    def compare(self, gallery: _Gallery, warps_n4: Floats, pairs_p2: Indices) -> Floats:
        """Cosines of pairs in the whitened and the plain space, (P, 2), the second image moved onto the first."""
        cosines = [np.empty((0, 2), np.float32)]
        for block in _blocks(len(pairs_p2)):
            first, second = pairs_p2[block].T
            targets, views = warp(gallery[first], warps_n4[first]), gallery[second]
            warps = register(views, targets, warps_n4[second], 1.5 * limits_of(views.shape[1]))
            left, right = inner_of(targets), inner_of(warp(views, warps))
            whitened = (self.aligned.embed(left) * self.aligned.embed(right)).sum(axis=1)
            plain = (unit(left - self.parts_mean_f) * unit(right - self.parts_mean_f)).sum(axis=1)
            cosines.append(np.stack([whitened, plain], axis=1))
        return np.concatenate(cosines)


def _share_between(cosines_p: Floats, unlike: float, alike: float) -> float:
    """Pairs that are neither alike nor unlike, per pair that is alike."""
    n_alike = int((cosines_p >= alike).sum())
    return (int((cosines_p >= unlike).sum()) - n_alike) / max(1, n_alike)


def _onto(views_kss: Floats, template_1ss: Floats) -> Floats:
    """Warps onto the line's mean image, float32 (K, 4); none for an image that does not come to resemble it more."""
    still = np.zeros((len(views_kss), 4), np.float32)
    warps = register(views_kss, template_1ss, still, limits_of(views_kss.shape[1]))
    goal = inner_of(template_1ss)[0]
    better = inner_of(warp(views_kss, warps)) @ goal > inner_of(views_kss) @ goal
    return np.where(better[:, None], warps, still)


def _embed_all(gallery: _Gallery, line: _Line) -> tuple[Floats, Floats, Floats]:
    """Warps (N, 4) onto the mean image and the vectors to search by, aligned and as they are, (N, D) each."""
    warps, aligned, as_is = [], [], []
    for block in _blocks(len(gallery)):
        views = gallery[block]
        warps.append(_onto(views, line.template_1ss))
        aligned.append(line.aligned.embed(inner_of(warp(views, warps[-1])))[:, :SEARCHED])
        as_is.append(line.as_is.embed(inner_of(views))[:, :SEARCHED])
    return np.concatenate(warps), unit(np.concatenate(aligned)), unit(np.concatenate(as_is))


def _candidates(vectors_nd: Floats) -> Indices:
    """Pairs that are worth comparing, the smaller index first, (P, 2)."""
    found, cosines = _neighbours(vectors_nd)
    first, rank = np.nonzero(cosines >= CANDIDATE)
    return np.sort(np.stack([first, found[first, rank]], axis=1), axis=1)


def _neighbours(vectors_nd: Floats) -> tuple[Indices, Floats]:
    """The NEIGHBOURS nearest images and their cosines for each, (N, K) both; -1 where there are fewer.

    Each image looks among those that share one of its PROBES nearest pivots with it.
    """
    n = len(vectors_nd)
    k = min(NEIGHBOURS if n <= LARGE else NEIGHBOURS_OF_LARGE, n - 1)
    pivots = vectors_nd[np.linspace(0, n - 1, max(1, n // CELL)).astype(np.intp)]
    probes = min(PROBES, len(pivots))
    near = np.concatenate(
        [np.argpartition(-(vectors_nd[b] @ pivots.T), probes - 1, axis=1)[:, :probes] for b in _blocks(n)]
    )
    home = np.concatenate([(vectors_nd[b] @ pivots.T).argmax(axis=1) for b in _blocks(n)])
    found = np.full((n, k), -1, dtype=np.intp)
    best = np.full((n, k), -np.inf, dtype=np.float32)
    for cell in range(len(pivots)):
        members, asking = np.flatnonzero(home == cell), np.flatnonzero((near == cell).any(axis=1))
        for block in _blocks(len(asking)):
            rows = asking[block]
            cosines = vectors_nd[rows] @ vectors_nd[members].T
            cosines[rows[:, None] == members] = -np.inf
            all_cosines = np.concatenate([best[rows], cosines], axis=1)
            all_found = np.concatenate([found[rows], np.broadcast_to(members, cosines.shape)], axis=1)
            top = np.argpartition(-all_cosines, k - 1, axis=1)[:, :k]
            best[rows] = np.take_along_axis(all_cosines, top, axis=1)
            found[rows] = np.take_along_axis(all_found, top, axis=1)
    return found, best


def _stars(gallery: _Gallery, line: _Line, warps_n4: Floats, pairs_p2: Indices, likeness_p: Floats) -> Indices:
    """Group numbers (N,) from pairs that are links, so that each member resembles the member in the middle.

    Connected images whose middle does not resemble them all are taken apart: those that do are a group, the others try
    again among themselves.
    """
    n = len(gallery)
    links = pairs_p2[likeness_p >= 1]
    group, everyone, waiting = np.arange(n), np.arange(n), np.ones(n, dtype=bool)
    linked = links[:, 0] * n + links[:, 1]
    while len(links):
        middle, degree = _middles(links, n)
        close = degree > 0
        direct = np.isin(np.minimum(everyone, middle) * n + np.maximum(everyone, middle), linked)
        unsure = np.flatnonzero(close & ~direct & (middle != everyone))
        towards_middle = line.compare(gallery, warps_n4, np.stack([middle[unsure], unsure], axis=1))
        close[unsure] = line.likeness(towards_middle) >= MIDDLE
        group[close] = middle[close]
        waiting &= ~close
        links = links[waiting[links].all(axis=1)]
    return group


def _middles(links_l2: Indices, n: int) -> tuple[Indices, Indices]:
    """For each of n images the one with the most links among those connected with it, and its own number of links."""
    degree = np.bincount(links_l2.ravel(), minlength=n)
    graph = coo_array((np.ones(len(links_l2)), (links_l2[:, 0], links_l2[:, 1])), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    by_degree = np.lexsort((np.arange(n), -degree))
    _, first = np.unique(component[by_degree], return_index=True)
    return by_degree[first][component], degree
