"""The verbs that ship and run a model: export, predict, listen, serve. See ``cli`` for the exit status.

None but ``export`` needs torch; each loads what it needs when it is called.
"""

import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vagitus.cli_scale import Scheduler, Workers, working_on

if TYPE_CHECKING:
    from vagitus.manifest import Manifest
    from vagitus.parity import Parity
    from vagitus.predict import Prediction, Predictor
    from vagitus.stream import Heard, Listener, Piece, Summary

RESEARCH_ONLY = "Research use only, not a diagnosis."
TOKEN_VARIABLE = "VAGITUS_TOKEN"
MAX_SKIPPED_SHOWN = 5

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else.")]
OnnxFile = Annotated[
    Path, typer.Argument(metavar="MODEL.onnx", show_default=False, help="What `export` or `study` wrote.")
]


class Form(StrEnum):
    """What `export` writes."""

    ONNX = "onnx"
    INT8 = "int8"
    C = "c"
    PAGE = "page"


class Per(StrEnum):
    """What a row of `predict --csv` is."""

    RECORDING = "recording"
    EVENT = "event"
    WINDOW = "window"


def register(app: typer.Typer) -> None:
    """Add the verbs of this module to the command line."""
    for verb in (export, predict, listen, serve):
        app.command(epilog=RESEARCH_ONLY)(verb)


# export


