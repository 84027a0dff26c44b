"""Where a verb's work is done, --scheduler or --workers, and the verb for very many recordings: featurise.

See ``cli`` for the exit status.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

MAX_PROBLEMS_SHOWN = 5

Scheduler = Annotated[
    str,
    typer.Option(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        show_default=False,
        help="Work on a dask cluster instead of --workers; see docs/scale.md.",
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes; 0 is one per processor.")]


@contextmanager
def working_on(scheduler: str, workers: int) -> Iterator[None]:
    """What is mapped over recordings or fits in this block runs on the cluster, if one is named.

    Raises:
        ValueError: a scheduler and workers. Others as ``scale.cluster``.
    """
    if not scheduler:
        yield
        return
    if workers > 1:
        raise ValueError(f"--scheduler {scheduler} has workers of its own; leave --workers {workers} out")
    from vagitus.scale import cluster

    with cluster(scheduler):
        yield


def register(app: typer.Typer) -> None:
    """Add the verb of this module to the command line."""
    app.command()(featurise)


def featurise(
    data: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", show_default=False, help="CSV or Parquet.")
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    root: Annotated[
        Path | None,
        typer.Option("--root", help="The corpus's data root, or the manifest's folder.", show_default=False),
    ] = None,
    front_end: Annotated[str, typer.Option("--front-end", help="Feature preset.")] = "logmel64",
    normalisation: Annotated[
        str, typer.Option("--normalisation", help="none, mean, mean_std or keep_level.")
    ] = "none",
    out: Annotated[Path, typer.Option("--out", help="Folder for the shards and their index.")] = Path(
        "features"
    ),
    per_shard: Annotated[int, typer.Option("--per-shard", min=1, help="Recordings in a file.")] = 1000,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")
    ] = False,
) -> int:
    """Features of very many recordings, in checked files of a thousand. Status 1 if some cannot be read, 2 if none can.

    Killed, the same command goes on; done, it checks every file again.
    """
    from vagitus.config import checked
    from vagitus.features import PRESETS, FeatureConfig
    from vagitus.manifest import read_manifest
    from vagitus.processes import n_processors
    from vagitus.shards import write_shards

    if bool(corpus) == bool(data):
        raise ValueError("give a manifest or --corpus NAME, one of them")
    if front_end not in PRESETS:
        raise ValueError(f"no front end {front_end!r}; choose from {', '.join(PRESETS)}")
    given = PRESETS[front_end].model_dump(exclude_unset=True) | {"normalisation": normalisation}
    config = checked(FeatureConfig, given, "options")
    if corpus:
        from vagitus.corpora import load_corpus

        manifest = load_corpus(corpus, root=root)
    else:
        manifest = read_manifest(Path(data or ""), root=root)
    with working_on(scheduler, workers):
        shards = write_shards(
            manifest,
            config,
            out,
            n_per_shard=per_shard,
            n_workers=workers or n_processors(),
            announce=lambda line: None if as_json else print(line, file=sys.stderr, flush=True),
        )
    n_bad = sum(line.n_problems for line in shards.lines)
    if n_bad == len(shards):
        raise ValueError(f"{manifest.source}: none of {n_bad} recordings can be read; {out} says why of each")
    problems = [row.problem for row in shards.rows() if row.problem] if n_bad else []
    if as_json:
        print(
            json.dumps(
                {
                    "features": str(out),
                    "n_recordings": len(shards),
                    "n_frames": int(shards.offsets[-1]),
                    "n_shards": len(shards.lines),
                    "problems": problems,
                }
            )
        )
    else:
        for problem in problems[:MAX_PROBLEMS_SHOWN]:
            print(f"no features: {problem}", file=sys.stderr)
        if n_bad > MAX_PROBLEMS_SHOWN:
            print(f"no features: {n_bad - MAX_PROBLEMS_SHOWN} more (--json names all)", file=sys.stderr)
        print(f"{out}: features of {len(shards) - n_bad} recordings in {len(shards.lines)} files")
    return int(n_bad > 0)
