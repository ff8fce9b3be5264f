#!/usr/bin/env python3
"""Runs the example `digits` on its options and on a short training.

Usage: digits_test.py PATH_OF_DIGITS

The last line is 'N passed, N failed'.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
results = []


def expect(status, part, *arguments):
    """`part` must stand in the output of the program, on stderr if it fails, and the status must be this."""
    result = subprocess.run([sys.argv[1], *arguments], capture_output=True, text=True, check=False)
    output = result.stderr if status else result.stdout
    results.append(result.returncode == status and part in output)
    if not results[-1]:
        print(f"FAILED digits {' '.join(arguments)}: expected status {status} and '{part}', got {result.returncode}:\n"
              f"{result.stdout}{result.stderr}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    expect(0, "--updates N", "--help")
    expect(0, "--updates N", "--updates", "5", "--help")
    expect(1, "[digits] expected --data or --updates, got '--epochs'", "--epochs", "3")
    expect(1, "[--updates] expected a value", "--updates")
    for wrong in ("", "3x", "-3", "1e3"):
        expect(1, f"[--updates] expected a whole number, got '{wrong}'", "--updates", wrong)
    with tempfile.TemporaryDirectory() as empty:
        expect(1, "[data] expected train-images-idx3-ubyte", "--data", empty)
    if DATA.is_dir():
        # Random weights are right for one picture in ten; too few updates are a failure, and they are learning.
        result = subprocess.run([sys.argv[1], "--updates", "60"], capture_output=True, text=True, check=False)
        percent = re.search(r"^([0-9.]+) % of the test pictures are right", result.stdout, re.MULTILINE)
        results.append(percent is not None and 60 <= float(percent[1]) < 90 and result.returncode == 1)
        if not results[-1]:
            print(f"FAILED digits --updates 60: status {result.returncode}:\n{result.stdout}{result.stderr}")
    else:
        print(f"{DATA} is missing: no training")
    passed = sum(results)
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
