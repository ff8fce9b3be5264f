#!/usr/bin/env python3
"""Compiles the CUDA kernels to machine code, without a GPU, and judges what the assembler says of each: registers,
shared and local memory, spills, and how many warps of a multiprocessor it lets run (theoretical occupancy).

Usage: cuda_gate.py [--nvcc NVCC] [--arch 75,80,90,120] [--disassembler NVDISASM] [--jobs 2] [--table FILE.md]

Fails where a kernel spills registers, uses local memory beyond ALLOWED_LOCAL, or lets fewer than LEAST_WARPS warps run, and,
with a disassembler (PyPI's nvidia-cuda-nvdisasm has one), where an instruction of REQUIRED is missing. The warps are those of
the toolkit's own calculator (cuda_occupancy.h), with the dynamic shared memory that launches ask for. --table writes the worst
instance of each kernel, by architecture.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Kernels that may keep an array in local memory, and how many bytes: the math library's slow path of sin and cos for
# huge arguments has 40, which are touched only there.
ALLOWED_LOCAL = {"elementwise": 40}
# Warps per multiprocessor: of tiles with many registers for each thread, that hide latency by independent
# instructions, and of all others.
LEAST_WARPS = {"attention": 8, "conv2d_simt": 8, "conv2d_tensor_cores": 8, "group_norm": 16, "indexing": 16, "softmax": 16,
               "": 24}

# Instructions that the machine code of a file must hold, from a compute capability on: products on tensor cores, loads
# of their operands, copies past the registers, and 16 bytes per access.
REQUIRED = {
    "conv2d_tensor_cores": ((80, r"HMMA\.16816\.F32\.BF16"), (80, r"HMMA\.1688\.F32\.TF32"), (80, r"LDSM"),
                            (80, r"LDGSTS\.E[.\w]*\.128")),
    "conv2d_simt": ((75, r"LDS[.U]*\.128"), (75, r"LDG\.E\.128")),
    "elementwise": ((75, r"LDG\.E\.128"), (75, r"STG\.E\.128")),
    "group_norm": ((75, r"LDG\.E\.128"),),
    "optimizer": ((75, r"LDG\.E\.128"), (75, r"STG\.E\.128")),
    "reduce": ((75, r"LDG\.E\.128"),),
    "softmax": ((75, r"LDG\.E\.128"),),
}

# By compute capability: threads and KiB of shared memory of a multiprocessor (CUDA C++ Programming Guide, table of technical
# specifications). All have 65536 registers; the rest the toolkit's calculator knows.
LIMITS = {75: (1024, 64), 80: (2048, 164), 86: (1536, 100), 87: (1536, 164), 89: (1536, 100), 90: (2048, 228), 100: (2048, 228),
          103: (2048, 228), 110: (1536, 228), 120: (1536, 100)}
RESERVED_SHARED = 1024  # of each block, from 8.0 on

# Reads lines "capability registers static-shared dynamic-shared threads max-threads shared-bytes reserved" and writes the blocks
# that a multiprocessor holds.
CALCULATOR = r"""
#include <cstdio>
#include <cuda_occupancy.h>

