#!/usr/bin/env python3
"""Runs `halfstep ... --device cuda` on the emulated GPU: the same pictures as on the CPU, a training and a distillation
that begin there, --stats, errors, and predictions from what its kernels do.

Usage: cuda_command_test.py PATH_OF_HALFSTEP
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import zlib

from cli_session import TINY, Checks, run_in_own_folders, write_data

checks = Checks()
check, equal = checks.check, checks.equal


def halfstep(folder, *arguments, code=0, **environment):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False,
                            stdin=subprocess.DEVNULL, cwd=folder, env={**os.environ, **environment})
    equal(result.returncode, code, f"exit code of {arguments}: {result.stderr}")
    return result


def pixels(path):
    """The grey values of a PNG without filters between its rows, as stb writes small ones, or with them."""
    content, at, data = path.read_bytes(), 8, b""
    width, height = (int.from_bytes(content[i:i + 4], "big") for i in (16, 20))
    channels = {0: 1, 2: 3, 6: 4}[content[25]]
    while at < len(content):
        length, kind = int.from_bytes(content[at:at + 4], "big"), content[at + 4:at + 8]
        data += content[at + 8:at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    raw, stride = zlib.decompress(data), width * channels
    rows, before = [], bytes(stride)
    for y in range(height):
        filtered, row = raw[y * (stride + 1):(y + 1) * (stride + 1)], bytearray(stride)
        for i, value in enumerate(filtered[1:]):
            left = row[i - channels] if i >= channels else 0
            up, corner = before[i], before[i - channels] if i >= channels else 0
            estimate = left + up - corner
            paeth = min((left, up, corner), key=lambda v: abs(estimate - v))
            row[i] = (value + (0, left, up, (left + up) // 2, paeth)[filtered[0]]) % 256
        rows.append(bytes(row))
        before = bytes(row)
    return b"".join(rows)


def statistics(result):
    """What --stats says: the device, and the numbers of kernels, graphs, uploads and downloads."""
    counts = re.search(r"(\w+): (\d+) kernels started, (\d+) graphs; (\d+) copies to the device \(.*\), "
                       r"(\d+) copies from it", result.stderr)
    check(counts is not None, "--stats", result.stderr)
    return counts[1], *map(int, counts.groups()[1:])


def the_same_pictures_as_the_cpu(folder):
    write_data(folder / "data")
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    halfstep(folder, "train", "--config", "tiny.json", "--data", "data", "--out", "run", "--device", "cpu")
    for device in ("cpu", "cuda"):
        result = halfstep(folder, "sample", "run", "--device", device, "--num", 9, "--steps", 4, "--out", f"{device}.png",
                          "--stats")
        name, kernels, graphs, _, _ = statistics(result)
        equal(name, device, "the device that --stats names")
        check((kernels > 100) == (device == "cuda"), "kernels are counted on the GPU", kernels)
        # Every step but the first.
        equal(graphs, 3 if device == "cuda" else 0, "graphs of the sampler")
    cpu, cuda = pixels(folder / "cpu.png"), pixels(folder / "cuda.png")
    equal(len(cuda), len(cpu), "size of the pictures")
    check(max(cpu) - min(cpu) > 100, "the pictures are not blank", (min(cpu), max(cpu)))
    worst = max(abs(a - b) for a, b in zip(cpu, cuda))
    check(worst <= 1, "pixels within 1 of 255", worst)
    print(f"largest difference of a pixel: {worst} of 255")


def only_inputs_are_sent(folder):
    write_data(folder / "data")
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")

    def counts(*arguments):
        return statistics(halfstep(folder, *arguments, "--device", "cuda", "--stats"))[2:4]

    # What one update more costs: the pictures, their labels, and the table of noise levels.
    runs = {steps: counts("train", "--config", "tiny.json", "--data", "data", "--out", f"run-{steps}", "--max-steps", steps)
            for steps in (4, 5)}
    equal([b - a for a, b in zip(runs[4], runs[5])], [1, 3], "graphs and uploads of an update")
    equal(runs[4][0], 3, "graphs of four updates")
    # In a distillation, three tables and the weights of the target.
    runs = {steps: counts("distill", "run-4", "--data", "data", "--out", f"students-{steps}", "--from-steps", 2,
                          "--to-steps", 1, "--max-steps", steps) for steps in (4, 5)}
    equal([b - a for a, b in zip(runs[4], runs[5])], [1, 6], "graphs and uploads of a distillation's update")
    # A step of sampling: the levels where it ends.
    samples = {steps: counts("sample", "run-4", "--num", 4, "--steps", steps, "--out", f"{steps}.png") for steps in (4, 5)}
    equal([b - a for a, b in zip(samples[4], samples[5])], [1, 1], "graphs and uploads of a step of sampling")
    equal(counts("sample", "run-4", "--num", 4, "--steps", 4, "--out", "off.png", "--graphs", "off")[0], 0, "--graphs off")
    equal((folder / "off.png").read_bytes(), (folder / "4.png").read_bytes(), "pictures without graphs")
    # No graph hides which kernel fails.
    equal(counts("sample", "run-4", "--num", 4, "--steps", 4, "--out", "sync.png", "--debug-sync")[0], 0, "--debug-sync")


def trains_and_distils(folder):
    write_data(folder / "data")
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    losses = {}
    for device in ("cpu", "cuda"):
        halfstep(folder, "train", "--config", "tiny.json", "--data", "data", "--out", device, "--device", device)
        losses[device] = [json.loads(line)["loss"] for line in (folder / device / "log.jsonl").read_text().splitlines()]
    check(all(abs(a - b) <= 1e-3 * abs(a) for a, b in zip(losses["cpu"], losses["cuda"])), "losses", losses)
    halfstep(folder, "distill", "cuda", "--data", "data", "--out", "students", "--from-steps", 2, "--to-steps", 1,
             "--max-steps", 4, "--device", "cuda")
    check((folder / "students" / "student-1").is_dir(), "a student is there")
    halfstep(folder, "train", "--config", "tiny.json", "--data", "data", "--out", "off", "--device", "cuda", "--graphs", "off")
    saved = sorted(path.relative_to(folder / "off") for path in (folder / "off").rglob("*.safetensors"))
    check(saved, "there is a checkpoint")
    for path in saved:
        equal((folder / "cuda" / path).read_bytes(), (folder / "off" / path).read_bytes(), f"{path} without graphs")
    # A run continues on another device.
    halfstep(folder, "train", "--config", "tiny.json", "--data", "data", "--out", "cuda", "--device", "cpu", "--resume",
             "--max-steps", 14)


def computes_in_bf16(folder):
    write_data(folder / "data")
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    train = ["train", "--config", "tiny.json", "--data", "data", "--max-steps", 4, "--precision", "bf16"]
    losses = {}
    for device in ("cpu", "cuda"):
        halfstep(folder, *train, "--out", device, "--device", device)
        losses[device] = [json.loads(line)["loss"] for line in (folder / device / "log.jsonl").read_text().splitlines()]
    # Sums in another order tip single roundings to 8 bits over.
    check(all(abs(a - b) <= 1e-2 * abs(a) for a, b in zip(losses["cpu"], losses["cuda"])), "losses in bf16", losses)
    halfstep(folder, "sample", "cuda", "--device", "cuda", "--num", 2, "--steps", 2, "--out", "x.png", "--precision", "bf16")
    # On a GPU without bf16 there is one error, before anything is computed or written.
    for command in ([*train, "--out", "old"], ["sample", "cuda", "--out", "old", "--precision", "bf16"],
                    ["bench", "network", "--what", "model", "--config", "tiny.json", "--precision", "bf16"]):
        result = halfstep(folder, *command, "--device", "cuda", code=1, HALFSTEP_EMULATION_CAPABILITY="75")
        check("[precision] expected a device that computes in bf16, got 'cuda'; a GPU needs compute capability 8.0"
              in result.stderr, "bf16 on an old GPU", result.stderr)


def gradients_and_errors(folder):
    result = halfstep(folder, "gradcheck", "softmax", "conv2d 1x1", "--backend", "cuda")
    check("cuda" in result.stdout and "FAIL" not in result.stdout, "gradcheck on the GPU", result.stdout)
    result = halfstep(folder, "gradcheck", "softmax", "--backend", "cuda", "--layout", "contiguous", "--dtype", "f32",
                      HALFSTEP_EMULATION_COUNT="1")
    check(re.search(r"softmax", result.stderr) and "sectors" in result.stderr, "the table of kernels", result.stderr)
    result = halfstep(folder, "gradcheck", "softmax", "--backend", "cuda", code=1, HALFSTEP_EMULATION_FAIL="launch")
    check(result.stderr.startswith("[cuda] expected success at cuda/"), "an error of the device", result.stderr)
    # A kernel that fails while it runs is noticed where the host waits; with --debug-sync where it was launched.
    places = []
    for flags in ([], ["--debug-sync"]):
        result = halfstep(folder, "bench", "--what", "kernels", "gemm 32x256x256 b^T", "--device", "cuda", *flags, code=1,
                          HALFSTEP_EMULATION_FAIL="kernel")
        place = re.match(r"\[cuda\] expected success at (cuda/[\w.]+):\d+, got cudaErrorIllegalAddress", result.stderr)
        check(place is not None, "an error of a kernel", result.stderr)
        places.append(place and place[1])
    check(places[0] == "cuda/backend.cpp" and places[1] not in (None, places[0]), "places of the failure", places)
    for name in ("HALFSTEP_EMULATION", "HALFSTEP_EMULATION_MEMORY", "HALFSTEP_EMULATION_CAPABILITY"):
        result = halfstep(folder, "gradcheck", "softmax", "--backend", "cuda", code=1, **{name: "much"})
        check(result.stderr.startswith(f"[{name}] expected "), "a value that is not known", result.stderr)
    # A device without room says so.
    write_data(folder / "data", side=32)
    (folder / "tiny.json").write_text(json.dumps(TINY), encoding="utf-8")
    result = halfstep(folder, "train", "--config", "tiny.json", "--data", "data", "--out", "run", "--device", "cuda", code=1,
                      HALFSTEP_EMULATION_MEMORY="14")
    check("[allocate] device 'cuda' has no room for" in result.stderr, "a full device", result.stderr)


def predictions(folder, gpu, *arguments, **environment):
    """{name: case} of bench --roofline."""
    result = halfstep(folder, "bench", "--device", "cuda", "--json", "--roofline", gpu, *arguments, **environment)
    return {case["name"]: case for case in json.loads(result.stdout)["cases"]}


def predicts_from_counts(folder):
    config = {"model": {**TINY["model"], "height": 8, "width": 8, "attention_resolutions": [4]}, "train": TINY["train"]}
    (folder / "tiny.json").write_text(json.dumps(config), encoding="utf-8")
    model = ("--config", "tiny.json", "training step", "sampling step")
    fused, unfused = predictions(folder, "h200", *model), predictions(folder, "h200", *model, "--unfused")
    equal(sorted(fused), ["sampling step", "training step"], "the model's cases")
    for name, case in [*fused.items(), *unfused.items()]:
        for key in ("launches", "flops", "bytes", "predicted_seconds"):
            total = sum(row[key] for row in case["kernels"])
            check(abs(total - case[key]) <= 1e-9 * total, f"{name}: {key} of the kernels add up", (total, case[key]))
        by_bound = sum(case["seconds_by_bound"].values())
        check(abs(by_bound - case["predicted_seconds"]) <= 1e-9 * by_bound, f"{name}: bounds add up", case)
        check(case["predicted_seconds"] >= 0.999 * case["launches"] * 2.5e-6, f"{name}: no launch is free")
        seconds = [row["predicted_seconds"] for row in case["kernels"]]
        equal(seconds, sorted(seconds, reverse=True), f"{name}: the longest first")
    for name, case in fused.items():
        check(unfused[name]["launches"] > 1.5 * case["launches"], f"{name}: launches without fusion")
        check(unfused[name]["bytes"] > 1.2 * case["bytes"], f"{name}: bytes without fusion")
    kernels = [" ".join(row["kernel"] for row in cases["training step"]["kernels"]) for cases in (fused, unfused)]
    for kernel in ("norm_", "attention_", "adam_step"):
        equal([kernel in text for text in kernels], [True, False], f"{kernel} with and without fusion")
    # Another batch: what depends on it doubles, the optimiser does not.
    two = predictions(folder, "h200", *model, "--batch-size", 2)["training step"]
    check(1.2 < two["flops"] / fused["training step"]["flops"] < 2, "twice the batch")
    slow = predictions(folder, "t4", *model)
    check(slow["training step"]["seconds_by_bound"]["memory"] >= fused["training step"]["seconds_by_bound"]["memory"],
          "a T4 is slower than an H200")


def predicts_kernels(folder):
    names = ("gemm 32x256x256", "conv3x3 forward 16x16 128->128 batch 1")
    by_name = predictions(folder, "a100", "--what", "kernels", *names)
    product = by_name[names[0]]
    equal((product["launches"], product["flops"], product["bytes"]),
          (1, 2 * 32 * 256 * 256, 4 * (32 * 256 + 256 * 256 + 32 * 256)), "a product of cuBLAS")
    # The direct sum, and what tiles compute beyond the edges.
    flops = by_name[names[1]]["flops"] / (2 * 256 * 9 * 128 * 128)
    check(0.8 < flops < 1.5, "operations of a convolution", flops)
    tf32 = predictions(folder, "a100", "--what", "kernels", *names, HALFSTEP_CUDA_TF32="1")
    check(any("multiply<" in row["kernel"] and "Tile" in row["kernel"] for row in tf32[names[1]]["kernels"]), "tensor cores",
          tf32[names[1]]["kernels"])
    result = halfstep(folder, "bench", "--device", "cuda", "--roofline", "t4", "--what", "kernels", names[0], code=1,
                      HALFSTEP_CUDA_TF32="1", HALFSTEP_EMULATION_CAPABILITY="80")
    check("[roofline] expected kernels that NVIDIA T4 runs, got tf32 products" in result.stderr, "cores that a T4 has not",
          result.stderr)
    text = halfstep(folder, "bench", "--device", "cuda", "--roofline", "rtx4090", "--what", "kernels", *names).stdout
    check(all(len(line) <= 80 for line in text.splitlines()), "80 columns", text)
    for words in ("nothing is measured", "predicted", "The largest: ", "bound by", "RTX 4090"):
        check(words in text, words, text)


def asks_for_the_shared_memory_that_the_gate_knows(folder):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "scripts"))
    from cuda_gate import base_name, dynamic_shared  # pylint: disable=import-outside-toplevel,import-error
    asked = {}
    for name in ("conv3x3 forward 16x16 128->128 batch 1", "group_norm silu backward [1,", "group_norm silu forward [1,"):
        result = halfstep(folder, "bench", "--device", "cuda", "--roofline", "a100", "--what", "kernels", name,
                          HALFSTEP_EMULATION_COUNT="1", HALFSTEP_CUDA_TF32="1")
        for line in result.stderr.splitlines()[1:]:
            columns = line.split(maxsplit=8)
            if columns[7] != "0":
                file = "conv2d_tensor_cores" if base_name(columns[8]) == "multiply" else "group_norm"
                sizes = [dynamic_shared(file, columns[8], threads) for threads in (256, 512)]
                asked[base_name(columns[8])] = int(columns[7]) in sizes
    check({"multiply"} < set(asked) and all(asked.values()), "dynamic shared memory", asked)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv[1])
    sys.exit(run_in_own_folders([the_same_pictures_as_the_cpu, only_inputs_are_sent, trains_and_distils, computes_in_bf16,
                                 gradients_and_errors, predicts_from_counts, predicts_kernels,
                                 asks_for_the_shared_memory_that_the_gate_knows], checks))
