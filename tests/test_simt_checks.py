"""What the machine that executes PTX refuses to let pass: each check on a kernel that is broken on purpose, and
none of them on kernels that are right.
"""

import numpy as np
import pytest
from simt import GlobalMemory
from simt.errors import (
    BarrierError,
    EndlessError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    SimtError,
    UninitialisedError,
)
from simt.snippets import kernel, place, pointers, reserve

BUFFER = ".shared .align 16 .b8 buffer[1024];"
START = """
    mov.u32 %r1, %tid.x; mov.u32 %r2, buffer; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; mov.u32 %r5, 7;
    xor.b32 %r6, %r1, 1; shl.b32 %r6, %r6, 2; add.u32 %r6, %r2, %r6;
    add.u32 %r7, %r1, 32; and.b32 %r7, %r7, 63; shl.b32 %r7, %r7, 2; add.u32 %r7, %r2, %r7;
    mul.wide.u32 %d1, %r1, 4; add.s64 %d2, %d60, %d1;
"""


def run(body, threads=64, blocks=1, order="together", words=64, written=True, declarations=BUFFER):
    """Run instructions on an array of words at %d60.

    %r1 is the thread's number, %r4 its own word of the buffer in shared memory, %r6 that of its neighbour, %r7 that
    of a thread of another warp, %d2 its word of the array.
    """
    memory = GlobalMemory(1 << 16)
    address, cells = place(memory, np.arange(words, dtype=np.uint32)) if written else reserve(memory, words, np.uint32)
    text = pointers("array") + START + body
    kernel(text, "array", declarations).run(memory, (blocks,), (threads,), [address], order=order)
    return cells


both_orders = pytest.mark.parametrize("order", ["together", "warps"])


# ---------------------------------------------------------------------------------------------------
# addresses


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.u32 %r10, [%d2+4];",
        "st.global.u32 [%d2+4], %r1;",
        "ld.global.u32 %r10, [%d2+-4];",
        "mov.u64 %d3, 0; ld.global.u32 %r10, [%d3];",
        "add.s64 %d3, %d2, 4611686018427387904; st.global.u32 [%d3], %r1;",
        "ld.shared.u32 %r10, [%r4+1024];",
        "st.shared.u32 [%r4+-4], %r1;",
        "atom.global.add.u32 %r10, [%d2+4], 1;",
        "st.const.u32 [table], %r1;",
        "mov.u32 %r9, table; ld.const.u32 %r10, [%r9+16];",
        "mov.u64 %d3, buffer; cvta.to.local.u64 %d3, %d3;",
        ".local .align 4 .b8 stack[16]; mov.u64 %d3, stack; st.local.u32 [%d3+16], %r1;",
    ],
)
def test_accesses_outside_of_arrays(body):
    with pytest.raises(OutOfBoundsError):
        run(body, declarations=BUFFER + " .const .align 4 .u32 table[4] = {1, 2, 3, 4};")


def test_accesses_that_are_masked_may_lie_anywhere():
    masked = "setp.lt.u32 %p1, %r1, 63; @%p1 ld.global.u32 %r10, [%d2+4];"
    run(masked + "@!%p1 bra $past; ld.global.u32 %r10, [%d2+4]; $past:")


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.u32 %r10, [%d60+2];",
        "ld.global.v2.u32 {%r10, %r11}, [%d60+4];",
        "ld.shared.v4.f32 {%f1, %f2, %f3, %f4}, [buffer+8];",
        "st.shared.u64 [buffer+4], %d1;",
        "cp.async.cg.shared.global [buffer], [%d60+4], 16;",
        "cp.async.ca.shared.global [buffer+2], [%d60], 4;",
    ],
)
def test_misaligned_accesses(body):
    with pytest.raises(MisalignedError):
        run(body, threads=1)


def test_reads_of_what_nothing_wrote():
    with pytest.raises(UninitialisedError, match="global"):
        run("ld.global.u32 %r10, [%d2];", written=False)
    with pytest.raises(UninitialisedError, match="shared"):
        run("ld.shared.u32 %r10, [%r4];")
    with pytest.raises(UninitialisedError, match="local"):
        run(".local .align 4 .b8 stack[16]; mov.u64 %d3, stack; ld.local.u32 %r10, [%d3];")
    with pytest.raises(UninitialisedError, match="register %f7"):
        run("add.f32 %f8, %f7, %f7;")
    with pytest.raises(UninitialisedError):  # only the lower half of the word
        run("st.shared.u16 [%r4], 1; ld.shared.u32 %r10, [%r4];")
    with pytest.raises(UninitialisedError):  # by the next block, whose shared memory is its own
        run("mov.u32 %r8, %ctaid.x; setp.eq.u32 %p1, %r8, 0; @%p1 st.shared.u32 [%r4], 1; ld.shared.u32 %r9, [%r4];",
            blocks=2)  # fmt: skip
    assert (run("st.global.u32 [%d2], %r1; ld.global.u32 %r10, [%d2];", written=False) == np.arange(64)).all()


