"""Wrote this case: SGD with Nesterov's momentum and clipped gradients, by PyTorch on the CPU.

    pip install torch numpy safetensors && python make.py
"""
import json
import pathlib
import platform

import numpy as np
import torch
from safetensors.numpy import save_file

STEPS, LR, MOMENTUM, WEIGHT_DECAY, CLIP = 20, 0.02, 0.8, 0.01, 1.5
SHAPES = {"w": (5, 7), "b": (11,), "k": (3, 2, 3, 3)}

random = np.random.default_rng(20)
start = {n: random.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
# Norms from about 0.4 to 40: some steps are clipped, some are not.
scales = np.geomspace(0.05, 5, STEPS).astype(np.float32)
random.shuffle(scales)
grads = {n: np.stack([scale * random.normal(size=s) for scale in scales]).astype(np.float32)
         for n, s in SHAPES.items()}


def run(dtype):
    parameters = {n: torch.nn.Parameter(torch.tensor(v, dtype=dtype)) for n, v in start.items()}
    sgd = torch.optim.SGD(parameters.values(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    values, norms = {n: [] for n in parameters}, []
    for k in range(STEPS):
        for n, p in parameters.items():
            p.grad = torch.tensor(grads[n][k], dtype=dtype)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), CLIP, foreach=False).item())
        sgd.step()
        for n, p in parameters.items():
            values[n].append(p.detach().numpy().copy())
    buffer = sgd.state[parameters["w"]]["momentum_buffer"].numpy()
    return {n: np.stack(v) for n, v in values.items()}, np.array(norms), buffer


exact, norms, buffer = run(torch.float64)
single = run(torch.float32)[0]
worst = max(np.abs(single[n] - exact[n]).max() for n in SHAPES)
tensors = {f"param0.{n}": v for n, v in start.items()} | {f"grads.{n}": v for n, v in grads.items()}
for n in SHAPES:
    tensors |= {f"param.{n}.f64": exact[n], f"param.{n}.f32": single[n]}
tensors |= {"lr.f64": np.full(STEPS, LR), "grad_norm_before_clip.f64": norms,
            "final_state.w.momentum_buffer.f64": buffer}
facts = {
    "name": "optim/sgd_nesterov_clip",
    "what": f"SGD momentum {MOMENTUM}, wd {WEIGHT_DECAY}, nesterov on, clip_grad_norm_ {CLIP}",
    "reference": "torch.optim / torch.nn.utils.clip_grad_norm_",
    "config": {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "nesterov": True},
    "formula": "g *= min(1, clip/(norm+1e-6)); g += wd*p; buf = m buf + g (first step buf = g); p -= lr*(g + m buf)",
    "clip_max_norm": CLIP,
    "parameter_order": list(SHAPES),
    # As in the cases beside this one: f64 by the order of sums, f32 ten times what PyTorch itself is off.
    "tolerance": {"f64_abs": 1e-12, "f32_abs": float(f"{10 * max(worst, np.spacing(np.float32(norms.max()))):.1e}")},
    "measured_f32_vs_f64_abs": float(worst),
    "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    "tensors": {n: {"dtype": str(v.dtype), "shape": list(v.shape)} for n, v in tensors.items()},
}
folder = pathlib.Path(__file__).parent
save_file({n: np.ascontiguousarray(v) for n, v in tensors.items()}, folder / "tensors.safetensors")
(folder / "case.json").write_text(json.dumps(facts, indent=1) + "\n")
print(f"norms {norms.min():.2f} to {norms.max():.2f}, f32 off by {worst:.1e}")
