"""The arms of a study by name. Add a function with the contract in ``contract.py`` and a row."""

from vagitus.arms.classical import logmel_ridge, svm
from vagitus.arms.contract import Arm, Blend
from vagitus.arms.network import scratch
from vagitus.arms.no_audio import lookup, prevalence

ARMS: dict[str, Arm] = {
    "prevalence": Arm("class frequencies, no audio", "", prevalence),
    "lookup": Arm("site, covariates and duration, no audio", "", lookup),
    "logmel+ridge": Arm("ridge on log-mel statistics", "logmel", logmel_ridge),
    "svm": Arm("RBF SVM on one-second MFCC (the thesis's)", "mfcc", svm),
    "scratch": Arm("res8 trained from scratch", "study", scratch),
}

BLENDS: dict[str, Blend] = {
    # A network without the level of the recording, and a ridge that has it.
    "blend": Blend("ridge and res8, mean of their log-probabilities", ("logmel+ridge", "scratch")),
}
