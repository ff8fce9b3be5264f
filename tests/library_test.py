#!/usr/bin/env python3
"""Uses halfstep from outside: installs it, builds tests/outside/my_op.cpp with the compiler and pkg-config alone and
as a Meson project with halfstep as a subproject, and runs both. A wrong gradient rule must make the program fail.

Usage: library_test.py ROOT BUILD_FOLDER COMPILER [ARGUMENT...]

Every check prints one line when it fails; the last line is 'N passed, N failed'. The subproject's build folder stays
in BUILD_FOLDER/tests/outside, where the next run finds what is compiled.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

from structure_test import INCLUDE, public_headers

WRONG_RULE = "-DFACTOR=2"
NAMES_INPUT_AND_ELEMENT = re.compile(r"\[gradcheck\].*input 0\b.*element \d+.*numeric.*analytic", re.DOTALL)

passed = failed = 0


def check(ok, what):
    """One check; `what` says what was expected and what came."""
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    if not ok:
        print(what)


def run(command, **options):
    """Runs a command that must succeed; returns what it writes to stdout."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {result.returncode}\n{result.stdout}{result.stderr}"
                 f"{passed} passed, {failed + 1} failed")
    return result.stdout


def introspect(build, what):
    """What Meson tells of a build folder."""
    return json.loads((build / f"meson-info/intro-{what}.json").read_text(encoding="utf-8"))


def option(build, name):
    """The value of an option of a Meson build folder."""
    return next(entry["value"] for entry in introspect(build, "buildoptions") if entry["name"] == name)


def check_program(command, name, right, environment=None):
    """my_op says that a right rule is right, and of a wrong one which element of which input is wrong."""
    result = subprocess.run([command], capture_output=True, text=True, check=False,
                            env={**os.environ, **(environment or {})})
    text = result.stdout + result.stderr
    if right:
        check(result.returncode == 0 and "right" in text, f"{name}: exit status {result.returncode}: {text}")
    else:
        check(result.returncode == 1, f"{name}: a wrong rule gives exit status {result.returncode}, not 1: {text}")
        check(NAMES_INPUT_AND_ELEMENT.search(text), f"{name}: does not say which element is wrong: {text}")


def check_headers(root, include):
    """Installed are exactly the public headers, and they include only each other."""
    installed = {path.relative_to(include).as_posix() for path in include.rglob("*") if path.is_file()}
    public = set(public_headers(root))
    check(public, "no public header was found")
    for name in sorted(public - installed):
        check(False, f"{name} is public, but not installed: see install_headers in {name.split('/')[0]}/meson.build")
    for name in sorted(installed - public):
        check(False, f"{name} is installed, but internal: see INTERNAL in tests/structure_test.py")
    for name in sorted(installed):
        included = {path for bracket, path in INCLUDE.findall((include / name).read_text(encoding="utf-8"))
                    if bracket == '"'}
        check(included <= installed, f"{name} is installed and includes what is not: {sorted(included - installed)}")


def check_configs(root, program, folder, work):
    """The installed program finds the configurations that are installed with it."""
    names = {path.name for path in (root / "configs").glob("*.json")}
    check(names and {path.name for path in folder.glob("*")} == names, f"{folder} does not hold {sorted(names)}")
    # Without a data set no configuration is read.
    data = work / "data"
    data.mkdir()
    (data / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, 1, 28, 28) + bytes(28 * 28))
    (data / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + b"\0")
    result = subprocess.run([program, "train", "--data", data, "--out", work / "run", "--config", "fashion-mnist"],
                            stderr=subprocess.PIPE, text=True, check=False)
    check(str(folder / "fashion-mnist.json") in result.stderr, f"the error does not name the file: {result.stderr}")


