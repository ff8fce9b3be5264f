#!/usr/bin/env python3
"""Runs the program `halfstep` as a person would, on tiny pictures and a tiny network.

Usage: cli_test.py PATH_OF_HALFSTEP

Every check prints one line when it fails; the last line is 'N passed, N failed'.
"""
import json
import math
import pathlib
import signal
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from cli_session import (CLASSES, SIDE, SUBCOMMANDS, TINY, normals, run_scenarios, write_data,  # noqa: E402
                         write_tensors)


# --- scenarios --------------------------------------------------------------------------------------------------------

def test_help(run, checks):
    """--help is complete and fits 80 columns."""
    for arguments in [(), *((name,) for name in SUBCOMMANDS)]:
        result = checks.runs(run(*arguments, "--help"), "--help")
        wide = [line for line in result.stdout.splitlines() if len(line) > 80]
        checks.equal(wide, [], "lines wider than 80 columns")
        checks.check("Example" in result.stdout, f"help of {arguments} has an example")
    overview = run("--help").stdout
    for name in SUBCOMMANDS:
        checks.check(f"  {name} " in overview, f"the overview names {name}")
    for code in ("0 ", "1 ", "2 ", "130 ", "143 "):
        checks.check(code in overview.split("Exit codes:")[1], f"exit code {code}is documented")
    checks.check(run("--version").stdout.startswith("halfstep "), "--version")


def test_usage_errors(run, checks):
    checks.refuses(run(), 2, "SUBCOMMAND")
    checks.refuses(run("trian"), 2, "'trian'", "'train'")
    checks.refuses(run("train", "--batchsize", "8"), 2, "'--batchsize'", "'--batch-size'")
    checks.refuses(run("info", "--jsno"), 2, "'--json'")
    checks.refuses(run("info", "t", "--jsno=1"), 2, "'--json'")
    checks.refuses(run("train"), 2, "--out")
    checks.refuses(run("train", "--out", "x", "--loss", "sn"), 2, "--loss", "truncated-snr")
    checks.refuses(run("train", "--out", "x", "--prediction", "w"), 2, "--prediction", "eps")
    checks.refuses(run("sample", "x", "--sampler", "euler", "--out", "y"), 2, "ancestral")
    checks.refuses(run("sample", "x", "--variance", "medium:2", "--out", "y"), 2, "fixed_small")
    for flag, value in (("--num", "0"), ("--num", "many"), ("--steps", "-1"), ("--seed", "-1"), ("--batch-size", "1.5"),
                        ("--threads", "0"), ("--threads", "9999")):
        checks.refuses(run("sample", "x", "--out", "y", flag, value), 2, flag, value)
    checks.refuses(run("demo", "--out", "x", "--minutes", "0"), 2, "--minutes")
    checks.refuses(run("distill", "x", "--out", "y", "--num-train-steps", "8"), 2, "--num-train-steps")


def test_train(run, checks):
    result = checks.runs(run.train("teacher"), "train")
    checks.equal(sorted(p.name for p in run.path("teacher").glob("step-*")), ["step-00000006", "step-00000012"],
                 "checkpoints")
    checkpoint = "teacher/step-00000012"
    checks.check(checkpoint in result.stdout, "the checkpoint is named on stdout", result.stdout)
    checks.check("12/12" in result.stderr and "images/s" in result.stderr and "\r" not in result.stderr,
                 "plain progress lines on stderr", result.stderr)
    checks.equal(sorted(p.name for p in run.path(checkpoint).iterdir()),
                 ["config.json", "model.safetensors", "state.safetensors"], "files of a checkpoint")
    result = checks.runs(run.train("json", "--max-steps", 2, "--json", "--threads", 1, "--device", "cpu"),
                         "train --json")
    checks.equal(json.loads(result.stdout)["checkpoint"], "json/step-00000002", "--json")

    with open("/dev/full", "w", encoding="utf-8") as full:
        lost = subprocess.run([run.program, "info", "teacher"], cwd=run.folder, stdout=full, stderr=subprocess.PIPE,
                              text=True, check=False)
    checks.refuses(lost, 1, "stdout")

    checks.refuses(run.train("teacher"), 1, "teacher", "--resume")
    again = checks.runs(run.train("teacher", "--resume"), "a finished run may be resumed")
    checks.check(checkpoint in again.stdout, "and is finished", again.stdout)


