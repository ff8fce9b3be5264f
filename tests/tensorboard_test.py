#!/usr/bin/env python3
"""TensorBoard reads the event files of diffusion/event_file.h.

Usage: tensorboard_test.py ROOT PATH_OF_EVENT_FILE_WRITER [PATH_OF_HALFSTEP]

Runs in the Python of ROOT/build-tools/venv (scripts/python_tools.sh); exit status 77, skipped, without it. Every check
prints one line when it fails; the last line is 'N passed, N failed'.
"""
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys

from cli_session import TINY, Checks, run_in_own_folders, write_data
from run_fixtures import png

checks = Checks()
check = checks.check
PATTERN = [0, 64, 128, 255, 32, 16]  # grey, 3 x 2


def grey(x, y):
    return PATTERN[3 * y + x]


def write(folder, clock, *words):
    """Runs the writer; returns the path of the file."""
    result = subprocess.run([WRITER, folder, str(clock), *map(str, words)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return pathlib.Path(result.stdout.strip())


def curve(folder, tag):
    """(step, value) of a curve as TensorBoard has it, and the times."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    events = accumulator.Scalars(tag)
    return [(event.step, event.value) for event in events], [event.wall_time for event in events]


def test_scalars(folder):
    write(folder, 1000.5, "scalar", "train/loss", 50, 0.25, "scalar", "train/loss", 100, "nan", "scalar",
          "learning rate, µ", 2**40, 1e-3)
    points, times = curve(folder, "train/loss")
    check([point[0] for point in points] == [50, 100], "steps", points)
    check(points[0][1] == 0.25 and math.isnan(points[1][1]), "values", points)
    check(times == [1001.5, 1002.5], "times", times)
    check(curve(folder, "learning rate, µ")[0] == [(2**40, struct.unpack("f", struct.pack("f", 1e-3))[0])],
          "a tag with spaces and letters, a large step", curve(folder, "learning rate, µ"))


def test_same_bytes(folder):
    """TensorBoard's own writer makes the same file."""
    (folder / "p.png").write_bytes(png(3, 2, grey))
    path = write(folder, 7, "resumed", 9, "scalar", "a", 10, -2.5, "image", "b", 11, folder / "p.png", 3, 2, 1)
    events = [event_pb2.Event(wall_time=7, file_version="brain.Event:2"),
              event_pb2.Event(wall_time=8, step=10, session_log=event_pb2.SessionLog(status="START"))]
    scalar = summary_pb2.Summary.Value(tag="a", simple_value=-2.5)
    image = summary_pb2.Summary.Value(tag="b", image=summary_pb2.Summary.Image(
        height=2, width=3, colorspace=1, encoded_image_string=png(3, 2, grey)))
    events += [event_pb2.Event(wall_time=9, step=10, summary=summary_pb2.Summary(value=[scalar])),
               event_pb2.Event(wall_time=10, step=11, summary=summary_pb2.Summary(value=[image]))]
    with open(folder / "expected", "wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString(deterministic=True))
        writer.flush()
    check(path.read_bytes() == (folder / "expected").read_bytes(), "the bytes of TensorBoard's own writer",
          f"{path.read_bytes()[:80]} and {(folder / 'expected').read_bytes()[:80]}")


def test_images(folder):
    (folder / "p.png").write_bytes(png(3, 2, grey))
    logs = folder / "logs"
    logs.mkdir()
    write(logs, 5, "image", "samples", 1000, folder / "p.png", 3, 2, 1, "image", "samples", 2000, folder / "p.png", 3, 2,
          1)
    accumulator = EventAccumulator(str(logs), size_guidance={"images": 0})
    accumulator.Reload()
    images = accumulator.Images("samples")
    check([(image.step, image.width, image.height) for image in images] == [(1000, 3, 2), (2000, 3, 2)], "images", images)
    picture = PIL.Image.open(io.BytesIO(images[0].encoded_image_string))
    check(list(picture.tobytes()) == PATTERN, "the pixels", list(picture.tobytes()))


def test_resume(folder):
    """Points behind the step from which a run is resumed vanish, those before stay."""
    points = [word for step in (50, 100, 150, 200) for word in ("scalar", "loss", step, step / 1000)]
    write(folder, 100, *points)
    check(len(curve(folder, "loss")[0]) == 4, "before", curve(folder, "loss"))
    write(folder, 100, "resumed", 100, "scalar", "loss", 120, 7)
    check([point[0] for point in curve(folder, "loss")[0]] == [50, 100, 120], "purged", curve(folder, "loss"))
    # A resumed run that has not reported yet, and one from the beginning.
    write(folder, 100, "resumed", 50)
    check([point[0] for point in curve(folder, "loss")[0]] == [50], "purged again", curve(folder, "loss"))
    write(folder, 100, "resumed", 0, "scalar", "loss", 10, 1)
    check([point[0] for point in curve(folder, "loss")[0]] == [10], "all purged", curve(folder, "loss"))
    check(len(list(folder.iterdir())) == 4, "one file for each start")


def test_torn(folder):
    """A record that was cut short hides nothing before it."""
    path = write(folder, 100, "scalar", "loss", 1, 1, "scalar", "loss", 2, 2)
    path.write_bytes(path.read_bytes()[:-3])
    check([point[0] for point in curve(folder, "loss")[0]] == [1], "up to the torn record", curve(folder, "loss"))


def test_program(folder):
    """The program tensorboard finds the run."""
    write(folder, 100, "scalar", "loss", 1, 1, "scalar", "loss", 20, 2)
    result = subprocess.run([sys.executable, "-m", "tensorboard.main", "--inspect", "--logdir", folder],
                            capture_output=True, text=True, check=False)
    check(result.returncode == 0 and "loss" in result.stdout and "last_step            20" in result.stdout,
          "tensorboard --inspect", result.stdout + result.stderr)


def test_run(folder):
    """A run that was killed and continued: TensorBoard shows what log.jsonl says."""
    if not HALFSTEP:
        return
    write_data(folder / "data")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    command = [HALFSTEP, "train", "--data", "data", "--config", "tiny.json", "--out", "run", "--log-every", "1",
               "--checkpoint-every", "3", "--eval-every", "2", "--tensorboard", "--resume", "--max-steps"]
    for steps in ("8", "8", "12"):
        subprocess.run([*command, steps], cwd=folder, check=True, capture_output=True)
        if steps == "8":  # as if killed behind step 6
            shutil.rmtree(folder / "run/step-00000008", ignore_errors=True)
    lines = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    points = curve(folder / "run", "train/loss")[0]
    accumulator = EventAccumulator(str(folder / "run"), size_guidance={"images": 0})
    accumulator.Reload()
    check([point[0] for point in points] == [line["step"] for line in lines] == list(range(1, 13)), "steps", points)
    check(all(abs(point[1] - line["loss"]) <= 1e-6 * line["loss"] for point, line in zip(points, lines)), "losses",
          points)
    images = accumulator.Images("samples")
    check([image.step for image in images] == [2, 4, 6, 8, 10, 12], "pictures", [image.step for image in images])
    grid = (folder / "run/samples/step-00000012.png").read_bytes()
    check(images[-1].encoded_image_string == grid, "the grid of the last evaluation")
    check(PIL.Image.open(io.BytesIO(grid)).size == (images[-1].width, images[-1].height), "its size", images[-1])


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    root, WRITER = pathlib.Path(sys.argv[1]), sys.argv[2]
    HALFSTEP = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else None
    python = root / "build-tools/venv/bin/python"
    if not python.exists():
        print("skipped: no TensorBoard; scripts/python_tools.sh installs it")
        sys.exit(77)
    if pathlib.Path(sys.prefix).resolve() != python.parent.parent.resolve():
        os.execv(python, [str(python), *sys.argv])
    import io
    import logging

    import PIL.Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter
    logging.disable()  # TensorBoard tells of every purge
    sys.exit(run_in_own_folders((test_scalars, test_same_bytes, test_images, test_resume, test_torn, test_program, test_run), checks))