def test_errors_say_where():
    with pytest.raises(OutOfBoundsError) as raised:
        run("mov.u32 %r8, %ctaid.x; mad.lo.u32 %r8, %r8, 4, 0; add.u32 %r4, %r4, %r8; st.shared.u32 [%r4+768], %r1;",
            blocks=3)  # fmt: skip
    error = raised.value
    assert (error.kernel, error.block, error.thread) == ("snippet", (1, 0, 0), (63, 0, 0))
    assert "st.shared.u32 [%r4+768], %r1" in str(error)
    assert f"line {error.instruction.line}" in str(error)


# ---------------------------------------------------------------------------------------------------
# races on shared memory


RACES = {
    "two writes in one instruction": "st.shared.u32 [buffer], %r1;",
    "two writes": "setp.eq.u32 %p1, %r1, 3; @%p1 st.shared.u32 [buffer], %r1; setp.eq.u32 %p2, %r1, 40;"
    "@%p2 st.shared.u32 [buffer], %r1;",
    "a read after a write": "st.shared.u32 [%r4], %r1; ld.shared.u32 %r9, [%r7];",
    "a read after a write of the warp": "st.shared.u32 [%r4], %r1; ld.shared.u32 %r9, [%r6];",
    "a write after a read": "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r7]; st.shared.u32 [%r4], %r1;",
    "a write after many reads": "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [buffer];"
    "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [buffer], %r1;",
    "a vector over a word": "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r4]; setp.eq.u32 %p1, %r1, 60;"
    "@%p1 st.shared.v4.u32 [buffer], {%r1, %r1, %r1, %r1};",
    "bytes of one word, overlapping": "setp.eq.u32 %p1, %r1, 3; @%p1 st.shared.u16 [buffer], %r1;"
    "setp.eq.u32 %p2, %r1, 5; @%p2 st.shared.u8 [buffer+1], %r1;",
    "an atomic access and a read": "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [buffer], 0; bar.sync 0;"
    "atom.shared.add.u32 %r9, [buffer], 1; ld.shared.u32 %r9, [buffer];",
    "a warp's barrier for two warps": "st.shared.u32 [%r4], %r1; bar.warp.sync 0xffffffff; ld.shared.u32 %r9, [%r7];",
    "a shuffle orders nothing": "st.shared.u32 [%r4], %r1; shfl.sync.idx.b32 %r8, %r1, 0, 31, 0xffffffff;"
    "ld.shared.u32 %r9, [%r6];",
    "a second round without a second barrier": "mov.u32 %r20, 0; $round: st.shared.u32 [%r4], %r1; bar.sync 0;"
    "ld.shared.u32 %r9, [%r7]; add.u32 %r20, %r20, 1; setp.lt.u32 %p1, %r20, 2; @%p1 bra $round;",
}


@both_orders
@pytest.mark.parametrize("name", RACES)
def test_races_on_shared_memory(name, order):
    # A warp that runs ahead may read what nothing has written yet, which is noticed first.
    with pytest.raises(RaceError if order == "together" else (RaceError, UninitialisedError)):
        run(RACES[name], order=order)


ORDERED = {
    "a barrier between": "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r7]; bar.sync 0;"
    "st.shared.u32 [%r4], %r1;",
    "many read one word": "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [buffer]; ld.shared.u32 %r9, [%r4];"
    "bar.sync 0; setp.eq.u32 %p1, %r1, 5; @%p1 st.shared.u32 [buffer], %r1;",
    "neighbouring bytes": "add.u32 %r8, %r2, %r1; st.shared.u8 [%r8], %r1; ld.shared.u8 %r9, [%r8];",
    "a warp's barrier": "st.shared.u32 [%r4], %r1; bar.warp.sync 0xffffffff; ld.shared.u32 %r9, [%r6];"
    "bar.warp.sync 0xffffffff; st.shared.u32 [%r4], %r1;",
    "a warp's barrier after many reads": "st.shared.u32 [%r4], %r1; bar.warp.sync 0xffffffff; and.b32 %r8, %r1, 32;"
    "shl.b32 %r8, %r8, 2; add.u32 %r8, %r8, %r2; ld.shared.u32 %r9, [%r8]; bar.warp.sync 0xffffffff;"
    "st.shared.u32 [%r4], %r1;",
    "two buffers in turn": "mov.u32 %r20, 0; mov.u32 %r21, 0; $round: add.u32 %r22, %r4, %r21;"
    "st.shared.u32 [%r22], %r1; bar.sync 0; add.u32 %r23, %r7, %r21; ld.shared.u32 %r9, [%r23];"
    "xor.b32 %r21, %r21, 512; add.u32 %r20, %r20, 1;"
    "setp.lt.u32 %p1, %r20, 6; @%p1 bra $round;",
    "atomic accesses": "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [buffer], 0; bar.sync 0;"
    "atom.shared.add.u32 %r9, [buffer], 1; bar.sync 0; ld.shared.u32 %r9, [buffer]; st.global.u32 [%d2], %r9;",
}


