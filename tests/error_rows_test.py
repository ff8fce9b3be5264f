#!/usr/bin/env python3
"""Every message that tensor/, autograd/ and nn/ can give has a row in tests/errors/.

Finds the calls of require(), fail() and the functions that pass messages to them, and looks for a row "[where] text"
that the message fits. What has none is named together with the beginning of its row.

Usage: error_rows_test.py ROOT
"""
import pathlib
import re
import sys

FOLDERS = ("tensor", "autograd", "nn", "cuda")
ROWS = "tests/errors"
# Functions that make messages: the places of `where` and of the text among their arguments.
MAKERS = {"require": (1, 2), "fail": (0, 1), "fail_at": (None, 1)}
# Messages without a row, by their text, and why.
EXEMPT = {
    "device '{}' has no room for {} bytes ({} in use); use a smaller batch": "needs a device that is full",
    "cannot create a temporary file: {}; is the disk full?": "needs a full disk",
    "cannot write a temporary file: {}; is the disk full?": "needs a full disk",
    "expected Graphviz's program 'dot' to succeed, it ended with status {}: {}": "needs a Graphviz that fails",
    "this build or this CPU does not run {} kernels": "depends on the machine; checked beside the rows",
    "expected a CUDA device, got none: {}; use --device cpu": "not on a machine that has one",
}
# Messages that no user can cause: what they guard is checked before.
UNREACHABLE = {
    ("tensor/reference.cpp", "expected f32 or f64, got {}"),
}

# Not errors: the name of a check in the text of its report.
REPORTS = {"gradcheck_formula"}

COMMENT_OR_STRING = re.compile(r'//[^\n]*|R"\((.*?)\)"|"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)+\'', re.DOTALL)
STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
ANY = "\0"
ESCAPES = {r'\"': '"', r"\\": "\\", r"\n": "\n"}


def unescape(text):
    return re.sub(r'\\["\\n]', lambda match: ESCAPES[match[0]], text)


def strings(argument):
    """The text of an argument that is one literal in one or more parts, otherwise None."""
    parts = STRING.findall(argument)
    return unescape("".join(parts)) if parts and not STRING.sub("", argument).strip() else None


def without_comments(text):
    """Comments replaced by spaces, so that places stay what they are."""
    return COMMENT_OR_STRING.sub(lambda m: " " * len(m[0]) if m[0].startswith("//") else m[0], text)


def arguments(text, start):
    """The arguments of a call; `start` is behind its opening parenthesis."""
    result, depth, begin, at = [], 0, start, start
    while at < len(text):
        literal = COMMENT_OR_STRING.match(text, at)
        if literal:
            at = literal.end()
            continue
        character = text[at]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            if depth == 0:
                return result + [text[begin:at].strip()]
            depth -= 1
        elif character == "," and depth == 0:
            result.append(text[begin:at].strip())
            begin = at + 1
        at += 1
    return result


def files(root):
    """(name, text without comments) of the sources."""
    for folder in FOLDERS:
        for path in sorted([*(root / folder).rglob("*.cpp"), *(root / folder).rglob("*.h")]):
            yield path.relative_to(root).as_posix(), without_comments(path.read_text(encoding="utf-8"))


def handed_on(root):
    """(file, line, where) of every literal that is handed to a function whose parameter is called `where`."""
    texts = list(files(root))
    makers = {name: place for name, (place, _) in MAKERS.items() if place is not None}
    for _, text in texts:
        for declaration in re.finditer(r"\b(\w+)\((?=[^()]*std::string_view where\b)", text):
            parameters = arguments(text, declaration.end())
            place = next((i for i, p in enumerate(parameters) if p.startswith("std::string_view where")), None)
            if place is not None:
                makers.setdefault(declaration[1], place)
    for name, text in texts:
        for call in re.finditer(r"\b(\w+)\(", text):
            given = arguments(text, call.end()) if call[1] in makers else []
            where = strings(given[makers[call[1]]]) if len(given) > makers.get(call[1], 0) else None
            if where:
                yield name, text.count("\n", 0, call.start()) + 1, where


def messages(root):
    """(file, line, where, text) of every message; `where` is None if it is not a literal."""
    for name, text in files(root):
        for call in re.finditer(r"\b(\w+)\(", text):
            if call[1] not in MAKERS:
                continue
            where_at, text_at = MAKERS[call[1]]
            given = arguments(text, call.end())
            literal = strings(given[text_at]) if len(given) > text_at else None
            if literal is None:
                continue  # the declaration of the function, or one that passes a message on
            where = strings(given[where_at]) if where_at is not None else "safetensors"
            yield name, text.count("\n", 0, call.start()) + 1, where, literal


def meet(a, b):
    """Whether some text is what both patterns say; ANY in them stands for any text."""
    seen, states = set(), [(0, 0)]
    while states:
        state = i, j = states.pop()
        if state in seen:
            continue
        seen.add(state)
        if i == len(a) and j == len(b):
            return True
        if i < len(a) and a[i] == ANY:
            states += [(i + 1, j)] + ([(i, j + 1)] if j < len(b) else [])
        elif j < len(b) and b[j] == ANY:
            states += [(i, j + 1)] + ([(i + 1, j)] if i < len(a) else [])
        elif i < len(a) and j < len(b) and a[i] == b[j]:
            states.append((i + 1, j + 1))
    return False


def has_row(table, where, message):
    """Whether a row, (where, text), expects this message."""
    form = re.sub(r"\{[^{}' ]*\}", ANY, message.replace("{{", "{").replace("}}", "}"))
    return any(meet(form, said.replace("*", ANY)) for tag, said in table if where is None or tag in (where, "*"))


def rows(root):
    """(where, text) of the expected texts of the table."""
    text = "".join(without_comments(path.read_text(encoding="utf-8")) for path in sorted((root / ROWS).glob("*.cpp")))
    for match in re.finditer(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*', text):
        literal = strings(match[0])
        row = re.fullmatch(r"\[([^\]]+)\] (.*)", literal or "", re.DOTALL)
        if row:
            # What the parser of .safetensors files puts before each of its messages.
            yield row[1], re.sub(r"^f, byte [^:]*: ", "", row[2])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    table = list(rows(root))
    problems, found = [], list(messages(root))
    for name, line, where, message in found:
        if message in EXEMPT or (name, message) in UNREACHABLE:
            continue
        if not has_row(table, where, message):
            problems.append(f"{name}:{line}: no row in {ROWS} for \"[{where or '...'}] {message}\"")
    tags = {where for where, _ in table}
    exempt_tags = {where for name, _, where, message in found if message in EXEMPT or (name, message) in UNREACHABLE}
    reported = set()
    for name, line, where in handed_on(root):
        if where not in tags | exempt_tags | reported | REPORTS:
            reported.add(where)
            problems.append(f"{name}:{line}: no row in {ROWS} for any error of \"{where}\"")
    used = {message for _, _, _, message in found}
    problems += [f"tests/error_rows_test.py exempts a message that nothing gives: {message}"
                 for message in [*EXEMPT, *(message for _, message in UNREACHABLE)] if message not in used]
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems; {len(found)} messages and {len(set(where for _, _, where in handed_on(root)))} "
          f"names of callers, {len(table)} rows")
    return 1 if problems or not found or not table else 0


if __name__ == "__main__":
    sys.exit(main())
