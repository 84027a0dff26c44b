"""The verb that takes a model to another site: adapt. See ``cli`` for the exit status."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vagitus.cli_device import RESEARCH_ONLY

if TYPE_CHECKING:
    from vagitus.manifest import Manifest


def register(app: typer.Typer) -> None:
    """Add the verb of this module to the command line."""
    app.command(epilog=RESEARCH_ONLY)(adapt)


def adapt(
    model: Annotated[Path, typer.Argument(show_default=False, help="model.safetensors of train or study.")],
    source: Annotated[
        str, typer.Option("--source", show_default=False, help="Labelled manifest, or a corpus.")
    ],
    target: Annotated[
        str, typer.Option("--target", show_default=False, help="Manifest or corpus of the site to go to.")
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method", help="adabn, safn, tni, few-labels, ...; combined by +, as in safn+entropy."
        ),
    ] = "adabn",
    task: Annotated[str, typer.Option("--task", help="Of corpora with several.")] = "",
    source_site: Annotated[
        str, typer.Option("--source-site", help="Of the source, only these sites, comma-separated.")
    ] = "",
    target_site: Annotated[str, typer.Option("--target-site", help="Of the target, only this site.")] = "",
    root: Annotated[
        Path | None,
        typer.Option("--root", help="Data root of corpora, or folder of the manifests.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("adapted.safetensors"),
    labelled_subjects: Annotated[
        int, typer.Option("--labelled-subjects", min=0, help="Of the target, for few-labels.")
    ] = 0,
    sound: Annotated[
        str,
        typer.Option("--sound", help="heart, cry or breath: tni takes its noise from between the events."),
    ] = "",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of further training.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Feature cache. Default ~/.cache/vagitus.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 is one per processor.")] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")
    ] = False,
) -> int:
    """Adapt a model to another site, with noise, unlabelled recordings or a few labels of it; say what it gained."""
    from vagitus.adapt.adaptation import ADAPTING
    from vagitus.cycles import PHASES
    from vagitus.results import finite
    from vagitus.sites import adapt_model, of_sites

    if sound and sound not in PHASES:
        raise ValueError(f"no sound {sound!r}; choose from {', '.join(PHASES)}")
    heard = _open(source, task, root)
    # Two sites of one table: its notes are said once.
    visited = heard if target == source else _open(target, task, root)
    named = [name.strip() for name in source_site.split(",") if name.strip()]
    found = finite(
        adapt_model(
            model,
            out,
            of_sites(heard, named),
            of_sites(visited, [target_site] if target_site else []),
            method,
            config=ADAPTING.model_copy(update={"epochs": epochs, "patience": epochs}),
            n_labelled_subjects=labelled_subjects,
            sound=sound,
            seed=seed,
            cache=cache or default_cache(),
            n_workers=workers or None,
            announce=lambda line: None if as_json else print(line, file=sys.stderr, flush=True),
        )
    )
    if as_json:
        print(json.dumps({"model": str(out), **found}))
        return 0
    _print(found, out)
    return 0


def default_cache() -> Path:
    """$XDG_CACHE_HOME/vagitus, else ~/.cache/vagitus."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vagitus"


def _open(data: str, task: str, root: Path | None) -> "Manifest":
    """A corpus by its name, else a manifest file; what is known of it is said on standard error."""
    from vagitus.corpora import CORPORA, load_corpus
    from vagitus.manifest import read_manifest

    # A bare word is meant as a corpus: its error lists those that exist.
    is_corpus = data in CORPORA or not Path(data).suffix
    manifest = (
        load_corpus(data, root=root, task=task or None) if is_corpus else read_manifest(Path(data), root=root)
    )
    for note in manifest.notes:
        print(f"note: {note}", file=sys.stderr)
    return manifest


def _print(found: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    print(f"{out}: {found['method']}; used {found['used']}")
    rows = []
    for where, measured in found["metrics"].items():
        for metric, value in measured.items():
            if isinstance(value, dict):
                rows.append([f"{where}, n={measured['n_recordings']}", metric, *_cells(value)])
    table = Table("where", "metric", "before", "after", "gain", "p", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if "target" not in found["metrics"]:
        print("the target has no labels: what was gained there is unknown")
    for alarm in found["alarms"]:
        print(f"warning: {alarm['text']}")
    for note in found["notes"]:
        print(f"note: {note}")
    print(RESEARCH_ONLY)


def _cells(value: dict[str, float | None]) -> list[str]:
    def shown(name: str, sign: str = "") -> str:
        number = value[name]
        return "undefined" if number is None else f"{number:{sign}.3f}"

    interval = f"{shown('gain', '+')} [{shown('low', '+')}, {shown('high', '+')}]"
    return [shown("before"), shown("after"), interval, shown("p")]
