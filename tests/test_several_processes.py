"""Two processes train as one: the same weights to 1e-5, every recording read once, a state that either goes on with."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from in_process import Command
from numpy.typing import NDArray
from torch import Tensor, nn

from vagitus.checkpoint import read_tensors, write_tensors
from vagitus.corpora.simulated import generate
from vagitus.features import FeatureConfig
from vagitus.losses import nt_xent, vicreg_terms
from vagitus.models import build_model
from vagitus.ranks import (
    copy_first,
    from_first,
    joint,
    joint_batch_norm,
    rank,
    rows_of_all,
    share,
    sum_gradients,
)
from vagitus.training import CropBatches, LabelledBatch, Supervised, TrainConfig, fit
from vagitus.views import TwoViews, ViewConfig, learn_from_views

N_PROCESSES = 2
TOLERANCE = 1e-5
# 41 recordings in batches of 8: the last batch of an epoch is a single recording, too few for two processes.
N_RECORDINGS = 41
CONFIG = TrainConfig(
    epochs=4, batch_size=8, lr=3e-3, window_s=0.3, precision="32-true", warmup_epochs=0.5, stretch=0.2
)
FRONT_END = FeatureConfig(
    sample_rate_hz=8000, window_ms=32.0, hop_ms=16.0, f_max_hz=4000, n_bands=12, normalisation="mean"
)
HALF = 2  # epochs


class Counted(Sequence[NDArray[np.float32]]):
    """Recordings of different lengths whose class raises the middle rows; it counts which are looked into."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = rng.integers(2, size=N_RECORDINGS)
        self.recordings, self.read = [], list[int]()
        for i, label in enumerate(self.labels):
            x = rng.normal(size=(12, int(rng.integers(20, 60)))).astype(np.float32)
            x[4:8] += 1.5 * label
            recording = x.view(_Watched)
            recording.told = lambda i=i: self.read.append(i)
            self.recordings.append(recording)

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: Any) -> Any:
        return self.recordings[index]


class _Watched(np.ndarray[Any, Any]):
    """An array that says when its contents, and not its shape alone, are asked for."""

    told: Callable[[], None] | None = None

    def __getitem__(self, index: Any) -> Any:
        if self.told is not None:
            self.told()
        return np.asarray(self)[index]

    def take(self, *arguments: Any, **named: Any) -> Any:
        if self.told is not None:
            self.told()
        return np.asarray(self).take(*arguments, **named)


class Trained(NamedTuple):
    weights: dict[str, Tensor]
    history: list[dict[str, float]]


def supervised(state: Path | None = None, epochs: int | None = None, **changes: Any) -> Trained:
    """Train res8 on the planted effect; broken off after ``epochs`` as by a kill."""
    config = CONFIG.model_copy(update=changes)
    recordings = Counted()
    crops = CropBatches(recordings, recordings.labels, window_frames=30, config=config, seed=3)
    torch.manual_seed(rank())  # what the processes begin with is made alike
    model = build_model("res8", n_mels=12, n_classes=2, width=6)
    if rank() == 0:
        torch.manual_seed(1)
        model = build_model("res8", n_mels=12, n_classes=2, width=6)

    def on_epoch(record: dict[str, float]) -> None:
        if record["epoch"] + 1 == epochs:
            raise InterruptedError

    history: list[dict[str, float]] = []
    with suppress(InterruptedError):
        history = fit(
            model,
            Supervised(config.loss),
            crops,
            config,
            steps_per_epoch=len(crops),
            seed=3,
            state_path=state,
            on_epoch=on_epoch,
        )
    return Trained(dict(model.state_dict()), history)


def contrasted(method: str) -> Trained:
    rng = np.random.default_rng(5)
    logmel = [rng.normal(size=(12, int(n))).astype(np.float32) for n in rng.integers(30, 60, size=21)]
    config = TrainConfig(
        epochs=7, batch_size=7, lr=3e-3, window_s=0.4, precision="32-true", mask=0.2, warmup_epochs=1
    )
    views = TwoViews(
        logmel,
        FRONT_END,
        window_frames=25,
        config=config,
        views=ViewConfig(),
        seed=2,
        noise=[rng.normal(size=(12, 40)).astype(np.float32)],
    )
    torch.manual_seed(1)
    model = build_model("res8", n_mels=12, n_classes=1, width=6)
    history = learn_from_views(model, method, views, config, seed=2)
    return Trained(dict(model.state_dict()), history)


