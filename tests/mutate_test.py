#!/usr/bin/env python3
"""Tests scripts/mutate.py: which mutants it makes of given C++, and which it must not make.

    tests/mutate_test.py PROJECT_ROOT
"""
import functools
import os
import sys
import unittest

sys.dont_write_bytecode = True
ROOT = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), ".."))
sys.path.insert(0, os.path.join(ROOT, "scripts"))
import mutate  # noqa: E402


def mutants(code, path="tensor/sample.cpp"):
    return mutate.name_mutants(mutate.mutants_of(mutate.Source(path, code)))


def results(code, operator):
    """The lines that this operator makes of a function body of one line."""
    source = f"int f(int a, int b) {{\n  {code}\n}}\n"
    found = set()
    for m in mutants(source):
        if m.operator == operator:
            found.add(m.apply(source).split("\n", 1)[1].rsplit("\n}", 1)[0].strip())
    return found


@functools.lru_cache
def of_the_project():
    return mutate.find_mutants([pattern for files in mutate.DEFAULT_FILES.values() for pattern in files])


class Operators(unittest.TestCase):
    def check(self, code, operator, *expected):
        self.assertEqual(results(code, operator), set(expected))

    def test_arithmetic(self):
        self.check("return a + b * 2;", "arithmetic", "return a - b * 2;", "return a + b / 2;")
        self.check("a *= b;", "arithmetic", "a /= b;")

    def test_swap_operands(self):
        self.check("return a - b;", "swap-operands", "return b - a;")
        self.check("return a + b - g(a) / 2;", "swap-operands", "return (g(a) / 2) - (a + b);",
                   "return a + b - 2 / g(a);")
        self.check("return a - a;", "swap-operands")

    def test_drop_term(self):
        self.check("return a + b * 2;", "drop-term", "return a;", "return b * 2;", "return a + b;", "return a + 2;")
        self.check("return a - b;", "drop-term", "return a;", "return -b;")

    def test_sign(self):
        self.check("a += -b;", "sign", "a -= -b;", "a += b;")
        self.check("const double c = a + b, d = 0;", "sign", "const double c = -(a + b), d = 0;")

    def test_comparison_and_logic(self):
        self.check("if (a < b && a != 0) return 1;", "comparison", "if (a <= b && a != 0) return 1;",
                   "if (a < b && a == 0) return 1;")
        self.check("if (a < b && a != 0) return 1;", "logical", "if (a < b || a != 0) return 1;")
        self.check("if (a < b && a != 0) return 1;", "drop-condition", "if (a < b) return 1;", "if (a != 0) return 1;")
        self.check("if (a < b) return 1;", "negate-condition", "if (!(a < b)) return 1;")
        self.check("while (!ready()) a = 1;", "negate-condition", "while (ready()) a = 1;")

    def test_loops(self):
        self.check("for (int i = 0; i < a; ++i) g(i);", "off-by-one", "for (int i = 1; i < a; ++i) g(i);",
                   "for (int i = 0; i < a - 1; ++i) g(i);")
        self.check("for (int i = 0; i < a; ++i) g(i);", "increment")
        self.check("for (int i = 0; i < a; ++i) g(i);", "drop-statement", "for (int i = 0; i < a; ++i) ;")

    def test_literals(self):
        self.check("return x[1] + 0;", "off-by-one", "return x[2] + 0;", "return x[0] + 0;", "return x[1] + 1;")
        self.check("return 0.5f * a;", "constant", "return 0.75f * a;")
        self.check("return g(true);", "true-false", "return g(false);")

    def test_statements(self):
        self.check("int c = a; c += b; g(c);", "drop-statement", "int c = a; ; g(c);", "int c = a; c += b; ;")
        self.check("if (auto c = g(a); c > b) return g(c);", "drop-statement")
        self.check("c += b;", "skip-accumulation", "c = b;")
        self.check("if (a) return; for (;;) break;", "drop-statement", "if (a) ; for (;;) break;", "if (a) return; for (;;) ;")
        self.check("const Shape shape = x.shape(); std::vector<int> v(3); T* p = q;", "drop-statement")

    def test_functions(self):
        self.check("return a;", "return-zero", "return {};")
        self.check("return 0;", "return-zero")
        found = {m.apply("void f(int a) { g(a); }") for m in mutants("void f(int a) { g(a); }")
                 if m.operator == "return-early"}
        self.assertEqual(found, {"void f(int a) { return; g(a); }"})

    def test_arguments_and_names(self):
        self.check("return g(a, b);", "swap-arguments", "return g(b, a);")
        self.check("return min(a, b);", "swap-arguments")
        self.check("return x.height + y.width;", "confuse-names", "return x.width + y.width;", "return x.height + y.height;")
        self.check("return x.height;", "confuse-names")  # nothing there to be confused with

    def test_branches(self):
        self.check("return a ? b : 3;", "swap-branches", "return a ? 3 : b;")

    def test_every_operator_occurs_in_the_project(self):
        found, _ = of_the_project()
        self.assertEqual({m.operator for m in found}, set(mutate.OPERATORS))


