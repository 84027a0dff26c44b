"""The cards of the source models that come with the package, from what their files say: ``python recipes/cards.py``."""

from vagitus.checkpoint import RESEARCH_ONLY, WEIGHTS, load_model
from vagitus.files import write_atomic

SOURCES = ("words-res8", "simclr-res8")


def card(name: str) -> str:
    """Markdown of one model's card."""
    path = WEIGHTS / f"{name}.safetensors"
    model, about = load_model(path)
    made, heard = about.provenance, about.features
    weights = sum(p.numel() for key, p in model.named_parameters() if not key.startswith("head."))
    measured = made["metrics"]
    if made["method"] == "supervised":
        worth = (
            f"accuracy {measured['accuracy']:.3f} [{measured['low']:.3f}, {measured['high']:.3f}] over "
            f"{len(about.class_names)} classes on {measured['n_recordings']} recordings of {measured['n_subjects']} "
            f"{measured['measured_on']} (commonest class {measured['accuracy_of_commonest']:.3f})"
        )
        task = f"{made['task']}, {len(about.class_names)} classes"
    else:
        worth = f"features of effective rank {measured['feature_rank']:.1f} and spread {measured['feature_spread']:.2f}"
        task = f"{made['method']}, no labels; noise from {made['noise'] or 'nowhere'}"
    rows = [
        (
            "network",
            f"`{about.model}`, {weights:,} parameters without its head, {path.stat().st_size / 1000:.0f} kB",
        ),
        (
            "input",
            f"{heard.n_rows} {heard.kind} of {heard.f_min_hz:g} to {heard.f_max_hz:g} Hz at {heard.sample_rate_hz} Hz, "
            f"{heard.window_ms:g}/{heard.hop_ms:g} ms, normalisation {heard.normalisation}; crops of "
            f"{about.window_s:g} s",
        ),
        ("task", task),
        (
            "recordings",
            f"{made['n_recordings']} of {made['n_subjects']} subjects, subsets of the corpora below",
        ),
        ("command", f"`{made['command']}` (seed {made['seed']})"),
        ("worth", worth),
    ]
    table = "".join(f"| {key} | {value} |\n" for key, value in rows)
    licences = "".join(
        f"- {source['name']}: {source['n_recordings']} recordings; {source['licence']}; {source['citation']}\n"
        for source in made["sources"]
    )
    return (
        f"# {name}\n\nA source model: a start for another task's network, see `vagitus study --arms`. "
        f"{RESEARCH_ONLY}\n\n"
        f"| | |\n|---|---|\n{table}\nTrained on\n{licences}\nThe file holds a short hash of every recording that "
        "was given; a study that would test on one is refused. No recording can be heard from it.\n"
    )


if __name__ == "__main__":
    for name in SOURCES:
        write_atomic(WEIGHTS / f"{name}.md", card(name))