def check_installed(root, build, compiler, work):
    """With nothing but a compiler and pkg-config."""
    run(["meson", "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", work / "image"])
    prefix = work / "image" / pathlib.Path(option(build, "prefix")).relative_to("/")
    check_headers(root, prefix / option(build, "includedir") / "halfstep")
    check(list(prefix.rglob("licenses/halfstep/LICENSE")), "LICENSE is not installed")
    program = prefix / option(build, "bindir") / "halfstep"
    if (build / "apps/halfstep").exists():
        check(re.search(r"\d+\.\d+\.\d+", run([program, "--version"])), "halfstep --version shows no version")
        check_configs(root, program, prefix / option(build, "datadir") / "halfstep/configs", work)

    libdir = prefix / option(build, "libdir")
    # A build folder from before this was the default names the place where it would be installed without --destdir.
    moved = [] if option(build, "pkgconfig.relocatable") else [f"--define-variable=prefix={prefix}"]

    def pkg_config(*arguments):
        return run(["pkg-config", *moved, *arguments, "halfstep"],
                   env={**os.environ, "PKG_CONFIG_PATH": str(libdir / "pkgconfig")}).split()

    flags = pkg_config("--cflags")
    check(not any("nlohmann" in word for word in pkg_config("--print-requires", "--print-requires-private")),
          "halfstep.pc requires nlohmann_json, which no public header includes")
    sanitize = option(build, "b_sanitize")
    flags += [f"-fsanitize={sanitize}"] if sanitize != "none" else []
    source = root / "tests/outside/my_op.cpp"
    objects = {True: work / "right.o", False: work / "wrong.o"}
    compilers = [subprocess.Popen([*compiler, "-std=c++20", *flags, *([] if right else [WRONG_RULE]),
                                   "-c", source, "-o", path]) for right, path in objects.items()]
    check(all([process.wait() == 0 for process in compilers]), "my_op.cpp does not compile")

    # Where both libraries are installed the linker takes the shared one; the static one is then asked for by its name.
    static = libdir / "libhalfstep.a"
    shared = next(iter(libdir.glob("libhalfstep.so")), None)
    links = {}
    if shared or static.exists():
        links["shared library" if shared else "static library"] = pkg_config("--libs")
    if shared and static.exists():
        links["static library"] = [str(static) if word == "-lhalfstep" else word
                                   for word in pkg_config("--static", "--libs")]
    check(links, f"no library in {libdir}")
    for kind, libraries in links.items():
        for right, path in objects.items():
            run([*compiler, *flags, path, *libraries, "-o", work / "my_op"])
            check_program(work / "my_op", f"my_op with the {kind}", right, {"LD_LIBRARY_PATH": str(libdir)})


def check_listing(root):
    """docs/library.md shows the program that is tested here."""
    text = (root / "docs/library.md").read_text(encoding="utf-8")
    source = (root / "tests/outside/my_op.cpp").read_text(encoding="utf-8")
    check(f"```cpp\n{source}```\n" in text, "docs/library.md does not show tests/outside/my_op.cpp as it is")


def check_subproject(root, build, compiler):
    """As the subproject of a project that has warnings as errors, with the layers that are quick to compile."""
    project, folder = build / "tests/outside/project", build / "tests/outside/build"
    (project / "subprojects").mkdir(parents=True, exist_ok=True)
    for name, target in {"meson.build": "tests/outside/subproject/meson.build",
                         "my_op.cpp": "tests/outside/my_op.cpp", "subprojects/halfstep": "."}.items():
        (project / name).unlink(missing_ok=True)
        (project / name).symlink_to((root / target).resolve())
    if not (folder / "build.ninja").exists():
        shutil.rmtree(folder, ignore_errors=True)
        # A halfstep that is installed on this machine must not take the subproject's place.
        run(["meson", "setup", folder, project, "--force-fallback-for=halfstep", "-Doptimization=0", "-Ddebug=false",
             "-Dhalfstep:cuda=disabled", "-Dhalfstep:cpu_isas="],  # portable kernels alone: quicker to build
            env={**os.environ, "CXX": " ".join(compiler)})
    run(["ninja", "-C", folder, "my_op_of_autograd"])
    check_program(folder / "my_op_of_autograd", "my_op with a subproject", True)

    targets = introspect(folder, "targets")
    programs = {target["name"] for target in targets if target["type"] == "executable"}
    check(programs == {"my_op", "my_op_of_autograd"}, f"a subproject builds the programs {sorted(programs)}")
    check(not introspect(folder, "tests"), "a subproject has tests")
    dependencies = {dependency["name"].lower() for dependency in introspect(folder, "dependencies")}
    check("fmt" in dependencies and not dependencies & {"cli11", "doctest"},
          f"a subproject looks for what only the program and the tests need: {sorted(dependencies)}")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    root, build, compiler = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    with tempfile.TemporaryDirectory(prefix="halfstep-test-") as work:
        check_installed(root, build, compiler, pathlib.Path(work))
    check_subproject(root, build, compiler)
    check_listing(root)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
