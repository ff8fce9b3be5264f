#!/usr/bin/env python3
"""Runs `halfstep bench`: what it counts and prints, not how fast anything is.

Usage: bench_test.py PATH_OF_HALFSTEP
"""
import json
import subprocess
import sys

from cli_session import TINY, Checks, run_in_own_folders

checks = Checks()
check, equal = checks.check, checks.equal
QUICK = ("--seconds", "0.001")


def bench(*arguments, code=0):
    result = subprocess.run([PROGRAM, "bench", *map(str, arguments)], capture_output=True, text=True, timeout=300,
                            check=False, stdin=subprocess.DEVNULL)
    equal(result.returncode, code, f"exit code of bench {arguments}: {result.stderr}")
    return result


def cases(*arguments):
    """{name: case} of the results as JSON."""
    result = json.loads(bench(*QUICK, "--json", *arguments).stdout)
    return result, {case["name"]: case for case in result["cases"]}


def lists_and_filters(_):
    names = bench("--list").stdout.splitlines()
    check(len(names) > 60 and len(set(names)) == len(names), "the cases have names of their own", names)
    equal(bench("--list", "--what", "model").stdout.splitlines(),
          ["network call", "training step", "distillation step", "sampling step"], "cases of the model")
    equal(bench("--list", "adam", "gemm 32x").stdout.splitlines(),
          [name for name in names if "adam" in name or "gemm 32x" in name], "two filters")
    check("no case has such a name" in bench("zzz", code=1).stderr, "a filter that fits nothing")
    check("one of" in bench("--what", "kernel", code=2).stderr or "expected" in bench("--what", "kernel", code=2).stderr,
          "a wrong --what")


def counts_what_is_computed(_):
    _, kernel = cases("gemm 32x256x256", "conv3x3 forward 16x16 128->128 batch 1", "attention forward 64x128",
                      "adam 6.8M")
    flops = {name: case["flops"] for name, case in kernel.items()}
    equal(flops["gemm 32x256x256"], 2 * 32 * 256 * 256, "operations of a matrix product")
    equal(flops["conv3x3 forward 16x16 128->128 batch 1"], 2 * 256 * 9 * 128 * 128, "operations of a convolution")
    equal(flops["attention forward 64x128 batch 32"], 4 * 32 * 64 * 64 * 128, "operations of attention")
    equal(flops["adam 6.8M"], 0, "operations of what is no matrix product")
    equal(kernel["adam 6.8M"]["bytes"], 4 * 6_800_000 * 7, "bytes of Adam: three read and written, one read")
    for name, case in kernel.items():
        check(0 < case["low_seconds"] <= case["median_seconds"] <= case["high_seconds"], f"times of {name}", case)
        check(case["runs"] >= 3, f"runs of {name}", case)
    case = kernel["gemm 32x256x256"]
    check(abs(case["gflops"] * case["median_seconds"] * 1e9 / case["flops"] - 1) < 1e-6, "rate, time and operations fit")
    equal(case["peak_bytes"], 4 * (32 * 256 + 256 * 256 + 32 * 256), "memory of three matrices")


