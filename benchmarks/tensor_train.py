"""TT-LSTM against the dense LSTM and tensorly-torch, side by side in one run.

    python benchmarks/tensor_train.py [--threads 1 2] [--hidden 256 512 768 1024] [--batch 1 32 128] [--json FILE]

``--json benchmarks/results/tensor-train-speed.jsonl`` writes the lines that ``make results`` makes a table of.

Every round runs all the contestants one after the other, and what is reported is the median over the rounds
of the ratio to the dense layer in the same round: load on the machine falls on all of them alike. Times are
wall-clock, one layer, 40 inputs, 100 steps; training is forward and backward with gradients of parameters.

    rebuild, contract   the two ways to compute, see ``vagitus.tensor_train.recurrent``; auto: the rule's choice
    tensorly-torch      an LSTM of its FactorizedLinear layers (block-TT), the input's part for all steps in one
                        call, the faster of its two implementations, factorized and reconstructed
    by hand             the same where the user rebuilds the weight once a sequence, which the library does not do
    memory              growth of a process that builds a layer and trains it for five steps, at its peak
    export              file size and onnxruntime's time for a 1-s clip (101 frames), one thread

tensorly-torch is optional: pip install -c constraints.txt tensorly-torch tensorly packaging
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vagitus.files import write_atomic
from vagitus.tensor_train import TTGRU, TTLSTM

N_INPUTS, N_STEPS = 40, 100
CONTESTANTS = ("rebuild", "contract", "auto")
PEER_MODES = ("factorized", "reconstructed")
BY_HAND = "by hand"


class Point(NamedTuple):
    """Ratios to the dense layer, and its time."""

    threads: int
    hidden: int
    batch: int
    passes: str
    dense_ms: float
    ratios: dict[str, float]
    choice: str
    n_rounds: int


class PeerLSTM(nn.Module):
    """tensorly-torch has no recurrent layer: this is the LSTM that its linear layer makes."""

    def __init__(self, tt: TTLSTM, mode: str):
        super().__init__()
        linear = importlib.import_module("tltorch").FactorizedLinear
        self.hidden_size, self.by_hand = tt.hidden_size, mode == BY_HAND
        implementation = "factorized" if mode == "factorized" else "reconstructed"
        matrices = tt.matrices()
        self.linears = nn.ModuleList(
            linear(
                matrix.shape.in_factors,
                matrix.shape.out_factors,
                bias=part == "ih",
                factorization="blocktt",
                rank=tt.ranks[f"weight_{part}_l0"][0],
                implementation=implementation,
            )
            for part, matrix in (("ih", matrices["weight_ih_l0"]), ("hh", matrices["weight_hh_l0"]))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(n_steps, batch, n_inputs) -> as ``nn.LSTM``."""
        from_input, from_hidden = self.linears
        projected = from_input(x)
        recur: Callable[[Tensor], Tensor] = from_hidden
        if self.by_hand:
            weight = from_hidden.weight.to_matrix()  # type: ignore[union-attr,operator]

            def recur(h: Tensor) -> Tensor:
                return nn.functional.linear(h, weight)

        h = c = x.new_zeros(x.shape[1], self.hidden_size)
        outputs = []
        for step in projected:
            i, f, g, o = (step + recur(h)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h, c)


def measure(
    contestants: dict[str, nn.Module], batch: int, passes: str, seconds: float, n_least: int
) -> tuple[dict[str, list[float]], int]:
    """Wall-clock seconds of every contestant in every round."""
    x = torch.randn(N_STEPS, batch, N_INPUTS)

    def forward(module: nn.Module) -> None:
        with torch.no_grad():
            module(x)

    def train(module: nn.Module) -> None:
        module.zero_grad()
        module(x)[0].sum().backward()

    run = forward if passes == "forward" else train
    for module in contestants.values():
        run(module)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    n_rounds = 0
    while n_rounds < n_least or time.perf_counter() < end:
        for name, module in contestants.items():
            start = time.perf_counter()
            run(module)
            times[name].append(time.perf_counter() - start)
        n_rounds += 1
    return times, n_rounds


