"""Run folders as training leaves them, for the tests of `halfstep plot` and `halfstep report`."""
import json
import math
import struct
import zlib

MODEL = {"height": 28, "width": 28, "channels": 32, "channel_multipliers": [1, 2], "prediction": "v"}
TRAIN = {"loss": "snr+1", "batch_size": 64, "max_steps": 400, "learning_rate": 3e-4, "seed": 7}


def png(width, height, grey):
    """A grey PNG; grey(x, y) is a pixel."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes(grey(x, y) for x in range(width)) for y in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def png_size(content):
    """(width, height) of a PNG, whose checksums must be right and whose pixels must be complete."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("no PNG")
    at, kinds, data = 8, [], b""
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at:at + 8])
        body = content[at + 8:at + 8 + length]
        if struct.unpack(">I", content[at + 8 + length:at + 12 + length])[0] != zlib.crc32(kind + body):
            raise ValueError(f"checksum of {kind}")
        kinds.append(kind)
        data += body if kind == b"IDAT" else b""
        at += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if kinds[0] != b"IHDR" or kinds[-1] != b"IEND":
        raise ValueError(f"chunks {kinds}")
    if len(zlib.decompress(data)) != height * (1 + (width * channels * depth + 7) // 8):
        raise ValueError("pixels are missing")
    return width, height


def report(stage, step, **changes):
    """A line of log.jsonl."""
    line = {"stage": stage, "step": step, "loss": 0.5 * math.exp(-step / 150) + 0.02,
            "learning_rate": 3e-4 * (1 - step / 400), "gradient_norm": 0.5 + 0.2 * math.sin(step), "skipped": 0,
            "images_per_second": 200.0 + step % 7, "seconds": step * 0.32, "data_wait": 0.01}
    return {**line, **changes}


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_stage(folder, stage, steps=range(50, 401, 50), grids=(), **changes):
    """A run folder with a log and, for each step of `grids`, a picture and an evaluation."""
    write_lines(folder / "log.jsonl", [report(stage, step, **changes) for step in steps])
    evaluations = []
    for step in grids:
        name = f"samples/step-{step:08d}.png"
        (folder / "samples").mkdir(exist_ok=True)
        (folder / name).write_bytes(png(62, 62, lambda x, y, step=step: (x * y + step) % 256))
        evaluations.append({"stage": stage, "step": step, "grid": name, "distance_to_data": 1000 / step,
                            "distance_to_teacher": None if step % 100 else 100 / step})
    if evaluations:
        write_lines(folder / "eval.jsonl", evaluations)


def manifest(stages, **changes):
    """manifest.json of a chain; `stages` are (number of steps, status)."""
    entries, parent = [], "t" + 63 * "0"
    for num_steps, status in stages:
        name, begun = f"student-{num_steps}", status != "waiting"
        step = {"done": 400, "running": 250, "stopped": 100, "waiting": 0}[status]
        own = f"{num_steps:064x}" if status == "done" else None
        entries.append({"name": name, "folder": name, "status": status, "teacher_steps": 2 * num_steps,
                        "num_steps": num_steps, "step": step, "max_steps": 400, "final_loss": 0.02 if begun else None,
                        "seconds": step * 0.32, "checkpoint": f"{name}/step-{step:08d}" if begun else None,
                        "model_sha256": own, "parent_sha256": parent if begun else None, "grid": None,
                        "distance_to_teacher": None, "distance_to_data": None})
        parent = own
    return {"format": "halfstep-manifest", "version": 1, "kind": "distill",
            "commands": [{"line": "halfstep distill runs/teacher --out runs/students", "started": "2026-11-25T15:00:00Z",
                          "program": "halfstep 0.1.0", "device": "cpu (avx2)", "threads": 2}],
            "data": {"name": "fashion-mnist", "images": 60000}, "config": {"model": MODEL, "train": TRAIN},
            "teacher": {"checkpoint": "runs/teacher/step-00005000", "num_steps": 16, "model_sha256": "t" + 63 * "0"},
            "stages": entries, **changes}


def write_json(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