def times_a_model(folder):
    config = folder / "tiny.json"
    config.write_text(json.dumps(TINY), encoding="utf-8")
    arguments = ("--what", "model", "--config", config, "--profile")
    _, one = cases(*arguments, "--batch-size", 2, "--threads", 1)
    _, two = cases(*arguments, "--batch-size", 4, "--threads", 1)
    for name in one:
        check(0.99 < two[name]["flops"] / one[name]["flops"] / 2 < 1.01, f"{name}: twice the batch, twice the work")
        entries = {row["entry"]: row for row in one[name]["profile"]}
        equal(sum(row["flops"] for row in entries.values()), one[name]["flops"], f"{name}: the profile adds up")
        trains = name in ("training step", "distillation step")
        equal("conv2d_backward_kernel" in entries, trains, f"{name}: whether there is a backward pass")
        equal("adam" in entries, trains, f"{name}: whether weights are updated")
    _, apart = cases(*arguments, "--profile-shapes", "--batch-size", 2, "--threads", 1)
    for name in one:
        rows = apart[name]["profile"]
        sums = {entry: sum(row["calls"] for row in rows if row["entry"] == entry) for entry in {row["entry"] for row in rows}}
        equal(sums, {row["entry"]: row["calls"] for row in one[name]["profile"]}, f"{name}: shapes add up to entries")
        convolutions = {row["shapes"] for row in rows if row["entry"] == "conv2d_forward"}
        check(len(convolutions) > 2 and all("(3, 3" in s for s in convolutions), "shapes of convolutions", convolutions)
    # In bf16 the same products, and conversions beside them.
    _, coarse = cases(*arguments, "--batch-size", 2, "--threads", 1, "--precision", "bf16")
    for name in one:
        equal(coarse[name]["flops"], one[name]["flops"], f"{name}: the operations do not depend on the precision")
        copies = [sum(row["calls"] for row in case["profile"] if row["entry"] == "copy") for case in (one[name], coarse[name])]
        check(copies[1] > copies[0], f"{name}: bf16 converts", copies)
    call, training = one["network call"]["flops"], one["training step"]["flops"]
    check(2.5 < training / call < 3.5, "a training step is about three network calls", training / call)
    check(1.9 < (one["distillation step"]["flops"] - training) / call < 2.1, "a distillation step is two calls more")
    equal(one["sampling step"]["flops"], call, "a sampling step is a call")


def names_the_settings(_):
    for method in ("direct", "winograd"):
        result, _ = cases("gemm 32x256x256", "--conv", method, "--threads", 2)
        equal((result["conv"], result["threads"], result["device"]), (method, 2, "cpu"), "what was measured")
        check(result["peak_gflops"] > 1 and result["max_resident_bytes"] > 1e6, "the yardsticks", result)


def prints_a_table(_):
    text = bench(*QUICK, "--profile", "gemm 32x256x256", "attention forward 64x128").stdout
    check(all(len(line) <= 80 for line in text.splitlines()), "80 columns", text)
    check("gemm 32x256x256 b^T" in text and "attention   " in text, "cases and entries", text)


def without_fused_kernels(_):
    names = ("group_norm silu backward [1,", "attention forward 64x128", "gemm 32x256x256")
    fused, unfused = (cases("--profile", *more, *names) for more in ((), ("--unfused",)))
    equal((fused[0]["unfused"], unfused[0]["unfused"]), (False, True), "what was measured")
    entries = [{row["entry"] for case in result.values() for row in case["profile"]} for _, result in (fused, unfused)]
    equal(entries[0], {"group_norm_backward", "attention", "gemm"}, "fused entries")
    check({"binary", "unary", "reduce", "softmax", "gemm"} <= entries[1] and not entries[1] & {"attention", "group_norm_backward"},
          "plain entries", entries[1])
    name = "attention forward 64x128 batch 32"
    equal(unfused[1][name]["flops"], fused[1][name]["flops"], "the operations of attention stay the same")
    check(unfused[1][name]["bytes"] > 1.2 * fused[1][name]["bytes"], "and what is moved does not")


def predicts_only_with_an_emulated_gpu(_):
    for arguments in (("--device", "cpu"), ()):
        check("[bench] expected the emulated GPU for --roofline" in bench("--roofline", "h200", *arguments, code=1).stderr,
              "a device that does not count")
    check("h200" in bench("--roofline", "h300", code=2).stderr, "the GPUs that are known")
    check("[bench] expected --precision f32 with --unfused" in
          bench("--unfused", "--precision", "bf16", "--what", "model", code=1).stderr, "unfused is of one dtype")
    for flag in ("--seconds=1", "--pause=1", "--profile"):
        check("--roofline" in bench("--roofline", "h200", flag, code=2).stderr, f"{flag} is for measuring")


SCENARIOS = [lists_and_filters, counts_what_is_computed, times_a_model, names_the_settings, prints_a_table,
             without_fused_kernels, predicts_only_with_an_emulated_gpu]

if __name__ == "__main__":
    PROGRAM = sys.argv[1]
    sys.exit(run_in_own_folders(SCENARIOS, checks))
