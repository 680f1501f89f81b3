"""The CUDA kernels' machine code against the committed table, without a GPU; and the programs that make the table.

A kernel that spills registers, or whose figures got worse than those of `benchmarks/results/gpu_static.json`, fails
here: `python -m benchmarks.gpu_static` makes the table anew, and its differences show what has changed.
"""

import doctest
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from gpuconv.kernels.cuda import tiles
from gpuconv.kernels.geometry import correlation_geometry
from test_cuda_ptx import device  # noqa: F401 (skips this file where NVIDIA's compiler cannot be had)

# The benchmarks are programs of the repository, not part of what is installed.
sys.path.append(str(Path(__file__).parents[1]))
gpu_code, gpu_estimate, gpu_models, gpu_static, gpu_steps, gpu_tiles, gpu_works = (
    importlib.import_module(f"benchmarks.gpu_{name}")
    for name in ("code", "estimate", "models", "static", "steps", "tiles", "works")
)

ARCHITECTURES = [(7, 5), (8, 0), (9, 0), (12, 0)]
COMMITTED = json.loads((gpu_static.RESULTS / "gpu_static.json").read_text(encoding="utf-8"))
# Other versions of the compiler choose other registers and schedules.
SLACK = 0.0 if COMMITTED["versions"] == gpu_static.versions() else 0.15


@pytest.fixture(scope="module")
def rows():
    """Figures of every kernel, by its name and the architecture."""
    found = gpu_static.kernel_rows(ARCHITECTURES)
    return {(row["kernel"], row["architecture"]): row for row in found}


def test_no_kernel_spills_and_every_block_fits(rows):
    for key, row in rows.items():
        assert row["spilled_bytes"] == row["loop_local"] == 0, key
        assert row["blocks"] >= 1, key
    # The places of this one's pixels are found in a loop, before the hot one: `tiles.SCALAR_TILES`.
    kept = "correlation_product (correlate2d: channels one by one, 128x32x16 by 128 threads)"
    assert {kernel for (kernel, _), row in rows.items() if row["local"]} <= {kept}


def test_no_kernel_got_worse_than_the_committed_table(rows):
    committed = {(row["kernel"], row["architecture"]): row for row in COMMITTED["kernels"]}
    tested = {f"sm_{major}{minor}" for major, minor in ARCHITECTURES}
    assert set(rows) == {key for key in committed if key[1] in tested}, "the table is of other kernels: make it anew"
    found = {key: gpu_static.worse(row, committed[key], SLACK) for key, row in rows.items()}
    assert {key: figures for key, figures in found.items() if figures} == {}


# Channels and filters in multiples of 4, one for each kind of kernel.
QUADS = {
    "tiles": correlation_geometry((128, 15, 15, 32), 3, 64),
    "strides": correlation_geometry((128, 15, 15, 32), 3, 64, 2),
    "shared sums": correlation_geometry((8, 6, 6, 64), 3, 64, padding="same"),
    "four channels": correlation_geometry((128, 15, 15, 4), 3, 64),
    "depthwise": correlation_geometry((32, 56, 56, 32), 3, 32, padding="same", groups=32),
}
_ACCESS = re.compile(r"\b(ld|st)\.global([.\w]*)|\bcp\.async\.\w+\.shared\.global[.\w]* .*?, (\d+)[,;]")


def widths(ptx):
    """How many bits accesses to global memory have, as a set."""
    found = set()
    for access in _ACCESS.finditer(ptx):
        if access[3]:
            found.add(8 * int(access[3]))
        else:
            *words, number = access[2].split(".")
            found.add(int(number[1:]) * (4 if "v4" in words else 2 if "v2" in words else 1))
    return found


# The oldest GPUs have loops of their own in tiles.
@pytest.mark.parametrize(("kind", "capability"), [("tiles", (7, 5)), *((kind, (8, 0)) for kind in QUADS)])
@pytest.mark.parametrize("direction", ["forward", "by_input", "by_filters"])
def test_channels_and_filters_are_accessed_16_bytes_at_once(direction, kind, capability):
    work = getattr(gpu_works, direction)(kind, QUADS[kind])
    for launch in gpu_static.launched(work, capability):
        assert widths(launch.ptx(capability)) == {128}, launch.function.__name__


def test_every_tile_is_in_the_table():
    choices = {name for name in vars(tiles) if name.endswith("_TILES")}
    assert {family.choices for family in gpu_tiles.FAMILIES} == choices
    for capability in ARCHITECTURES:
        launched = gpu_static.variants(capability, " threads)")
        expected = gpu_tiles.all_tiles(capability)
        assert [launch.threads for launch in launched.values()] == [tile.tile.threads for tile in expected]
        assert set(launched) <= set(gpu_tiles.aims())


@pytest.mark.parametrize("network", gpu_steps.NETWORKS)
def test_launches_of_a_step(network):
    (committed,) = (row for row in COMMITTED["steps"] if row["network"] == network)
    counted = gpu_steps.count(network)
    assert counted["waits"] == 0
    assert counted["launches"] == sum(counted["kernels"].values())
    assert counted == {key: value for key, value in committed.items() if key in counted}


def test_a_table_that_got_worse():
    row = {
        **dict.fromkeys(gpu_static.SMALLER_IS_BETTER, 10),
        **dict.fromkeys(gpu_static.WIDTHS, ""),
        "blocks": 4,
        "share": 0.5,
        "shared_loads": "4 x 128, 1 x 32",
    }
    assert gpu_static.worse(row, row) == []
    for name in gpu_static.SMALLER_IS_BETTER:
        assert gpu_static.worse({**row, name: 9}, row) == []
        assert gpu_static.worse({**row, name: 11}, row) == [f"{name}: 10 before, now 11"]
        assert gpu_static.worse({**row, name: 11}, row, slack=0.15) == []
    for name in gpu_static.LARGER_IS_BETTER:
        assert gpu_static.worse({**row, name: 5}, row) == []
        assert len(gpu_static.worse({**row, name: 0.4}, row)) == 1
    assert gpu_static.worse({**row, "shared_loads": "8 x 64"}, row) == []
    assert len(gpu_static.worse({**row, "shared_loads": "9 x 16"}, row)) == 1


