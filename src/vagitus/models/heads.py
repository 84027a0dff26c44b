"""What stands behind ``features``: a fresh classifier for a new set of labels."""

from torch import Tensor, nn


def replace_head(model: nn.Module, n_classes: int) -> None:
    """Give ``model`` a new, randomly initialised linear head with ``n_classes`` outputs, in place.

    Everything before the head stays as it is: this is the thesis's transfer, where the
    convolutions and the batch-norm statistics are kept and only the last layer is new.

    Raises:
        ValueError: fewer than two classes.
    """
    if n_classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {n_classes}")
    feature_dim = model.feature_dim
    if not isinstance(feature_dim, int):
        raise ValueError(f"{type(model).__name__} does not say its feature_dim")
    model.head = nn.Linear(feature_dim, n_classes)


def pool_windows(logits: Tensor, recording: Tensor, n_recordings: int) -> Tensor:
    """Mean of the windows' logits, per recording.

    Args:
        logits: (n_windows, n_classes).
        recording: (n_windows,) int64, the recording each window is from.
        n_recordings: rows of the result; every recording needs at least one window.

    Returns:
        (n_recordings, n_classes).
    """
    sums = logits.new_zeros(n_recordings, logits.shape[1]).index_add_(0, recording, logits)
    counts = logits.new_zeros(n_recordings).index_add_(0, recording, logits.new_ones(len(recording)))
    return sums / counts.unsqueeze(1)
