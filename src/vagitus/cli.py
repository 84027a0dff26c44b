"""The command line: one function a verb, nothing heavy imported before a verb needs it.

Exit status: 0 done, 1 a result says no, 2 the input is wrong (one line on standard error says
what and where), 130 interrupted.
"""

import importlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from vagitus import cli_adapt, cli_device, cli_integrity, cli_scale, cli_verify
from vagitus.cli_adapt import default_cache
from vagitus.cli_scale import Scheduler, Workers, working_on

if TYPE_CHECKING:
    from vagitus.manifest import Manifest
    from vagitus.plan import Plan

RESEARCH_ONLY = cli_device.RESEARCH_ONLY

TOGETHER = ("pretrain", "train")  # verbs that torchrun may start in several processes
N_COMPARED = 20  # recordings, at most, on which a study's model.onnx must score as its model.safetensors

app = typer.Typer(
    name="vagitus",
    help="A few labelled heart, lung or cry recordings to a small model, proven subject by subject.\n\n"
    + RESEARCH_ONLY,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        help="A corpus: the data root (default $VAGITUS_DATA). A manifest: the folder its paths start from "
        "(default its own).",
        show_default=False,
    ),
]
Task = Annotated[str, typer.Option("--task", help="Of a corpus with several; see `vagitus corpus list`.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Feature cache. Default ~/.cache/vagitus.", show_default=False)
]


