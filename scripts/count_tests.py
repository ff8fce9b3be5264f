#!/usr/bin/env python3
"""Counts the single tests in a log of `meson test` (meson-logs/testlog.json).

A doctest program counts as its test cases, a program whose last line is 'N passed, N failed' as it says, any other
test as one. Prints 'N passed, N failed'; the exit status is 0
if there were tests and all of them passed.
"""
import json
import re
import sys

DOCTEST = re.compile(r"^\[doctest\] test cases: +\d+ \| +(\d+) passed \| +(\d+) failed", re.MULTILINE)
LAST_LINE = re.compile(r"^(\d+) passed, (\d+) failed\s*\Z", re.MULTILINE)


def count(test):
    """Returns (passed, failed) of one entry of the log."""
    succeeded = test["result"] in ("OK", "EXPECTEDFAIL")
    output = test.get("stdout", "")
    summary = DOCTEST.search(output) or LAST_LINE.search(output)
    if not summary:
        return (1, 0) if succeeded else (0, 1)
    passed, failed = int(summary[1]), int(summary[2])
    # A program may fail after its last test case, for example by a leak that a sanitizer finds.
    return passed, failed if succeeded else max(failed, 1)


def main():
    passed = failed = 0
    try:
        with open(sys.argv[1], encoding="utf-8") as log:
            for line in log:
                test = json.loads(line)
                if test["result"] == "SKIP":
                    continue
                more_passed, more_failed = count(test)
                passed, failed = passed + more_passed, failed + more_failed
    except FileNotFoundError:
        print(f"no log of tests at {sys.argv[1]}", file=sys.stderr)
    if passed + failed == 0:
        failed = 1
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
