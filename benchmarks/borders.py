"""The background of an image, without knowing its object: the border, low frequencies, masks.

Images are (n, side, side, 3) uint8 RGB. A correlation is Pearson's over the values that are
compared, all channels together, image by image.
"""

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

FRAME = 8  # the border is a frame of 1/8 of the side: 4 of 32 pixels
CELLS = 8
THIRDS = ("usual", "middle", "unusual")
RIDGE = 1e-6


def border(side: int) -> np.ndarray:
    """Return the mask (side, side) of the frame, in booleans."""
    width = max(1, side // FRAME)
    mask = np.ones((side, side), bool)
    mask[width:-width, width:-width] = False
    return mask


def correlations(first: np.ndarray, second: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the correlation of two images over the pixels of a mask, for each of n pairs.

    `masks` is (side, side), or (n, side, side) for a mask of each pair. It is NaN for an image
    that is constant there.
    """
    masks = np.broadcast_to(masks, first.shape[:3])
    return np.array(
        [_correlation(a[m], b[m]) for a, b, m in zip(first, second, masks, strict=True)]
    )


def low_frequencies(images: np.ndarray) -> np.ndarray:
    """Return the mean colours (n, CELLS, CELLS, 3) of boxes."""
    n, side = images.shape[:2]
    if side % CELLS:
        raise ValueError(f"images must have a side divisible by {CELLS}, got {side}")
    box = side // CELLS
    return images.reshape(n, CELLS, box, CELLS, box, 3).mean((2, 4))


def outside_centre() -> np.ndarray:
    """Return the mask (CELLS, CELLS) of all boxes but those of the central quarter."""
    quarter = CELLS // 4
    mask = np.ones((CELLS, CELLS), bool)
    mask[quarter:-quarter, quarter:-quarter] = False
    return mask


def central_square(side: int) -> np.ndarray:
    """Return the mask (side, side) of the central square with half of the area."""
    margin = round(side * (1 - 0.5**0.5) / 2)
    mask = np.zeros((side, side), bool)
    mask[margin : side - margin, margin : side - margin] = True
    return mask


def spectral_residual(images: np.ndarray) -> np.ndarray:
    """Return the saliency (n, side, side) of brightness (Hou and Zhang 2007)."""
    spectrum = np.fft.fft2(images.mean(3))
    log = np.log(np.abs(spectrum) + 1e-9)
    kernel = np.ones((3, 3)) / 9
    smooth = np.fft.ifft2(np.fft.fft2(log) * np.fft.fft2(_centred(kernel, log.shape[1]))).real
    phase = np.exp(log - smooth + 1j * np.angle(spectrum))
    return gaussian_filter(np.abs(np.fft.ifft2(phase)) ** 2, sigma=(0, 2, 2))


def most_salient(saliency: np.ndarray, area: int) -> np.ndarray:
    """Return the masks (n, side, side) of the `area` most salient pixels of each image."""
    flat = saliency.reshape(len(saliency), -1)
    rank = np.argsort(np.argsort(-flat, axis=1, kind="stable"), axis=1, kind="stable")
    return (rank < area).reshape(saliency.shape)


def border_colours(images: np.ndarray) -> np.ndarray:
    """Return the mean colour of the border in CIE Lab (D65), (n, 3): L in [0, 100], then a, b."""
    return lab(images[:, border(images.shape[1])] / 255).mean(1)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Return sRGB colours (..., 3) in [0, 1] in CIE Lab (IEC 61966-2-1, D65)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _TO_XYZ.sum(1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def distances(colours: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Return the Mahalanobis distance (n,) of colours (n, 3) to the distribution of a pool's."""
    spread = np.cov(pool.T) + RIDGE * np.eye(pool.shape[1])
    gaps = colours - pool.mean(0)
    return np.sqrt(np.einsum("ni,ij,nj->n", gaps, np.linalg.inv(spread), gaps))


def thirds(values: pd.Series, labels: pd.Series) -> pd.Series:
    """Return the third of each value within its class: 0 for the lowest, then 1, 2.

    Thirds differ by one image at most; equal values are ranked in order.
    """
    rank = values.groupby(labels).rank(method="first") - 1
    size = values.groupby(labels).transform("size")
    return (3 * rank // size).astype(int)


_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (v.astype(float).ravel() - v.mean() for v in (first, second))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def _centred(kernel: np.ndarray, side: int) -> np.ndarray:
    """Return a small kernel in an image of zeros, around the first pixel."""
    image = np.zeros((side, side))
    image[: len(kernel), : len(kernel)] = kernel
    return np.roll(image, [-(len(kernel) // 2)] * 2, (0, 1))