def main() -> None:
    """Entry point of the ``vagitus`` command."""
    try:
        with _one_voice():
            status = app(standalone_mode=False)
    except typer.TyperException as error:  # a word or an option that it does not know
        fail(f"{error.format_message()} (try --help)")
    except (typer.Abort, KeyboardInterrupt):
        print("vagitus: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (ValueError, FileNotFoundError, RuntimeError, ArithmeticError) as error:
        fail(str(error))
    except OSError as error:  # a full disk, a folder that cannot be written
        fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except ImportError as error:
        if error.name is None:  # ours, with the install line
            fail(str(error))
        if error.name.startswith("vagitus"):
            raise
        fail(f"the package {error.name!r} is not installed: pip install 'vagitus[all]'")
    sys.exit(status if isinstance(status, int) else 0)


@contextmanager
def _one_voice() -> Iterator[None]:
    """Of the processes that torchrun started the first alone speaks; what ends another is said outside the block."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    verb = next(iter(sys.argv[1:]), "")
    if verb not in TOGETHER:
        raise ValueError(f"{verb} has processes of its own or needs none; run it without torchrun")
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def fail(message: str) -> NoReturn:
    """One line on standard error, exit 2."""
    print(f"vagitus: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        import vagitus

        print(vagitus.__version__)
        context.exit()


@app.command(epilog=RESEARCH_ONLY)
def study(
    data: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", show_default=False, help="CSV or Parquet.")
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    task: Task = "",
    root: Root = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="TOML; other options override it.")] = None,
    arms: Annotated[
        str, typer.Option("--arms", help="Comma-separated; default the baselines, res8 and their blend.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder for the report and all results.")] = Path(
        "out/study"
    ),
    positive: Annotated[str, typer.Option("--positive", help="The positive label of two.")] = "",
    front_end: Annotated[str, typer.Option("--front-end", help="Feature preset of the networks.")] = "",
    leave_one_site_out: Annotated[
        bool, typer.Option("--leave-one-site-out", help="Test on each site in turn.")
    ] = False,
    target_site: Annotated[str, typer.Option("--target-site", help="Test on this site only.")] = "",
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="Adapt to each site left out: comma-separated, combined by +, such as adabn,safn+entropy. Their "
            "controls come along.",
        ),
    ] = "",
    use_split: Annotated[
        bool, typer.Option("--use-split", help="Take train, dev and test from the column split.")
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option("--folds", min=2, help="Subject-grouped folds. Default 5.", show_default=False),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats", min=1, help="Repetitions with other folds and seeds. Default 1.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Of folds, training and resampling. Default 0.", show_default=False
        ),
    ] = None,
    max_bad: Annotated[
        float | None,
        typer.Option(
            "--max-bad",
            min=0,
            max=1,
            help="Share of recordings that may be unusable. Default 0.05.",
            show_default=False,
        ),
    ] = None,
    labelled_share: Annotated[
        float | None,
        typer.Option(
            "--labelled-share",
            help="Share of the training subjects whose labels are read. Default 1.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            metavar="NAME=FILE",
            show_default=False,
            help="A model of `pretrain` for arms that begin with words, speakers, gender, simclr or vicreg. "
            "Default for words and simclr: those that come along.",
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option("--encoder", metavar="KIND:FILE", help="ge2e, panns or onnx, for the probes of it.")
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Smaller searches and shorter training.")] = False,
    audio: Annotated[
        bool, typer.Option("--audio/--no-audio", help="Whether the report can play its worst recordings.")
    ] = True,
    cache: Cache = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> int:
    """Compare every arm on the same subject-disjoint folds and write a report."""
    from vagitus.config import checked, load_toml
    from vagitus.export import export_onnx
    from vagitus.parity import ParityError
    from vagitus.plan import QUICK, StudyConfig, fronts
    from vagitus.report import write_report
    from vagitus.results import finite
    from vagitus.study import run_study

    for package in (
        "torch",
        "sklearn",
        "jinja2",
        "matplotlib",
        "onnxscript",
    ):  # a missing one is said before the work
        importlib.import_module(package)
    given: dict[str, Any] = {}
    if recipe is not None:
        given = load_toml(recipe)
    options: dict[str, Any] = {
        "data": corpus or data or "",
        "task": task,
        "root": str(root) if root else "",
        "arms": tuple(name.strip() for name in arms.split(",")) if arms else "",
        "positive": positive,
        "front_end": front_end,
        "split": "sites" if leave_one_site_out or target_site else "column" if use_split else "",
        "target_site": target_site,
        "n_folds": folds,
        "repeats": repeats,
        "seed": seed,
        "max_bad": max_bad,
        "labelled_share": labelled_share,
        "sources": _named_files(source or []) or None,
        "encoder": encoder,
        "budget": QUICK.model_dump() if quick else None,
    }
    if methods:
        from vagitus.arms import DEFAULT_ARMS
        from vagitus.arms.adapted import with_controls

        if not (leave_one_site_out or target_site or given.get("split") == "sites"):
            raise ValueError(
                "--methods adapt to a site left out: give --leave-one-site-out or --target-site too"
            )
        added = with_controls(name.strip() for name in methods.split(","))
        options["arms"] = (*(options["arms"] or given.get("arms", DEFAULT_ARMS)), *added)
    if use_split and (leave_one_site_out or target_site):
        raise ValueError("--use-split and leaving a site out are two ways to divide; give one")
    if corpus and data:
        raise ValueError(f"give a manifest ({data}) or --corpus {corpus}, not both")
    given |= {name: value for name, value in options.items() if value not in ("", None)}
    if "data" not in given:
        raise ValueError("nothing to study: give a manifest, --corpus NAME or --recipe FILE")
    config = checked(StudyConfig, given, str(recipe) if recipe else "options")
    for name in (*(options["sources"] or ()), *(["encoder"] if encoder else ())):
        if name not in fronts(config.arms):
            option = "--encoder" if name == "encoder" else f"--source {name}"
            raise ValueError(
                f"{option}: no arm begins with it among {', '.join(config.arms)}; name one, or leave it out"
            )
    manifest, corpus_positive, corpus_front_end = _open(
        config.data, config.task, Path(config.root) if config.root else None
    )
    report, exported = out / "report.html", True
    with working_on(scheduler, workers), _progress(as_json) as announce:

        def finish(plan: "Plan") -> None:
            nonlocal exported
            announce("writing the report")
            write_report(out, plan.dataset, plan.audit, with_audio=audio)
            if not (out / "model.safetensors").exists():
                return
            announce("exporting the model")
            recordings = plan.dataset.manifest
            compared = range(0, len(recordings), -(-len(recordings) // N_COMPARED))
            try:
                export_onnx(
                    out / "model.safetensors",
                    out / "model.onnx",
                    recordings=recordings.select(list(compared)),
                )
            except ParityError as error:  # hours of work stand all the same
                print(f"vagitus: {error}; there is no model.onnx", file=sys.stderr)
                exported = False

        _, results = run_study(
            config,
            manifest,
            out,
            positive=corpus_positive,
            front_end=corpus_front_end,
            cache=cache or default_cache(),
            command=shlex.join(["vagitus", *sys.argv[1:]]),
            n_workers=workers or None,
            announce=announce,
            finish=finish,
        )
    if as_json:
        print(
            json.dumps(
                {
                    "report": str(report),
                    "results": str(out / "results.jsonl"),
                    "summary": [line for line in finite(results) if line["kind"] == "summary"],
                }
            )
        )
    else:
        _print_summary(finite(results))
        print(f"\nreport: {report}")
    return 0 if exported else 1


@app.command(
    epilog="`corpus list` shows the corpora, `corpus fetch NAME` downloads one, `corpus NAME` writes its manifest."
)
def corpus(
    words: Annotated[list[str], typer.Argument(metavar="NAME | list | fetch NAME", show_default=False)],
    task: Task = "",
    root: Root = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Manifest to write. Default NAME-TASK.csv.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List corpora, fetch one, or turn a corpus folder into a manifest."""
    from vagitus.corpora import CORPORA, fetch_corpus, find_corpus, load_corpus
    from vagitus.manifest import write_manifest

    match words:
        case ["list"]:
            rows = [
                {"name": name, "tasks": ", ".join(row.tasks), "licence": row.licence, "what": row.title}
                for name, row in sorted(CORPORA.items())
            ]
            if as_json:
                print(json.dumps(rows))
            else:
                _print_table(list(rows[0]), [list(row.values()) for row in rows])
        case ["fetch", name]:
            below = root or os.environ.get("VAGITUS_DATA")
            if not below:
                raise ValueError(f"where to put {name}? give --root or set $VAGITUS_DATA to the data root")
            with _progress(as_json) as announce:
                folder = fetch_corpus(
                    name, below, progress=lambda n, total: announce(_megabytes(name, n, total))
                )
            print(json.dumps({"folder": str(folder)}) if as_json else f"{name} is in {folder}")
        case [name]:
            chosen = find_corpus(name)
            manifest = load_corpus(name, root=root, task=task or None)
            target = out or Path(f"{name}-{task or chosen.default_task}.csv")
            write_manifest(manifest, target, root=manifest.root)
            _print_notes(manifest)
            if as_json:
                print(json.dumps({"manifest": str(target), "root": str(manifest.root), "n": len(manifest)}))
            else:
                print(f"{len(manifest)} recordings of {manifest.n_subjects} subjects in {target}")
                print(f"next: {shlex.join(['vagitus', 'study', str(target), '--root', str(manifest.root)])}")
        case _:
            raise ValueError(f"corpus {' '.join(words)}: give NAME, list, or fetch NAME")


@app.command(epilog="Exit status 1 when an error was found. " + RESEARCH_ONLY)
def audit(
    data: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", show_default=False, help="CSV or Parquet.")
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    task: Task = "",
    root: Root = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the findings here, as JSON.", show_default=False)
    ] = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> int:
    """Look for leaks, duplicates, confounds, and silent, clipped or unreadable recordings."""
    from vagitus.audit import audit as run_audit
    from vagitus.files import write_atomic
    from vagitus.processes import n_processors

    manifest, _, _ = _open(_one_of(data, corpus), task, root)
    with working_on(scheduler, workers), _progress(as_json) as announce:
        announce(f"auditing {len(manifest)} recordings")
        found = run_audit(manifest, n_workers=workers or n_processors())
    text = json.dumps(found.to_json(), indent=1)
    if out is not None:
        write_atomic(out, text)
    print(text if as_json else found.to_text())
    return int(any(finding.severity == "error" for finding in found.findings))


def _megabytes(name: str, n_bytes: int, total: int | None) -> str:
    of_all = f" of {total / 1e6:.0f}" if total else ""
    return f"fetching {name}: {n_bytes / 1e6:.0f}{of_all} MB"


@app.command(epilog=RESEARCH_ONLY)
def train(
    data: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", show_default=False, help="CSV or Parquet.")
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    task: Task = "",
    root: Root = None,
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("model.safetensors"),
    positive: Annotated[str, typer.Option("--positive", help="The positive label of two.")] = "",
    front_end: Annotated[str, typer.Option("--front-end", help="Feature preset.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the dev fold and the training.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Shorter training.")] = False,
    cache: Cache = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> None:
    """Train res8 on all labelled recordings but a dev fold of other subjects: one step of a study."""
    from vagitus.config import checked
    from vagitus.plan import FULL, QUICK, StudyConfig
    from vagitus.study import train_model

    budget = QUICK if quick else FULL
    options = {"data": _one_of(data, corpus), "task": task, "positive": positive, "front_end": front_end}
    config = checked(
        StudyConfig, {**options, "seed": seed, "arms": ("scratch",), "budget": budget.model_dump()}, "options"
    )
    manifest, corpus_positive, corpus_front_end = _open(config.data, task, root)
    with working_on(scheduler, workers), _epochs(as_json, budget.train.epochs) as (announce, on_epoch):
        card = train_model(
            config,
            manifest,
            out,
            positive=corpus_positive,
            front_end=corpus_front_end,
            cache=cache or default_cache(),
            n_workers=workers or None,
            announce=announce,
            on_epoch=on_epoch,
        )
    about = {"model": str(out), "classes": list(card.class_names), "threshold": card.threshold}
    print(json.dumps(about) if as_json else f"{out}: {' or '.join(card.class_names)}. {RESEARCH_ONLY}")


@app.command()
def pretrain(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="MANIFEST...", show_default=False, help="Recordings to learn from."),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", show_default=False, help="A corpus as well or instead; may be repeated."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="Settings as TOML; options given beside it win.", show_default=False),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="words, speakers, gender; simclr or vicreg need no labels. Default words.",
            show_default=False,
        ),
    ] = "",
    root: Root = None,
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("source.safetensors"),
    front_end: Annotated[
        str,
        typer.Option(
            "--front-end",
            help="Feature preset; the target must be heard through the same. Default mfcc40.",
            show_default=False,
        ),
    ] = "",
    normalisation: Annotated[
        str,
        typer.Option(
            "--normalisation", help="none, mean, mean_std or keep_level. Default mean.", show_default=False
        ),
    ] = "",
    network: Annotated[
        str,
        typer.Option(
            "--model", help="res8, small, cnn14, ecapa, lstm, ... Default res8.", show_default=False
        ),
    ] = "",
    start: Annotated[
        Path | None,
        typer.Option("--start", show_default=False, help="A model to go on from, without labels."),
    ] = None,
    noise: Annotated[
        str, typer.Option("--noise", help="A corpus or manifest to mix into views, for simclr and vicreg.")
    ] = "",
    keep_out: Annotated[
        str,
        typer.Option(
            "--keep-out",
            help="The target's corpus, all its tasks, or manifest: refused if any of it is among the recordings.",
        ),
    ] = "",
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, show_default=False)] = None,
    lr: Annotated[float | None, typer.Option("--lr", show_default=False)] = None,
    window_s: Annotated[
        float | None, typer.Option("--window-s", show_default=False, help="Length of a crop, seconds.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Default 0.", show_default=False)] = None,
    cache: Cache = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> int:
    """Learn a source model from adult speech, or from any sound without labels."""
    from vagitus.config import checked, load_toml
    from vagitus.corpora import CORPORA, all_recordings
    from vagitus.features import PRESETS
    from vagitus.pretrain import TASKS, PretrainConfig, pretrain_selfsupervised, pretrain_supervised
    from vagitus.study import versions

    given = load_toml(recipe) if recipe else {}
    options: dict[str, Any] = {
        "data": (*(data or ()), *(corpus or ())),
        "task": task,
        "root": str(root) if root else "",
        "front_end": front_end,
        "normalisation": normalisation,
        "model": network,
        "start": str(start) if start else "",
        "noise": noise,
        "keep_out": keep_out,
        "seed": seed,
    }
    given |= {name: value for name, value in options.items() if value not in ("", None, ())}
    training = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "window_s": window_s}
    changed = {name: value for name, value in training.items() if value is not None}
    if changed and isinstance(given.get("train", {}), dict):
        given["train"] = given.get("train", {}) | changed
    if not given.get("data"):
        raise ValueError("nothing to learn from: give a manifest or --corpus NAME")
    config = checked(PretrainConfig, given, str(recipe) if recipe else "options")
    is_supervised = config.task in TASKS

    def opened(name: str, task: str = "") -> "Manifest":
        return _open(name, task, Path(config.root) if config.root else None)[0]

    def kept_out(name: str) -> "Manifest":
        # What one task leaves out, another may test on.
        whole = Path(config.root) if config.root else None
        return all_recordings(name, root=whole) if name in CORPORA else opened(name)

    # A corpus that has no such task is opened by its own; its speakers, words or nothing at all are read then.
    manifests = [
        opened(name, config.task if name in CORPORA and config.task in CORPORA[name].tasks else "")
        for name in config.data
    ]
    how: dict[str, Any] = {
        "front_end": PRESETS[config.front_end].vary(normalisation=config.normalisation),
        "cache": cache or default_cache(),
        "model_name": config.model,
        "config": config.train,
        "seed": config.seed,
        "n_workers": workers or None,
        "test": kept_out(config.keep_out) if config.keep_out else None,
        "record": {"command": _told(sys.argv[1:]), "versions": versions()},
    }
    if not is_supervised:
        how |= {
            "start": Path(config.start) if config.start else None,
            "noise": opened(config.noise) if config.noise else None,
            "views": config.views,
        }
    learn = pretrain_supervised if is_supervised else pretrain_selfsupervised
    with working_on(scheduler, workers), _epochs(as_json, config.train.epochs) as (announce, on_epoch):
        made = learn(manifests, config.task, out, announce=announce, on_epoch=on_epoch, **how)  # type: ignore[arg-type]
    metrics = made.card.provenance["metrics"]
    if as_json:
        print(json.dumps({"model": str(out) if made.saved else None, "collapse": made.collapse, **metrics}))
    elif made.saved:
        print(f"{out}: {', '.join(f'{k} {v:.3f}' for k, v in metrics.items() if isinstance(v, float))}")
    else:
        print(f"{out} is not written: {made.collapse}", file=sys.stderr)
    return 0 if made.saved else 1