def export(
    model: Annotated[
        Path, typer.Argument(show_default=False, help="model.safetensors; int8, page: or model.onnx.")
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="MANIFEST",
            show_default=False,
            help="Recordings to compare the two forms on, and for int8 to measure ranges on.",
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="onnx; int8 (8-bit onnx); c (a C99 header); page (a folder for a web server)."
        ),
    ] = Form.ONNX,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File or folder to write. Default beside the model.", show_default=False),
    ] = None,
    corpus: Annotated[str, typer.Option("--corpus", help="A corpus instead of a manifest.")] = "",
    task: Annotated[str, typer.Option("--task", help="Of a corpus with several.")] = "",
    root: Annotated[
        Path | None,
        typer.Option("--root", help="The corpus's data root, or the manifest's folder.", show_default=False),
    ] = None,
    licence: Annotated[
        str, typer.Option("--licence", help="Of the model, for its header. Default what its card records.")
    ] = "",
    bits: Annotated[
        int | None,
        typer.Option("--bits", help="Of a weight in a C header: 32 or 8. Default 32.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write a model for a phone, a browser or a board, and only if it scores as the model does (else status 1)."""
    from vagitus.parity import ParityError
    from vagitus.predict import without_nan

    if bits is not None and (form is not Form.C or bits not in (8, 32)):
        raise ValueError(f"--bits {bits}: 8 or 32, of --format c; --format int8 is the 8-bit onnx")
    beside = {
        Form.ONNX: model.with_suffix(".onnx"),
        Form.INT8: model.with_name(f"{model.stem}-int8.onnx"),
        Form.C: model.with_name(f"{model.stem.replace('-', '_')}.h"),
        Form.PAGE: model.with_name(f"{model.stem}-page"),
    }
    target = out or beside[form]
    if target.resolve() == model.resolve():
        raise ValueError(f"{model}: would be written over; give another --out")
    recordings = _recordings(data, corpus, task, root)
    try:
        files, parity = _exported(model, form, target, recordings, 8 if bits == 8 else 32, licence)
    except ParityError as error:
        print(f"vagitus: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        raise _unwritten(target, "--out", error) from error
    compared_on = ""
    if parity is not None:
        compared_on = "noise" if recordings is None else f"{parity.n_recordings} recordings"
    n_bytes = sum(file.stat().st_size for file in files)
    if as_json:
        said = {
            "notice": RESEARCH_ONLY,
            "written": str(target),
            "format": form.value,
            "bytes": n_bytes,
            "compared_on": compared_on,
            "parity": None if parity is None else without_nan(asdict(parity)),
        }
        print(json.dumps(said))
        return 0
    skipped = [] if parity is None else parity.skipped
    for reason in skipped[:MAX_SKIPPED_SHOWN]:
        print(f"not compared: {reason}", file=sys.stderr)
    if len(skipped) > MAX_SKIPPED_SHOWN:
        print(f"not compared: {len(skipped) - MAX_SKIPPED_SHOWN} more (--json names all)", file=sys.stderr)
    print(f"{target}: {n_bytes / 1000:,.1f} kB")
    if parity is None:
        print(f"carries {model} as it is, so nothing was compared")
    else:
        metric = ""
        if not math.isnan(parity.metric_before):
            metric = f", AUROC {parity.metric_before:.3f} before, {parity.metric_after:.3f} after"
        print(
            f"compared on {compared_on}: a probability differs by {parity.max_difference:.2g} at most, "
            f"{parity.n_changed} of {parity.n_recordings} decisions change{metric}"
        )
        if recordings is None:
            print(
                "noise shows that the numbers agree, not what a decision is worth: give recordings to see that"
            )
    print(RESEARCH_ONLY)
    return 0


def _unwritten(target: Path, option: str, error: OSError) -> Exception:
    """Of a system's error, which names a temporary file or the folder above, one that names what was asked for."""
    if error.errno is None:  # ours
        return error
    return ValueError(f"{target}: cannot be written ({error.strerror}); give another {option}")


def _exported(
    model: Path,
    form: Form,
    target: Path,
    recordings: "Manifest | None",
    bits: Literal[8, 32],
    licence: str,
) -> "tuple[list[Path], Parity | None]":
    """The files written, and how far they are from the model; None where they are the model."""
    from vagitus.export import export_onnx, quantise
    from vagitus.files import write_atomic
    from vagitus.parity import FLOAT_LIMITS, INT8_LIMITS, write_noise

    if not model.is_file():
        raise FileNotFoundError(f"{model}: no such file; `vagitus train` or `study` writes a model")
    if form is Form.INT8 and recordings is None:
        raise ValueError(
            "int8 needs recordings to measure the ranges of its numbers on: give a manifest or --corpus NAME; "
            "those it was trained on serve"
        )
    is_onnx = model.suffix == ".onnx"
    if is_onnx and form in (Form.ONNX, Form.C):
        raise ValueError(f"{model}: is exported already; --format {form} is made from its model.safetensors")
    if is_onnx and form is Form.PAGE and licence:
        raise ValueError(f"--licence with {model}: the page carries it as it is; give its model.safetensors")
    with tempfile.TemporaryDirectory(prefix="vagitus-") as name:
        folder = Path(name)
        parity, exported = None, model
        if form is Form.C:
            from vagitus.export_c import check_c_parity, export_c

            header = folder / target.name  # its name is in all names of the header
            export_c(model, header, bits=bits, licence=licence)
            parity = check_c_parity(
                model, header, write_noise(model, folder) if recordings is None else recordings
            )
            parity.refuse(INT8_LIMITS if bits == 8 else FLOAT_LIMITS)
            write_atomic(target, header.read_bytes())
            return [target], parity
        if not is_onnx:
            exported = target if form is Form.ONNX else folder / "model.onnx"
            parity = export_onnx(model, exported, recordings=recordings, licence=licence)
        if form is Form.INT8 and recordings is not None:
            parity = quantise(exported, recordings, target, limits=INT8_LIMITS, licence=licence)
        if form is Form.PAGE:
            from vagitus.serve import export_page

            return export_page(exported, target), parity
    return [target], parity


def _recordings(data: str | None, corpus: str, task: str, root: Path | None) -> "Manifest | None":
    if data and corpus:
        raise ValueError(f"give a manifest ({data}) or --corpus {corpus}, not both")
    if task and not corpus:
        raise ValueError(f"--task {task}: is of a corpus; give --corpus NAME, or leave it out")
    if root is not None and not (data or corpus):
        raise ValueError(f"--root {root}: no recordings are named; give a manifest or --corpus NAME")
    if corpus:
        from vagitus.corpora import load_corpus

        return load_corpus(corpus, root=root, task=task or None)
    if data:
        from vagitus.manifest import read_manifest

        return read_manifest(Path(data), root=root)
    return None


# predict


def predict(
    model: OnnxFile,
    audio: Annotated[
        list[Path],
        typer.Argument(metavar="AUDIO...", show_default=False, help="Recordings, or folders of them."),
    ],
    as_json: AsJson = False,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV on standard output and nothing else.")
    ] = False,
    per: Annotated[
        Per,
        typer.Option(
            "--per",
            help="A row for every recording, event (windows in a row that reach the threshold) or window.",
        ),
    ] = Per.RECORDING,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="OUT.png",
            show_default=False,
            help="Of one recording: spectrum, F0, windows, and where its score comes from.",
        ),
    ] = None,
    workers: Workers = 1,
    scheduler: Scheduler = "",
) -> int:
    """Score recordings. Status 1 if some cannot be read, 2 if none can."""
    from vagitus.predict import Predictor, find_recordings, to_csv, to_json, to_stretches_csv

    if as_json and as_csv:
        raise ValueError("--json or --csv, not both")
    predictor = Predictor(model)
    paths = find_recordings(audio)
    if plot is not None and len(paths) > 1:
        raise ValueError(f"--plot shows one recording, {len(paths)} were given; name one")
    found: list[Prediction] = []
    for prediction in _predicted(predictor, paths, plot, workers, scheduler):
        found.append(prediction)
        if found[-1].reason and math.isnan(found[-1].duration_s):
            if len(paths) > 1:
                print(f"cannot be read: {found[-1].reason}", file=sys.stderr)
        elif not (as_json or as_csv):
            for line in _lines(found[-1], per):
                print(line, flush=True)
    unreadable = [one for one in found if one.reason and math.isnan(one.duration_s)]
    if len(unreadable) == len(found):
        raise ValueError(
            unreadable[0].reason if len(found) == 1 else f"none of {len(found)} recordings can be read"
        )
    if as_json:
        print(to_json(found, predictor.notice))
    elif as_csv:
        table = to_csv(found, predictor.class_names)
        if per is not Per.RECORDING:
            table = to_stretches_csv(found, "event" if per is Per.EVENT else "window")
        print(table, end="")
    print(predictor.notice, file=sys.stderr)
    return int(bool(unreadable))


