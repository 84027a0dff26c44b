"""The objective of every adaptation by training: the task on the sources, and whatever terms a method adds."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from vagitus.losses import LOSSES


class DomainBatch(NamedTuple):
    """Labelled recordings of the sources beside unlabelled ones of the target; the two may differ in number."""

    x: Tensor  # (n_source, n_mels, n_frames)
    y: Tensor  # (n_source,), int64
    site: Tensor  # (n_source,), int64: which source each is from
    x_target: Tensor  # (n_target, n_mels, n_frames)


class Passed(NamedTuple):
    """What a network says of one domain's part of a batch."""

    features: Tensor  # (n, feature_dim)
    logits: Tensor  # (n, n_classes)


class Term(Protocol):
    """What one method adds to the task; a row of OBJECTIVES. An ``nn.Module``, so that it may learn too."""

    def __call__(self, source: Passed, target: Passed, site: Tensor) -> dict[str, Tensor]:
        """Named 0-d terms to minimise, with their weights in them."""
        ...


class Adaptation(nn.Module):
    """Task loss on the sources plus the terms of any number of methods; no term is the control of all of them.

    The target goes through the network in a pass of its own, after the sources: each domain is normalised by
    its own batch (see ``vagitus.adapt``). Without a term there is no such pass.

    Args:
        terms: modules with the contract of ``Term``.
        loss: of the task, a name in LOSSES.

    Raises:
        ValueError: two terms give the same name; an unknown loss.
    """

    def __init__(self, terms: Iterable[nn.Module] = (), loss: str = "cross_entropy") -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"no loss {loss!r}; choose from {', '.join(LOSSES)}")
        self.terms, self.loss = nn.ModuleList(terms), LOSSES[loss]

    def forward(self, model: nn.Module, batch: DomainBatch) -> dict[str, Tensor]:
        if not len(self.terms):
            return {"task": self.loss(model(batch.x), batch.y)}
        source = _passed(model, batch.x)
        target = _passed(model, batch.x_target)
        found = {"task": self.loss(source.logits, batch.y)}
        for term in self.terms:
            for name, value in term(source, target, batch.site).items():
                if name in found:
                    raise ValueError(f"two methods give a term {name!r}; name each method once")
                found[name] = value
        return found


def _passed(model: nn.Module, x: Tensor) -> Passed:
    features: Tensor = model.features(x)  # type: ignore[operator]
    return Passed(features, model.head(features))  # type: ignore[operator]