LISTING = """
	.section	.text.name
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0010*/                   LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0020*/                   STS.128 [R9], R4 ;
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
.L_x_2:
        /*0040*/                   LDS.128 R8, [R9] ;
        /*0050*/                   FFMA R10, R8, R8, R10 ;
        /*0060*/                   FFMA R11, R8, R9, R11 ;
        /*0070*/                   IADD3 R9, R9, 0x10, RZ ;
        /*0080*/                   IMAD.MOV.U32 R1, RZ, RZ, R9 ;
        /*0090*/               @P0 BRA `(.L_x_2) ;
        /*00a0*/                   FFMA R10, R8, R8, R10 ;
        /*00b0*/              @!P1 BRA `(.L_x_1) ;
        /*00c0*/                   STG.E [R2.64], R10 ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   BRA `(.L_x_3) ;
        /*00f0*/                   NOP ;
"""


def test_the_hot_loop_is_the_inner_one_of_those_with_products():
    code = gpu_code.Code(LISTING)
    assert [code.inside(loop)[0].split()[0] for loop in code.loops] == ["LDS.128", "LDG.E.128.CONSTANT"]
    assert gpu_code.figures(LISTING) == {
        "code": 15, "local": 0, "loop": 6, "loop_local": 0, "multiply_adds": 2, "tensor": 0, "share": round(2 / 6, 4),
        "integers": 1, "barriers": 0, "global_loads": "1 x 128", "global_copies": "", "global_stores": "1 x 32",
        "shared_loads": "1 x 128", "shared_stores": "",
    }  # fmt: skip
    without = LISTING.replace("FFMA", "FADD")
    assert gpu_code.figures(without)["shared_loads"] == "1 x 128"
    tensor = LISTING.replace("IADD3", "HMMA.1688.F32.TF32")
    assert gpu_code.figures(tensor)["tensor"] == 1
    local = LISTING.replace("IADD3", "LDL").replace("STG.E", "STL")
    assert (gpu_code.figures(local)["local"], gpu_code.figures(local)["loop_local"]) == (2, 1)
    assert gpu_code.Code("").hot_loop() is None


def test_one_block_of_a_work_is_executed_and_counted():
    g = gpu_works.correlation_geometry((2, 8, 8, 4), 3, 16, padding="same")
    work = gpu_works.Work(
        "small", "correlate2d",
        lambda empty: (
            empty(g.input_shape), empty(g.filters_shape), empty(16), g, 0, 0.0, empty(g.output_shape),
        ),
        2 * 128 * 16 * 36,
    )  # fmt: skip
    gpu = gpu_models.GPUS[0]
    found = gpu_estimate.profile(work, gpu)
    assert found.array_bytes == 4 * (2 * 64 * 4 + 9 * 4 * 16 + 16 + 2 * 64 * 16)
    # No less than the products of the result, and all but a few of them for it.
    done = sum(block.blocks * block.multiply_adds * 32 for block in found.launches)
    assert done >= 128 * 16 * 36
    assert all(0 < block.load_efficiency <= 1 for block in found.launches)
    row = gpu_estimate.estimate(work, found, gpu)
    assert row["limit_memory"] == round(found.array_bytes / gpu.bandwidth * 1e6, 2)
    assert row["estimate"] >= max(row["limit_memory"], row["compute"])


def test_estimates_from_made_up_blocks():
    gpu = gpu_models.GPUS[1]
    work = gpu_works.Work("made up", "correlate2d", None, int(gpu.rate * 1e-6))
    block = gpu_estimate.Block("kernel", gpu.multiprocessors, 256, 0, 0, 4, 0, 0, 1.0, 1.0, 0)

    def estimate(array_bytes=0, workspace_bytes=0, **changed):
        launches = [block._replace(**changed)]
        found = gpu_estimate.SimpleNamespace(
            launches=launches, array_bytes=array_bytes, workspace_bytes=workspace_bytes
        )
        return gpu_estimate.estimate(work, found, gpu)

    cycles = int(gpu.clock * 1e-6)  # of a microsecond
    full = estimate(multiply_adds=2 * cycles)
    assert (full["limit_multiply_adds"], full["compute"], full["ratio"], full["bound"]) == (1, 1, 1, "multiply-adds")
    assert estimate(instructions=8 * cycles)["bound"] == "issue"
    assert estimate(shared_passes=3 * cycles)["ratio"] == 3
    assert estimate(multiply_adds=2 * cycles, blocks=gpu.multiprocessors + 1)["bound"] == "few blocks"
    memory = estimate(array_bytes=int(4e-6 * gpu.bandwidth), workspace_bytes=int(1e-6 * gpu.bandwidth))
    assert (memory["limit_memory"], memory["estimate"], memory["bound"]) == (4, 6, "memory")


def test_doctests():
    for module in (gpu_code, gpu_models):
        assert doctest.testmod(module).attempted > 0
        assert doctest.testmod(module).failed == 0


def test_from_the_command_line(tmp_path, capsys):
    assert gpu_static.main(["--only", "_sum_into", "--output", str(tmp_path)]) == 0
    assert "| sm_90 |" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    gpu_static.write(COMMITTED, tmp_path)
    for name in ("gpu_static.json", "gpu_static.md"):
        assert (tmp_path / name).read_text() == (gpu_static.RESULTS / name).read_text()
