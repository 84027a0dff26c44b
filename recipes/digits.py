"""Sequential digits: how few parameters a recurrent network needs to read a digit row by row.

    python recipes/digits.py              every configuration and seed that is not done yet
    python recipes/digits.py --collect    recipes/results/digits.jsonl, and the table

The thesis (arXiv:2010.04196) reads MNIST, 28 steps of 28 numbers. MNIST is not at hand: these are the 1,797
digits that scikit-learn ships, **8 steps of 8 numbers**, so that no figure compares with the thesis's and its
counts are other ones. The networks are the same: one LSTM with 256 hidden units, its last state classified by a
dense layer of 2,570 parameters that no count includes, as in the thesis.

The file holds digits of 13 people one after the other, but not who wrote which. It is therefore cut where it
stands, into train, dev (which picks the epoch) and test, so that few writers stand on two sides; shuffled, every
writer would. For want of writers the interval resamples images, and seeds: for new writers it is too narrow.
All networks learn at one rate, .01. On dev, with one seed, it was better than .001 and .003; .03 was better still
for most networks, but 4 cores at rank 10 went astray.
"""

import argparse
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from speaker_verification import (
    Configuration,
    count,
    one_bias_lstm,
    read_runs,
    run_folder,
    run_missing,
    summaries,
    write_results,
)
from tables import size_table
from torch import Tensor, nn

from vagitus.metrics import FloatArray, Statistic
from vagitus.statistics import subject_bootstrap
from vagitus.study import versions
from vagitus.tensor_train import TTLSTM
from vagitus.training import LabelledBatch, Supervised, TrainConfig, fit

NAME = "digits"
N_CLASSES = 10
FULL_SCALE = 16  # the images' largest value
PARTS = (0.6, 0.8)  # where train and dev end, as shares of the file
RANKS = (1, 2, 4, 6, 8, 10)


class Options(BaseModel):
    """What every run of the table shares. Frozen; runs under other options are kept apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(256, ge=1)
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(1e-2, gt=0)
    gradient_clip: float = Field(3.0, gt=0)


class RowReader(nn.Module):
    """An image's rows, one a step, through one recurrent layer: (batch, n_rows, n_columns) -> logits (batch, 10)."""

    def __init__(self, configuration: Configuration, n_columns: int, hidden: int) -> None:
        super().__init__()
        self.recurrent: nn.Module
        if configuration.n_cores:
            n_cores, rank = configuration
            self.recurrent = TTLSTM(n_columns, hidden, n_cores=n_cores, rank=rank, factoring="thesis")
        else:
            self.recurrent = one_bias_lstm(n_columns, hidden)
        self.head = nn.Linear(hidden, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x.transpose(0, 1))  # (n_rows, batch, hidden)
        logits: Tensor = self.head(states[-1])
        return logits


class Part(NamedTuple):
    x: NDArray[np.float32]  # (n, n_rows, n_columns) in [-1, 1]
    y: NDArray[np.int64]  # (n,)


class Data(NamedTuple):
    train: Part
    dev: Part
    test: Part


def load_data() -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.images / (FULL_SCALE / 2) - 1).astype(np.float32), digits.target.astype(np.int64)
    ends = [round(share * len(y)) for share in PARTS]
    return Data(*(Part(*pair) for pair in zip(np.split(x, ends), np.split(y, ends), strict=True)))


class Batches:
    """The training images in random order, once an epoch: what ``fit`` calls."""

    def __init__(self, part: Part, batch_size: int, seed: int) -> None:
        self.part, self.batch_size, self.seed = part, batch_size, seed

    def __len__(self) -> int:
        return math.ceil(len(self.part.y) / self.batch_size)

    def __call__(self, epoch: int) -> Iterator[LabelledBatch]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.part.y))
        for first in range(0, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size]
            yield LabelledBatch(torch.from_numpy(self.part.x[chosen]), torch.from_numpy(self.part.y[chosen]))