def _predicted(
    predictor: "Predictor", paths: list[Path], plot: Path | None, workers: int, scheduler: str
) -> "Iterator[Prediction]":
    from vagitus.predict import plot_prediction
    from vagitus.processes import n_processors

    if plot is None:
        with working_on(scheduler, workers):
            yield from predictor.predict_files(paths, n_workers=workers or n_processors())
        return
    try:
        yield plot_prediction(predictor, paths[0], plot)
    except OSError as error:
        raise _unwritten(plot, "--plot", error) from error


def _lines(found: "Prediction", per: Per) -> Iterator[str]:
    """A recording for people: what was decided with what score, or why nothing was."""
    if found.reason:
        yield f"{found.path}: no score, {found.reason}"
        return
    held = (
        "" if found.threshold is None else f" (from {found.threshold:.3f} on {list(found.probabilities)[-1]})"
    )
    yield f"{found.path}: {found.decision}, score {found.score:.3f}{held}"
    stretches = {Per.RECORDING: (), Per.EVENT: found.events, Per.WINDOW: found.windows}[per]
    for stretch in stretches:
        yield f"  {stretch.start_s:.2f} to {stretch.end_s:.2f} s: {stretch.score:.3f}"
    if per is Per.EVENT and not stretches:
        yield "  no event: no window reaches the threshold"


# listen


