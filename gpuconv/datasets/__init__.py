"""Data sets; each has ``load_data()``.

`digits` comes with the package.  `mnist`, `fashion_mnist` and `cifar10` are downloaded once, or taken from
where they lie already: a folder given by ``path=``, the cache (``GPUCONV_HOME``, by default ``gpuconv`` in
the user's cache directory), or Keras's cache.
"""

from . import cifar10, digits, fashion_mnist, mnist
from .storage import DatasetError

__all__ = ["DatasetError", "cifar10", "digits", "fashion_mnist", "mnist"]