@both_orders
@pytest.mark.parametrize("name", ORDERED)
def test_what_is_ordered_is_no_race(name, order):
    run(ORDERED[name], order=order)


# ---------------------------------------------------------------------------------------------------
# races on global memory


GLOBAL_RACES = {
    "two blocks write": "st.global.u32 [%d2], %r1;",
    "one block writes, one reads": "mov.u32 %r8, %ctaid.x; setp.eq.u32 %p1, %r8, 0; ld.global.u32 %r9, [%d60];"
    "setp.eq.and.u32 %p1, %r1, 0, %p1; @%p1 st.global.u32 [%d60], %r9;",
    "a barrier orders a block alone": "mov.u32 %r8, %ctaid.x; setp.eq.u32 %p1, %r8, 0;"
    "setp.eq.and.u32 %p1, %r1, 0, %p1; @%p1 st.global.u32 [%d60], %r1; bar.sync 0; ld.global.u32 %r9, [%d60];",
    "threads of a block": "st.global.u32 [%d2], %r1; xor.b32 %r8, %r1, 32; mul.wide.u32 %d3, %r8, 4;"
    "add.s64 %d3, %d60, %d3; ld.global.u32 %r9, [%d3];",
}


@both_orders
@pytest.mark.parametrize("name", GLOBAL_RACES)
def test_races_on_global_memory(name, order):
    with pytest.raises(RaceError, match="global"):
        run(GLOBAL_RACES[name], blocks=1 if name == "threads of a block" else 2, order=order)


def test_races_are_found_between_blocks_that_do_not_run_side_by_side():
    # So many that they are run in several portions: the first and the last write one word.
    body = """mov.u32 %r8, %ctaid.x; setp.eq.u32 %p1, %r8, 0; setp.eq.or.u32 %p1, %r8, 599, %p1;
    setp.eq.and.u32 %p1, %r1, 0, %p1; @%p1 st.global.u32 [%d60], %r1;"""
    with pytest.raises(RaceError):
        run(body, blocks=600)


def test_launches_one_after_another_are_ordered():
    text = pointers("array") + START + "ld.global.u32 %r9, [%d60]; st.global.u32 [%d2+64], %r9;"
    other = pointers("array") + START + "setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u32 [%d60], 5;"
    memory = GlobalMemory(1 << 16)
    address, cells = place(memory, np.arange(64, dtype=np.uint32))
    for body in (text, other, text):
        kernel(body, "array", BUFFER).run(memory, (1,), (32,), [address])
    assert cells[0] == cells[16] == 5


def test_atomic_accesses_of_several_blocks_are_no_race():
    assert run("atom.global.add.u32 %r9, [%d60], 1; red.global.add.u32 [%d60], 1;", blocks=3)[0] == 2 * 3 * 64
    with pytest.raises(RaceError):
        run("atom.global.add.u32 %r9, [%d60], 1; ld.global.u32 %r9, [%d60];", blocks=2)


# ---------------------------------------------------------------------------------------------------
# barriers


BARRIERS = {
    "only some threads": "setp.lt.u32 %p1, %r1, 40; @%p1 bar.sync 0;",
    "in a branch": "setp.lt.u32 %p1, %r1, 32; @%p1 bra $past; bar.sync 0; $past: add.u32 %r1, %r1, 1;",
    "some have left": "setp.lt.u32 %p1, %r1, 40; @%p1 ret; bar.sync 0;",
    "two barriers for one warp": "setp.lt.u32 %p1, %r1, 40; @%p1 bra $other; bar.sync 0; bra $past;"
    "$other: bar.sync 0; $past:",
    "two numbers": "setp.lt.u32 %p1, %r1, 32; @%p1 bra $other; bar.sync 1; bra $past; $other: bar.sync 0; $past:",
    "in a loop of different lengths": "mov.u32 %r8, %r1; $round: bar.sync 0; add.u32 %r8, %r8, 32;"
    "setp.lt.u32 %p1, %r8, 90; @%p1 bra $round;",
    "a warp's barrier": "setp.lt.u32 %p1, %r1, 20; @%p1 bar.warp.sync 0xffffffff;",
}


@both_orders
@pytest.mark.parametrize("name", BARRIERS)
def test_barriers_that_not_all_threads_reach(name, order):
    with pytest.raises(BarrierError):
        run(BARRIERS[name], order=order)


