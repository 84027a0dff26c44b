"""Adaptation to another site by name: one method a file, one row a method, combinations by listing them with +.

What a method may ask of the target is its **regime**, and every result names it:

    nothing     several sources and a floor: domain generalisation
    noise       background sound of the target, no recording of a subject
    unlabelled  recordings of the target without labels
    labels      those, and the labels of k subjects, who are then no part of what is measured

Conventions
    x, y, site      labelled recordings of the sources; site counts the sources from 0
    x_target        recordings of the target; no method of the first three regimes is given their labels
    terms           what a method adds to the task's loss, each with its weight in it; the one loop adds them up

Batch norm of two domains is decided here, once. **Each domain has its own statistics and shares all weights.** In
training the sources and the target go through the network in two passes, each normalised by its own batch; all
sources together are one domain, since a batch holds a few of each. The running statistics that this leaves are of
both, in turn, and are not used: after training they are taken anew, from the target's recordings for scores at the
target and from the sources' for scores at the sources. So every method that sees the target's recordings contains
AdaBN, and is to be compared with ``steps+adabn``: the same number of further steps on the sources, then AdaBN.
Methods that see nothing keep the sources' statistics; those that see noise alone take them from the sources in the
target's noise, the nearest to it that noise gives. Both are compared with ``steps``.
"""

import difflib
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from vagitus.adapt.adversarial import Dann
from vagitus.adapt.confusion import Mcc
from vagitus.adapt.coral import Coral
from vagitus.adapt.entropy import Entropy
from vagitus.adapt.feature_norm import Hafn, Safn

# Terms of an objective. Dann alone needs to know the network and the length of the training.
OBJECTIVES: dict[str, Callable[..., nn.Module]] = {
    "hafn": Hafn,
    "safn": Safn,
    "entropy": Entropy,
    "infomax": partial(Entropy, diversity=1.0),
    "dann": Dann,
    "coral": Coral,
    "mcc": Mcc,
}

Regime = Literal["nothing", "noise", "unlabelled", "labels"]


class Method(NamedTuple):
    """One row of METHODS.

    Attributes:
        title: for a reader of a table.
        regime: what it asks of the target.
        trains: it goes on training; False for those that change statistics or the head alone.
        is_control: it is there to be beaten.
    """

    title: str
    regime: Regime
    trains: bool
    is_control: bool = False


METHODS: dict[str, Method] = {
    "adabn": Method("the target's batch-norm statistics", "unlabelled", False),
    "hafn": Method("features of one length, hard", "unlabelled", True),
    "safn": Method("features grow step by step", "unlabelled", True),
    "entropy": Method("certain predictions at the target", "unlabelled", True),
    "infomax": Method("certain and diverse predictions at the target", "unlabelled", True),
    "dann": Method("a discriminator of sites, its gradient reversed", "unlabelled", True),
    "coral": Method("covariance of features as at the sources", "unlabelled", True),
    "mcc": Method("classes not confused at the target", "unlabelled", True),
    "tni": Method("the target's background noise mixed into source recordings", "noise", True),
    "transport": Method("embeddings moved by linear optimal transport", "unlabelled", False),
    "standardise": Method("embeddings standardised per site", "unlabelled", False),
    "tent": Method("batch norms adapted while scoring, without the sources", "unlabelled", False),
    "self-training": Method("the target's surest recordings taught as labelled", "unlabelled", True),
    "few-labels": Method("k labelled subjects of the target as one more source", "labels", True),
    "steps": Method("control: the same further steps, nothing of the target", "nothing", True, True),
    "self-distillation": Method(
        "control: self-training from source recordings instead", "nothing", True, True
    ),
}

ENDS = ("transport", "standardise", "tent")  # they change what is there at last; one of them, in last place


def parse_method(text: str) -> tuple[str, ...]:
    """The names in ``safn+entropy+tni``, checked.

    Raises:
        ValueError: an unknown name (the message lists the known ones and the nearest), one named twice, or
            transport, standardise or tent beside another of them or before the end.
    """
    names = tuple(name.strip() for name in text.split("+"))
    for name in names:
        if name not in METHODS:
            nearest = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"no method {name!r}; choose from {', '.join(METHODS)}, joined by +{hint}")
    if len(set(names)) < len(names):
        raise ValueError(f"{text}: a method is named twice")
    if any(name in ENDS for name in names[:-1]):
        raise ValueError(f"{text}: of {', '.join(ENDS)} one may be named, as the last")
    if "adabn" in names and names[-1] in ENDS:
        raise ValueError(
            f"{text}: {names[-1]} measures the target with the model's own statistics; leave out adabn"
        )
    return names


def regime_of(text: str) -> Regime:
    """What a combination asks of the target: the most that any of its methods does.

    Raises:
        ValueError: as ``parse_method``.
    """
    order: tuple[Regime, ...] = ("nothing", "noise", "unlabelled", "labels")
    return max((METHODS[name].regime for name in parse_method(text)), key=order.index)


def is_control(text: str) -> bool:
    """Whether a combination is there to be beaten alone: no method in it adds anything but statistics.

    Raises:
        ValueError: as ``parse_method``.
    """
    rows = [METHODS[name] for name in parse_method(text)]
    return any(row.is_control for row in rows) and all(row.is_control or not row.trains for row in rows)


def control_of(text: str) -> str:
    """The combination that does the same without what the method adds; "" for a method that needs none.

    Raises:
        ValueError: as ``parse_method``.
    """
    names = parse_method(text)
    if all(METHODS[name].is_control or not METHODS[name].trains for name in names):
        return ""
    control = "self-distillation" if "self-training" in names else "steps"
    end = [name for name in names if name in ENDS]
    statistics = ["adabn"] if regime_of(text) in ("unlabelled", "labels") and not end else []
    return "+".join([control, *statistics, *end])