@torch.no_grad()
def wrong(model: nn.Module, part: Part) -> NDArray[np.bool_]:
    """Which images are called another digit: (n,)."""
    device = next(model.parameters()).device
    called = model(torch.from_numpy(part.x).to(device)).argmax(dim=1).cpu().numpy()
    is_wrong: NDArray[np.bool_] = called != part.y
    return is_wrong


def error(is_wrong: NDArray[np.bool_]) -> Statistic:
    """The share of images that are wrong as a function of their weights, for ``subject_bootstrap``."""

    def of_images(weights: FloatArray) -> FloatArray:
        share: FloatArray = weights @ is_wrong / weights.sum(axis=1)
        return share

    return of_images


def run(configuration: Configuration, seed: int, data: Data, options: Options) -> dict[str, Any]:
    """Train one network: a line of results, with the test images it got wrong."""
    started, started_cpu = time.monotonic(), time.process_time()
    torch.manual_seed(seed)
    model = RowReader(configuration, data.train.x.shape[2], options.hidden)
    counts = count([model.recurrent])
    batches = Batches(data.train, options.batch_size, seed)
    history = fit(
        model,
        Supervised("cross_entropy"),
        batches,
        TrainConfig(
            epochs=options.epochs,
            patience=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            weight_decay=0.0,  # AdamW without it is Adam
            gradient_clip=options.gradient_clip,
            precision="32-true",
        ),
        steps_per_epoch=len(batches),
        seed=seed,
        dev_score=lambda model: 1 - float(wrong(model, data.dev).mean()),
    )
    best = max(history, key=lambda record: record["dev_score"])
    is_wrong = wrong(model, data.test)
    interval = subject_bootstrap(error(is_wrong), np.arange(len(is_wrong)), rng=np.random.default_rng(seed))
    return {
        "kind": "run",
        "configuration": configuration.name,
        "n_cores": configuration.n_cores,
        "rank": configuration.rank,
        "seed": seed,
        "parameters": counts.total,
        "bias": counts.bias,
        "dense_parameters": counts.dense,
        "lr": options.lr,
        "best_epoch": best["epoch"],
        "train_loss": history[-1]["task"],
        "dev_error": 1 - best["dev_score"],
        "test_error": asdict(interval),
        "n_images": {name: len(part.y) for name, part in data._asdict().items()},
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - started_cpu, 1),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "options": options.model_dump(),
        "versions": versions(),
        # The runs' own file keeps this for the interval over seeds; the results leave it out.
        "is_wrong": is_wrong.tolist(),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Parameters of the recurrent layer and test error, from the lines of digits.jsonl."""
    return size_table(lines, "test_error", "test error %")


def collect(options: Options) -> str:
    """Write the results of all runs that are done under these options, and give the table."""
    runs = read_runs(run_folder(NAME, options))
    images = np.arange(len(runs[0]["is_wrong"]))
    made = summaries(runs, lambda line: error(np.array(line["is_wrong"])), "test_error", images)
    write_results(NAME, [*runs, *made], dropped=("is_wrong",))
    return table(made)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--cores", type=int, nargs="*", default=[2, 3, 4], help="of the tensor trains")
    parser.add_argument("--ranks", type=int, nargs="*", default=list(RANKS))
    parser.add_argument("--dense", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--collect", action="store_true", help="write the results of what is done, and end")
    for name, value in Options().model_dump().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = parser.parse_args()
    options = Options(**{name: getattr(arguments, name) for name in Options.model_fields})
    if arguments.collect:
        print(collect(options), end="")
        return
    # Fabric announces its precision once per fit.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    data = load_data()
    configurations = [Configuration(0, 0)] * arguments.dense
    configurations += [Configuration(n, rank) for n in arguments.cores for rank in arguments.ranks]
    jobs = {
        f"{configuration.name}, seed {seed}": partial(run, configuration, seed, data, options)
        for seed in arguments.seeds
        for configuration in configurations
    }
    run_missing(run_folder(NAME, options), jobs)


if __name__ == "__main__":
    main()
