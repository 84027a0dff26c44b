"""Layers of every model, dense and as tensor trains: ``python recipes/layer_counts.py`` writes docs/layer-counts.md.

Each row of ``MODELS`` that is not tensorized already, at 40 input rows and two classes, against ``tensorize`` at
rank 4 with three cores. Biases are counted, and shown.
"""

from pathlib import Path

from vagitus.files import write_atomic
from vagitus.models import MODELS, build_model
from vagitus.tensor_train.compress import count_parameters, layer_counts, tensorize

RANK = 4
PAGE = Path(__file__).resolve().parents[1] / "docs" / "layer-counts.md"


def table(name: str) -> str:
    """One model's layers, and what is left as it was in one row."""
    model = build_model(name, n_mels=40, n_classes=2)
    small, plan = tensorize(model, rank=RANK)
    text = f"\n## {name}\n\n| layer | kind | dense | of which bias | tensor train | of which cores | of which bias |\n"
    text += "|---|---|---|---|---|---|---|\n"
    for row in layer_counts(model, small):
        counts = (row.dense, row.dense_bias, row.compressed, row.cores, row.bias)
        text += f"| {row.name} | {row.kind} | " + " | ".join(f"{n:,}" for n in counts) + " |\n"
    dense, compressed = count_parameters(model), count_parameters(small)
    text += f"| **all** | | {dense:,} | | {compressed:,} | | |\n"
    text += f"\n{dense / compressed:.1f} times fewer.\n"
    if plan.left_dense:
        text += "\nLeft dense: " + "; ".join(f"{n}: {why}" for n, why in plan.left_dense.items()) + ".\n"
    return text


def main() -> None:
    head = "# Parameters of every model, dense and tensorized\n\nMade by `python recipes/layer_counts.py`: "
    head += f"rank {RANK}, three cores, 40 input rows, two classes.\n`tt-lstm` and `tt-gru` are trained in that form.\n"
    write_atomic(PAGE, head + "".join(table(name) for name in MODELS if not name.startswith("tt-")))


if __name__ == "__main__":
    main()
