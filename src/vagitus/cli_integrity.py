"""The verb that looks whether a run's files are as they were written: verify-run. See ``cli`` for the exit status."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vagitus.cli_device import AsJson


def register(app: typer.Typer) -> None:
    """Add the verb of this module to the command line."""
    app.command("verify-run", epilog="Exit status 1 when something is not as it was written.")(verify_run)


def verify_run(
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", show_default=False, help="Folder of a study, or a model.safetensors."),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            show_default=False,
            help="Compare the recordings too: the folder that the paths in inputs.csv start from.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Compare a study's files with their hashes, and its figures with its predictions."""
    from vagitus.integrity import verify

    found = verify(out, data=root)
    if as_json:
        counts = {name: value for name, value in found._asdict().items() if name != "findings"}
        print(json.dumps(counts | {"findings": [finding._asdict() for finding in found.findings]}))
        return int(bool(found.findings))
    for finding in found.findings:
        print(
            f"{finding.file}: {finding.problem}{finding.detail and f' ({finding.detail})'}", file=sys.stderr
        )
    looked_at = {
        "files": found.n_files,
        "recordings": found.n_recordings,
        "figures computed again": found.n_figures,
    }
    counted = ", ".join(f"{n} {what}" for what, n in looked_at.items() if n)
    n_wrong = len(found.findings)
    print(f"{out}: {counted}; {f'{n_wrong} not as written' if n_wrong else 'all as written'}")
    return int(bool(n_wrong))
