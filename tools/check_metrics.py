#!/usr/bin/env python3
"""Metrics of segmentations by other people's libraries, to hold Coronet's to.

A case is a mask, a reference and probabilities, all drawn from a fixed seed or by hand, with what these say of them:

    skeleton             scikit-image, `skeletonize(method="zhang")`, of the mask and of the reference
    cl_dice              from these skeletons, by the formula of Shit et al., CVPR 2021
    hd95                 scipy: MONAI's definition (below) in float64; null where one of the masks is empty
    average_precision    scikit-learn, `average_precision_score`; null where the reference is empty, and in cases
                         without probabilities

    tools/check_metrics.py --write tests/metrics/reference.json     makes the checked-in file (this command made it)
    tools/check_metrics.py --verify tests/metrics/reference.json    makes it again in memory and compares; run by
                                                                    `tools/test --full`

MONAI's `compute_hausdorff_distance(include_background=True, percentile=95, directed=False)` is written down here in
five lines, since it rounds to float32; where MONAI is installed, as `tools/setup python` does, both are compared.
`tests/metrics.rs` holds Coronet to the file. Needs numpy, scipy, scikit-image and scikit-learn.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy import ndimage
from skimage.morphology import skeletonize
from sklearn.metrics import average_precision_score

SEED = 20
LIBRARIES = ("numpy", "scipy", "scikit-image", "scikit-learn")
# Bounds of `--verify` on numbers: float64, and other versions of the libraries. MONAI's percentile is taken in float32,
# its rank among the distances too: of some hundred distances that shifts it by 1e-5 of the gap between two.
BOUND, MONAI_BOUND = 1e-12, 1e-4
# Probabilities are multiples of this: Coronet's bins begin there, so binning them changes nothing.
PROBABILITY_STEP = 1 / 1000

Mask = np.ndarray  # bool, rows by columns


# ---- what the libraries say ----------------------------------------------------------------------------------------


def cl_dice(mask: Mask, reference: Mask) -> dict[str, float]:
    """0/0 as in Coronet: a share of nothing is 1, the mean of two zeros is 0."""

    def share_on(skeleton: Mask, of: Mask) -> float:
        return float((skeleton & of).sum() / skeleton.sum()) if skeleton.any() else 1.0

    precision = share_on(skeletonize(mask, method="zhang"), reference)
    sensitivity = share_on(skeletonize(reference, method="zhang"), mask)
    total = precision + sensitivity
    mean = 2 * precision * sensitivity / total if total > 0 else 0.0
    return {"topology_precision": precision, "topology_sensitivity": sensitivity, "cl_dice": mean}


def hd95(mask: Mask, reference: Mask) -> float | None:
    if not mask.any() and not reference.any():
        return 0.0
    if not mask.any() or not reference.any():
        return None
    edges = [m ^ ndimage.binary_erosion(m) for m in (mask, reference)]
    to_mask, to_reference = (ndimage.distance_transform_edt(~e) for e in edges)
    return float(max(np.percentile(to_reference[edges[0]], 95), np.percentile(to_mask[edges[1]], 95)))


def average_precision(permille: np.ndarray | None, reference: Mask) -> float | None:
    if permille is None or not reference.any():
        return None
    return float(average_precision_score(reference.ravel(), permille.ravel() * PROBABILITY_STEP))


def compare_with_monai(name: str, mask: Mask, reference: Mask) -> list[str]:
    """Complaints; none where either mask is empty, for which MONAI gives NaN or infinity."""
    import torch
    from monai.metrics import compute_hausdorff_distance

    ours = hd95(mask, reference)
    if ours is None or not mask.any():
        return []
    a, b = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (mask, reference))
    theirs = float(compute_hausdorff_distance(a, b, include_background=True, percentile=95, directed=False))
    if math.isclose(ours, theirs, rel_tol=MONAI_BOUND, abs_tol=MONAI_BOUND):
        return []
    return [f"{name}: hd95 is {ours} here and {theirs} in MONAI"]


# ---- cases ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    name: str
    mask: Mask
    reference: Mask
    permille: np.ndarray | None  # probabilities in thousandths


def tree(draw: Generator, height: int, width: int, width_scale: float = 1.0) -> Mask:
    """A vessel that wanders down the image, thins and forks."""
    mask = np.zeros((height, width), bool)
    rows, columns = np.mgrid[:height, :width]
    open_ends = [(0.0, draw.uniform(0.3, 0.7) * width, math.pi / 2, 3.0 * width_scale)]
    while open_ends:
        y, x, heading, radius = open_ends.pop()
        while radius > 0.45 * width_scale and -2 < y < height + 2 and -2 < x < width + 2:
            mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            heading += draw.normal(0, 0.25)
            y, x, radius = y + math.sin(heading), x + math.cos(heading), radius * 0.955
            if draw.uniform() < 0.08:
                open_ends.append((y, x, heading + draw.choice([-0.9, 0.9]), radius * 0.8))
    return mask


def blobs(draw: Generator, height: int, width: int, share: float, smooth: float) -> Mask:
    field = ndimage.gaussian_filter(draw.standard_normal((height, width)), smooth)
    return field > np.quantile(field, 1 - share)


def probabilities(draw: Generator, reference: Mask, steepness: float) -> np.ndarray:
    """A network's: right on the whole, blurred, in thousandths; the steeper the surer."""
    logit = steepness * (ndimage.gaussian_filter(4.0 * reference - 1.5, 0.8) + draw.normal(0, 0.8, reference.shape))
    return np.round(1000 / (1 + np.exp(-logit))).astype(int)