def test_whole_warps_meet_at_different_barriers_of_one_number():
    run("setp.lt.u32 %p1, %r1, 32; @%p1 bra $other; bar.sync 0; bra $past; $other: bar.sync 0; $past:")


# ---------------------------------------------------------------------------------------------------
# asynchronous copies

COPY = "shl.b32 %r8, %r1, 2; add.u32 %r8, %r8, %r2; cp.async.ca.shared.global [%r8], [%d2], 4;"
UNSAFE = {
    "no wait": COPY + "cp.async.commit_group; ld.shared.u32 %r9, [%r4];",
    "no group": COPY + "cp.async.wait_group 0; ld.shared.u32 %r9, [%r4];",
    "the wait leaves it": COPY + "cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r9, [%r4];",
    "a barrier is no wait": COPY + "cp.async.commit_group; bar.sync 0; ld.shared.u32 %r9, [%r4];",
    "a wait is no barrier": COPY + "cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r9, [%r7];",
    "into what others read": "st.shared.u32 [%r4], %r1; bar.sync 0; ld.shared.u32 %r9, [%r7];" + COPY,
    "into what was just written": "st.shared.u32 [%r7], %r1;" + COPY,
    "written while on its way": COPY + "st.shared.u32 [%r4], %r1;",
    "twice": COPY + COPY,
    "from what others write": "st.global.u32 [%d2], %r1; xor.b32 %r9, %r1, 32; mul.wide.u32 %d3, %r9, 4;"
    "add.s64 %d2, %d60, %d3;" + COPY,
}


@both_orders
@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_asynchronous_copies(name, order):
    with pytest.raises((RaceError, UninitialisedError)):
        run(UNSAFE[name], order=order)


def test_sources_of_asynchronous_copies_are_checked():
    with pytest.raises(OutOfBoundsError):
        run("add.s64 %d2, %d2, 4;" + COPY)
    with pytest.raises(UninitialisedError):
        run(COPY, written=False)


@both_orders
def test_a_pipeline_of_asynchronous_copies(order):
    # Three buffers: while one is read, the next two are on their way; one barrier in each round.
    body = """
    mov.u32 %r20, 0; mov.u32 %r21, 0; mov.u32 %r30, 0;
    shl.b32 %r8, %r1, 2; add.u32 %r8, %r8, %r2;
    cp.async.ca.shared.global [%r8], [%d2], 4; cp.async.commit_group;
    cp.async.ca.shared.global [%r8+256], [%d2+256], 4; cp.async.commit_group;
$round:
    cp.async.wait_group 1; bar.sync 0;
    add.u32 %r22, %r20, 2; rem.u32 %r23, %r22, 3; mad.lo.u32 %r23, %r23, 256, %r8;
    mul.wide.u32 %d4, %r22, 256; add.s64 %d4, %d2, %d4; setp.lt.u32 %p1, %r22, 8;
    @%p1 cp.async.ca.shared.global [%r23], [%d4], 4; cp.async.commit_group;
    rem.u32 %r24, %r20, 3; mad.lo.u32 %r24, %r24, 256, %r7; ld.shared.u32 %r25, [%r24]; add.u32 %r30, %r30, %r25;
    add.u32 %r20, %r20, 1; setp.lt.u32 %p2, %r20, 8; @%p2 bra $round;
    bar.sync 0; st.global.u32 [%d2], %r30;"""
    cells = run(body, order=order, words=512)
    rounds = np.arange(512).reshape(8, 64)
    assert (cells[:64] == np.roll(rounds, -32, axis=1).sum(axis=0)).all()
    for broken in (
        body.replace("wait_group 1; bar.sync 0;", "wait_group 1;"),
        body.replace("wait_group 1", "wait_group 2"),
    ):
        with pytest.raises((RaceError, UninitialisedError)):
            run(broken, order=order, words=512)


# ---------------------------------------------------------------------------------------------------
# the host's side


def test_kernels_that_do_not_end():
    with pytest.raises(EndlessError, match="does not end"):
        kernel("$round: add.u32 %r1, 1, 2; bra $round;").run(GlobalMemory(4096), (1,), (32,), [], limit=1000)


def test_arguments_must_fit():
    ready = kernel("ret;", "array")
    with pytest.raises(SimtError, match="takes 1 arguments, received 2"):
        ready.run(GlobalMemory(4096), (1,), (32,), [0, 0])
    with pytest.raises(SimtError, match="cannot be launched"):
        ready.run(GlobalMemory(4096), (1,), (1025,), [0])
    with pytest.raises(SimtError, match="floating number"):
        ready.run(GlobalMemory(4096), (1,), (32,), [np.float32(0)])
    with pytest.raises(SimtError, match="used up"):
        GlobalMemory(4096).allocate(5000)