def compare(hidden: int, batch: int, rank: int, cell: str, peer: bool, seconds: float) -> list[Point]:
    """One size, forward and training."""
    torch.manual_seed(0)
    dense: nn.Module = nn.LSTM(N_INPUTS, hidden) if cell == "lstm" else nn.GRU(N_INPUTS, hidden)
    kind = TTLSTM if cell == "lstm" else TTGRU
    contestants: dict[str, nn.Module] = {"dense": dense}
    for compute in CONTESTANTS:
        contestants[compute] = kind(N_INPUTS, hidden, rank=rank, compute=compute)  # type: ignore[arg-type]
    if peer and cell == "lstm":
        like = TTLSTM(N_INPUTS, hidden, rank=rank)
        for mode in (*PEER_MODES, BY_HAND):
            contestants[mode] = PeerLSTM(like, mode)
    points = []
    for passes in ("forward", "training"):
        running = dict(contestants)
        if PEER_MODES[0] in running:  # one look at both modes, then only the faster runs along
            first, _ = measure({mode: running[mode] for mode in PEER_MODES}, batch, passes, 0, 2)
            del running[max(first, key=lambda mode: min(first[mode]))]
        times, n_rounds = measure(running, batch, passes, seconds, 5)
        ratios = {
            name: statistics.median(own / base for own, base in zip(times[name], times["dense"], strict=True))
            for name in times
            if name != "dense"
        }
        x = torch.empty(N_STEPS, batch, N_INPUTS)
        with torch.set_grad_enabled(passes == "training"):
            choice = contestants["auto"].choose_compute(x)  # type: ignore[operator]
        dense_ms = 1e3 * statistics.median(times["dense"])
        points.append(
            Point(torch.get_num_threads(), hidden, batch, passes, dense_ms, ratios, choice, n_rounds)
        )
    return points


