"""Every register tile of `gpuconv.kernels.cuda.tiles`, and how much of its hot loop should be multiply-adds.

Which tile a correlation gets follows from its shapes and from the GPU, so that layers and tests meet only some of them.
Here each is made the only choice, for shapes that suit it.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import pytest
from gpuconv.kernels import precision
from gpuconv.kernels.cuda import correlate_filters, product, tiles
from gpuconv.kernels.geometry import Geometry, correlation_geometry

from . import gpu_works
from .gpu_models import LIMITS


class Family(NamedTuple):
    """Tiles of one kind.

    Attributes
    ----------
    name : str
    choices : str
        The list of tiles.
    fits : callable
        Whether GPUs of a compute capability have tiles of this kind.
    precision : str
    kernel : str
        What is launched.
    work : callable
        Of `gpu_works`: the call that launches it.
    geometry : Geometry
    aims : dict
        From a tile's rows and columns to the least share of multiply-adds; None stands for all other tiles.
    """

    name: str
    choices: str
    fits: Callable
    precision: str
    kernel: str
    work: Callable
    geometry: Geometry
    aims: dict


class Tile(NamedTuple):
    """One of a family."""

    family: Family
    tile: tiles.RegisterTile

    @property
    def name(self):
        """Of its work."""
        return f"{self.family.name}, {size_of(self.tile)} threads"

    @property
    def aim(self):
        """The least share of multiply-adds, or None."""
        aims = self.family.aims
        return aims.get((self.tile.rows, self.tile.columns), aims.get(None))


def _always(capability):
    return True


def _copies(capability):
    return capability >= (8, 0)


def _stages(capability):
    return capability < (8, 0)


def _in_three_products(capability):
    return capability in product.THREE_PRODUCTS_PAY


# Sums of few terms are not worth three products on tensor cores.
SHORT, LONG = correlation_geometry((128, 15, 15, 32), 1, 64), correlation_geometry((128, 15, 15, 64), 3, 64)
FEW, ODD = correlation_geometry((128, 15, 15, 4), 3, 64), correlation_geometry((128, 15, 15, 6), 3, 64)
FORWARD = "correlation_product", gpu_works.forward
BY_FILTERS = "correlate2d_gradient_filters_kernel", gpu_works.by_filters

FAMILIES = (
    Family("float32", "REGISTER_TILES", _always, "float32", *FORWARD, SHORT,
           {(128, 128): 0.89, (128, 64): 0.88, (128, 32): 0.83}),
    Family("three products", "THREE_PRODUCT_TILES", _in_three_products, "float32", *FORWARD, LONG, {None: 0.41}),
    Family("TF32", "FRAGMENT_TILES", _copies, "tf32", *FORWARD, LONG, {None: 0.31}),
    Family("bfloat16", "FRAGMENT_TILES", _copies, "bf16", *FORWARD, LONG, {}),
    Family("channels one by one", "SCALAR_TILES", _always, "float32", *FORWARD, ODD, {}),
    Family("copied", "FILTER_COPIED_TILES", _copies, "float32", *BY_FILTERS, FEW, {None: 0.87}),
    Family("staged", "FILTER_TILES", _stages, "float32", *BY_FILTERS, FEW, {}),
    Family("three products", "FILTER_FRAGMENT_TILES", _in_three_products, "float32", *BY_FILTERS, LONG, {None: 0.41}),
    Family("channels one by one", "FILTER_SCALAR_TILES", _always, "float32", *BY_FILTERS, ODD, {}),
)  # fmt: skip


def all_tiles(capability):
    """Those that GPUs of a compute capability have.

    Returns
    -------
    list of Tile
    """
    return [
        Tile(family, tile)
        for family in FAMILIES if family.fits(capability) for tile in getattr(tiles, family.choices)
    ]  # fmt: skip


def size_of(tile, *others):
    """A tile in words, or that there is a choice."""
    return "chosen" if others else f"{tile.rows}x{tile.columns}x{tile.depth} by {tile.threads}"


@contextlib.contextmanager
def only(tile):
    """Make a `Tile` the only choice, and yield the work that it is chosen for."""
    family, before = tile.family, precision.get_precision()
    with choosing(family.choices, (tile.tile,)):
        precision.set_precision(family.precision)
        try:
            yield family.work(tile.name, family.geometry)
        finally:
            precision.set_precision(before)


@contextlib.contextmanager
def choosing(name, choices, three_products=True):
    """Let the list of tiles of a name have these choices, and three products take the place of one where they pay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, name, choices)
        if not three_products:
            patch.setattr(product, "THREE_PRODUCTS_PAY", ())
        correlate_filters._plan.cache_clear()
        try:
            yield
        finally:
            correlate_filters._plan.cache_clear()


def row_name(kernel, function, description):
    """A kernel's name in the table: what launches it stands in brackets."""
    return f"{kernel} ({function}: {description})"


def aims():
    """From the name of each kernel that is made for tiles, and of that for first layers, to its aim or None."""
    found = {row_name("correlate_first_kernel", "correlate2d", "same, 3 channels"): 0.94}
    for capability in LIMITS:
        for tile in all_tiles(capability):
            work = tile.family.work(tile.name, tile.family.geometry)
            found[row_name(tile.family.kernel, work.function, work.name)] = tile.aim
    return found
