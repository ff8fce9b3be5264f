#!/usr/bin/env python3
"""Runs halfstep_quality on a tiny data set that it writes itself: numbers, the cached classifier, wrong input.

Usage: quality_command_test.py PROGRAM
"""
import json
import math
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM = None
SIDE = 28
CLASSES = 10


def picture(label, rng):
    """Bytes of a picture whose class is how many rows are bright; grey and noise differ, noise to the right."""
    grey = rng.randrange(100)
    return bytes(255 if row < 2 * label + 2 else grey + rng.randrange(2 + column)
                 for row in range(SIDE) for column in range(SIDE))


def write_idx(folder, prefix, pictures, labels):
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
        struct.pack(">IIII", 0x803, len(pictures), SIDE, SIDE) + b"".join(pictures))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + bytes(labels))


def write_samples(path, pictures, name="samples", shape=None):
    """pictures: lists of values in [-1, 1]."""
    shape = shape or [len(pictures), SIDE, SIDE, 1]
    data = b"".join(struct.pack(f"<{len(p)}f", *p) for p in pictures)
    header = json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def values(picture_bytes):
    return [byte / 127.5 - 1 for byte in picture_bytes]


class QualityCommand(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.temporary.name)
        rng = random.Random(1)
        cls.data = cls.folder / "bars"
        cls.data.mkdir()
        for prefix, count in (("train", 200), ("t10k", 100)):
            labels = [i % CLASSES for i in range(count)]
            pictures = [picture(label, rng) for label in labels]
            write_idx(cls.data, prefix, pictures, labels)
        cls.test_pictures = [values(p) for p in pictures]
        write_samples(cls.folder / "same", cls.test_pictures)
        write_samples(cls.folder / "one_class", [values(picture(3, rng)) for _ in range(100)])
        write_samples(cls.folder / "noise",
                      [[rng.uniform(-1, 1) for _ in range(SIDE * SIDE)] for _ in range(100)])
        cls.features = cls.folder / "new" / "classifier.safetensors"
        cls.first = cls.run_json(["same", "one_class", "noise"], "--train-steps", "60", "--seed", "5")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def run_program(cls, files, *options):
        """files: names in the test's folder."""
        return subprocess.run([PROGRAM, "--data", cls.data, "--features", cls.features, "--samples",
                               *(cls.folder / name for name in files), *options],
                              capture_output=True, text=True, check=False)

    @classmethod
    def run_json(cls, files, *options):
        result = cls.run_program(files, "--json", *options)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def error(self, files, *options):
        result = self.run_program(files, *options)
        self.assertEqual((result.returncode, result.stdout), (1, ""))
        return result.stderr

    def test_numbers(self):
        same, one_class, noise = self.first["files"]
        self.assertGreaterEqual(self.first["extractor"]["test_accuracy"], 0.9)
        # The pictures of the reference set itself, up to rounding of f32 in bytes / 127.5 - 1.
        self.assertLess(abs(same["frechet_distance"]), 1e-3 * noise["frechet_distance"])
        floor = self.first["train_floor"][0]["frechet_distance"]  # other pictures of the same kind
        self.assertGreater(floor, 10 * abs(same["frechet_distance"]))
        self.assertLess(floor, one_class["frechet_distance"] / 5)
        self.assertAlmostEqual(same["class_entropy"], math.log(CLASSES), delta=0.1)
        self.assertLess(one_class["class_entropy"], 0.5)
        self.assertEqual([sum(f["class_histogram"]) for f in self.first["files"]], [100, 100, 100])
        self.assertEqual(self.first["extractor"]["seed"], 5)
        self.assertEqual(self.first["extractor"]["steps"], 60)

    def test_second_run_uses_the_same_classifier(self):
        before = self.features.read_bytes()
        self.assertEqual(self.run_json(["same", "one_class", "noise"]), self.first)
        self.assertEqual(self.features.read_bytes(), before)

    def test_table_and_warnings(self):
        result = self.run_program(["same"], "--count", "50")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("biased upward", result.stdout)
        self.assertNotIn("must not be compared", result.stdout)
        rows = [line.split() for line in result.stdout.splitlines() if line.strip()[:2] == "50"]
        self.assertEqual([row[-1] for row in rows], ["floor)", str(self.folder / "same")])
        write_samples(self.folder / "fewer", self.test_pictures[:60])
        self.assertIn("must not be compared", self.run_json(["same", "fewer"])["warnings"][0])

    def test_mirrored_reference(self):
        mirrored = [sum((p[row * SIDE:(row + 1) * SIDE][::-1] for row in range(SIDE)), []) if i % 2 else p
                    for i, p in enumerate(self.test_pictures)]
        write_samples(self.folder / "mirrored", mirrored)
        result = self.run_json(["mirrored", "noise"], "--mirrored")
        self.assertTrue(result["reference"]["mirrored"])
        distances, plain = ([f["frechet_distance"] for f in r["files"]] for r in (result, self.first))
        self.assertLess(abs(distances[0]), 1e-3 * distances[1])
        self.assertNotEqual(distances[1], plain[2])  # of noise

    def test_wrong_input(self):
        write_samples(self.folder / "small", [[0.0] * 49] * 4, shape=[4, 7, 7, 1])
        self.assertIn("small: expected floating-point `samples` [K, 28, 28, 1] as in 'bars', got f32 (4, 7, 7, 1)",
                      self.error(["small"]))
        write_samples(self.folder / "named", self.test_pictures[:3], name="pictures")
        self.assertIn("samples", self.error(["named"]))
        for name, value in (("bright", 1.5), ("nan", math.nan)):
            write_samples(self.folder / name, [[value] * SIDE * SIDE] * 3)
            self.assertIn("expected values in [-1, 1]", self.error([name]))
        self.assertIn("expected 101 pictures or more, got 100", self.error(["same"], "--count", "101"))
        self.assertIn("absent", self.error(["absent"]))
        self.assertIn("--train-steps", self.error(["same"], "--train-steps", "61"))
        self.assertIn("--seed", self.error(["same"], "--seed", "6"))

    def test_classifier_of_other_data(self):
        rng = random.Random(2)
        other = self.folder / "other"
        other.mkdir()
        labels = [i % CLASSES for i in range(100)]
        for prefix in ("train", "t10k"):
            # Each picture is labelled with the next class.
            write_idx(other, prefix, [picture((label + 1) % CLASSES, rng) for label in labels], labels)
        result = subprocess.run([PROGRAM, "--data", other, "--features", self.features, "--samples",
                                 self.folder / "same"], capture_output=True, text=True, check=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn("trained on other data?", result.stderr)

    def test_wrong_command_line(self):
        self.assertEqual(self.run_program(["same"], "--count", "1").returncode, 2)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    PROGRAM = sys.argv.pop()
    unittest.main()
