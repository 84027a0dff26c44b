"""Arms that hear nothing: what is left for the audio to add."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vagitus.arms.classical import fit_tuned
from vagitus.arms.contract import Budget, Scores
from vagitus.dataset import Dataset
from vagitus.splits import Fold

RARE_LEVEL = 5  # a covariate's level seen in fewer training recordings tells about them, not about it
MAX_LEVEL_SHARE = 0.5  # a text column with a new value in every second row is a name, not a property


def prevalence(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None) -> Scores:
    """The class frequencies of the training recordings, for every recording alike."""
    known = np.concatenate([fold.train, fold.dev])
    counts = np.bincount(dataset.labels[known], minlength=dataset.n_classes)
    log_frequency = np.log((counts + 1) / (counts.sum() + dataset.n_classes))
    return Scores(
        dev_index=known,
        dev_logits=np.tile(log_frequency, (len(known), 1)),
        test_logits=np.tile(log_frequency, (len(fold.test), 1)),
        chosen={},
        history=[],
        n_parameters=dataset.n_classes,
    )


def lookup(dataset: Dataset, fold: Fold, budget: Budget, state_path: Path | None) -> Scores:
    """Logistic regression on site, covariates and duration: what the metadata alone give away."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categories, numbers = _metadata(dataset)
    x = np.concatenate([categories.astype(object), numbers.astype(object)], axis=1)
    text_columns = list(range(categories.shape[1]))
    number_columns = list(range(categories.shape[1], x.shape[1]))

    def make(c: float) -> object:
        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=RARE_LEVEL), text_columns),
            (StandardScaler(), number_columns),
        )
        return make_pipeline(encode, LogisticRegression(C=c, class_weight="balanced", max_iter=2000))

    return fit_tuned(x, dataset, fold, budget, make, {"c": (0.01, 0.1, 1.0, 10.0)})


def _metadata(dataset: Dataset) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Text columns (n, n_text) and number columns (n, n_numbers); a missing number is the column's median."""
    manifest = dataset.manifest
    text, numbers = [manifest.site], [np.log(dataset.duration_s)]
    for name, values in manifest.covariates.items():
        number = manifest.numeric_covariate(name)
        if number is not None:
            numbers.append(np.where(np.isnan(number), np.nanmedian(number), number))
        elif len(np.unique(values)) <= max(2, MAX_LEVEL_SHARE * len(values)):
            text.append(values)
    return np.stack(text, axis=1), np.stack(numbers, axis=1)