int main() {
  int capability, registers, fixed, dynamic, threads, most, shared, reserved;
  while (std::scanf("%d %d %d %d %d %d %d %d", &capability, &registers, &fixed, &dynamic, &threads, &most, &shared, &reserved) == 8) {
    cudaOccDeviceProp device;
    device.computeMajor = capability / 10;
    device.computeMinor = capability % 10;
    device.maxThreadsPerBlock = 1024;
    device.maxThreadsPerMultiprocessor = most;
    device.regsPerBlock = device.regsPerMultiprocessor = 65536;
    device.warpSize = 32;
    device.sharedMemPerBlock = 48 << 10;
    device.sharedMemPerMultiprocessor = shared;
    device.sharedMemPerBlockOptin = shared - reserved;
    device.reservedSharedMemPerBlock = reserved;
    device.numSms = 1;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = threads;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = fixed;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    kernel.maxDynamicSharedSizeBytes = device.sharedMemPerBlockOptin - fixed;
    kernel.numBlockBarriers = 1;
    cudaOccDeviceState state;
    cudaOccResult result;
    const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, dynamic);
    std::printf("%d\n", error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1);
  }
}
"""

Usage = collections.namedtuple("Usage", "file kernel arch registers shared dynamic stack spills threads warps")


def meson_list(name):
    """A list of strings in cuda/meson.build."""
    text = (ROOT / "cuda" / "meson.build").read_text(encoding="utf-8")
    return re.findall(r"'(\w+)'", re.search(rf"^{name} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)[1])


def demangle(names):
    result = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    return result.stdout.split("\n")


def dynamic_shared(file, kernel, threads):
    """The bytes of dynamic shared memory that the largest launch of a kernel with some asks for; `kernel` is its readable name.
    (tests/cuda_command_test.py compares with what launches ask for.)"""
    if file == "conv2d_tensor_cores" and (tile := re.search(r"Tile<\(?(?:int\)?)?(\d+), \(?(?:int\)?)?(\d+)", kernel)):
        return 4 * (int(tile[1]) + int(tile[2])) * 64  # kStages * Tile::kStage
    if file == "group_norm" and (pack := re.search(r"<(float|double|unsigned short), \(?(?:int\)?)?(\d+)", kernel)):
        # shared_bytes<X, V>(2, threads); for bf16 it holds floats.
        return {"float": 4, "double": 8, "unsigned short": 4}[pack[1]] * int(pack[2]) * 2 * threads
    raise ValueError(f"expected to know the dynamic shared memory of {kernel} in {file}.cu; say it in dynamic_shared()")


def with_warps(usages, include):
    """The usages with the warps that a multiprocessor holds, by the calculator of the toolkit in the folder `include`."""
    def line(u):
        threads, shared_kib = LIMITS[u.arch]
        return f"{u.arch} {u.registers} {u.shared} {u.dynamic} {u.threads} {threads} {shared_kib * 1024} " \
               f"{RESERVED_SHARED if u.arch >= 80 else 0}"

    with tempfile.TemporaryDirectory() as folder:
        source, program = pathlib.Path(folder) / "calculator.cpp", pathlib.Path(folder) / "calculator"
        source.write_text(CALCULATOR, encoding="utf-8")
        subprocess.run([os.environ.get("CXX", "g++"), "-std=c++17", f"-I{include}", source, "-o", program], check=True)
        answers = subprocess.run([program], input="\n".join(map(line, usages)) + "\n", capture_output=True, text=True,
                                 check=True).stdout.split()
    if len(answers) != len(usages) or "-1" in answers:
        sys.exit(f"[cuda_gate] expected the occupancy of {len(usages)} kernels, got {len(answers) - answers.count('-1')}; "
                 "cuda_occupancy.h may not know one of the architectures")
    return [u._replace(warps=int(blocks) * -(-u.threads // 32)) for u, blocks in zip(usages, answers)]


def front_end(nvcc, name, arch, work):
    """PTX of one file, as the build makes it for `arch`."""
    ptx = work / f"{name}-{arch}.ptx"
    exact = ["-fmad=false"] if name in meson_list("cuda_exact_kernels") else []
    subprocess.run([nvcc, "-std=c++20", f"-I{ROOT}", "-DHALFSTEP_ISA=cuda", f"-arch=compute_{arch}", *exact, "-ptx",
                    ROOT / "cuda" / f"{name}.cu", "-o", ptx], capture_output=True, text=True, check=True)
    return ptx


def assemble(ptxas, file, ptx, arch, disassembler):
    """The usage of every kernel of one file on one architecture, and the problems of its machine code."""
    cubin = ptx.with_suffix(f".{arch}.cubin")
    result = subprocess.run([ptxas, "-v", f"-arch=sm_{arch}", ptx, "-o", cubin], capture_output=True, text=True, check=True)
    text, threads, dynamic = ptx.read_text(encoding="utf-8"), {}, {}
    without_size = re.findall(r"^\.extern \.shared .*?(\w+)\[\];", text, re.MULTILINE)
    for entry in re.split(r"\.entry\s+", text)[1:]:
        kernel = re.match(r"\w+", entry)[0]
        found = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?", entry[:entry.index("{")])
        threads[kernel] = int(found[1]) * int(found[2] or 1) if found else 256
        if any(name in entry for name in without_size):
            dynamic[kernel] = dynamic_shared(file, demangle([kernel])[0], threads[kernel])
    usages = []
    for part in result.stderr.split("Compiling entry function ")[1:]:
        kernel = re.match(r"'(\w+)'", part)[1]
        numbers = {key: int(value) for value, key in re.findall(
            r"(\d+) (registers|bytes smem|bytes stack frame|bytes spill stores|bytes spill loads)", part)}
        shared, size = numbers.get("bytes smem", 0), threads.get(kernel, 256)
        usages.append(Usage(file, kernel, arch, numbers["registers"], shared, dynamic.get(kernel, 0),
                            numbers.get("bytes stack frame", 0),
                            numbers.get("bytes spill stores", 0) + numbers.get("bytes spill loads", 0), size, 0))
    return usages, list(missing_instructions(disassembler, file, arch, cubin)) if disassembler else []


def missing_instructions(disassembler, name, arch, cubin):
    """What REQUIRED promises of a file and its machine code lacks."""
    wanted = [text for least, text in REQUIRED.get(name, ()) if arch >= least]
    if not wanted:
        return
    code = subprocess.run([disassembler, "-c", cubin], capture_output=True, text=True, check=True).stdout
    for text in wanted:
        if not re.search(text, code):
            yield f"{name}.cu for sm_{arch}: no instruction like {text}"


def problems(usage):
    where = f"{usage.file}.cu for sm_{usage.arch}: {usage.kernel}"
    if usage.spills:
        yield f"{where} spills {usage.spills} bytes"
    allowed = ALLOWED_LOCAL.get(usage.file, 0)
    if usage.stack > allowed:
        yield f"{where} uses {usage.stack} bytes of local memory, more than {allowed}"
    least = min(LEAST_WARPS.get(usage.file, LEAST_WARPS[""]), LIMITS[usage.arch][0] // 32)
    if usage.warps < least:
        yield f"{where} lets {usage.warps} warps run, fewer than {least} ({usage.registers} registers)"


def base_name(kernel):
    """reduce_lines<float>(...) -> reduce_lines"""
    kernel = kernel.replace("(anonymous namespace)::", "").replace("halfstep::cuda::", "")
    return re.sub(r"^(void|static) ", "", kernel).split("<")[0].split("(")[0]


def table(usages):
    yield "# The CUDA kernels on the GPU"
    yield ""
    yield "What `scripts/cuda_gate.py --table docs/cuda-kernels.md` found: of each kernel the worst of its instances, registers"
    yield "of a thread and warps that a multiprocessor holds by the toolkit's calculator (`cuda_occupancy.h`), with the static and"
    yield "the dynamic shared memory of its largest launch. No kernel spills registers; kernels of elementwise.cu that choose"
    yield "among all formulas keep 40 bytes in local memory for sine and cosine of huge arguments."
    yield "[cuda.md](cuda.md) says what the kernels do."
    yield ""
    yield "| kernel | file | instances | " + " | ".join(f"sm_{a}: registers, warps" for a in sorted({u.arch for u in usages})) \
        + " | shared bytes | dynamic |"
    yield "|" + " --- |" * (len({u.arch for u in usages}) + 5)
    names = dict(zip([u.kernel for u in usages], demangle([u.kernel for u in usages])))
    groups = collections.defaultdict(list)
    for usage in usages:
        groups[(usage.file, base_name(names[usage.kernel]))].append(usage)
    for (file, kernel), group in sorted(groups.items()):
        cells = []
        for arch in sorted({u.arch for u in usages}):
            of_arch = [u for u in group if u.arch == arch]
            cells.append(f"{max(u.registers for u in of_arch)}, {min(u.warps for u in of_arch)}")
        count = len({u.kernel for u in group})
        yield f"| `{kernel}` | {file}.cu | {count} | " + " | ".join(cells) + f" | {max(u.shared for u in group)} | " \
            f"{max(u.dynamic for u in group)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--arch", default="75,80,90,120")
    parser.add_argument("--disassembler", help="nvdisasm (default: of scripts/python_tools.sh, or on PATH)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table")
    options = parser.parse_args()
    archs = [int(a) for a in options.arch.split(",")]
    if unknown := [a for a in archs if a not in LIMITS]:
        sys.exit(f"[cuda_gate] expected architectures of {sorted(LIMITS)}, got {unknown}")
    ptxas = shutil.which("ptxas", path=pathlib.Path(shutil.which(options.nvcc) or options.nvcc).resolve().parent)
    if ptxas is None:
        sys.exit(f"[cuda_gate] expected nvcc with ptxas beside it, got '{options.nvcc}'; --nvcc says where it is")
    disassembler = options.disassembler or next(
        map(str, ROOT.glob("build-tools/venv/lib/python3*/site-packages/nvidia/cu*/bin/nvdisasm")), shutil.which("nvdisasm"))
    if disassembler is None:
        print("Skipped: the look at the machine code, for which there is no nvdisasm (scripts/python_tools.sh brings one)")
    usages, found, compilations = [], [], 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool, tempfile.TemporaryDirectory() as work:
        def everything(name):
            made, wrong = [], []
            for arch in archs:
                try:
                    ptx = front_end(options.nvcc, name, arch, pathlib.Path(work))
                    more, missing = assemble(ptxas, name, ptx, arch, disassembler)
                    made += more
                    wrong += missing
                except subprocess.CalledProcessError as error:
                    wrong.append(f"{name}.cu does not compile for sm_{arch}:\n{error.stderr[-2000:]}")
            return made, wrong

        for made, wrong in pool.map(everything, meson_list("cuda_kernels")):
            usages += made
            found += wrong
            compilations += 1
    usages = with_warps(usages, pathlib.Path(ptxas).parent.parent / "include")
    found += [problem for usage in usages for problem in problems(usage)]
    for problem in sorted(found):
        print(problem)
    if options.table:
        pathlib.Path(options.table).write_text("\n".join(table(usages)) + "\n", encoding="utf-8")
    print(f"{compilations} files, {len(archs)} architectures: {len(usages)} kernels with "
          f"{max((u.registers for u in usages), default=0)} registers at most")
    print(f"{max(0, len(usages) - len(found))} passed, {len(found)} failed")
    return 1 if found or not usages else 0


if __name__ == "__main__":
    sys.exit(main())
