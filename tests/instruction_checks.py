"""Checks of `gpuconv.kernels.cuda.instructions`, for whatever runs kernels: the machine of `simt`, and the simulator.

``run(kernel, threads, *arrays)`` launches one block: the kernel gets the addresses of float32 arrays, which it may
change, and afterwards they hold what it made of them.
"""

import numpy as np
from gpuconv.kernels.cuda.instructions import (
    ADDRESS,
    ALIGNMENT,
    BFLOAT16,
    TF32,
    THREE_TF32,
    add_if,
    await_copies,
    bit,
    close_copies,
    copy4_if,
    copy_if,
    divide,
    fragment_corner_steps,
    fragment_corners,
    load,
    load4,
    load4_if,
    load_if,
    move,
    multiply_fragment_steps,
    multiply_fragments,
    multiply_rows,
    multiply_steps,
    pin,
    shared_address,
    store,
    store4,
)
from gpuconv.kernels.cuda.toolkit import cuda

NOTHING = np.float32(-7)


def numbers(*shape):
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def check_accesses(run):
    """Each thread copies four numbers, a fifth, and those of them that it wants, through shared memory."""

    def kernel(source, target):
        kept = cuda.shared.array(512, np.float32, alignment=ALIGNMENT)
        places = cuda.local.array(2, ADDRESS)
        thread = np.int32(cuda.threadIdx.x)
        shared = move(shared_address(kept), thread * 16)
        places[0] = pin(move(source, thread * 8))
        places[1] = move(target, thread * 16)
        a, b, c, d = load4(places[0])
        store4(shared, a, b, c, d)
        store(move(shared, 4), load(move(places[0], 5)))
        store(move(shared, 5), load_if(bit(np.uint32(10), np.uint32(thread % 4)), move(places[0], 6)))
        # Where it is not wanted, nobody looks at the place, which lies outside of every array.
        wanted = thread % 2 == 1
        beyond = np.int32(0) if wanted else np.int32(1 << 20)
        a, b, c, d = load4_if(wanted, move(places[0], beyond))
        store4(move(shared, 8), a, b, c, d)
        copy4_if(wanted, move(places[0], beyond + 4), move(shared, 12))
        copy_if(wanted, move(places[0], beyond + 3), move(shared, 6))
        close_copies()
        copy_if(thread >= 0, move(places[0], 2), move(shared, 7))
        close_copies()
        await_copies(0)
        for place in range(16):
            store(move(places[1], place), load(move(shared, place)))

    source, target = numbers(16, 8), np.full((16, 16), NOTHING)
    run(kernel, 16, source, target)
    odd = (np.arange(16) % 2 == 1)[:, None]
    expected = np.concatenate(
        [
            source[:, :4], source[:, 5:6], np.where(odd, source[:, 6:7], 0), np.where(odd, source[:, 3:4], 0),
            source[:, 2:3], np.where(odd, source[:, :4], 0), np.where(odd, source[:, 4:], 0),
        ],
        axis=1,
    )  # fmt: skip
    np.testing.assert_array_equal(target, expected)