class Odd(nn.Module):
    """An objective that says nothing about rows of other processes."""

    def forward(self, model: nn.Module, batch: LabelledBatch) -> dict[str, Tensor]:
        return {"odd": model(batch.x).square().mean()}


def normalised(x: Tensor) -> dict[str, Tensor]:
    """A batch norm with weights over rows of which each process has its own: what it gives, learns and keeps."""
    norm = nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    own = x[share(len(x), rank(), dist.get_world_size() if dist.is_initialized() else 1)]
    own = own.clone().requires_grad_()
    with joint_batch_norm([norm]), joint():
        y = rows_of_all(norm(own))
        (y * torch.arange(y.numel()).reshape(y.shape).sin()).sum().backward()  # type: ignore[no-untyped-call]
    sum_gradients(norm.parameters())
    found = {f"norm.{name}": tensor for name, tensor in norm.state_dict().items()}
    found |= {f"gradient.{name}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    assert own.grad is not None
    with joint():
        return found | {"y": y.detach(), "x.gradient": rows_of_all(own.grad)}


def contrast_gradients(z: Tensor) -> dict[str, Tensor]:
    """Gradients of both contrastive losses in projections of which each process has its own rows."""
    found = {}
    n = dist.get_world_size() if dist.is_initialized() else 1
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "nt_xent": lambda z1, z2: nt_xent(z1, z2, 0.3),
        "vicreg": lambda z1, z2: torch.stack([*vicreg_terms(z1, z2).values()]).sum(),
    }
    for name, loss in losses.items():
        own = [part[share(len(part), rank(), n)].clone().requires_grad_() for part in z.chunk(2)]
        with joint():
            value = loss(*map(rows_of_all, own))
            value.backward()  # type: ignore[no-untyped-call]
            found[name] = value.detach()
            found |= {f"{name}.{i}": rows_of_all(part.grad) for i, part in enumerate(own)}  # type: ignore[arg-type]
    return found


def rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def failing() -> None:
    raise FileNotFoundError("x.csv: no such file")