def _named_files(given: list[str]) -> dict[str, str]:
    named = {}
    for text in given:
        name, is_named, file = text.partition("=")
        if not is_named or not file:
            raise ValueError(f"--source {text!r}: write NAME=FILE, as in words=mine.safetensors")
        named[name] = file
    return named


@app.command(epilog=RESEARCH_ONLY)
def compress(
    model: Annotated[Path, typer.Argument(show_default=False, help="model.safetensors of train or study.")],
    data: Annotated[
        str | None,
        typer.Argument(metavar="MANIFEST", show_default=False, help="The recordings it was trained on."),
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    task: Task = "",
    root: Root = None,
    out: Annotated[Path, typer.Option("--out", help="Model file to write.")] = Path("small.safetensors"),
    method: Annotated[
        str, typer.Option("--method", help="tt, low_rank, prune, or none (fewer bits alone).")
    ] = "tt",
    ratio: Annotated[
        float | None,
        typer.Option(
            "--ratio", help="Times fewer parameters; ranks by measured loss. Default 10.", show_default=False
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Of every matrix, instead of a ratio.", show_default=False)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", help="Relative error of every matrix, instead.", show_default=False),
    ] = None,
    bits: Annotated[int, typer.Option("--bits", help="Of a stored weight: 8, 16 or 32.")] = 32,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=0, help="Of fine-tuning on recordings. Default 5.", show_default=False),
    ] = None,
    cache: Cache = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> None:
    """Make a trained model smaller: tensor trains, low rank, pruning, fewer bits; fine-tuned if given recordings."""
    from vagitus.compression import CompressConfig
    from vagitus.config import checked
    from vagitus.study import compress_model

    if epochs is not None and not (data or corpus):
        raise ValueError(
            "--epochs is of fine-tuning, which needs recordings: give a manifest or --corpus NAME"
        )
    given = {"ratio": ratio, "rank": rank, "tolerance": tolerance, "epochs": epochs}
    options = {name: value for name, value in given.items() if value is not None}
    config = checked(CompressConfig, {"method": method, "bits": bits, **options}, "options")
    manifest = _open(_one_of(data, corpus), task, root)[0] if data or corpus else None
    with working_on(scheduler, workers), _progress(as_json) as announce:
        found = compress_model(
            model,
            out,
            config,
            manifest,
            cache=cache or default_cache(),
            n_workers=workers or None,
            announce=announce,
        )
    if as_json:
        print(json.dumps({"model": str(out), **found}))
        return
    rows = [
        [
            name,
            f"{size['n_parameters']:,}",
            f"{size['n_bytes'] / 1000:,.1f} kB",
            "" if size["dev_auroc"] is None else f"{size['dev_auroc']:.3f}",
        ]
        for name, size in ((str(model), found["before"]), (str(out), found["after"]))
    ]
    _print_table(["model", "parameters", "weights", "AUROC on dev part"], rows)
    print(RESEARCH_ONLY)


