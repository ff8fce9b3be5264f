#!/usr/bin/env python3
"""Runs `halfstep plot` on run folders as training leaves them.

Usage: plot_test.py PATH_OF_HALFSTEP

Exit status 77, skipped, without gnuplot. Every check prints one line when it fails; the last line is 'N passed,
N failed'.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree

from cli_session import Checks, run_in_own_folders
from run_fixtures import manifest, png_size, report, write_json, write_lines, write_stage

SVG = "{http://www.w3.org/2000/svg}"
COLOURS = ("rgb(  0, 114, 178)", "rgb(213,  94,   0)", "rgb(  0, 158, 115)")
checks = Checks()
check = checks.check


def run(*arguments, **options):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False,
                          stdin=subprocess.DEVNULL, **options)


def plot(*arguments):
    result = run("plot", *arguments)
    check(result.returncode == 0, f"plot {arguments}", result.stderr)
    return result


def refuses(code, arguments, *fragments, **options):
    result = run("plot", *arguments, **options)
    check(result.returncode == code, f"exit code {code} of {arguments}", f"got {result.returncode}: {result.stderr}")
    for fragment in fragments:
        check(fragment in result.stderr, f"the message of {arguments} says '{fragment}'", result.stderr)


class Picture:
    """What an SVG of `halfstep plot` shows."""

    def __init__(self, run_folder, *arguments):
        path = run_folder.parent / "picture.svg"
        plot(run_folder, "--out", path, *arguments)
        self.text = path.read_text(encoding="utf-8")
        tree = xml.etree.ElementTree.fromstring(self.text)
        self.words = [(element.text or "").strip() for element in tree.iter(SVG + "text")]
        # Each panel begins with its title; its curves are in the order of the panels.
        self.curves = [path for path in tree.iter(SVG + "path") if path.get("stroke") in COLOURS]
        self.dots = [use for use in tree.iter(SVG + "use") if use.get("color") in COLOURS]

    def moves(self, colour=0):
        """How often the pen is set down in this colour, curve by curve."""
        return [path.get("d").count("M") for path in self.curves if path.get("stroke") == COLOURS[colour]]


def test_default(folder):
    write_stage(folder / "run", "train")
    result = plot(folder / "run")
    check(result.stdout.split() == [f"{folder}/run/curves.png", f"{folder}/run/curves.svg"], "names", result.stdout)
    check(png_size((folder / "run/curves.png").read_bytes()) == (1600, 1000), "the PNG is whole")
    xml.etree.ElementTree.parse(folder / "run/curves.svg")
    check(sorted(path.name for path in (folder / "run").iterdir()) == ["curves.png", "curves.svg", "log.jsonl"],
          "nothing else is left")
    before = (folder / "run/curves.svg").read_bytes()
    plot(folder / "run")
    check((folder / "run/curves.svg").read_bytes() == before, "the same again")


def test_out_and_json(folder):
    write_stage(folder / "run", "train")
    names = [str(folder / name) for name in ("a.png", "b.svg", "c.png")]
    result = plot("--out", names[0], folder / "run", "--out", names[1], "--out", names[2], "--json")
    found = json.loads(result.stdout)
    check(found["out"] == names and all(pathlib.Path(name).exists() for name in names), "--out three times", found)
    check(found["run"] == str(folder / "run"), "the run", found)
    check(found["stages"] == [{"name": "train", "reports": 8, "step": 400, "loss": report("train", 400)["loss"]}],
          "the stages", found)
    check(not (folder / "run/curves.png").exists(), "no other file")


def test_axes(folder):
    write_stage(folder / "run", "train", steps=range(1000, 40001, 1000), learning_rate=3e-4)
    picture = Picture(folder / "run")
    for word in ("run", "Loss (log scale)", "Learning rate", "Gradient norm", "Images per second", "updates",
                 "10k", "40k", "3e-4", "0.02"):
        check(word in picture.words, f"the picture says '{word}'", picture.words)
    check("train" not in picture.words, "no legend for a single stage")
    # A curve that is not positive has no logarithm.
    write_stage(folder / "zero", "train", loss=0.0)
    check("Loss" in Picture(folder / "zero").words, "zeros are drawn on a linear scale")


def test_gaps(folder):
    steps = list(range(50, 1001, 50))
    whole = [report("train", step) for step in steps]
    write_lines(folder / "whole/log.jsonl", whole)
    check(Picture(folder / "whole").moves() == [1, 1, 1, 1], "unbroken curves", Picture(folder / "whole").moves())
    holes = [report("train", step, loss=None) if step in (300, 350, 600) else line for step, line in zip(steps, whole)]
    write_lines(folder / "holes/log.jsonl", holes)
    picture = Picture(folder / "holes")
    check(sum(picture.moves()) == 6 and not picture.dots, "two gaps in one curve", picture.moves())
    # A point between two gaps, and one that is smoothed.
    alone = [report("train", step, loss=None) if step in (300, 400) else line for step, line in zip(steps, whole)]
    write_lines(folder / "alone/log.jsonl", alone)
    picture = Picture(folder / "alone")
    check(sum(picture.moves()) == 5 and len(picture.dots) == 1, "a single point is a dot", picture.moves())
    nothing = [report("train", step, loss=None) for step in steps]
    write_lines(folder / "nothing/log.jsonl", nothing)
    check("no values" in Picture(folder / "nothing").words, "a curve without values says so")


def test_single_point(folder):
    write_stage(folder / "run", "train", steps=[50])
    picture = Picture(folder / "run")
    check(len(picture.dots) == 4 and not picture.curves, "four dots", (len(picture.dots), len(picture.curves)))
    check("50" in picture.words, "the step", picture.words)


def test_smooth(folder):
    """The mean over K reports; the learning rate is none of those."""
    losses = [1, 4, 1, 4, 1, 4, 1, 4]
    lines = [report("train", 50 * (k + 1), loss=loss) for k, loss in enumerate(losses)]
    write_lines(folder / "run/log.jsonl", lines)
    plain, smooth = Picture(folder / "run"), Picture(folder / "run", "--smooth", 8)
    check(len(plain.curves) == 4 and len(smooth.curves) == 7, "a curve more in three panels", len(smooth.curves))
    check([path.get("opacity") for path in smooth.curves[:2]] == ["0.34", None] and " opacity=" not in plain.text,
          "the reports are pale behind it")

    def heights(path):
        return [float(y) for y in re.findall(r",([\d.]+)", path.get("d"))]

    raw, mean = heights(smooth.curves[0]), heights(smooth.curves[1])
    check(heights(plain.curves[0]) == raw, "the reports stay")
    check(max(mean) - min(mean) < 0.4 * (max(raw) - min(raw)), "the mean is smoother", mean)
    refuses(2, [folder / "run", "--smooth", "0"], "--smooth")


def test_chain(folder):
    """One stage after the other, by the manifest or by the names of folders."""
    for num_steps in (16, 8, 4):
        write_stage(folder / f"chain/student-{num_steps}", f"student-{num_steps}")
    picture = Picture(folder / "chain")
    legend = [word for word in picture.words if word.startswith("student-")]
    check(legend == ["student-16", "student-8", "student-4"], "legend", legend)
    check("1k" in picture.words and "updates, one stage after the other" in picture.words, "updates add up", picture.words)
    check([path.get("stroke") for path in picture.curves[:3]] == list(COLOURS), "a colour for each")
    write_stage(folder / "chain/teacher", "train")
    words = Picture(folder / "chain").words
    check([word for word in words if re.match("student-|teacher|train", word)]
          == ["teacher", "student-16", "student-8", "student-4"], "the demo's teacher comes first", words)
    shutil.rmtree(folder / "chain/teacher")
    shutil.rmtree(folder / "chain/student-16")
    write_json(folder / "chain/manifest.json", manifest([(8, "done"), (4, "running"), (2, "waiting")]))
    words = Picture(folder / "chain").words
    check([word for word in words if word.startswith("student-")] == ["student-8", "student-4"],
          "stages that have begun", words)


def test_distances(folder):
    """Distances of evaluations have a row of their own; a step without one is no gap."""
    write_stage(folder / "run", "train", grids=(50, 100, 200, 250, 400))
    picture = Picture(folder / "run")
    check({"Distance to data", "Distance to teacher"} <= set(picture.words), "two panels more", picture.words)
    check(picture.moves() == [1, 1, 1, 1, 1, 1], "six unbroken curves", picture.moves())
    plot(folder / "run")
    check(png_size((folder / "run/curves.png").read_bytes()) == (1600, 1450), "a row more")
    write_stage(folder / "run", "train", grids=(50,))
    picture = Picture(folder / "run")
    check("Distance to data" in picture.words and "Distance to teacher" not in picture.words and len(picture.dots) == 1,
          "a single evaluation", picture.words)


def test_names(folder):
    """Names are shown as they are."""
    name = "it's <b> & \"_x_\" {/*2 µ} \\n"
    write_stage(folder / name.replace("/", "-"), "train")
    picture = Picture(folder / name.replace("/", "-"))
    check(name.replace("/", "-") in picture.words, "the name of the run", picture.words[:3])


def test_logs(folder):
    """Older releases, resumed runs, killed ones."""
    keys = ("stage", "step", "loss", "learning_rate", "gradient_norm", "skipped", "images_per_second")
    old = [{key: report("train", step)[key] for key in keys} for step in (50, 100, 150, 100, 150, 200)]
    write_lines(folder / "old/log.jsonl", old)
    found = json.loads(plot(folder / "old", "--json").stdout)
    check(found["stages"][0]["reports"] == 4, "steps that were done again count once", found)
    path = folder / "torn/log.jsonl"
    write_lines(path, [report("train", step) for step in (50, 100)])
    path.write_text(path.read_text() + '{"stage":"train","st')
    result = plot(folder / "torn", "--json")
    check(json.loads(result.stdout)["stages"][0]["reports"] == 2, "a torn line is left out", result.stdout)
    check(f"note: {path}, line 3" in result.stderr, "and named", result.stderr)
    # Whole, but for its end.
    path.write_text("\n".join(json.dumps(report("train", step)) for step in (50, 100, 150)))
    result = plot(folder / "torn", "--json")
    check(json.loads(result.stdout)["stages"][0]["reports"] == 3 and not result.stderr, "a last line without break")
    # Many reports make no large picture.
    write_lines(folder / "long/log.jsonl", [report("train", step, loss=1 + step % 13) for step in range(1, 30001)])
    plot(folder / "long", "--out", folder / "long.svg")
    check((folder / "long.svg").stat().st_size < 400_000, "30000 reports", (folder / "long.svg").stat().st_size)


def test_refusals(folder):
    refuses(1, [folder / "none"], "[plot] expected a run folder", "not there")
    (folder / "file").write_text("")
    refuses(1, [folder / "file"], "not a folder")
    (folder / "empty").mkdir()
    refuses(1, [folder / "empty"], "[plot]", "holds no run", "log.jsonl")
    (folder / "step-1").mkdir()
    (folder / "step-1/config.json").write_text("{}")
    refuses(1, [folder / "step-1"], "it is a checkpoint, give the folder above")
    write_lines(folder / "fresh/log.jsonl", [])
    refuses(1, [folder / "fresh"], "[plot]", "holds no report yet")
    for text, what in (("nonsense", "expected a JSON object, got 'nonsense'"), ("[1]", "expected a JSON object"),
                       ("", "expected a JSON object"), ('{"loss": 1}', "expected a step"),
                       ('{"step": -1}', "expected a step"), ('{"step": 1.5}', "expected a step"),
                       ('{"step": 100, "loss": "x"}', "expected a number or null as 'loss'"),
                       ('{"step": 100, "stage": 3}', "expected a text or null as 'stage'")):
        path = folder / "damaged/log.jsonl"
        write_lines(path, [report("train", 50)])
        path.write_text(path.read_text() + text + "\n" + json.dumps(report("train", 150)) + "\n")
        refuses(1, [folder / "damaged"], f"[log] {path}, line 2", what)
    for content, what in (([], "halfstep-manifest"), ({"format": "other"}, '"other"'),
                          (manifest([], version=2), "version 1"), ({**manifest([]), "stages": [{"name": 1}]}, "list of stages")):
        write_stage(folder / "manifest", "train")
        write_json(folder / "manifest/manifest.json", content)
        refuses(1, [folder / "manifest"], "[manifest]", "manifest.json", what)
    write_stage(folder / "run", "train")
    refuses(2, [folder / "run", "--out", "curves.jpg"], ".png or .svg")
    refuses(2, [], "RUN")
    refuses(1, [folder / "run", "--out", folder / "none/curves.png"], "create the folder first")
    # Without gnuplot, and with one that fails: nothing is written.
    tools = folder / "tools"
    tools.mkdir()
    environment = {**os.environ, "PATH": str(tools)}
    refuses(1, [folder / "run"], "[plot]", "'gnuplot'", "apt-get install gnuplot-nox", env=environment)
    (tools / "gnuplot").write_text("#!/bin/sh\necho half a picture\necho no fonts >&2\nexit 4\n")
    (tools / "gnuplot").chmod(0o755)
    refuses(1, [folder / "run"], "[plot]", "status 4: no fonts", env=environment)
    check([path.name for path in (folder / "run").iterdir()] == ["log.jsonl"], "no half picture")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PROGRAM = os.path.abspath(sys.argv[1])
    if shutil.which("gnuplot") is None:
        print("skipped: gnuplot is not installed")
        sys.exit(77)
    sys.exit(run_in_own_folders((test_default, test_out_and_json, test_axes, test_gaps, test_single_point, test_smooth, test_chain,
                 test_distances, test_names, test_logs, test_refusals), checks))