def together(number: int, folder: Path) -> None:
    """Everything that two processes do in these tests, in one start of them."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=N_PROCESSES
    )
    facts: dict[str, Any] = {}

    def keep(name: str, trained: Trained) -> None:
        write_tensors(folder / f"{name}-{number}", trained.weights, {"history": trained.history})

    keep("supervised", supervised())
    keep("simclr", contrasted("simclr"))
    keep("vicreg", contrasted("vicreg"))
    keep("from one", supervised(folder / "by-one.state"))
    supervised(folder / "by-two.state", epochs=HALF)
    supervised(folder / "by-two-again.state", epochs=HALF)
    keep("from two", supervised(folder / "by-two-again.state"))
    recordings = Counted()
    crops = CropBatches(recordings, recordings.labels, window_frames=30, config=CONFIG, seed=3)
    pieces = [batch.x for epoch in range(2) for batch in crops.share(epoch, number, N_PROCESSES)]
    write_tensors(folder / f"read-{number}", {str(i): x for i, x in enumerate(pieces)}, {})
    facts["read"] = recordings.read
    write_tensors(folder / f"norm-{number}", normalised(rows(1, 7, 3, 2, 5)), {})
    write_tensors(folder / f"contrast-{number}", contrast_gradients(rows(2, 14, 6)), {})
    facts["first"] = from_first(lambda: f"made by {number}")
    for name, wrong in (("raised", failing), ("unpicklable", unpicklable)):
        try:
            from_first(wrong)
        except Exception as error:
            facts[name] = f"{type(error).__name__}: {error}"
    try:
        fit(nn.Linear(2, 2), Odd(), lambda epoch: [], CONFIG, steps_per_epoch=1, seed=0)
    except ValueError as error:
        facts["odd"] = str(error)
    lone = nn.Linear(2, 1)
    torch.manual_seed(number)
    nn.init.normal_(lone.weight)
    copy_first([lone])
    facts["copied"] = lone.weight.tolist()
    if number == 1:  # a process that has no gradient of a weight adds none
        lone(torch.tensor([[3.0, 5.0]])).sum().backward()
    sum_gradients(lone.parameters())
    facts["summed"] = None if lone.weight.grad is None else lone.weight.grad.tolist()
    # A state that the first process does not see is no state, whatever the others see.
    keep("seen by one", supervised(folder / ("by-two-again.state" if number else "new.state")))
    (folder / f"facts-{number}.json").write_text(json.dumps(facts))
    dist.destroy_process_group()


def unpicklable() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("said here alone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("together")
    supervised(folder / "by-one.state", epochs=HALF)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=together, args=(number, folder)) for number in range(N_PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    yield folder


@pytest.fixture(scope="module")
def alone() -> Trained:
    return supervised()


def by_two(folder: Path, name: str) -> list[dict[str, Tensor]]:
    return [read_tensors(folder / f"{name}-{number}")[0] for number in range(N_PROCESSES)]


def facts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"facts-{number}.json").read_text()) for number in range(N_PROCESSES)]


def farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in expected)


def test_two_processes_train_as_one_for_24_steps(folder: Path, alone: Trained) -> None:
    first, second = by_two(folder, "supervised")
    assert farthest(first, alone.weights) < TOLERANCE
    assert farthest(second, first) == 0


def test_the_losses_that_two_processes_log_are_those_of_one(folder: Path, alone: Trained) -> None:
    _, header = read_tensors(folder / "supervised-1")
    assert [record["task"] for record in header["history"]] == pytest.approx(
        [record["task"] for record in alone.history], abs=TOLERANCE
    )


@pytest.mark.parametrize("method", ["simclr", "vicreg"])
def test_without_labels_two_processes_train_as_one_for_21_steps(folder: Path, method: str) -> None:
    expected = contrasted(method)
    for found in by_two(folder, method):
        assert farthest(found, expected.weights) < TOLERANCE


def test_two_processes_go_on_with_the_state_of_one(folder: Path, alone: Trained) -> None:
    assert farthest(by_two(folder, "from one")[0], alone.weights) < TOLERANCE


def test_one_process_goes_on_with_the_state_of_two(folder: Path, alone: Trained) -> None:
    assert farthest(supervised(folder / "by-two.state").weights, alone.weights) < TOLERANCE


def test_as_many_processes_go_on_to_exactly_the_unbroken_weights(folder: Path) -> None:
    assert farthest(by_two(folder, "from two")[0], by_two(folder, "supervised")[0]) == 0


def test_whether_there_is_a_state_is_for_the_first_process_to_say(folder: Path) -> None:
    for found in by_two(folder, "seen by one"):
        assert farthest(found, by_two(folder, "supervised")[0]) == 0


def test_every_row_of_a_batch_is_read_once_by_one_of_them(folder: Path) -> None:
    recordings = Counted()
    crops = CropBatches(recordings, recordings.labels, window_frames=30, config=CONFIG, seed=3)
    whole = [batch.x for epoch in range(2) for batch in crops(epoch)]
    parts = by_two(folder, "read")
    assert len(parts[0]) == len(whole)
    for i, x in enumerate(whole):
        assert torch.equal(torch.cat([part[str(i)] for part in parts]), x)
    told = [fact["read"] for fact in facts(folder)]
    assert sorted(told[0] + told[1]) == sorted(recordings.read)
    assert min(map(len, told)) > 0.4 * len(recordings.read)


def test_batch_norm_over_processes_is_torchs_over_the_whole_batch(folder: Path) -> None:
    expected = normalised(rows(1, 7, 3, 2, 5))
    for found in by_two(folder, "norm"):
        assert farthest(found, expected) < 2e-6


def test_negatives_are_those_of_all_processes_and_gradients_are_right(folder: Path) -> None:
    expected = contrast_gradients(rows(2, 14, 6))
    for found in by_two(folder, "contrast"):
        assert farthest(found, expected) < 1e-6


def test_the_first_process_makes_and_all_get(folder: Path) -> None:
    for fact in facts(folder):
        assert fact["first"] == "made by 0"
        assert fact["raised"] == "FileNotFoundError: x.csv: no such file"
        assert fact["unpicklable"] == "RuntimeError: said here alone"


def test_a_gradient_that_one_process_has_is_everybodys(folder: Path) -> None:
    first, second = facts(folder)
    assert first["copied"] == second["copied"]
    assert first["summed"] == second["summed"] == [[3.0, 5.0]]


def test_an_objective_that_cannot_be_divided_is_refused(folder: Path) -> None:
    for fact in facts(folder):
        assert fact["odd"] == "Odd trains in one process; run it without torchrun"


def test_shares_are_even_or_the_first_processs_alone() -> None:
    assert [share(7, rank, 3) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 7)]
    assert [share(5, rank, 3) for rank in range(3)] == [slice(0, 5), slice(0, 0), slice(0, 0)]


class Bare(nn.Module):
    """Without batch norm, so that a part of a batch is treated as in the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12 * 30, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def bare(**changes: Any) -> Trained:
    config = CONFIG.model_copy(update=changes)
    recordings = Counted()
    crops = CropBatches(recordings, recordings.labels, window_frames=30, config=config, seed=3)
    torch.manual_seed(1)
    model = Bare()
    steps = len(crops)
    history = fit(model, Supervised(config.loss), crops, config, steps_per_epoch=steps, seed=3)
    return Trained(dict(model.state_dict()), history)


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    whole, parts = bare(batch_size=20), bare(batch_size=20, batch_parts=3)
    assert farthest(parts.weights, whole.weights) < 1e-6
    assert [r["task"] for r in parts.history] == pytest.approx([r["task"] for r in whole.history], abs=1e-6)
    assert not torch.equal(bare(batch_size=7).weights["head.weight"], whole.weights["head.weight"])


