"""1,797 handwritten digits of 8 x 8 pixels, shipped with the package.

From "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak (1998), UCI
Machine Learning Repository, doi:10.24432/C50P49, CC BY 4.0; the part that scikit-learn's
``load_digits`` distributes, in the same order.
"""

from importlib.resources import files

import numpy as np


def load_data():
    """Load the digits.

    Returns
    -------
    images : numpy.ndarray
        Shape ``(1797, 8, 8)``, float64, ink from 0 to 16: scikit-learn's ``digits.images``.
    labels : numpy.ndarray
        Shape ``(1797,)``, int64, the digit drawn: scikit-learn's ``digits.target``.

    Examples
    --------
    >>> images, labels = load_data()
    >>> images.shape, labels[:5]
    ((1797, 8, 8), array([0, 1, 2, 3, 4]))
    """
    with files("gpuconv.data").joinpath("digits.npz").open("rb") as file, np.load(file) as packed:
        return packed["images"].astype(np.float64), packed["labels"].astype(np.int64)