def disturbed(draw: Generator, mask: Mask) -> Mask:
    """A mask a little off: moved, wider or thinner, with a bite out of it and a speck too many."""
    moved = np.roll(mask, draw.integers(-1, 2, 2), (0, 1))
    changed = draw.choice([ndimage.binary_dilation, ndimage.binary_erosion])(moved)
    height, width = mask.shape
    y, x = draw.integers(0, height - 6), draw.integers(0, width - 6)
    changed[y : y + 6, x : x + 6] = False
    changed[draw.integers(height), draw.integers(width)] = True
    return changed


def cases() -> list[Case]:
    draw = np.random.default_rng(SEED)
    found: list[Case] = []

    def add(name: str, mask: Mask, reference: Mask, steepness: float | None = None) -> None:
        permille = None if steepness is None else probabilities(draw, reference, steepness)
        found.append(Case(name, mask, reference, permille))

    def pair(name: str, reference: Mask, steepness: float | None = None) -> None:
        add(name, disturbed(draw, reference), reference, steepness)

    empty, full = np.zeros((8, 10), bool), np.ones((8, 10), bool)
    one = empty.copy()
    one[3, 4] = True
    corner = empty.copy()
    corner[7, 9] = True
    add("both empty", empty, empty, 1.0)
    add("empty mask", empty, one, 1.0)
    add("empty reference", one, empty)
    add("single pixels", one, corner)
    add("full against a pixel in a corner", full, corner)
    add("both full", full, full, 1.0)
    add("a single row", np.arange(15)[None] % 4 != 0, np.arange(15)[None] % 5 != 0)
    add("a single column", np.arange(15)[:, None] % 4 != 0, np.arange(15)[:, None] > 6)
    for i in range(6):
        pair(f"tree {i}", tree(draw, 32, 24), 1.0 if i < 3 else None)
    pair("tree of a network that is sure", tree(draw, 32, 24), 6.0)
    pair("wide tree", tree(draw, 28, 36, 1.8))
    for share, smooth in [(0.2, 2.0), (0.5, 1.2), (0.7, 1.0), (0.35, 0.6)]:
        add(
            f"blobs, {share:.0%} smoothed by {smooth}",
            blobs(draw, 24, 32, share, smooth),
            blobs(draw, 24, 32, share, smooth),
        )
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        add(f"noise, {share:.0%}", draw.random((20, 20)) < share, draw.random((20, 20)) < share)
    # All 256 neighbourhoods of a pixel, each with background around it: every entry of a thinning table is looked up.
    every = np.zeros((16 * 5, 16 * 5), bool)
    around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    for code in range(256):
        y, x = code // 16 * 5 + 2, code % 16 * 5 + 2
        every[y, x] = True
        for bit, (dy, dx) in enumerate(around):
            every[y + dy, x + dx] = code >> bit & 1
    add("every neighbourhood", every, tree(draw, *every.shape))
    return found


# ---- the file ------------------------------------------------------------------------------------------------------


def drawing(mask: Mask) -> list[str]:
    return ["".join("#" if pixel else "." for pixel in row) for row in mask]


def answers(case: Case) -> dict[str, object]:
    return {
        "name": case.name,
        "mask": drawing(case.mask),
        "mask_skeleton": drawing(skeletonize(case.mask, method="zhang")),
        "reference": drawing(case.reference),
        "reference_skeleton": drawing(skeletonize(case.reference, method="zhang")),
        "permille": None if case.permille is None else [" ".join(map(str, row)) for row in case.permille],
        **cl_dice(case.mask, case.reference),
        "hd95": hd95(case.mask, case.reference),
        "average_precision": average_precision(case.permille, case.reference),
    }


def document() -> dict[str, object]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"made_by": "tools/check_metrics.py", "libraries": versions, "cases": [answers(case) for case in cases()]}


def differences(stored: object, fresh: object, path: str = "") -> list[str]:
    if isinstance(fresh, float) and isinstance(stored, (int, float)):
        same = math.isclose(stored, fresh, rel_tol=BOUND, abs_tol=BOUND)
        return [] if same else [f"{path}: the file has {stored}, the libraries say {fresh}"]
    if isinstance(fresh, dict) and isinstance(stored, dict) and fresh.keys() == stored.keys():
        return [d for key in fresh for d in differences(stored[key], fresh[key], f"{path}/{key}")]
    if isinstance(fresh, list) and isinstance(stored, list) and len(fresh) == len(stored):
        return [d for i, (a, b) in enumerate(zip(stored, fresh)) for d in differences(a, b, f"{path}/{i}")]
    return [] if stored == fresh else [f"{path}: the file has {stored!r}, the libraries say {fresh!r}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", type=Path, metavar="FILE", help="make the file anew")
    action.add_argument("--verify", type=Path, metavar="FILE", help="compare the file with what the libraries say")
    arguments = parser.parse_args()

    fresh = document()
    complaints: list[str] = []
    try:
        import monai

        against = f"MONAI {monai.__version__}"
        for case in cases():
            complaints += compare_with_monai(case.name, case.mask, case.reference)
    except ModuleNotFoundError as missing:
        against = f"no MONAI ({missing})"
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        arguments.write.write_text(json.dumps(fresh, indent=1) + "\n")
    else:
        stored = json.loads(arguments.verify.read_text())
        if stored["libraries"] != fresh["libraries"]:
            print(f"note: made with {stored['libraries']}, compared with {fresh['libraries']}")
        complaints += differences(stored["cases"], fresh["cases"])
    for complaint in complaints:
        print(complaint)
    print(f"{len(fresh['cases'])} cases, compared with {against}: {len(complaints)} differences")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
