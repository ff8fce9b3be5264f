#!/usr/bin/env python3
"""Times halfstep against PyTorch on this machine's CPUs, in alternation, and prints ratios (PyTorch's time / ours).

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch
    /tmp/torch/bin/python bench/compare_pytorch.py --halfstep build/apps/halfstep --out result.json

The same UNet is built in PyTorch: the numbers of parameters must be equal, and with copied weights so must the outputs
be, to the precision of f32. Each line is measured in rounds: halfstep, then every PyTorch setting (contiguous,
channels_last, and with --compile torch.compile of both), with a pause between; the median over rounds of PyTorch's
BEST setting is compared. Both sides use the same number of threads.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = int(os.environ.get("HALFSTEP_THREADS", len(os.sched_getaffinity(0))))
os.environ["HALFSTEP_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(THREADS)

import torch  # noqa: E402  (OMP_NUM_THREADS must be set first)
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

torch.set_num_threads(THREADS)

# --- the network of diffusion/unet.cpp ------------------------------------------------------------------------------


class Conv2d(nn.Conv2d):
    def __init__(self, c_in, c_out):
        super().__init__(c_in, c_out, 3, padding=1)


class ResnetBlock(nn.Module):
    def __init__(self, config, c_in, c_out, resample=None):
        super().__init__()
        emb = config["emb_channels"] or 4 * config["channels"]
        self.norm1 = nn.GroupNorm(config["groups"], c_in, eps=config["norm_eps"])
        self.conv1 = Conv2d(c_in, c_out)
        self.temb_proj = nn.Linear(emb, 2 * c_out)
        self.norm2 = nn.GroupNorm(config["groups"], c_out, eps=config["norm_eps"])
        self.conv2 = Conv2d(c_out, c_out)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None
        self.resample, self.dropout = resample, config["dropout"]

    def resized(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x

    def forward(self, x, emb):
        scale, shift = self.temb_proj(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(self.resized(F.silu(self.norm1(x))))
        h = F.silu(self.norm2(h) * (1 + scale) + shift)
        h = self.conv2(F.dropout(h, self.dropout, self.training))
        x = self.resized(x)
        return (self.nin_shortcut(x) if self.nin_shortcut is not None else x) + h


class SelfAttention(nn.Module):
    def __init__(self, config, channels):
        super().__init__()
        self.norm = nn.GroupNorm(config["groups"], channels, eps=config["norm_eps"])
        self.q, self.k, self.v, self.proj_out = (nn.Linear(channels, channels) for _ in range(4))
        self.heads = config["num_heads"]

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (f(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.proj_out(mixed).transpose(1, 2).reshape(batch, channels, height, width)


class Level(nn.Module):
    pass


class UNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        channels, multipliers = config["channels"], config["channel_multipliers"]
        emb = config["emb_channels"] or 4 * channels
        self.dense0, self.dense1 = nn.Linear(channels, emb), nn.Linear(emb, emb)
        self.conv_in = Conv2d(config["in_channels"], channels)
        self.levels = len(multipliers)
        attends = [config["height"] >> i in config["attention_resolutions"] for i in range(self.levels)]

        def level(i, inputs):
            result = Level()
            out = channels * multipliers[i]
            for j, c_in in enumerate(inputs):
                setattr(result, f"block_{j}", ResnetBlock(config, c_in, out))
                if attends[i]:
                    setattr(result, f"attn_{j}", SelfAttention(config, out))
            result.count, result.attends = len(inputs), attends[i]
            return result

        blocks = config["num_res_blocks"]
        width, skips = channels, [channels]
        for i in range(self.levels):
            out = channels * multipliers[i]
            down = level(i, [width] + [out] * (blocks - 1))
            width = out
            skips += [out] * blocks
            if i + 1 < self.levels:
                down.downsample = ResnetBlock(config, out, out, "down")
                skips.append(out)
            setattr(self, f"down_{i}", down)
        self.mid = Level()
        self.mid.block_1 = ResnetBlock(config, width, width)
        self.mid.attn_1 = SelfAttention(config, width)
        self.mid.block_2 = ResnetBlock(config, width, width)
        for i in reversed(range(self.levels)):
            inputs = []
            for _ in range(blocks + 1):
                inputs.append(width + skips.pop())
                width = channels * multipliers[i]
            up = level(i, inputs)
            if i > 0:
                up.upsample = ResnetBlock(config, width, width, "up")
            setattr(self, f"up_{i}", up)
        self.norm_out = nn.GroupNorm(config["groups"], width, eps=config["norm_eps"])
        self.conv_out = Conv2d(width, config["out_channels"])

    def forward(self, z, sinusoids):
        emb = F.silu(self.dense1(F.silu(self.dense0(sinusoids))))
        h = self.conv_in(z)
        skips = [h]
        for i in range(self.levels):
            down = getattr(self, f"down_{i}")
            for j in range(down.count):
                h = getattr(down, f"block_{j}")(h, emb)
                if down.attends:
                    h = getattr(down, f"attn_{j}")(h)
                skips.append(h)
            if i + 1 < self.levels:
                h = down.downsample(h, emb)
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, emb)), emb)
        for i in reversed(range(self.levels)):
            up = getattr(self, f"up_{i}")
            for j in range(up.count):
                h = getattr(up, f"block_{j}")(torch.cat([h, skips.pop()], dim=1), emb)
                if up.attends:
                    h = getattr(up, f"attn_{j}")(h)
            if i > 0:
                h = up.upsample(h, emb)
        return self.conv_out(F.silu(self.norm_out(h)))


def sinusoids(config, logsnr):
    """logsnr_embedding of diffusion/unet_config.h with the input inv_cos."""
    t = 1000 * torch.atan(torch.exp(-logsnr.double().clamp(-20, 20) / 2)) / (math.pi / 2)
    half = config["channels"] // 2
    angles = t[:, None] * torch.exp(-torch.arange(half).double() * math.log(10000) / (half - 1))
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def read_safetensors(path):
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        raw = bytearray(data[8 + size + begin : 8 + size + end])
        tensors[name] = torch.frombuffer(raw, dtype=torch.float32).reshape(entry["shape"])
    return tensors


def write_safetensors(path, tensors):
    header, blob = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().numpy().tobytes()
        kind = {torch.float32: "F32", torch.float64: "F64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(blob), len(blob) + len(raw)]}
        blob += raw
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + blob)


def load_weights(net, tensors):
    """Copies the weights of a checkpoint of halfstep."""
    parameters = dict(net.named_parameters())
    for name, tensor in tensors.items():
        module, leaf = name.rsplit(".", 1)
        if leaf == "kernel":
            target = parameters.pop(f"{module}.weight")
            if tensor.dim() == 4:
                tensor = tensor.permute(3, 2, 0, 1)
            elif target.dim() == 4:
                tensor = tensor.t()[:, :, None, None]
            else:
                tensor = tensor.t()
        else:
            target = parameters.pop(f"{module}.{'weight' if leaf == 'scale' else 'bias'}")
        with torch.no_grad():
            target.copy_(tensor)
    assert not parameters, f"not in the checkpoint: {sorted(parameters)}"


# --- halfstep --------------------------------------------------------------------------------------------------------


class Halfstep:
    def __init__(self, program):
        self.program = program

    def bench(self, filters, what, config_file=None, batch=None, seconds=0.5):
        command = [self.program, "bench", "--what", what, "--json", "--seconds", str(seconds)]
        command += ["--config", config_file] if config_file else []
        command += ["--batch-size", str(batch)] if batch else []
        output = subprocess.run([*command, *filters], check=True, capture_output=True, text=True).stdout
        return json.loads(output)

    def trained(self, folder, config):
        """A checkpoint after some updates on noise, so that no weight is 0."""
        run = f"{folder}/run"
        train = [self.program, "train", "--config", write_config(folder, config), "--out", run, "--max-steps", "3",
                 "--batch-size", "8", "--data", write_noise_pictures(folder, config)]
        subprocess.run(train, check=True, capture_output=True)
        return str(next(Path(run).glob("step-*")))

    def check_outputs(self, folder, config):
        """Compares the outputs of both networks with copied weights: (parameters, {who: worst error})."""
        checkpoint = self.trained(folder, config)
        net = UNet(config)
        weights = read_safetensors(f"{checkpoint}/model.safetensors")
        count = sum(t.numel() for t in weights.values())
        assert count == sum(p.numel() for p in net.parameters()), "the numbers of parameters differ"
        load_weights(net, weights)
        net.eval()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(4, config["height"], config["width"], config["in_channels"], generator=generator)
        logsnr = torch.tensor([-5.0, -0.5, 0.5, 6.0], dtype=torch.float64)
        write_safetensors(f"{folder}/in.safetensors", {"x": x, "logsnr": logsnr})
        worst = {}
        with torch.no_grad():
            expected = net(x.permute(0, 3, 1, 2), sinusoids(config, logsnr)).permute(0, 2, 3, 1)
            exact = net.double()(x.double().permute(0, 3, 1, 2), sinusoids(config, logsnr).double())
        exact = exact.permute(0, 2, 3, 1)
        scale = exact.abs().max().item()
        worst["pytorch"] = (expected - exact).abs().max().item() / scale
        for method in ("direct", "winograd"):
            command = [self.program, "predict", checkpoint, "--in", f"{folder}/in.safetensors", "--conv", method]
            subprocess.run([*command, "--out", f"{folder}/out.safetensors"], check=True, capture_output=True)
            out = read_safetensors(f"{folder}/out.safetensors")["out"]
            worst[method] = (out - exact).abs().max().item() / scale
        assert worst["winograd"] < 1e-4, f"the outputs differ: {worst}"
        return count, worst


def write_config(folder, model):
    """A configuration file for halfstep, without moving average, as PyTorch's side has none."""
    path = f"{folder}/config.json"
    settings = {key: value for key, value in model.items() if key != "out_channels"}
    Path(path).write_text(json.dumps({"model": settings, "train": {"ema_decay": 0, "max_grad_norm": 1}}))
    return path