def test_resume(run, checks):
    """Stopping and going on gives the bits of the run that was not stopped."""
    flags = ["--ema-decay", "0.9", "--seed", "3"]
    checks.runs(run.train("whole", *flags, "--max-steps", 10, "--no-anneal"), "whole run")
    checks.runs(run.train("parts", *flags, "--max-steps", 4, "--no-anneal"), "first part")
    checks.runs(run("train", "--data", "data", "--out", "parts", "--resume", "--max-steps", 10),
                "second part, with the settings of the first")
    for name in ("model.safetensors", "state.safetensors"):
        checks.check(run.path(f"whole/step-00000010/{name}").read_bytes()
                     == run.path(f"parts/step-00000010/{name}").read_bytes(), f"equal {name}")
    write_data(run.path("other"))
    checks.refuses(run("train", "--data", "other", "--out", "parts", "--resume"), 1, "'data'", "'other'")
    checks.refuses(run("train", "--data", "data", "--out", "parts", "--resume", "--prediction", "eps"), 1, "prediction",
                   "eps")


def test_precision(run, checks):
    """--precision bf16: recorded, inherited, resumed to the bit, with checkpoints in f32 that serve both."""
    bf16 = ["--precision", "bf16", "--no-anneal"]
    checks.runs(run.train("coarse", *bf16, "--max-steps", 8), "train --precision")
    checks.runs(run.train("parts-coarse", *bf16, "--max-steps", 4), "first part")
    checks.runs(run("train", "--data", "data", "--out", "parts-coarse", "--resume", "--max-steps", 8), "second part")
    for name in ("model.safetensors", "state.safetensors"):
        checks.check(run.path(f"coarse/step-00000008/{name}").read_bytes()
                     == run.path(f"parts-coarse/step-00000008/{name}").read_bytes(), f"equal {name}")
    checks.equal({dtype for dtype, _, _ in run.tensors("coarse/step-00000008/model.safetensors").values()}, {"F32"},
                 "a checkpoint is f32")
    info = json.loads(run("info", "coarse", "--json").stdout)
    checks.equal((info["precision"], info["train"]["precision"]), ("bf16", "bf16"), "info --json")
    checks.check(", in bf16" in run("info", "coarse").stdout, "info names the precision")
    manifest = json.loads(run.path("coarse/manifest.json").read_text())
    checks.equal(manifest["config"]["train"]["precision"], "bf16", "the manifest has it")

    checks.runs(run.train("fine", "--no-anneal", "--max-steps", 8), "train in f32")
    logs = [[json.loads(line)["loss"] for line in run.path(f"{name}/log.jsonl").read_text().splitlines()]
            for name in ("fine", "coarse")]
    checks.check(logs[0] != logs[1], "it has an effect", str(logs))
    # 8 bits in each activation, and what a few updates make of it.
    checks.check(all(abs(a - b) <= 0.1 * a for a, b in zip(*logs)), "the losses are near", str(logs))
    checks.runs(run("train", "--data", "data", "--out", "coarse", "--resume", "--max-steps", 9, "--precision", "f32"),
                "a run may change its precision")
    checks.equal(json.loads(run("info", "coarse", "--json").stdout)["precision"], "f32", "and then has the new one")

    for precision in ("f32", "bf16"):
        result = checks.runs(run("sample", "parts-coarse", "--num", 2, "--steps", 4, "--tensors", precision,
                                 "--precision", precision, "--json"), "sample --precision")
        checks.equal(json.loads(result.stdout)["precision"], precision, "sample --json")
    fine, coarse = (run.tensors(name)["samples"] for name in ("f32", "bf16"))
    checks.equal(coarse[0], "F32", "samples are f32")
    checks.close(coarse[2], fine[2], 0.2, "samples are near")
    checks.check(coarse[2] != fine[2], "but not the same")

    checks.runs(run("distill", "parts-coarse", "--out", "coarse-students", "--data", "data", "--from-steps", 2,
                    "--max-steps", 2), "distill")
    checks.equal(json.loads(run("info", "coarse-students", "--json").stdout)["precision"], "bf16",
                 "a student inherits it")
    checks.runs(run("demo", "--out", "coarse-demo", "--data", "data", "--config", "tiny.json", "--minutes", "0.002",
                    "--precision", "bf16"), "demo --precision")
    plan = json.loads(run.path("coarse-demo/plan.json").read_text())
    checks.equal([plan[name]["train"]["precision"] for name in ("teacher", "student")], ["bf16", "bf16"], "its plan")
    checks.refuses(run.train("x", "--precision", "half"), 2, "expected f32 or bf16")
    checks.refuses(run("sample", "fine", "--out", "x", "--precision", "f16"), 2, "expected f32 or bf16")
    checks.refuses(run.train("x", "--set", "train.precision=half"), 2, "expected f32 or bf16")