def listen(
    model: OnnxFile,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[-]",
            show_default=False,
            help="- is raw PCM on standard input: 16 bits signed, little-endian, mono. Default the microphone.",
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option("--rate", help="Hz, of standard input. Default the model's.", show_default=False),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Microphone: number or part of its name. Default the system's.")
    ] = "",
    history: Annotated[
        float, typer.Option("--history", help="Seconds remembered: the verdict at the end is on these.")
    ] = 60.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for every window, and one at the end.")
    ] = False,
) -> int:
    """Score sound as it comes, until it ends or Ctrl-C. Status 1 if nothing was scored or the microphone went away."""
    from vagitus.predict import Predictor
    from vagitus.stream import Listener, Microphone, PcmReader

    if source not in (None, "-"):
        raise ValueError(f"{source}: a recording is scored by `vagitus predict`; - is standard input")
    if source == "-" and device:
        raise ValueError(f"- or --device {device}, not both")
    if source is None and rate is not None:
        raise ValueError("--rate is that of standard input (-); a microphone tells its own")
    predictor = Predictor(model)
    model_hz = predictor.model.sample_rate_hz
    microphone = None
    rate_hz, name = model_hz if rate is None else rate, "standard input"
    if source is None:
        microphone = Microphone(int(device) if device.isdecimal() else device or None, model_hz)
        rate_hz, name = microphone.sample_rate_hz, microphone.name
    listener = Listener(predictor, rate_hz, history_s=history)
    # Unbuffered: a read gives what is there, and does not wait for more.
    pieces = microphone or PcmReader(io.FileIO(sys.stdin.fileno(), closefd=False))
    about = {
        "kind": "listening",
        "notice": predictor.notice,
        "source": name,
        "sample_rate_hz": rate_hz,
        "window_s": predictor.model.window_frames * predictor.model.hop_samples / model_hz,
        "delay_s": listener.delay_samples / model_hz,
        "history_s": history,
    }
    if as_json:
        print(json.dumps(about), flush=True)
    else:
        print(f"listening to {name} at {rate_hz} Hz, Ctrl-C ends it. {predictor.notice}", file=sys.stderr)
    try:
        for heard, took_s in _heard(listener, pieces):
            _print_heard(heard, took_s, as_json)
    except KeyboardInterrupt:
        if not as_json:
            print("", file=sys.stderr)  # after the ^C that the terminal shows
    last, summary = listener.finish()
    for heard in last:
        _print_heard(heard, 0.0, as_json)
    n_stray = pieces.n_stray_bytes if isinstance(pieces, PcmReader) else 0
    _print_summary(summary, predictor.notice, n_stray, as_json)
    if microphone is not None and microphone.unplugged:
        print(f"vagitus: {name}: gives no more sound, so it ended here; plug it in again", file=sys.stderr)
        return 1
    if summary.prediction.reason and not summary.n_scored:
        # A muted or denied microphone gives zeros, and no error.
        silent = (
            "the input is silent"
            if summary.prediction.reason.startswith("silent")
            else summary.prediction.reason
        )
        print(
            f"vagitus: {name}: nothing was scored: {silent}; see that it is not muted, or choose another "
            f"{'--device' if microphone else 'input'}",
            file=sys.stderr,
        )
        return 1
    return 0


def _heard(listener: "Listener", pieces: "Iterable[Piece]") -> "Iterator[tuple[Heard, float]]":
    """Each window with the seconds from the arrival of its last sample to its score."""
    from vagitus.stream import Lost

    for piece in pieces:
        arrived = time.perf_counter()
        found = listener.lose(piece.n_samples) if isinstance(piece, Lost) else listener.hear(piece)
        took_s = time.perf_counter() - arrived
        for heard in found:
            yield heard, took_s


def _print_heard(heard: "Heard", took_s: float, as_json: bool) -> None:
    from vagitus.predict import without_nan

    if as_json:
        print(
            json.dumps(
                {"kind": "window", **without_nan(heard._asdict()), "took_ms": round(1000 * took_s, 3)}
            ),
            flush=True,
        )
        return
    said = heard.reason or f"{heard.decision}, score {heard.score:.3f}"
    so_far = "" if math.isnan(heard.so_far) else f", so far {heard.so_far:.3f}"
    lost = f", {heard.lost_s:.2f} s of it lost" if heard.lost_s else ""
    print(f"{heard.start_s:.2f} to {heard.end_s:.2f} s: {said}{so_far}{lost}", flush=True)


def _print_summary(summary: "Summary", notice: str, n_stray_bytes: int, as_json: bool) -> None:
    from vagitus.predict import without_nan

    found = summary.prediction
    if as_json:
        said = without_nan(asdict(summary))
        print(
            json.dumps({"kind": "summary", "notice": notice, "n_stray_bytes": n_stray_bytes, **said}),
            flush=True,
        )
        return
    lost = f", {summary.n_gaps} gaps of {summary.lost_s:.2f} s in all" if summary.n_gaps else ""
    stray = ", and half a sample at the end" if n_stray_bytes else ""
    print(f"heard {summary.heard_s:.2f} s, {summary.n_windows} windows{lost}{stray}")
    which = "all of it" if summary.from_s == 0 else f"the last {found.duration_s:.2f} s"
    print(
        f"{which}: {f'no score, {found.reason}' if found.reason else f'{found.decision}, score {found.score:.3f}'}"
    )
    print(notice, file=sys.stderr)


# serve


def serve(
    model: OnnxFile,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            "--token",
            envvar=TOKEN_VARIABLE,
            show_envvar=True,
            help="That requests to the API must carry. The variable keeps it out of the list of processes.",
        ),
    ] = "",
) -> None:
    """The page and a small HTTP interface, on this machine."""
    from vagitus.serve import serve as run_server

    run_server(model, host=host, port=port, token=token or None)
