#!/usr/bin/env python3
"""The programs and outputs that docs/gradcheck.md shows are those that are compiled and run.

Usage: docs_gradcheck_test.py ROOT EXECUTABLE...   (named gradcheck_NAME)

A listing in the page stands between ```cpp and ``` after a line '<!-- NAME.cpp -->', the output of the program between
``` and ``` after '<!-- output of NAME -->'.
"""
import pathlib
import re
import subprocess
import sys


def block_after(page, marker):
    found = re.search(re.escape(f"<!-- {marker} -->") + r"\n+```(?:cpp)?\n(.*?)```\n", page, re.DOTALL)
    return found.group(1) if found else None


def main():
    root = pathlib.Path(sys.argv[1])
    programs = {pathlib.Path(path).stem.removeprefix("gradcheck_"): path for path in sys.argv[2:]}
    page = (root / "docs/gradcheck.md").read_text(encoding="utf-8")
    problems = []
    for name, executable in programs.items():
        source = (root / f"tests/gradcheck_examples/{name}.cpp").read_text(encoding="utf-8")
        if block_after(page, f"{name}.cpp") != source:
            problems.append(f"the listing of {name}.cpp is not the file's text")
        output = subprocess.run([executable], capture_output=True, text=True, timeout=60, check=False).stdout
        shown = block_after(page, f"output of {name}")
        if shown != output:
            problems.append(f"the output of {name} is\n{output}but the page shows\n{shown}")
    shown = set(re.findall(r"<!-- (?:output of )?(\w+)(?:\.cpp)? -->", page))
    problems += [f"the page shows {name}, which nobody compiles" for name in sorted(shown - set(programs))]
    print("\n".join(problems) or f"{len(programs)} programs as shown")
    return 1 if problems or not programs else 0


if __name__ == "__main__":
    sys.exit(main())
