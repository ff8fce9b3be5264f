#!/usr/bin/env python3
"""The rounding error of Winograd's F(4x4, 3x3) in f32, by the points where it evaluates (needs numpy).

Prints for each choice the error of the outputs relative to the root mean square of the output: images and filters are
standard normal, 128 channels deep, everything is computed in f32, the exact result in f64. tensor/cpu/winograd.h uses
the second row.
"""
import numpy as np

CHOICES = {"0, +-1, +-2": (1.0, 2.0), "0, +-5/8, +-3/2": (0.625, 1.5), "0, +-1/2, +-1": (0.5, 1.0),
           "0, +-1/2, +-3/2": (0.5, 1.5)}
TILES, DEPTH = 200, 128


def matrices(p, q):
    """B^T, G and A^T by the construction of Toom and Cook, with the point at infinity last."""
    points = [0.0, p, -p, q, -q]
    b, g, a = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for j, x in enumerate(points):
        others = [y for y in points if y != x]
        b[j, :5] = np.poly(others)[::-1]
        g[j] = x ** np.arange(3) / np.prod([x - y for y in others])
        a[:, j] = x ** np.arange(4)
    b[5] = np.poly(points)[::-1]
    g[5, 2] = a[3, 5] = 1
    return b, g, a


def main():
    random = np.random.default_rng(0)
    d, f = random.standard_normal((TILES, DEPTH, 6, 6)), random.standard_normal((DEPTH, 3, 3))
    d, f = d.astype(np.float32), f.astype(np.float32)
    exact = sum(d[:, :, i:i + 4, j:j + 4].astype(float) * f[:, i, j].astype(float)[:, None, None]
                for i in range(3) for j in range(3)).sum(axis=1)
    scale = np.sqrt((exact**2).mean())
    print(f"{'points':20} {'rms error':>10} {'largest':>10}")
    for name, (p, q) in CHOICES.items():
        b, g, a = (m.astype(np.float32) for m in matrices(p, q))
        v, u = b @ d @ b.T, g @ f @ g.T
        m = np.zeros((TILES, 6, 6), np.float32)
        for c in range(DEPTH):  # in order, as the kernels add
            m += v[:, c] * u[c]
        error = (a @ m @ a.T - exact) / scale
        print(f"{name:20} {np.sqrt((error**2).mean()):10.1e} {np.abs(error).max():10.1e}")


if __name__ == "__main__":
    main()