class NoMutants(unittest.TestCase):
    """What is no code, or would not compile."""

    def none(self, code):
        self.assertEqual([m.apply(code) for m in mutants(code)], [])

    def test_comments_strings_and_the_preprocessor(self):
        self.none('// a + b - 1\n/* 1 < 2 */\n#define N 3\n#include "x-1.h"\n#if N > 2 && \\\n  N < 9\n#endif\n')
        self.none('const char* s = "a + b, 1";\nconst char* r = R"(1 + 1)";\n')

    def test_types(self):
        self.none("template <int N, class T>\nstruct A {\n  std::array<T, 3> x;\n  T* p;\n  T& r;\n  T&& m;\n};\n")
        self.none("using B = A<2 + 1, float>;\nenum class C { a = 1, b = 2 };\nint x[4];\nstatic_assert(1 < 2);\n")
        self.none("void f(const T& a, int b);\nint g(int a, int b);\n")

    def test_messages(self):
        found = mutants('void f(int a) {\n  require(a, "f", "expected {}", a + 1);\n  fail("f", "{}", a - 1);\n}\n')
        self.assertEqual({m.operator for m in found}, {"drop-statement", "return-early"})

    def test_pointers_are_no_products(self):
        found = mutants("void f(T *a) {\n  const T *x = a, *y = a;\n}\n")
        self.assertEqual({m.operator for m in found}, {"return-early"})


class Sample(unittest.TestCase):
    def test_names_are_unique_and_the_draw_is_fixed_by_the_seed(self):
        found, texts = of_the_project()
        names = [m.name for m in found]
        self.assertEqual(len(names), len(set(names)))
        first = [m.name for m in mutate.draw(found, 5)][:50]
        self.assertEqual(first, [m.name for m in mutate.draw(found, 5)][:50])
        self.assertNotEqual(first, [m.name for m in mutate.draw(found, 6)][:50])
        sample = mutate.draw(found, 5)[:150]
        self.assertEqual({m.operator for m in sample}, set(mutate.OPERATORS))
        for m in sample:
            self.assertNotEqual(m.apply(texts[m.file]), texts[m.file])

    def test_every_exemption_matches_and_has_a_reason(self):
        found, texts = of_the_project()
        exemptions = mutate.Exemptions(mutate.EXEMPT)
        for m in found:
            exemptions.reason(m, texts[m.file])
        self.assertEqual([r["code"] for r in exemptions.rules if not r["used"]], [])


if __name__ == "__main__":
    outcome = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules["__main__"]))
    failed = len(outcome.failures) + len(outcome.errors)
    sys.stderr.flush()
    print(f"{outcome.testsRun - failed} passed, {failed} failed")
    sys.exit(failed > 0)
