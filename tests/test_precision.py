"""The choice of how exactly CUDA multiplies."""

import os
import subprocess
import sys

import pytest
from gpuconv.kernels import precision

import gpuconv


@pytest.fixture
def choice():
    """`set_precision`, undone afterwards."""
    before = gpuconv.get_precision()
    yield gpuconv.set_precision
    gpuconv.set_precision(before)


@pytest.mark.parametrize("name", precision.CHOICES)
def test_a_choice_is_kept(name, choice):
    choice(name)
    assert gpuconv.get_precision() == name


@pytest.mark.parametrize("wrong", ["float16", "TF32", None, 32])
def test_a_wrong_choice_is_refused(wrong, choice):
    choice("tf32")
    with pytest.raises(ValueError, match=r"precision: expected 'float32', 'tf32' or 'bf16', received"):
        choice(wrong)
    assert gpuconv.get_precision() == "tf32"


@pytest.mark.parametrize(("value", "code"), [("bf16", 0), ("", 0), ("double", 1)])
def test_the_environment_chooses_at_the_start(value, code):
    program = "from gpuconv.kernels import precision; print(precision.get_precision())"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "GPUCONV_PRECISION": value},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == code
    assert done.stdout.strip() == ("" if code else value or "float32")
    assert (
        not code
        or "GPUCONV_PRECISION: precision: expected 'float32', 'tf32' or 'bf16', received 'double'" in done.stderr
    )
