#!/usr/bin/env python3
"""Runs the example `digits` on its options and on a short training.

Usage: digits_test.py PATH_OF_DIGITS

The last line is 'N passed, N failed'.
"""
import pathlib
import subprocess
import sys
import tempfile

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
results = []


def expect(status, part, *arguments):
    """`part` must stand in the output of the program, on stderr if it fails."""
    result = subprocess.run([sys.argv[1], *arguments], capture_output=True, text=True, check=False)
    output = result.stderr if status else result.stdout
    results.append(result.returncode == status and part in output)
    if not results[-1]:
        print(f"FAILED digits {' '.join(arguments)}: expected status {status} and '{part}', got {result.returncode}:\n"
              f"{result.stdout}{result.stderr}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    expect(0, "--expect PERCENT", "--help")
    expect(0, "--expect PERCENT", "--updates", "5", "--help")
    expect(2, "[digits] expected --data, --updates or --expect, got '--epochs'", "--epochs", "3")
    expect(2, "[--updates] expected a value", "--updates")
    for wrong in ("", "3x", "-3", "1e3"):
        expect(2, f"[--updates] expected a whole number, got '{wrong}'", "--updates", wrong)
    with tempfile.TemporaryDirectory() as empty:
        expect(1, "[data] expected train-images-idx3-ubyte", "--data", empty)
    if DATA.is_dir():
        # A network of random weights is right for one picture in ten.
        expect(0, "of the test pictures are right", "--updates", "60", "--expect", "60")
        result = subprocess.run([sys.argv[1], "--updates", "0", "--expect", "60"], capture_output=True, check=False)
        results.append(result.returncode == 1)
    else:
        print(f"{DATA} is missing: no training")
    passed = sum(results)
    print(f"{passed} passed, {len(results) - passed} failed")
    return 0 if passed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
