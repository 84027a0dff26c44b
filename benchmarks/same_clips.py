"""The same real clips through every form of one model: ``python benchmarks/same_clips.py MODEL.safetensors``.

Clips of a corpus, evenly spread over its labelled recordings, are decoded once to 16-bit wav, and every form reads
those files: torch as ``evaluate`` runs it, ONNX and int8 through ``predict``, the C header compiled here, and the
page in a headless Chromium, which opens each file as a person would. For each: the largest difference of a
probability from torch's, decisions changed, AUROC, the median time of a clip, and the bytes of the model.

The clips may be among those that the model was trained on: the AUROC shows what a form loses, not what the model is
worth. Times are wall-clock with one thread, from the file to the score; the page's hold its drawing as well. Bytes of
a C header are those of its constants, which a device keeps in flash.
``--json benchmarks/results/same-clips.jsonl`` writes the lines that ``make results`` makes a table of. Needs
$VAGITUS_DATA, a C compiler, and for the page chromium with its driver.
"""

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from vagitus import calibration
from vagitus.audio import read
from vagitus.checkpoint import load_model
from vagitus.corpora import load_corpus
from vagitus.export import export_onnx, quantise, recording_blocks
from vagitus.export_c import compiled, export_c
from vagitus.features import featurise
from vagitus.files import write_atomic
from vagitus.manifest import Manifest
from vagitus.metrics import auroc
from vagitus.predict import Predictor
from vagitus.training import score_recordings

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

N_CALIBRATION = 60  # recordings that int8's ranges are measured on; none of the clips

# The probability of the positive class, and whether it is decided for; None where the form abstains.
Score = tuple[float, bool] | None


def chosen(corpus: str, n_clips: int) -> tuple[Manifest, Manifest]:
    """The clips, and other recordings for int8's ranges."""
    labelled = load_corpus(corpus).labelled()
    order = np.random.default_rng(0).permutation(len(labelled))
    if len(order) < n_clips + N_CALIBRATION:
        raise ValueError(
            f"{corpus}: {len(order)} labelled recordings; {n_clips} and {N_CALIBRATION} more are needed"
        )
    return labelled.select(np.sort(order[:n_clips])), labelled.select(
        np.sort(order[n_clips:][:N_CALIBRATION])
    )


def as_wav(clips: Manifest, folder: Path) -> list[Path]:
    files = []
    for row in range(len(clips)):
        start_s, end_s = clips.stretch(row)
        sound = read(clips.file(row), start_s=start_s, end_s=end_s)
        files.append(folder / f"{row:03d}.wav")
        soundfile.write(files[-1], sound.samples, sound.sample_rate_hz, "PCM_16")
    return files


def timed(score: Callable[[Path], Score], files: list[Path]) -> tuple[list[Score], float]:
    """Scores, and the median milliseconds of a clip."""
    scores, times = [], []
    for file in files:
        start = time.perf_counter()
        scores.append(score(file))
        times.append(1e3 * (time.perf_counter() - start))
    return scores, statistics.median(times)


def samples_of(file: Path, sample_rate_hz: int) -> NDArray[np.float32]:
    return np.concatenate(list(recording_blocks(file, sample_rate_hz)())).astype(np.float32)


def by_torch(model_path: Path) -> Callable[[Path], Score]:
    model, card = load_model(model_path)
    calibrator = calibration.from_dict(card.calibration)
    window_frames = round(card.window_s * card.features.frames_per_s)
    threshold = 0.5 if card.threshold is None else card.threshold

    def score(file: Path) -> Score:
        features = featurise(samples_of(file, card.features.sample_rate_hz), card.features)
        logits = score_recordings(model, [features], window_frames=window_frames).astype(np.float64)
        probability = float(calibrator.apply(logits)[0, 1])
        return probability, probability >= threshold

    return score


def by_predict(onnx_path: Path, positive: str) -> Callable[[Path], Score]:
    predictor = Predictor(onnx_path)

    def score(file: Path) -> Score:
        found = predictor.predict(file)
        return None if found.reason else (found.probabilities[positive], found.decision == positive)

    return score


def in_browser(onnx_path: Path, positive: str, files: list[Path]) -> tuple[list[Score], float]:
    """Every file opened in the page, as a person would; the time is from choosing it to the result in view."""
    page = importlib.import_module("test_page")
    served = page.Served(onnx_path)
    try:
        with page.driver() as start:
            browser = start()
            browser.open(served.url)
            page.ready(browser)

            def score(file: Path) -> Score:
                found = page.opened(browser, file)["prediction"]
                if found["reason"]:
                    return None
                return found["probabilities"][positive], found["decision"] == positive

            made = timed(score, files)
            browser.close()
            return made
    finally:
        served.stop()


def line_of(
    form: str, reference: list[Score], found: list[Score], labels: NDArray[np.bool_], ms: float, n_bytes: int
) -> dict[str, Any]:
    both = [i for i, pair in enumerate(zip(reference, found, strict=True)) if None not in pair]
    pairs = [(one, other) for i in both if (one := reference[i]) and (other := found[i])]
    return {
        "kind": "form",
        "form": form,
        "n_clips": len(both),
        "n_abstained": sum(one is None for one in found),
        "max_difference": max(abs(a[0] - b[0]) for a, b in pairs),
        "n_changed": sum(a[1] != b[1] for a, b in pairs),
        "auroc": auroc(labels[both], np.array([b[0] for _, b in pairs])),
        "ms": round(ms, 2),
        "n_bytes": n_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--corpus", default="donateacry")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--no-page", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here as well, as JSON lines")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clips, others = chosen(arguments.corpus, arguments.clips)
    _, card = load_model(arguments.model)
    if not card.positive:
        raise ValueError(f"{arguments.model}: has {len(card.class_names)} classes; the comparison is of two")
    labels = clips.label == card.positive
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = as_wav(clips, folder)
        reference, ms = timed(by_torch(arguments.model), files)
        lines.append(line_of("torch", reference, reference, labels, ms, arguments.model.stat().st_size))
        onnx_path, int8_path = folder / "model.onnx", folder / "int8.onnx"
        export_onnx(arguments.model, onnx_path)
        quantise(onnx_path, others, int8_path)
        for form, path in (("onnx", onnx_path), ("onnx int8", int8_path)):
            found, ms = timed(by_predict(path, card.positive), files)
            lines.append(line_of(form, reference, found, labels, ms, path.stat().st_size))
        for bits in (32, 8):
            header = folder / f"model{bits}.h"
            written = export_c(arguments.model, header, bits=bits)
            with compiled(header, card, ()) as program:

                def by_c(file: Path) -> Score:
                    result = program.classify(samples_of(file, card.features.sample_rate_hz))
                    if result["status"]:
                        return None
                    return float(result["probability"][1]), bool(result["decision"] == 1)

                found, ms = timed(by_c, files)
            lines.append(line_of(f"C, {bits} bits", reference, found, labels, ms, written.constant_bytes))
        if not arguments.no_page:
            for form, path in (("page", onnx_path), ("page, int8", int8_path)):
                found, ms = in_browser(path, card.positive, files)
                lines.append(line_of(form, reference, found, labels, ms, path.stat().st_size))
    for line in lines:
        print(json.dumps(line))
    if arguments.json:
        about = {"model": card.model, "data": arguments.corpus}
        write_atomic(arguments.json, "".join(json.dumps(about | line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