@app.command(epilog=RESEARCH_ONLY)
def evaluate(
    model: Annotated[Path, typer.Argument(show_default=False, help="model.safetensors of a study.")],
    data: Annotated[
        str | None, typer.Argument(metavar="MANIFEST", show_default=False, help="CSV or Parquet.")
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    task: Task = "",
    root: Root = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Under noise, shortening, codecs and more, instead.")
    ] = False,
    noise: Annotated[
        Path | None,
        typer.Option(
            "--noise", help="With --robustness: data root that holds ESC-10 or ESC-50.", show_default=False
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="With --robustness: page of its curves to write.",
            show_default=False,
        ),
    ] = None,
    cache: Cache = None,
    workers: Workers = 0,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> None:
    """Subject-level metrics of a model on recordings it was not trained on."""
    from vagitus.evaluate import evaluate as run_evaluate
    from vagitus.processes import n_processors
    from vagitus.results import finite

    manifest, _, _ = _open(_one_of(data, corpus), task, root)
    if noise and not robustness:
        raise ValueError("--noise is what recordings are mixed with under --robustness; give both")
    if report and not robustness:
        raise ValueError("--report is a page of the curves of --robustness; give both")
    if report and report.suffix != ".html":
        raise ValueError(f"--report {report}: a page is a file that ends in .html")
    if report and not report.absolute().parent.is_dir():
        raise ValueError(f"--report {report}: there is no folder {report.parent}; make it first")
    if robustness:
        with working_on(scheduler, workers):
            _evaluate_robustness(model, manifest, noise, workers, report, as_json)
        return
    with working_on(scheduler, workers), _progress(as_json) as announce:
        announce(f"scoring {len(manifest)} recordings")
        found = finite(
            run_evaluate(model, manifest, cache=cache or default_cache(), n_workers=workers or n_processors())
        )
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['model']} on {found['n_recordings']} recordings of {found['n_subjects']} subjects")
    for note in (*found["trained_notes"], found["caution"]):
        print(f"note: {note}")
    for path, reason in found["excluded"].items():
        print(f"left out {path}: {reason}")
    _print_table(["metric", "value"], [[name, _cell(value)] for name, value in found["metrics"].items()])
    print(RESEARCH_ONLY)