def check_quotients(run):
    def kernel(target):
        thread = np.int32(cuda.threadIdx.x)
        store(move(target, thread), np.float32(divide(np.int32(2147483647) - thread, thread + 1)))

    target = np.full(16, NOTHING)
    run(kernel, 16, target)
    expected = [np.float32((2147483647 - thread) // (thread + 1)) for thread in range(16)]
    np.testing.assert_array_equal(target, expected)


def check_sums_that_are_wanted(run):
    def kernel(target):
        thread = np.int32(cuda.threadIdx.x)
        store(move(target, thread), np.float32(add_if(thread % 3 == 1, thread, np.int32(-20))))

    target = np.full(16, NOTHING)
    run(kernel, 16, target)
    np.testing.assert_array_equal(target, [thread - 20 if thread % 3 == 1 else thread for thread in range(16)])


# A 16 x 16 product of 8 terms, by 4 x 2 threads with 4 x 8 sums each.
ROWS, COLUMNS, DEPTH, LEFT_STRIDE, RIGHT_STRIDE = 4, 8, 8, 12, 16
STEPS_STRIDE, ROW_STEP, COLUMN_STEP, SUMS = 20, 4, 8, 32


def check_multiply_rows(run):
    def kernel(a, b, target):
        left = cuda.shared.array(192, np.float32, alignment=ALIGNMENT)
        right = cuda.shared.array(128, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(SUMS, np.float32)
        thread = np.int32(cuda.threadIdx.x)
        row, column = thread % 4, thread // 4 * 4
        a_strip, b_strip = shared_address(left), shared_address(right)
        for quad in range(4):
            number = (quad * 8 + thread) * 4
            copy4_if(True, move(a, number), move(a_strip, number // 8 * LEFT_STRIDE + number % 8))
            copy4_if(True, move(b, number), move(b_strip, number))
        close_copies()
        for place in range(SUMS):
            sums[place] = np.float32(place)
        await_copies(0)
        cuda.syncthreads()
        a_strip, b_strip = move(a_strip, row * LEFT_STRIDE), move(b_strip, column)
        multiply_rows(sums, a_strip, b_strip, ROWS, COLUMNS, DEPTH, LEFT_STRIDE, RIGHT_STRIDE, ROW_STEP, COLUMN_STEP)
        for place in range(SUMS):
            r, c = row + place // 8 * ROW_STEP, column + place % 8 // 4 * COLUMN_STEP + place % 4
            store(move(target, r * 16 + c), sums[place])

    _check_product(run, kernel, 4)


def check_multiply_steps(run):
    def kernel(a, b, target):
        left = cuda.shared.array(160, np.float32, alignment=ALIGNMENT)
        right = cuda.shared.array(128, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(SUMS, np.float32)
        thread = np.int32(cuda.threadIdx.x)
        row, column = thread % 4 * 4, thread // 4 * 4
        a_strip, b_strip = shared_address(left), shared_address(right)
        for quad in range(4):
            number = (quad * 8 + thread) * 4
            for place in range(4):
                k = number % 8 + place
                store(move(a_strip, k * STEPS_STRIDE + number // 8), load(move(a, number + place)))
            copy4_if(True, move(b, number), move(b_strip, number))
        close_copies()
        for place in range(SUMS):
            sums[place] = np.float32(place)
        await_copies(0)
        cuda.syncthreads()
        a_strip, b_strip = move(a_strip, row), move(b_strip, column)
        multiply_steps(sums, a_strip, b_strip, ROWS, COLUMNS, DEPTH, STEPS_STRIDE, RIGHT_STRIDE, ROW_STEP, COLUMN_STEP)
        for place in range(SUMS):
            r, c = row + place // 8, column + place % 8 // 4 * COLUMN_STEP + place % 4
            store(move(target, r * 16 + c), sums[place])

    _check_product(run, kernel, 1)


def _check_product(run, kernel, row_step):
    a, b, target = numbers(16, 8), numbers(8, 16), np.full((16, 16), NOTHING)
    run(kernel, 8, a, b, target)
    # Each sum began with the number of its place among the thread's.
    row, column = np.arange(16)[:, None], np.arange(16)
    row = row // 4 if row_step == 4 else row % 4
    begun = row * 8 + column // 8 * 4 + column % 4
    expected = begun + a.astype(np.float64) @ b
    scale = begun + np.abs(a).astype(np.float64) @ np.abs(b)
    assert (np.abs(target - expected) <= 9 * 2.0**-24 * scale).all()


# A warp's 32 x 32 product of 32 terms, in strips whose strides keep the lanes' reads apart.
WARP_ROWS, WARP_COLUMNS, WARP_DEPTH, WARP_LEFT_STRIDE, WARP_RIGHT_STRIDE = 4, 8, 32, 36, 36


def _fragments_kernel(precision, by_steps=False):
    """With a left strip that is stored by rows, or by steps as the right one is."""
    multiply = multiply_fragment_steps if by_steps else multiply_fragments
    row_apart, step_apart = (1, WARP_LEFT_STRIDE) if by_steps else (WARP_LEFT_STRIDE, 1)

    def kernel(a, b, target):
        left = cuda.shared.array(1152, np.float32, alignment=ALIGNMENT)
        right = cuda.shared.array(1152, np.float32, alignment=ALIGNMENT)
        sums = cuda.local.array(SUMS, np.float32)
        lane = np.int32(cuda.threadIdx.x)
        a_strip, b_strip = shared_address(left), shared_address(right)
        for k in range(32):
            store(move(a_strip, lane * row_apart + k * step_apart), load(move(a, lane * 32 + k)))
            store(move(b_strip, k * WARP_RIGHT_STRIDE + lane), load(move(b, k * 32 + lane)))
        for place in range(SUMS):
            sums[place] = np.float32(place)
        cuda.syncthreads()
        down, along = fragment_corners(lane, WARP_LEFT_STRIDE, WARP_RIGHT_STRIDE)
        if by_steps:
            down = fragment_corner_steps(lane, WARP_LEFT_STRIDE)
        multiply(
            sums, move(a_strip, down), move(b_strip, along), lane,
            WARP_ROWS, WARP_COLUMNS, WARP_DEPTH, WARP_LEFT_STRIDE, WARP_RIGHT_STRIDE, precision,
        )  # fmt: skip
        for place in range(SUMS):
            row, column = lane // 4 + place // 8 * 8, lane % 4 * 4 + place % 8 // 4 * 16 + place % 4
            if by_steps:
                row = lane // 8 * 4 + lane // 4 % 2 * 16 + place // 8
            store(move(target, row * 32 + column), sums[place])

    return kernel


def _product_of_fragments(run, precision, a, b, by_steps=False):
    target = np.full((32, 32), NOTHING)
    run(_fragments_kernel(precision, by_steps), 32, a, b, target)
    return target


def check_multiply_fragments(run):
    a, b = numbers(32, 32), numbers(32, 32)
    # Each sum began with the number of its place among the lane's.
    row, column = np.arange(32)[:, None], np.arange(32)
    across = column // 16 * 4 + column % 4
    scale = np.abs(a).astype(np.float64) @ np.abs(b)
    for by_steps, down in ((False, row // 8), (True, row % 4)):
        begun = down * 8 + across
        expected = begun + a.astype(np.float64) @ b
        # Sums are cut at each of 32 terms at most, so are factors: by 10 bits each, or rounded to 7, or to 21 in two.
        cut = 32 * 2.0**-23 * (begun + scale)
        for precision, factors in ((THREE_TF32, 2.0**-20), (TF32, 2 * 2.0**-10), (BFLOAT16, 2 * 2.0**-8)):
            error = np.abs(_product_of_fragments(run, precision, a, b, by_steps) - expected)
            assert (error <= cut + factors * scale).all()
            # The precision is what was asked for, and no other.
            assert precision == THREE_TF32 or error.max() > 2.0**-20 * scale.max()


def check_fragments_of_special_values(run):
    """Infinities and NaN: the rows and columns that they stand in, and no other; and the largest number."""
    a, b = np.abs(numbers(32, 32)) + 1, np.abs(numbers(32, 32)) + 1
    a[3, 5], a[20, 30], a[8, :2], b[:2] = np.inf, np.nan, (np.finfo(np.float32).max, 0), 0.5
    b[6, 4], b[7, 9] = -np.inf, np.nan
    for precision, by_steps in ((THREE_TF32, False), (THREE_TF32, True), (TF32, False), (BFLOAT16, False)):
        got = _product_of_fragments(run, precision, a, b, by_steps)
        assert np.isnan(got[20]).all()
        assert np.isnan(got[:, 9]).all()
        # What three products have left of an infinity may be no number, and where rows and columns cross it is none.
        for line in (np.delete(got[3], (4, 9)), -np.delete(got[:, 4], (3, 8, 20))):
            assert (~np.isfinite(line) if precision == THREE_TF32 else line == np.inf).all()
        finite = np.delete(np.delete(got, (4, 9), axis=1), (3, 20), axis=0)
        share = finite[7] / (np.finfo(np.float32).max / 2)
        # Rounded to bfloat16 the largest number is infinite.
        assert (share == np.inf if precision == BFLOAT16 else np.abs(share - 1) < 2.0**-9).all()
        assert np.isfinite(np.delete(finite, 7, axis=0)).all()


def check_places_that_are_refused(run, outside, misaligned):
    """Accesses beyond an array's end, and to four numbers at a place that is no multiple of four."""

    def beyond(target):
        store(move(target, 16), np.float32(1))

    def before(target):
        a, b, c, d = load4(move(target, -4))
        store4(target, d, c, b, a)

    def crooked(target):
        store4(move(target, 2), np.float32(1), np.float32(2), np.float32(3), np.float32(4))

    for kernel, error in ((beyond, outside), (before, outside), (crooked, misaligned)):
        try:
            run(kernel, 1, numbers(16))
        except error:
            continue
        raise AssertionError(f"{kernel.__name__} was not refused")


CHECKS = [
    check_accesses,
    check_quotients,
    check_multiply_rows,
    check_multiply_steps,
    check_multiply_fragments,
    check_fragments_of_special_values,
]
