"""The arms of a study by name. Add a function with the contract in ``contract.py`` and a row."""

from functools import partial

from vagitus.arms.classical import logmel_ridge, svm
from vagitus.arms.contract import Arm, Blend
from vagitus.arms.network import network
from vagitus.arms.no_audio import lookup, prevalence

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
}

# What a study compares unless told otherwise: the baselines and the network that needs least.
DEFAULT_ARMS = ("prevalence", "lookup", "logmel+ridge", "svm", "scratch", "blend")

BLENDS: dict[str, Blend] = {
    # A network without the level of the recording, and a ridge that has it.
    "blend": Blend("ridge and res8, mean of their log-probabilities", ("logmel+ridge", "scratch")),
}
