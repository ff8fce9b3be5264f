#!/usr/bin/env python3
"""Compiles one .cu file for the emulated GPU: nvcc makes the host's object file and the PTX, translate.py makes C++ of
the PTX.

Usage: compile.py NAME INPUT.cu OUTPUT.o OUTPUT.cpp DEPENDENCIES.d -- NVCC [ARGUMENT...]
"""
import pathlib
import subprocess
import sys
import tempfile


def main():
    if len(sys.argv) < 8 or sys.argv[6] != "--":
        sys.exit(__doc__)
    name, source, target, cpp, dependencies = sys.argv[1:6]
    with tempfile.TemporaryDirectory() as kept:
        # One run of nvcc makes both, so that names of anonymous namespaces agree.
        command = sys.argv[7:] + ["-MD", "-MF", dependencies, "-MT", target, "-c", source, "-o", target, "--keep",
                                  "--keep-dir", kept]
        if subprocess.run(command, check=False).returncode != 0:
            return 1
        ptx = pathlib.Path(kept) / (pathlib.Path(source).stem + ".ptx")
        translate = pathlib.Path(__file__).with_name("translate.py")
        return subprocess.run([sys.executable, translate, ptx, cpp, name], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