def write_noise_pictures(folder, config):
    """A data set of noise with pictures of the network's size."""
    data = Path(folder) / "data"
    data.mkdir(exist_ok=True)
    count, height, width, channels = 16, config["height"], config["width"], config["in_channels"]
    assert channels == 1, "the outputs are compared on grey pictures"
    header = b"".join(n.to_bytes(4, "big") for n in (0x803, count, height, width))
    (data / "train-images-idx3-ubyte").write_bytes(header + os.urandom(count * height * width))
    (data / "train-labels-idx1-ubyte").write_bytes(b"".join(n.to_bytes(4, "big") for n in (0x801, count)) + bytes(count))
    return str(data)


# --- timing ----------------------------------------------------------------------------------------------------------


def median_time(run, seconds):
    run()
    times, total = [], 0.0
    while len(times) < 3 or (total < seconds and len(times) < 10000):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
        total += times[-1]
    return statistics.median(times)


class Comparison:
    """Alternates between halfstep and PyTorch's settings, and keeps the results."""

    def __init__(self, args):
        self.args, self.rows = args, []

    def add(self, name, ours, theirs):
        """ours: () -> seconds; theirs: {setting: call}."""
        mine, others = [], {setting: [] for setting in theirs}
        for _ in range(self.args.rounds):
            time.sleep(self.args.pause)
            mine.append(ours())
            for setting, run in theirs.items():
                time.sleep(self.args.pause)
                others[setting].append(median_time(run, self.args.seconds))
        best = min(others, key=lambda s: statistics.median(others[s]))
        ratio = statistics.median(others[best]) / statistics.median(mine)
        self.rows.append({
            "name": name, "halfstep_seconds": statistics.median(mine), "halfstep_rounds": mine,
            "pytorch_seconds": {s: statistics.median(t) for s, t in others.items()}, "best": best, "ratio": ratio,
        })
        print(f"{name:46} {1e3 * statistics.median(mine):10.3f} {1e3 * statistics.median(others[best]):10.3f} "
              f"{ratio:6.2f}  {best}", flush=True)
        return ratio

    def mean(self, name, ratios):
        value = math.exp(statistics.mean(map(math.log, ratios)))
        self.rows.append({"name": name, "ratio": value})
        print(f"{name:46} {'':10} {'':10} {value:6.2f}  geometric mean", flush=True)