def peak_memory_mb(compute: str, hidden: int, batch: int) -> float:
    """Peak of a fresh process that trains, above what it held before."""
    command = [sys.executable, __file__, "--train-once", compute, str(hidden), str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def train_once(compute: str, hidden: int, batch: int) -> float:
    """Five training steps in this process; growth of its peak resident memory, MB."""

    def build(n_inputs: int, hidden: int) -> nn.Module:
        if compute == "dense":
            return nn.LSTM(n_inputs, hidden)
        return TTLSTM(n_inputs, hidden, compute=compute)  # type: ignore[arg-type]

    build(4, 8)(torch.randn(3, 2, 4))[0].sum().backward()  # what torch loads at first use
    before = status_kb("VmRSS")
    layer = build(N_INPUTS, hidden)
    x = torch.randn(N_STEPS, batch, N_INPUTS)
    for _ in range(5):
        layer.zero_grad()
        layer(x)[0].sum().backward()
    return (status_kb("VmHWM") - before) / 1024


def status_kb(field: str) -> int:
    """A figure of /proc/self/status; VmHWM is this process's own, where ru_maxrss is inherited."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def exported(hidden: int) -> dict[str, dict[str, float]]:
    """File size (kB) and median run time (ms) of the exported dense layer and its TT."""
    import onnx
    import onnxruntime

    x = torch.randn(1, 101, N_INPUTS)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    sessions, figures = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, layer in (("dense", nn.LSTM(N_INPUTS, hidden)), ("tt", TTLSTM(N_INPUTS, hidden))):
            layer.batch_first = True
            program = torch.onnx.export(layer.eval(), (x,), dynamo=True, optimize=False, verbose=False)
            if program is None:
                raise RuntimeError(f"the {name} layer could not be exported")
            model = program.model_proto
            for node in model.graph.node:  # stack traces with the paths of this machine
                del node.metadata_props[:]
            for value in (*model.graph.value_info, *model.graph.initializer, *model.graph.input):
                del value.metadata_props[:]
            path = Path(folder) / f"{name}.onnx"
            onnx.save(model, path)
            figures[name] = {"kilobytes": path.stat().st_size / 1e3}
            sessions[name] = onnxruntime.InferenceSession(path, options)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(300):
        for name, session in sessions.items():
            feed = {session.get_inputs()[0].name: x.numpy()}
            start = time.perf_counter()
            session.run(None, feed)
            times[name].append(time.perf_counter() - start)
    for name, own in times.items():
        figures[name]["milliseconds"] = 1e3 * statistics.median(own)
    return figures


def verdicts(points: list[Point]) -> list[str]:
    """Every target of speed with the worst point that it was measured at."""

    def worst(name: str, limit: float, chosen: list[tuple[float, Point]]) -> str:
        if not chosen:
            return f"{name}: not measured"
        value, point = max(chosen, key=lambda pair: pair[0])
        where = f"H={point.hidden}, batch {point.batch}, {point.passes}, {point.threads} thread(s)"
        kept = sum(own <= limit for own, _ in chosen)
        return f"{name}: {kept} of {len(chosen)} points within {limit:g}; worst {value:.2f} at {where}"

    def best(point: Point) -> float:
        return min(point.ratios["rebuild"], point.ratios["contract"])

    def peer(point: Point) -> list[float]:
        return [ratio for name, ratio in point.ratios.items() if name in PEER_MODES]

    large = [p for p in points if p.batch > 1]
    return [
        worst("rebuild / dense, batch above 1", 1.05, [(p.ratios["rebuild"], p) for p in large]),
        worst("rebuild / dense, batch 1", 1.3, [(p.ratios["rebuild"], p) for p in points if p.batch == 1]),
        worst(
            "contract / dense, H=1024", 0.5, [(p.ratios["contract"], p) for p in points if p.hidden == 1024]
        ),
        worst("auto's choice / better of both", 1.05, [(p.ratios[p.choice] / best(p), p) for p in points]),
        worst(
            "better of both / tensorly-torch", 1 / 3, [(best(p) / own, p) for p in points for own in peer(p)]
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 512, 768, 1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32, 128])
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--cell", choices=("lstm", "gru"), default="lstm")
    parser.add_argument("--seconds", type=float, default=5.0, help="for every size and pass (default 5)")
    parser.add_argument("--no-peer", action="store_true", help="leave tensorly-torch out")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-export", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here as well, as JSON lines")
    parser.add_argument("--train-once", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train_once:
        compute, hidden, batch = arguments.train_once
        torch.set_num_threads(1)
        print(train_once(compute, int(hidden), int(batch)))
        return
    peer = not arguments.no_peer and importlib.util.find_spec("tltorch") is not None
    if not peer and not arguments.no_peer:
        print("tensorly-torch is left out: pip install -c constraints.txt tensorly-torch tensorly packaging")
    points: list[Point] = []
    print(f"{arguments.cell}, rank {arguments.rank}, torch {torch.__version__}; ratios to the dense layer")
    print(
        "threads     H  batch  passes    dense ms  rebuild  contract   auto  (choice)    tensorly-torch (mode)  by hand"
    )
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for hidden in arguments.hidden:
            for batch in arguments.batch:
                for p in compare(hidden, batch, arguments.rank, arguments.cell, peer, arguments.seconds):
                    points.append(p)
                    peers = [f"{v:8.2f} ({k})" for k, v in p.ratios.items() if k not in CONTESTANTS]
                    print(
                        f"{threads:7d} {hidden:5d} {batch:6d}  {p.passes:9s} {p.dense_ms:7.1f} "
                        f"{p.ratios['rebuild']:8.2f} {p.ratios['contract']:9.2f} {p.ratios['auto']:6.2f}  "
                        f"({p.choice:8s}) {''.join(peers)}",
                        flush=True,
                    )
    lines: list[dict[str, Any]] = [{"kind": "speed", "what": arguments.cell, **p._asdict()} for p in points]
    lines += [{"kind": "verdict", "text": text} for text in verdicts(points)]
    print("\n".join(line["text"] for line in lines if line["kind"] == "verdict"))
    if not arguments.no_memory and Path("/proc/self/status").exists():
        peak = {name: peak_memory_mb(name, 1024, 128) for name in ("dense", "rebuild", "contract", "auto")}
        lines.append({"kind": "memory", "hidden": 1024, "batch": 128, "peak_mb": peak})
        print("training at H=1024, batch 128, peak MB: ", peak)
    if not arguments.no_export and importlib.util.find_spec("onnxscript"):
        torch.set_num_threads(1)
        files = exported(256)
        lines.append({"kind": "export", "hidden": 256, "files": files})
        print("exported LSTM-256: ", files)
    if arguments.json:
        about = {"torch": torch.__version__, "rank": arguments.rank, "n_steps": N_STEPS, "n_inputs": N_INPUTS}
        write_atomic(arguments.json, "".join(json.dumps(about | line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