def test_settings(run, checks):
    """Flag over file over default, and settings that do not fit."""
    shown = json.loads(checks.runs(run.train("x", "--batch-size", 5, "--prediction", "both", "--print-config"),
                                   "--print-config").stdout)
    checks.equal(shown["train"]["batch_size"], 5, "flag over file")
    checks.equal(shown["train"]["learning_rate"], 0.003, "file over default")
    checks.equal(shown["train"]["loss"], "snr+1", "default")
    checks.equal([shown["model"][k] for k in ("height", "width", "in_channels")], [SIDE, SIDE, 1],
                 "size of the pictures")
    checks.equal(shown["model"]["out_channels"], 2, "output channels follow from the prediction")
    checks.check(not run.path("x").exists(), "--print-config starts no run")
    (run.path("shown.json")).write_text(json.dumps(shown))
    again = checks.runs(run("train", "--data", "data", "--config", "shown.json", "--out", "x", "--print-config"),
                        "its output is a configuration")
    checks.equal(json.loads(again.stdout), shown, "the same one")
    checks.runs(run.train("both", "--prediction", "both", "--loss", "truncated-snr", "--max-steps", 2,
                          "--num-train-steps", 16, "--no-flip", "--ema-decay", "0.9", "--ema-warmup", "ramp"), "flags")

    def refused(settings, *fragments):
        run.path("wrong.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))
        checks.refuses(run.train("x", config="wrong.json"), 1, *fragments)

    refused({"train": {"learning_rat": 1}}, "wrong.json", "learning_rat", "learning_rate")
    refused({"trian": {}}, "trian", "train")
    refused({"train": {"batch_size": "big"}}, "batch_size")
    refused({"train": {"batch_size": 0}}, "batch_size")
    refused({"model": 5}, "model")
    refused([], "wrong.json")
    refused("{", "wrong.json", "JSON")
    refused({"model": dict(TINY["model"], height=16)}, "16", str(SIDE))
    refused({"model": dict(TINY["model"], num_classes=2)}, "2 classes", str(CLASSES))
    checks.refuses(run.train("x", config="absent.json"), 1, "absent.json")
    checks.check(not run.path("x").exists(), "nothing was written")


def test_data(run, checks):
    write_data(run.path("packed"), compressed=True)
    checks.runs(run("train", "--data", "packed", "--config", "tiny.json", "--out", "p", "--max-steps", 1), ".gz files")
    checks.refuses(run("train", "--data", "nowhere", "--out", "x"), 1, "nowhere", "train-images-idx3-ubyte")
    images = run.path("packed/train-images-idx3-ubyte.gz")
    images.write_bytes(images.read_bytes()[:200])
    checks.refuses(run("train", "--data", "packed", "--out", "x"), 1, "train-images-idx3-ubyte.gz", "byte", "truncated")
    write_data(run.path("foreign"))
    run.path("foreign/train-labels-idx1-ubyte").write_bytes(b"GIF89a, no labels")
    checks.refuses(run("train", "--data", "foreign", "--out", "x"), 1, "train-labels-idx1-ubyte", "magic")


def test_devices(run, checks):
    result = run("info", "teacher", "--device", "cuda")
    if result.returncode == 0:
        return  # this build and this machine have a GPU
    checks.refuses(result, 1, "CUDA", "--device cpu")
    checks.refuses(run("info", "teacher", "--device", "abacus"), 2, "abacus", "cuda")
    checks.refuses(run.train("x", "--device", "cuda"), 1, "CUDA")


def test_info(run, checks):
    info = json.loads(checks.runs(run("info", "teacher", "--json"), "info --json").stdout)
    weights = run.tensors("teacher/step-00000012/model.safetensors")
    checks.equal(info["parameters"], sum(len(values) for _, _, values in weights.values()), "number of parameters")
    checks.equal((info["prediction"], info["loss"], info["step"], info["num_steps"], info["data"]),
                 ("v", "snr+1", 12, 0, "data"), "facts")
    checks.equal(info["model"]["channels"], 8, "architecture")
    checks.equal([(h["teacher_steps"], h["num_steps"], h["updates"]) for h in info["history"]], [(0, 0, 12)], "history")
    older = json.loads(run("info", "teacher/step-00000006", "--json").stdout)
    checks.equal(older["step"], 6, "a path may name a checkpoint")
    text = checks.runs(run("info", "teacher"), "info").stdout
    checks.check(str(info["parameters"]) in text and "prediction" in text, "info for people", text)
    checks.check(max(map(len, text.splitlines())) <= 80, "info fits 80 columns", text)
    checks.refuses(run("info", "nobody"), 1, "nobody")
    checks.refuses(run("info", "data"), 1, "data", "config.json")


def test_sample(run, checks):
    pixels = SIDE * SIDE
    checks.runs(run("sample", "teacher", "--num", 5, "--seed", 7, "--tensors", "a", "--out", "grid.png"), "sample")
    dtype, shape, samples = run.tensors("a")["samples"]
    checks.equal((dtype, shape), ("F32", [5, SIDE, SIDE, 1]), "form of the samples")
    checks.check(all(-1 <= v <= 1 for v in samples), "samples lie in [-1, 1]")
    checks.check(run.path("grid.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", "the grid is a PNG")

    def same_as_first(what, count, *flags):
        checks.runs(run("sample", "teacher", "--seed", 7, "--tensors", "b", *flags), what)
        values = run.tensors("b")["samples"][2]
        checks.check(values == samples[:count * pixels], what)

    same_as_first("16 steps are a teacher's default", 5, "--num", 5, "--steps", 16)
    same_as_first("sample k does not depend on --num", 2, "--num", 2)
    same_as_first("sample k does not depend on --batch-size", 5, "--num", 5, "--batch-size", 2)
    same_as_first("sample k does not depend on --threads", 5, "--num", 5, "--threads", 1)
    run("sample", "teacher", "--num", 5, "--seed", 8, "--tensors", "b")
    checks.check(run.tensors("b")["samples"][2] != samples, "another seed gives other samples")

    # Ancestral: own noise for each sample, whatever the batch.
    ancestral = ["sample", "teacher", "--steps", 4, "--sampler", "ancestral", "--variance", "medium:0.3", "--tensors"]
    checks.runs(run(*ancestral, "c", "--num", 5), "ancestral sampler")
    run(*ancestral, "d", "--num", 3, "--batch-size", 1)
    checks.check(run.tensors("d")["samples"][2] == run.tensors("c")["samples"][2][:3 * pixels],
                 "ancestral sample k does not depend on --num and --batch-size")

    result = checks.runs(run("sample", "teacher", "--num", 2, "--tensors", "e", "--json"), "sample --json")
    described = json.loads(result.stdout)
    checks.equal((described["num"], described["steps"], described["tensors"]), (2, 16, "e"), "--json")

    checks.refuses(run("sample", "teacher"), 1, "--out", "--tensors")
    checks.refuses(run("sample", "teacher", "--label", 1, "--out", "x"), 1, "--label")
    checks.refuses(run("sample", "nobody", "--out", "x"), 1, "nobody")


def test_noise_and_trajectory(run, checks):
    pixels, count, steps = SIDE * SIDE, 3, 4
    shape = [count, SIDE, SIDE, 1]
    noise, step_noise = normals(count * pixels), normals(steps * count * pixels, seed=6)
    def write_noise(step_noise):
        write_tensors(run.path("noise"), {"noise": ("F32", shape, noise),
                                          "step_noise": ("F32", [steps, *shape], step_noise)})

    write_noise(step_noise)
    checks.runs(run("sample", "teacher", "--steps", steps, "--noise", "noise", "--tensors", "s", "--trajectory", "t"),
                "--noise and --trajectory")
    samples, way = run.tensors("s")["samples"], run.tensors("t")
    checks.equal(way["z"][:2], ("F32", [steps + 1, *shape]), "form of z")
    checks.equal(way["x_hat"][:2], ("F32", [steps, *shape]), "form of x_hat")
    z, x_hat = way["z"][2], way["x_hat"][2]
    size = count * pixels
    checks.check(list(z[:size]) == noise, "the way begins at the noise")
    checks.check(z[-size:] == samples[2] == x_hat[-size:], "it ends at the samples, which are the last x_hat")
    run("sample", "teacher", "--steps", steps, "--noise", "noise", "--trajectory", "u", "--batch-size", 1)
    checks.equal(run.tensors("u"), way, "the way does not depend on --batch-size")

    # One DDIM step by hand: z_s = alpha_s x_hat + sigma_s eps_hat, eps_hat = (z - alpha x_hat) / sigma.
    def alpha_sigma(t):
        b = math.atan(math.exp(-10))
        logsnr = -2 * math.log(math.tan(t * (math.atan(math.exp(10)) - b) + b))
        return math.sqrt(1 / (1 + math.exp(-logsnr))), math.sqrt(1 / (1 + math.exp(logsnr)))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma(2 / steps), alpha_sigma(1 / steps)
    n = steps - 2  # the step from 2/N to 1/N
    z_t, x = z[n * size:(n + 1) * size], x_hat[n * size:(n + 1) * size]
    by_hand = [alpha_s * b + sigma_s * (a - alpha_t * b) / sigma_t for a, b in zip(z_t, x)]
    checks.close(z[(n + 1) * size:(n + 2) * size], by_hand, 1e-5, "a DDIM step")

    # Noise of the steps counts for the ancestral sampler, but for that of the last step.
    ancestral = ["sample", "teacher", "--steps", steps, "--sampler", "ancestral", "--noise", "noise", "--tensors"]
    checks.runs(run(*ancestral, "v"), "step_noise")
    for index, changes in ((0, False), (1, True)):
        other = list(step_noise)
        other[index * size:(index + 1) * size] = [0.0] * size
        write_noise(other)
        run(*ancestral, "w")
        checks.equal(run.tensors("w") != run.tensors("v"), changes, f"noise of step index {index} is used")
    checks.refuses(run("sample", "teacher", "--steps", 5, "--sampler", "ancestral", "--noise", "noise", "--tensors",
                       "x"), 1, "step noise")

    checks.runs(run("sample", "teacher", "--noise", "noise", "--num", count, "--tensors", "x"), "--num that agrees")
    checks.refuses(run("sample", "teacher", "--noise", "noise", "--num", 2, "--tensors", "x"), 1, "--num", "3")
    write_tensors(run.path("flat"), {"noise": ("F32", [count, pixels], noise)})
    checks.refuses(run("sample", "teacher", "--noise", "flat", "--tensors", "x"), 1, "flat", "'noise'")
    write_tensors(run.path("nameless"), {"sound": ("F32", shape, noise)})
    checks.refuses(run("sample", "teacher", "--noise", "nameless", "--tensors", "x"), 1, "nameless", "sound")

    # Clipping changes what leaves [-1, 1]; a strong noise makes sure that something does.
    write_tensors(run.path("loud"), {"noise": ("F32", shape, [8 * v for v in noise])})
    run("sample", "teacher", "--noise", "loud", "--trajectory", "x")
    run("sample", "teacher", "--noise", "loud", "--no-clip", "--trajectory", "y")
    checks.equal(max(map(abs, run.tensors("x")["x_hat"][2])), 1.0, "x_hat is clamped")
    checks.check(max(map(abs, run.tensors("y")["x_hat"][2])) > 1, "--no-clip lets x_hat be")


def test_predict(run, checks):
    pixels, count = SIDE * SIDE, 3
    values, logsnr = normals(count * pixels), [-5.0, 0.25, 3.5]
    for dtype in ("F32", "F64"):
        write_tensors(run.path("in"), {"x": (dtype, [count, SIDE, SIDE, 1], values),
                                       "logsnr": (dtype, [count], logsnr)})
        checks.runs(run("predict", "teacher", "--in", "in", "--out", "out" + dtype), f"predict in {dtype}")
        checks.equal(run.tensors("out" + dtype)["out"][:2], (dtype, [count, SIDE, SIDE, 1]), f"form of out, {dtype}")
    exact = run.tensors("outF64")["out"][2]
    checks.check(max(map(abs, exact)) > 1e-3, "the output of a trained network is not 0")
    checks.close(run.tensors("outF32")["out"][2], exact, 1e-4, "f32 and f64 agree")
    checks.check(any(v != struct.unpack("f", struct.pack("f", v))[0] for v in exact), "f64 was computed in f64")
    run("predict", "teacher", "--in", "in", "--out", "single", "--batch-size", 1)
    checks.close(run.tensors("single")["out"][2], exact, 1e-12, "the output does not depend on --batch-size")

    # With v prediction the sampler's x_hat is alpha z - sigma v: predict and sample agree.
    write_tensors(run.path("noise"), {"noise": ("F32", [count, SIDE, SIDE, 1], values)})
    run("sample", "teacher", "--steps", 1, "--no-clip", "--noise", "noise", "--tensors", "s")
    write_tensors(run.path("in"), {"x": ("F64", [count, SIDE, SIDE, 1], values),
                                   "logsnr": ("F64", [count], [-20.0] * 3)})
    run("predict", "teacher", "--in", "in", "--out", "v")
    alpha, sigma = math.sqrt(1 / (1 + math.exp(20))), math.sqrt(1 / (1 + math.exp(-20)))
    expected = [alpha * z - sigma * v for z, v in zip(values, run.tensors("v")["out"][2])]
    checks.close(run.tensors("s")["samples"][2], expected, 1e-4, "x_hat = alpha z - sigma v")

    write_tensors(run.path("in"), {"x": ("I64", [1, SIDE, SIDE, 1], [0] * pixels), "logsnr": ("F32", [1], [0.0])})
    checks.refuses(run("predict", "teacher", "--in", "in", "--out", "x"), 1, "'x'", "f32")
    write_tensors(run.path("in"), {"x": ("F32", [1, SIDE, SIDE, 1], [0] * pixels), "logsnr": ("F32", [2], [0.0, 1.0])})
    checks.refuses(run("predict", "teacher", "--in", "in", "--out", "x"), 1, "'logsnr'", "[1]")
    write_tensors(run.path("in"), {"x": ("F32", [1, SIDE, SIDE, 1], [0] * pixels)})
    checks.refuses(run("predict", "teacher", "--in", "in", "--out", "x"), 1, "logsnr")
    checks.refuses(run("predict", "teacher", "--in", "absent", "--out", "x"), 1, "absent")


def test_classes(run, checks):
    checks.runs(run.train("classes", config="classes.json"), "class-conditional training")
    checks.runs(run("sample", "classes", "--num", 60, "--steps", 1, "--tensors", "a"), "labels are drawn")
    dtype, shape, labels = run.tensors("a")["label"]
    checks.equal((dtype, shape), ("I64", [60]), "form of the labels")
    checks.equal(set(labels), set(range(CLASSES)), "all classes are drawn")
    run("sample", "classes", "--num", 7, "--steps", 1, "--tensors", "b")
    checks.equal(run.tensors("b")["label"][2], labels[:7], "label k does not depend on --num")
    checks.runs(run("sample", "classes", "--num", 2, "--steps", 1, "--label", 2, "--tensors", "c"), "--label")
    checks.equal(run.tensors("c")["label"][2], (2, 2), "the label that was asked for")
    checks.refuses(run("sample", "classes", "--label", CLASSES, "--tensors", "c"), 1, "--label", str(CLASSES))

    x, shape = normals(SIDE * SIDE), [1, SIDE, SIDE, 1]
    outputs = set()
    for label in range(CLASSES):
        write_tensors(run.path("in"), {"x": ("F32", shape, x), "logsnr": ("F32", [1], [0.0]),
                                       "label": ("I64", [1], [label])})
        checks.runs(run("predict", "classes", "--in", "in", "--out", "raw"), "predict with a label")
        outputs.add(run.tensors("raw")["out"][2])
    checks.equal(len(outputs), CLASSES, "labels matter")
    write_tensors(run.path("in"), {"x": ("F32", shape, x), "logsnr": ("F32", [1], [0.0])})
    checks.refuses(run("predict", "classes", "--in", "in", "--out", "raw"), 1, "label")


def test_distill(run, checks):
    halve = ["distill", "teacher", "--out", "students", "--data", "data", "--from-steps", 4, "--to-steps", 1,
             "--max-steps", 4]
    result = json.loads(checks.runs(run(*halve, "--json"), "distill").stdout)
    checks.equal([s["num_steps"] for s in result["students"]], [2, 1], "students")
    checks.equal(result["checkpoint"], "students/student-1/step-00000004", "the last student")
    info = json.loads(run("info", "students", "--json").stdout)
    checks.equal((info["path"], info["num_steps"]), (result["checkpoint"], 1),
                 "a chain's folder names its last student")
    checks.equal([(h["teacher_steps"], h["num_steps"], h["updates"]) for h in info["history"]],
                 [(0, 0, 12), (4, 2, 4), (2, 1, 4)], "history of halvings")
    checks.equal(info["train"]["learning_rate"], 0.003, "settings come from the teacher")
    run("sample", "students/student-2", "--num", 1, "--trajectory", "t")
    checks.equal(run.tensors("t")["x_hat"][1][0], 2, "a student's default number of steps")

    checks.refuses(run(*halve), 1, "--resume")
    before = run.path("students/student-1/step-00000004/model.safetensors").read_bytes()
    checks.runs(run(*halve, "--resume"), "finished halvings are kept")
    checks.equal(run.path("students/student-1/step-00000004/model.safetensors").read_bytes(), before, "unchanged")

    for steps in ((6, 1), (3, 1), (4, 4), (4, 3), (8, 16)):
        checks.refuses(run("distill", "teacher", "--out", "never", "--from-steps", steps[0], "--to-steps", steps[1],
                           "--data", "data"), 1, str(steps[0]))
    checks.check("odd" in run("distill", "teacher", "--out", "never", "--from-steps", 6, "--data", "data").stderr,
                 "the message says that a number is odd")
    checks.refuses(run("distill", "students/student-2", "--out", "never", "--from-steps", 16, "--data", "data"), 1,
                   "2", "16")
    run.path("wider.json").write_text(json.dumps({"model": {"channels": 16}}))
    checks.refuses(run("distill", "teacher", "--out", "never", "--config", "wider.json", "--data", "data"), 1,
                   "channels", "16")
    checks.refuses(run("distill", "nobody", "--out", "never", "--data", "data"), 1, "nobody")
    checks.check(not run.path("never").exists(), "nothing was written")


def test_interrupt(run, checks):
    """Ctrl-C saves and ends with 130; the run goes on from there."""
    command = [run.program, "train", "--data", "data", "--config", "tiny.json", "--out", "stopped", "--max-steps",
               "1000000", "--checkpoint-every", "0", "--log-every", "1"]
    process = subprocess.Popen(command, cwd=run.folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    process.stderr.readline()  # the first update is done
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    checks.equal(process.returncode, 130, "exit code after Ctrl-C")
    saved = sorted(run.path("stopped").glob("step-*"))
    checks.equal(len(saved), 1, "a checkpoint was saved")
    checks.check(bool(saved) and saved[0].name in stderr and "--resume" in stderr, "and is named", stderr[-300:])
    steps = int(saved[0].name[5:]) if saved else 0
    resumed = run("train", "--data", "data", "--out", "stopped", "--resume", "--max-steps", steps + 1)
    checks.check(f"{steps + 1}/{steps + 1}" in checks.runs(resumed, "resume").stderr, "one update was left",
                 resumed.stderr)

    # A second Ctrl-C does not wait. A large batch makes the update long enough to hit it.
    process = subprocess.Popen([*command[:-5], "100000", "--batch-size", "8192", "--out", "killed"], cwd=run.folder,
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 30
    while not run.path("killed").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    process.stderr.readline()  # "stopping after this update"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    checks.equal(process.returncode, 130, "exit code after a second Ctrl-C")


def test_demo(run, checks):
    demo = ["demo", "--out", "demo", "--data", "data", "--config", "tiny.json", "--minutes", "0.002", "--json"]
    summary = json.loads(checks.runs(run(*demo), "demo").stdout)
    plan = json.loads(run.path("demo/plan.json").read_text())
    updates = [plan["teacher"]["train"]["max_steps"]] + 4 * [plan["student"]["train"]["max_steps"]]
    checks.equal([s["name"] for s in summary["stages"]],
                 ["teacher", "student-8", "student-4", "student-2", "student-1"], "stages")
    checks.equal([s["updates"] for s in summary["stages"]], updates, "numbers of updates are those of the plan")
    for name in ("grid.png", "grid-ddim.png", "summary.json"):
        checks.check(run.path(f"demo/{name}").stat().st_size > 0, name)
    checkpoints = {s["checkpoint"]: run.path(s["checkpoint"] + "/model.safetensors").read_bytes()
                   for s in summary["stages"]}

    # The plan counts, not the minutes of the second call; what is missing is done again, to the same bits.
    last = run.path("demo/student-1")
    for path in sorted(last.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    demo[demo.index("0.002")] = "5"
    result = checks.runs(run(*demo), "demo again")
    checks.check("student-1" in result.stderr and "student-2" not in result.stderr, "finished stages are kept",
                 result.stderr)
    for path, content in checkpoints.items():
        checks.check(run.path(path + "/model.safetensors").read_bytes() == content, f"{path} is the same again")


SCENARIOS = (test_help, test_usage_errors, test_train, test_resume, test_precision, test_settings, test_data, test_devices,
             test_info, test_sample, test_noise_and_trajectory, test_predict, test_classes, test_distill, test_interrupt,
             test_demo)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    return run_scenarios(SCENARIOS, sys.argv[1], __doc__)


if __name__ == "__main__":
    sys.exit(main())
