"""Models by name. Add a file here and a row to MODELS; the contract tests do the rest.

Contract: keyword-only ``n_mels`` and ``n_classes``; ``feature_dim``; ``least_frames`` that one input needs;
``features(x)`` of shape (batch, feature_dim); ``head``; ``forward(x) == head(features(x))``.
"""

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn

from vagitus.models.cnn14 import Cnn14
from vagitus.models.ecapa import Ecapa
from vagitus.models.ge2e import Ge2e
from vagitus.models.recurrent import Recurrent
from vagitus.models.res8 import Res8
from vagitus.models.small import Small
from vagitus.models.transformer import Transformer

MODELS: dict[str, Callable[..., nn.Module]] = {
    "res8": Res8,
    "small": Small,
    "cnn14": Cnn14,
    "ecapa": Ecapa,
    "ge2e": Ge2e,
    "lstm": partial(Recurrent, layer="lstm"),
    "gru": partial(Recurrent, layer="gru"),
    "tt-lstm": partial(Recurrent, layer="tt-lstm"),
    "tt-gru": partial(Recurrent, layer="tt-gru"),
    "transformer": Transformer,
}


def build_model(name: str, **options: int) -> nn.Module:
    """Build a model from MODELS.

    Raises:
        ValueError: no model has that name (the message lists those that exist and the
            nearest), or the model does not take these options.
    """
    if name not in MODELS:
        nearest = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no model {name!r}; choose from {', '.join(sorted(MODELS))}{hint}")
    return MODELS[name](**options)
