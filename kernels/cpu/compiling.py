"""How the functions of this package are compiled."""

# Functions that only compiled functions call: they do without wrappers for Python and C, which for many arguments take
# longer to compile than the function itself.
INNER = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}