def _evaluate_robustness(
    model: Path, manifest: "Manifest", noise: Path | None, workers: int, report: Path | None, as_json: bool
) -> None:
    from vagitus.corpora import load_corpus
    from vagitus.evaluate import measure_robustness
    from vagitus.processes import n_processors
    from vagitus.results import finite
    from vagitus.robustness import noise_pool

    if report:
        for package in ("jinja2", "matplotlib"):  # a missing one is said before the work
            importlib.import_module(package)
    noises = noise_pool(load_corpus("esc", root=noise)) if noise else None
    with _progress(as_json) as announce:
        announce(f"scoring {len(manifest)} recordings again and again, each time worse")
        found = finite(measure_robustness(model, manifest, noises, n_workers=workers or n_processors()))
        if report:
            from vagitus.robustness_page import write_robustness_page

            announce("drawing the curves")
            write_robustness_page(report, found)
    if as_json:
        print(json.dumps(found | ({"report": str(report)} if report else {})))
        return
    print(f"{found['model']} on {found['n_recordings']} recordings of {found['n_subjects']} subjects")
    for path, reason in found["excluded"].items():
        print(f"left out {path}: {reason}")
    rows = [
        [f"{line['condition']} {line['name']}".strip(), f"{line['level']:g} {line['unit']}", _cell(line)]
        for line in found["lines"]
        if line["kind"] == "robustness"
    ]
    _print_table(["what", "level", found["lines"][0]["metric"]], rows)
    if report:
        print(f"report: {report}")
    print(RESEARCH_ONLY)


