"""The arms of a study by name. Add a function with the contract in ``contract.py`` and a row.

A network arm NAME is also there as NAME+compressed: trained alike, then made smaller by ``Budget.compress``.
adapt:METHOD is the sources' network adapted to the site left out, by any method or combination of ``vagitus.adapt``.
"""

import difflib
from functools import partial

from vagitus.arms.adapted import PREFIX, adapted_arm
from vagitus.arms.classical import logmel_ridge, svm
from vagitus.arms.contract import Arm, Blend
from vagitus.arms.network import network
from vagitus.arms.no_audio import lookup, prevalence
from vagitus.arms.transferred import continued, encoder_probe, fine_tuned, frozen

COMPRESSED = "+compressed"
TRAINED = (network, fine_tuned, continued)  # kinds of fit that give a network, which can be compressed

ARMS: dict[str, Arm] = {
    "prevalence": Arm("class frequencies, no audio", "", prevalence),
    "lookup": Arm("site, covariates and duration, no audio", "", lookup),
    "logmel+ridge": Arm("ridge on log-mel statistics", "logmel", logmel_ridge),
    "svm": Arm("RBF SVM on one-second MFCC (the thesis's)", "mfcc", svm),
    "scratch": Arm("res8 trained from scratch", "study", partial(network, model_name="res8")),
    "lstm": Arm("LSTM trained from scratch", "study", partial(network, model_name="lstm")),
    "gru": Arm("GRU trained from scratch", "study", partial(network, model_name="gru")),
    "tt-lstm": Arm("tensor-train LSTM trained from scratch", "study", partial(network, model_name="tt-lstm")),
    "tt-gru": Arm("tensor-train GRU trained from scratch", "study", partial(network, model_name="tt-gru")),
    "transformer": Arm(
        "small transformer trained from scratch", "study", partial(network, model_name="transformer")
    ),
    "words": Arm(
        "network that learned words of adult speech, then fine-tuned",
        "words",
        partial(fine_tuned, source="words"),
    ),
    "speakers": Arm(
        "network that learned adult speakers, then fine-tuned",
        "speakers",
        partial(fine_tuned, source="speakers"),
    ),
    "gender": Arm(
        "network that learned the gender of adult speakers, then fine-tuned",
        "gender",
        partial(fine_tuned, source="gender"),
    ),
    "simclr": Arm(
        "network that learned from sounds without labels, then fine-tuned",
        "simclr",
        partial(fine_tuned, source="simclr"),
    ),
    "simclr+target": Arm(
        "network that learned from sounds without labels, the training side's own too, then fine-tuned",
        "simclr",
        partial(continued, source="simclr"),
    ),
    "vicreg": Arm(
        "network that learned from sounds without labels by VICReg, then fine-tuned",
        "vicreg",
        partial(fine_tuned, source="vicreg"),
    ),
    "vicreg+target": Arm(
        "network that learned from sounds without labels by VICReg, the training side's own too, then fine-tuned",
        "vicreg",
        partial(continued, source="vicreg"),
    ),
    "words-frozen": Arm(
        "ridge on features of the network that learned words",
        "words",
        partial(frozen, source="words", random=False),
    ),
    "random-frozen": Arm(
        "ridge on features of a network with random filters",
        "words",
        partial(frozen, source="words", random=True),
    ),
    "encoder-probe": Arm("ridge on embeddings of the encoder given", "encoder", encoder_probe),
    "ge2e-probe": Arm("ridge on embeddings of the GE2E speaker encoder", "encoder", encoder_probe),
}

# Source models that the arms above begin with: files that a study names, or those that come with the package.
SOURCES = ("words", "speakers", "gender", "simclr", "vicreg")
SHIPPED_SOURCES = ("words", "simclr")

# What a study compares unless told otherwise: the baselines and the network that needs least.
DEFAULT_ARMS = ("prevalence", "lookup", "logmel+ridge", "svm", "scratch", "blend")

BLENDS: dict[str, Blend] = {
    # A network without the level of the recording, and a ridge that has it.
    "blend": Blend("ridge and res8, mean of their log-probabilities", ("logmel+ridge", "scratch")),
}


def find_arm(name: str) -> Arm | Blend:
    """The row of an arm, or of a blend; of NAME+compressed, NAME's with its networks compressed.

    Raises:
        ValueError: there is no such arm (the message names the nearest), or one without a network to compress.
    """
    if name in ARMS:
        return ARMS[name]
    if name in BLENDS:
        return BLENDS[name]
    if name.startswith(PREFIX):
        return adapted_arm(name)
    base = ARMS.get(name.removesuffix(COMPRESSED))
    known = ", ".join((*ARMS, *BLENDS))
    if base is None:
        nearest = difflib.get_close_matches(name, (*ARMS, *BLENDS), n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no arm {name!r}; choose from {known}, a network's also with {COMPRESSED}{hint}")
    if getattr(base.fit, "func", None) not in TRAINED:
        raise ValueError(f"{name}: only a network can be compressed, and {base.title} is none")
    return Arm(f"{base.title}, then compressed", base.front_end, partial(base.fit, compressed=True))
