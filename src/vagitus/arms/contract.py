"""What an arm of a study is: a way to get from training recordings to scores of others.

    fit(dataset, fold, budget) -> Scores

An arm reads the labels of ``fold.train`` and ``fold.dev`` only, and scores ``fold.test``. It
also scores training recordings by models that never saw their group ("out of fold"): the
study sets calibration and threshold on those, so that every arm is treated alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from torch import nn

from vagitus.compression import CompressConfig
from vagitus.pretrain import SELF_SUPERVISED
from vagitus.training import Record, TrainConfig


class Budget(BaseModel):
    """How much an arm may spend. The same for every arm of a study.

    Attributes:
        seed: of everything random in the arm.
        n_inner_folds: grouped folds within the training recordings, for tuning.
        n_members: networks per fold, each with another inner fold as its dev part; their logits are
            averaged. More than one also scores more training recordings out of fold, which makes
            calibration and threshold steadier.
        grid: "full" or "small" search over an arm's options.
        train: of the networks.
        rates: the learning rate of ``train`` times each of these is tried by every network arm, each with all
            members, and the one that ranks the dev parts best is taken.
        freeze_up_to: the last layer of a source model that is not trained, by its name in the model, and with it all
            before; "" trains all.
        layer_decay: of a source model's layers, each learns this many times as fast as the next one; 1 all alike.
        continued: of learning without labels from the training side's own recordings.
        compress: how the networks of an arm NAME+compressed are made smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    n_inner_folds: int = Field(5, ge=2)
    n_members: int = Field(5, ge=1)
    grid: str = Field("full", pattern="^(full|small)$")
    train: TrainConfig = TrainConfig()
    rates: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)
    freeze_up_to: str = ""
    layer_decay: float = Field(1.0, gt=0, le=1)
    continued: TrainConfig = SELF_SUPERVISED.model_copy(update={"epochs": 20, "warmup_epochs": 2.0})
    compress: CompressConfig = CompressConfig()

    @model_validator(mode="after")
    def _a_dev_part_for_each_member(self) -> "Budget":
        if self.n_members > self.n_inner_folds:
            raise ValueError(f"{self.n_members} members need as many inner folds, got {self.n_inner_folds}")
        return self


class Network(NamedTuple):
    """A trained network, and what a model file's card must say to rebuild it.

    Attributes:
        module: with its weights.
        name: in MODELS.
        options: what ``build_model`` takes.
        table: of the dataset, which it hears.
        storage: for ``ModelCard.compression``; {} of one that is not compressed.
    """

    module: nn.Module
    name: str
    options: dict[str, int]
    table: str
    storage: dict[str, Any]


class Scores(NamedTuple):
    """What an arm gives back for one fold.

    Attributes:
        dev_index: (n_dev,) rows of the dataset scored out of fold, all from the training side.
        dev_logits: (n_dev, n_classes).
        test_logits: (n_test, n_classes), in the order of ``fold.test``.
        chosen: what was tuned on the training side, and its value.
        history: one record an epoch, with its ``member``; empty without one.
        n_parameters: numbers learned, of one member.
        network: that scored, where it was one alone; None of several members, and of what is no network.
    """

    dev_index: NDArray[np.int64]
    dev_logits: NDArray[np.float64]
    test_logits: NDArray[np.float64]
    chosen: dict[str, float | str]
    history: list[Record]
    n_parameters: int
    network: Network | None = None


class Arm(NamedTuple):
    """One row of ARMS.

    Attributes:
        title: for a reader of the report.
        front_end: the feature table it reads: "study", "logmel", "mfcc", the name of a source model whose
            front end it is, "encoder" for embeddings by an encoder that others trained, or "" for none.
        fit: ``fit(dataset, fold, budget, state_path)``; ``state_path`` is a file in which a long
            fit may keep its state, to go on after it was killed.
    """

    title: str
    front_end: str
    fit: Callable[..., Scores]


class Blend(NamedTuple):
    """One row of BLENDS: an arm made of others' scores, with equal weights, so that nothing is fitted twice."""

    title: str
    of: tuple[str, ...]