def in_formats(make):
    """{setting: call} for contiguous and channels_last tensors."""
    return {"contiguous": make(torch.contiguous_format), "channels_last": make(torch.channels_last)}


CONVOLUTIONS = [(32, 32, 64, 64), (32, 32, 192, 64), (32, 16, 128, 128), (32, 16, 256, 128), (32, 8, 128, 128),
                (4, 32, 256, 256), (4, 16, 512, 256), (64, 28, 32, 32)]


def compare_kernels(halfstep, comparison, seconds):
    def ours(name):
        def run():
            cases = halfstep.bench([name], "kernels", seconds=seconds)["cases"]
            assert len(cases) == 1, f"{name}: {len(cases)} cases"
            return cases[0]["median_seconds"]
        return run

    def conv(kind, batch, size, c, o):
        def make(memory_format):
            x = torch.randn(batch, c, size, size).to(memory_format=memory_format)
            w = torch.randn(o, c, 3, 3).to(memory_format=memory_format)
            dy = torch.randn(batch, o, size, size).to(memory_format=memory_format)

            def run():
                with torch.no_grad():
                    if kind == "forward":
                        return F.conv2d(x, w, padding=1)
                    mask = [kind == "data", kind == "kernel", False]
                    return torch.ops.aten.convolution_backward(dy, x, w, [o], [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                                                               mask)
            return run
        return in_formats(make)

    for kind in ("forward", "data", "kernel"):
        ratios = []
        for batch, size, c, o in CONVOLUTIONS:
            name = f"conv3x3 {kind} {size}x{size} {c}->{o} batch {batch}"
            ratios.append(comparison.add(name, ours(name), conv(kind, batch, size, c, o)))
        comparison.mean(f"conv3x3 {kind}", ratios)

    def norm(backward, batch, size, channels):
        def make(memory_format):
            x = torch.randn(batch, channels, size, size).to(memory_format=memory_format).requires_grad_()
            gain, bias = torch.ones(channels, requires_grad=True), torch.zeros(channels, requires_grad=True)
            if not backward:
                def run():
                    with torch.no_grad():
                        F.silu(F.group_norm(x, 32, gain, bias, 1e-6))
                return run
            y = F.silu(F.group_norm(x, 32, gain, bias, 1e-6))
            dy = torch.randn_like(y)
            return lambda: torch.autograd.grad(y, [x, gain, bias], dy, retain_graph=True)
        return in_formats(make)

    for backward in (False, True):
        ratios = []
        for size, channels in ((32, 64), (16, 128), (8, 128)):
            name = f"group_norm silu {'backward' if backward else 'forward'} [32,{size * size},{channels}]"
            ratios.append(comparison.add(name, ours(name), norm(backward, 32, size, channels)))
        comparison.mean(f"group_norm silu {'backward' if backward else 'forward'}", ratios)

    def attention(backward, tokens):
        q, k, v = (torch.randn(32, 1, tokens, 128, requires_grad=True) for _ in range(3))
        if not backward:
            def run():
                with torch.no_grad():
                    F.scaled_dot_product_attention(q, k, v)
            return {"sdpa": run}
        y = F.scaled_dot_product_attention(q, k, v)
        dy = torch.randn_like(y)
        return {"sdpa": lambda: torch.autograd.grad(y, [q, k, v], dy, retain_graph=True)}

    for backward in (False, True):
        for tokens in (256, 64):
            name = f"attention {'backward' if backward else 'forward'} {tokens}x128 batch 32"
            comparison.add(name, ours(name), attention(backward, tokens))

    def adam(fused):
        parameter = nn.Parameter(torch.randn(6_800_000))
        parameter.grad = torch.randn(6_800_000)
        return torch.optim.Adam([parameter], lr=1e-3, fused=fused).step

    comparison.add("adam 6.8M", ours("adam 6.8M"), {"default": adam(False), "fused": adam(True)})


def torch_model(config, memory_format, compiled):
    torch.manual_seed(0)
    net = UNet(config).to(memory_format=memory_format)
    return torch.compile(net) if compiled else net


def model_calls(config, batch, step, compiled):
    """{setting: call} of one network call or training step."""
    def make(memory_format, with_compiler):
        net = torch_model(config, memory_format, with_compiler)
        z = torch.randn(batch, config["in_channels"], config["height"], config["width"]).to(memory_format=memory_format)
        logsnr = torch.full((batch,), 0.5)
        if step == "network call":
            net.eval()

            def run():
                with torch.no_grad():
                    net(z, sinusoids(config, logsnr))
            return run
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
        net.train()

        def run_training():
            noise = torch.randn_like(z)
            alpha, sigma = logsnr.sigmoid().sqrt()[:, None, None, None], (-logsnr).sigmoid().sqrt()[:, None, None, None]
            target = alpha * noise - sigma * z
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(net(alpha * z + sigma * noise, sinusoids(config, logsnr)), target)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        return run_training

    calls = {"contiguous": make(torch.contiguous_format, False), "channels_last": make(torch.channels_last, False)}
    if compiled:
        calls["compiled"] = make(torch.contiguous_format, True)
        calls["compiled channels_last"] = make(torch.channels_last, True)
    return calls


def compare_models(halfstep, comparison, args, folder):
    count, worst = halfstep.check_outputs(folder, GREY)
    print(f"small, on grey pictures: {count} parameters on both sides; largest error relative to the largest output, "
          f"against f64: {', '.join(f'{who} {error:.1e}' for who, error in worst.items())}")
    for name, model, batch, steps in MODELS:
        print(f"{name}: {sum(p.numel() for p in UNet(model).parameters())} parameters", flush=True)
        for step, size in steps:
            def ours(step=step, size=size, model=model):
                path = write_config(folder, model)
                cases = halfstep.bench([step], "model", path, size, max(args.seconds, 1))["cases"]
                return cases[0]["median_seconds"]
            comparison.add(f"{name} {step} batch {size}", ours, model_calls(model, size, step, args.compile))


def compare_start(halfstep, comparison, folder):
    checkpoint = halfstep.trained(folder, GREY)

    def seconds_of(command):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    sample = [halfstep.program, "sample", checkpoint, "--num", "1", "--steps", "1", "--out", f"{folder}/sample.png"]
    comparison.add("sample of one step / import torch", lambda: seconds_of(sample),
                   {"import": lambda: seconds_of([sys.executable, "-c", "import torch"])})


BASE = {"height": 32, "width": 32, "in_channels": 3, "out_channels": 3, "emb_channels": 0, "num_heads": 1, "groups": 32,
        "norm_eps": 1e-6, "dropout": 0.0}
MODELS = [
    ("small", BASE | {"channels": 64, "channel_multipliers": [1, 2, 2], "num_res_blocks": 2,
                      "attention_resolutions": [16]}, 32,
     [("network call", 32), ("network call", 1), ("training step", 32)]),
    ("paper", BASE | {"channels": 256, "emb_channels": 1024, "channel_multipliers": [1, 1, 1], "num_res_blocks": 3,
                      "attention_resolutions": [8, 16], "dropout": 0.2}, 4,
     [("training step", 4)]),
]
GREY = MODELS[0][1] | {"in_channels": 1, "out_channels": 1}


def peak_memory_of_training(args, name):
    """Largest resident memory of a process that does nothing but training steps: {halfstep, pytorch}, in MB."""
    _, model, batch, _ = next(m for m in MODELS if m[0] == name)
    with tempfile.TemporaryDirectory() as folder:
        path = write_config(folder, model)
        ours = Halfstep(args.halfstep).bench(["training step"], "model", path, batch, 1)["max_resident_bytes"]
    child = subprocess.run([sys.executable, __file__, "--memory-of", name], check=True, capture_output=True, text=True)
    return ours / 1e6, float(child.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--halfstep", default="build/apps/halfstep", help="the program")
    parser.add_argument("--what", default="kernels,models,memory,start", help="a list of these")
    parser.add_argument("--rounds", type=int, default=3, help="alternations")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between measurements")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too (minutes)")
    parser.add_argument("--out", help="JSON file for the results")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.memory_of:
        _, model, batch, _ = next(m for m in MODELS if m[0] == args.memory_of)
        net = torch_model(model, torch.channels_last, False)
        z = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
        for _ in range(4):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(net(z, sinusoids(model, torch.full((batch,), 0.5))), z).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        status = Path("/proc/self/status").read_text()
        print(next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024 / 1e6)
        return

    what = args.what.split(",")
    halfstep, comparison = Halfstep(args.halfstep), Comparison(args)
    print(f"PyTorch {torch.__version__}, {THREADS} threads, medians of {args.rounds} rounds of {args.seconds} s")
    print(f"{'':46} {'halfstep':>10} {'PyTorch':>10} {'ratio':>6}  (ms)")
    if "kernels" in what:
        compare_kernels(halfstep, comparison, args.seconds)
    if "models" in what:
        with tempfile.TemporaryDirectory() as folder:
            compare_models(halfstep, comparison, args, folder)
    if "memory" in what:
        for name in ("small", "paper"):
            ours, theirs = peak_memory_of_training(args, name)
            print(f"{name + ' training step, peak resident MB':46} {ours:10.0f} {theirs:10.0f} {ours / theirs:6.2f}")
            comparison.rows.append({"name": f"{name} memory", "halfstep_mb": ours, "pytorch_mb": theirs})
    if "start" in what:
        with tempfile.TemporaryDirectory() as folder:
            compare_start(halfstep, comparison, folder)
    if args.out:
        Path(args.out).write_text(json.dumps({"torch": torch.__version__, "threads": THREADS, "rows": comparison.rows},
                                             indent=2) + "\n")


if __name__ == "__main__":
    main()