def _one_of(data: str | None, corpus: str) -> str:
    if bool(corpus) == bool(data):
        raise ValueError("give a manifest or --corpus NAME, one of them")
    return corpus or data or ""


def _open(data: str, task: str, root: Path | None) -> "tuple[Manifest, str, str]":
    """(manifest, positive label, feature preset) of a corpus name or a manifest file; the latter two may be ""."""
    from vagitus.corpora import CORPORA, load_corpus
    from vagitus.manifest import read_manifest

    if data in CORPORA:
        row = CORPORA[data]
        manifest = load_corpus(data, root=root, task=task or None)
        opened = manifest, row.positive.get(task or row.default_task, ""), row.preset
    elif task or not Path(data).suffix:
        # A bare word is meant as a corpus: its error lists those that exist.
        load_corpus(data, root=root, task=task or None)
        raise ValueError(f"{data}: neither a corpus nor a manifest")
    else:
        opened = read_manifest(Path(data), root=root), "", ""
    _print_notes(opened[0])
    return opened


def _told(arguments: list[str]) -> str:
    """The command as a model file may carry it: of a path from the root of the disk the last name alone."""
    told = []
    for argument in arguments:
        option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        told.append(option + equals + (Path(value).name if Path(value).is_absolute() else value))
    return shlex.join(["vagitus", *told])