def test_a_contrast_is_not_divided_into_parts() -> None:
    rng = np.random.default_rng(5)
    logmel = [rng.normal(size=(12, 40)).astype(np.float32) for _ in range(8)]
    config = TrainConfig(epochs=1, batch_size=8, batch_parts=2)
    views = TwoViews(logmel, FRONT_END, window_frames=25, config=config, views=ViewConfig(), seed=2)
    model = build_model("res8", n_mels=12, n_classes=1, width=6)
    with pytest.raises(ValueError, match=r"batch_parts = 2: what SimCLR says of a batch is no sum"):
        learn_from_views(model, "simclr", views, config, seed=2)


TRAIN = """
data = ["manifest.csv"]
task = "speakers"
[train]
epochs = 2
batch_size = 5
window_s = 0.5
precision = "32-true"
"""


def test_torchrun_starts_the_verb_as_it_is(tmp_path: Path, vagitus: Command) -> None:
    generate(
        tmp_path, n_subjects=8, n_recordings_per_subject=2, effect=2.0, duration_s=1.0, sample_rate_hz=8000
    )
    (tmp_path / "recipe.toml").write_text(TRAIN.replace("manifest.csv", str(tmp_path / "manifest.csv")))
    words = ["pretrain", "--recipe", str(tmp_path / "recipe.toml"), "--workers", "1", "--json"]
    words += ["--cache", str(tmp_path / "cache"), "--out"]
    alone = vagitus(*words, tmp_path / "one.safetensors")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(N_PROCESSES)]
    run = subprocess.run(
        [sys.executable, *torchrun, "-m", "vagitus", *words, str(tmp_path / "two.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (alone.status, run.returncode) == (0, 0), run.stderr
    assert len(run.stdout.splitlines()) == 1 and json.loads(run.stdout)  # the first alone speaks
    assert not list(tmp_path.glob("*-work"))
    found, expected = (read_tensors(tmp_path / f"{name}.safetensors")[0] for name in ("two", "one"))
    assert farthest(found, expected) < TOLERANCE


def test_a_verb_with_processes_of_its_own_is_refused_under_torchrun(
    vagitus: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    run = vagitus("study", "--corpus", "simulated")
    assert run.status == 2
    assert run.err == "vagitus: study has processes of its own or needs none; run it without torchrun\n"