def _print_notes(manifest: "Manifest") -> None:
    for note in manifest.notes:
        print(f"note: {note}", file=sys.stderr)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Say on standard error what is being done and for how long; quiet with --json."""
    if quiet:
        yield lambda line: None
    elif not sys.stderr.isatty():  # a log file keeps every line
        yield lambda line: print(line, file=sys.stderr, flush=True)
    else:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            running = bar.add_task("starting", total=None)
            yield lambda line: bar.update(running, description=line)


@contextmanager
def _epochs(
    quiet: bool, n_epochs: int
) -> "Iterator[tuple[Callable[[str], None], Callable[[dict[str, float]], None]]]":
    """As ``_progress``, and a bar that each epoch's record moves on."""

    def said(record: dict[str, float]) -> str:
        shown = {name: value for name, value in record.items() if name not in ("epoch", "lr")}
        values = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in shown.items())
        return f"epoch {record['epoch'] + 1:.0f}: {values}"

    if quiet or not sys.stderr.isatty():
        with _progress(quiet) as announce:
            yield announce, lambda record: announce(said(record))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        running = bar.add_task("starting", total=n_epochs)
        yield (
            lambda line: bar.update(running, description=line),
            lambda record: bar.update(running, advance=1, description=said(record)),
        )


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _print_summary(results: list[dict[str, Any]]) -> None:
    """The arms with their main metrics and intervals, best AUROC first."""
    shown = {"auroc": "AUROC", "macro_auroc": "macro AUROC", "uar": "UAR", "brier": "Brier"}
    lines = [line for line in results if line["kind"] == "summary"]
    names = [name for name in shown if name in lines[0]["metrics"]]
    lines.sort(key=lambda line: -(line["metrics"][names[0]]["estimate"] or 0))

    about = results[0]
    subset = f"{about['n_tested']} recordings of {lines[0]['n_subjects']} subjects"
    print(f"{about['data']} {about['task']}: {subset}" + (", SIMULATED" if about["simulated"] else ""))
    _print_table(
        ["arm", *(shown[name] for name in names)],
        [[line["arm"], *(_cell(line["metrics"][name]) for name in names)] for line in lines],
    )
    print(RESEARCH_ONLY)


def _cell(metric: dict[str, float | None]) -> str:
    """``.913 [.885, .938]``; unknown is said to be."""
    values = [metric[key] for key in ("estimate", "low", "high")]
    estimate, low, high = (None if value is None else f"{value:.3f}" for value in values)
    return f"{estimate or 'undefined'}" + (f" [{low}, {high}]" if low and high else "")


cli_adapt.register(app)
cli_device.register(app)
cli_verify.register(app)
cli_integrity.register(app)
cli_scale.register(app)
