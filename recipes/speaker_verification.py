"""Speaker verification by tensor-train recurrent networks: the thesis's table, on the adult speech at hand.

    python recipes/speaker_verification.py              every configuration and seed that is not done yet
    python recipes/speaker_verification.py --collect    recipes/results/speaker-verification.jsonl, and the table

Needs $VAGITUS_DATA (or --root). Run the first command in as many terminals as there are cores: a run that
another process is at is passed over, a run that is done is not done again, and one that was killed starts anew.

Data (subsets of the corpora: no figure from here is a full corpus's figure)
    training    speakers of LibriSpeech train-clean-100 (one utterance of at most 4 s each), Arabic Speech
                Commands and DSPSpeech-20 (isolated words of 1 and 2 s). A batch takes half of its speakers
                from the first and a quarter from each of the others. Where a word does not fill a crop, words
                of the same round or take are put end to end, as features.
    dev         other speakers of the same three, N_DEV_SPEAKERS of each: for picking the epoch and, in short
                trials before, learning rates and crops. LibriSpeech's are the two halves of one utterance each.
    test        the 10 speakers of LibriSpeech test-other, 10 utterances each, all pairs: 450 of one speaker, 4,500
                of two. Nobody of them is heard in training or dev. A speaker's utterances are of one chapter,
                so voice and recording go together, and the EER flatters.

Where it departs from the thesis (arXiv:2010.04196)
    20,000 steps              240: one core has no time for more. Adam's rate falls as a cosine, from 1e-3 for the
                              dense network, as in the thesis, and from 1e-2 for tensor trains: the best on dev
                              with one seed, dense of 1e-3 and 3e-3, 3 cores at rank 2 of 3e-3, 1e-2 and 2e-2.
                              (The very first trials printed the test's EER too.)
    crops of 160 frames       100, so that an utterance of 4 s gives four that do not overlap. With two of 160 the
                              loss stayed near log n_speakers, that of embeddings all alike, over 200 steps.
    the last hidden state     the mean over the crop, from which the first hundred steps already learn.
    one seed, no interval     several, and an interval over speakers and seeds together.
"""

import argparse
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tables import RESULTS, ROOT, size_table
from torch import Tensor, nn

import vagitus
from vagitus.corpora import load_corpus
from vagitus.features import FeatureCache, FeatureConfig
from vagitus.files import locked, write_atomic
from vagitus.losses import ge2e
from vagitus.metrics import FloatArray, Statistic, equal_error_rate, equal_error_statistic
from vagitus.statistics import paired_bootstrap, subject_bootstrap
from vagitus.study import versions
from vagitus.tensor_train import TTLSTM, Counts, TTLinear
from vagitus.training import TrainConfig, fit
from vagitus.windows import cut_window, window_starts

Features = NDArray[np.float32]  # (n_mels, n_frames) of one recording
Speaker = dict[str, list[Features]]  # by round or take

NAME = "speaker-verification"
DENSE_RATE, TT_RATE = 1e-3, 1e-2
EMBEDDING_DIM = 256
TRAINING_CORPORA = {"train-clean-100": 0.5, "speech_commands": 0.25, "dspspeech20": 0.25}  # share of a batch
N_DEV_SPEAKERS = {"train-clean-100": 30, "speech_commands": 6, "dspspeech20": 6}
DEV_SEED = 0  # which speakers are dev is the same in every run
DEV_UTTERANCES = 8  # of a dev speaker of words
DEV_UTTERANCE_FRAMES = 400  # as long as the test's, 4 s
EVALUATION_BATCH = 64
RESAMPLE_ROWS = 256  # of weights at once: 4,950 trials each, 10 MB
FRONT_END = FeatureConfig(f_min_hz=20.0, n_bands=40, normalisation="mean")  # 16 kHz, 25/10 ms

# The thesis's table: (cores, rank) -> parameters, biases included; 0 cores for dense.
THESIS_PARAMETERS = {
    (0, 0): 2_682_112,
    **dict(zip([(2, rank) for rank in range(1, 5)], (8_176, 13_024, 17_872, 22_720), strict=True)),
    **dict(zip([(3, rank) for rank in range(1, 5)], (4_104, 5_392, 7_192, 9_504), strict=True)),
    **dict(zip([(4, rank) for rank in range(1, 5)], (3_668, 4_312, 5_260, 6_512), strict=True)),
}
THESIS_HIDDEN = 768


class Options(BaseModel):
    """What every run of a table shares. Frozen; runs under other options are kept apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(THESIS_HIDDEN, ge=1)
    steps: int = Field(240, ge=1)
    epochs: int = Field(8, ge=1)  # dev evaluations, steps / epochs apart
    n_speakers: int = Field(12, ge=4)  # a batch
    n_crops: int = Field(4, ge=2)  # of each speaker
    crop_frames: int = Field(100, ge=1)
    gradient_clip: float = Field(3.0, gt=0)
    threads: int = Field(1, ge=1)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.steps / self.epochs)


class Configuration(NamedTuple):
    """A network of the table; 0 cores is the dense one."""

    n_cores: int
    rank: int

    @property
    def name(self) -> str:
        return f"{self.n_cores} cores, rank {self.rank}" if self.n_cores else "dense"


class SpeakerEncoder(nn.Module):
    """Mean hidden state of one recurrent layer, projected, of length 1: (batch, n_mels, n_frames) -> (batch, dim)."""

    def __init__(self, configuration: Configuration, hidden: int) -> None:
        super().__init__()
        n_mels = FRONT_END.n_rows
        self.recurrent: nn.Module
        self.projection: nn.Module
        if configuration.n_cores:
            n_cores, rank = configuration
            self.recurrent = TTLSTM(n_mels, hidden, n_cores=n_cores, rank=rank, factoring="thesis")
            self.projection = TTLinear(hidden, EMBEDDING_DIM, n_cores=n_cores, rank=rank, factoring="thesis")
        else:
            self.recurrent = one_bias_lstm(n_mels, hidden)
            self.projection = nn.Linear(hidden, EMBEDDING_DIM)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x.permute(2, 0, 1))  # (n_frames, batch, hidden)
        return F.normalize(self.projection(states.mean(dim=0)).float(), dim=-1)


def one_bias_lstm(n_in: int, hidden: int) -> nn.LSTM:
    """torch's LSTM with the second of its two biases, which are only ever added, held at zero and not counted."""
    lstm = nn.LSTM(n_in, hidden)
    nn.init.zeros_(lstm.get_parameter("bias_hh_l0")).requires_grad_(False)
    return lstm


def count(layers: Iterable[nn.Module]) -> Counts:
    """Trained parameters: in cores or dense weights, biases, and all; and of dense layers of the same sizes."""
    cores = bias = dense = trained = 0
    for layer in layers:
        own = {name: p.numel() for name, p in layer.named_parameters() if p.requires_grad}
        trained += sum(own.values())
        if isinstance(layer, TTLSTM | TTLinear):
            cores, bias, dense = (
                cores + layer.counts.cores,
                bias + layer.counts.bias,
                dense + layer.counts.dense,
            )
        else:
            own_bias = sum(n for name, n in own.items() if name.startswith("bias"))
            cores, bias = cores + sum(own.values()) - own_bias, bias + own_bias
            dense += sum(own.values())
    if cores + bias != trained:
        raise RuntimeError(
            f"{cores} weights and {bias} biases were counted, but {trained} numbers are trained"
        )
    return Counts(cores, bias, trained, dense)


class GE2E(nn.Module):
    """The objective, with its learned scale and bias; the scale as its logarithm, so that it stays positive."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, model: nn.Module, batch: "CropBatch") -> dict[str, Tensor]:
        n_speakers, n_crops = batch.x.shape[:2]
        embeddings = model(batch.x.flatten(0, 1)).unflatten(0, (n_speakers, n_crops))
        return {"ge2e": ge2e(embeddings, self.log_scale.exp(), self.bias)}


class CropBatch(NamedTuple):
    x: Tensor  # (n_speakers, n_crops, n_mels, n_frames)


class SpeakerBatches:
    """Crops of some speakers of every corpus: what ``fit`` calls once an epoch."""

    def __init__(self, corpora: Mapping[str, Sequence[Speaker]], options: Options, seed: int) -> None:
        self.corpora, self.options, self.seed = corpora, options, seed

    def __call__(self, epoch: int) -> Iterator[CropBatch]:
        rng = np.random.default_rng([self.seed, epoch])
        n_crops, n_frames = self.options.n_crops, self.options.crop_frames
        while True:
            x = []
            for corpus, speakers in self.corpora.items():
                n_drawn = round(self.options.n_speakers * TRAINING_CORPORA[corpus])
                for index in rng.choice(len(speakers), n_drawn, replace=False):
                    x.append(np.stack(draw_crops(speakers[index], n_crops, n_frames, rng)))
            yield CropBatch(torch.from_numpy(np.stack(x)))


def draw_crops(speaker: Speaker, n_crops: int, n_frames: int, rng: np.random.Generator) -> list[Features]:
    """Crops that do not overlap, (n_mels, n_frames) each.

    One recording is cut at random places; if it is too short for that, at even ones that overlap. Of words, each
    crop takes the next round or take, and so many of its words in random order, put end to end, as fill it.
    """
    recordings = [recording for rounds in speaker.values() for recording in rounds]
    if len(recordings) == 1:
        slack = recordings[0].shape[1] - n_crops * n_frames
        if slack >= 0:
            starts = np.sort(rng.integers(0, slack + 1, n_crops)) + n_frames * np.arange(n_crops)
        else:
            starts = np.linspace(0, max(slack + (n_crops - 1) * n_frames, 0), n_crops).astype(np.int64)
        return [cut_window(recordings[0], int(start), n_frames) for start in starts]
    order = rng.permutation(list(speaker))
    left = {name: list(rng.permutation(len(rounds))) for name, rounds in speaker.items()}
    crops = []
    for position in range(n_crops):
        name = order[position % len(order)]
        joined = np.empty((FRONT_END.n_rows, 0), np.float32)
        while joined.shape[1] < n_frames:
            left[name] = left[name] or list(rng.permutation(len(speaker[name])))
            joined = np.concatenate([joined, speaker[name][left[name].pop()]], axis=1)
        crops.append(cut_window(joined, int(rng.integers(joined.shape[1] - n_frames + 1)), n_frames))
    return crops


class Trials(NamedTuple):
    """Utterances that are all compared with each other."""

    utterances: list[Features]
    speaker: NDArray[np.int64]  # of each utterance


class Data(NamedTuple):
    train: dict[str, list[Speaker]]
    dev: dict[str, Trials]
    test: Trials


def load_data(root: Path | None, cache: FeatureCache) -> Data:
    """The three corpora by subset, speakers in the order of their names."""
    subsets: dict[str, dict[str, Speaker]] = {}
    for corpus in ("librispeech", "speech_commands", "dspspeech20"):
        manifest = load_corpus(corpus, root=root, task="speakers")
        for row in range(len(manifest)):
            # WORD/SPEAKER_NO_ROUND and speakerNN/wordWW_takeT; LibriSpeech's utterances are not put together.
            words = Path(str(manifest.path[row])).stem.rpartition("_")[2] if corpus != "librispeech" else ""
            subset = str(manifest.covariates["subset"][row]) if corpus == "librispeech" else corpus
            speaker = subsets.setdefault(subset, {}).setdefault(str(manifest.subject[row]), {})
            speaker.setdefault(words, []).append(cache.get_or_compute(manifest.file(row), FRONT_END))
    train, dev = {}, {}
    for subset, n_dev in N_DEV_SPEAKERS.items():
        names = sorted(subsets[subset])
        held_out = set(np.random.default_rng(DEV_SEED).permutation(names)[:n_dev].tolist())
        train[subset] = [subsets[subset][name] for name in names if name not in held_out]
        dev[subset] = dev_trials([subsets[subset][name] for name in sorted(held_out)])
    test = [subsets["test-other"][name] for name in sorted(subsets["test-other"])]
    return Data(
        train, dev, make_trials([[u for rounds in speaker.values() for u in rounds] for speaker in test])
    )


def dev_trials(speakers: list[Speaker]) -> Trials:
    """Words put end to end to utterances of 4 s, as many of every round or take; or one utterance's two halves."""
    utterances: list[list[Features]] = []
    for speaker in speakers:
        own = []
        for rounds in speaker.values():
            if len(rounds) == 1:
                own += np.array_split(rounds[0], 2, axis=1)
                continue
            n_words = math.ceil(DEV_UTTERANCE_FRAMES / rounds[0].shape[1])
            joined = [
                np.concatenate(rounds[first : first + n_words], axis=1)
                for first in range(0, len(rounds) - n_words + 1, n_words)
            ]
            chosen = np.linspace(0, len(joined) - 1, max(DEV_UTTERANCES // len(speaker), 1)).astype(np.int64)
            own += [joined[index] for index in chosen]
        utterances.append(own)
    return make_trials(utterances)


def make_trials(utterances: list[list[Features]]) -> Trials:
    speaker = np.repeat(np.arange(len(utterances)), [len(own) for own in utterances])
    return Trials([utterance for own in utterances for utterance in own], speaker)


@torch.no_grad()
def embed(model: nn.Module, utterances: list[Features], n_frames: int) -> FloatArray:
    """(n_utterances, dim), length 1: the mean over windows of a crop's length that overlap by half."""
    device = next(model.parameters()).device
    windows, owner = [], []
    for index, utterance in enumerate(utterances):
        for start in window_starts(utterance.shape[1], n_frames, max(n_frames // 2, 1)):
            windows.append(cut_window(utterance, int(start), n_frames))
            owner.append(index)
    embeddings = [
        model(torch.from_numpy(np.stack(windows[first : first + EVALUATION_BATCH])).to(device)).cpu()
        for first in range(0, len(windows), EVALUATION_BATCH)
    ]
    sums = torch.zeros(len(utterances), EMBEDDING_DIM).index_add_(
        0, torch.tensor(owner), torch.cat(embeddings)
    )
    mean: FloatArray = F.normalize(sums, dim=-1).double().numpy()
    return mean


def score_trials(model: nn.Module, trials: Trials, n_frames: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Speakers (n_trials, 2) and cosines (n_trials,) of all pairs of utterances."""
    embeddings = embed(model, trials.utterances, n_frames)
    first, second = np.triu_indices(len(embeddings), k=1)
    cosines = embeddings @ embeddings.T
    return np.stack([trials.speaker[first], trials.speaker[second]], axis=1), cosines[first, second]


def error_rate(speakers: NDArray[np.int64], scores: FloatArray) -> float:
    return equal_error_rate(speakers[:, 0] == speakers[:, 1], scores)


def resampled_error(speakers: NDArray[np.int64], scores: FloatArray) -> Statistic:
    """EER as a function of how often each test speaker is drawn, for ``subject_bootstrap``.

    A trial of speakers a and b counts w_a w_b times, one within a speaker w_a times: each copy of a speaker
    is one more who is compared with itself, and with no other copy of itself.
    """
    is_same = speakers[:, 0] == speakers[:, 1]
    statistic = equal_error_statistic(is_same, scores)

    def of_speakers(weights: FloatArray) -> FloatArray:
        values = []
        for first in range(0, len(weights), RESAMPLE_ROWS):
            a, b = (weights[first : first + RESAMPLE_ROWS][:, column] for column in speakers.T)
            values.append(statistic(np.where(is_same, a, a * b)))
        return np.concatenate(values)

    return of_speakers


def run(configuration: Configuration, seed: int, data: Data, options: Options) -> dict[str, Any]:
    """Train one network and compare the test utterances: a line of results, with the trials' scores."""
    started, started_cpu = time.monotonic(), time.process_time()
    torch.manual_seed(seed)
    model = SpeakerEncoder(configuration, options.hidden)
    counts = count([model.recurrent, model.projection])
    if options.hidden == THESIS_HIDDEN and counts.total != THESIS_PARAMETERS.get(configuration, counts.total):
        raise RuntimeError(
            f"{configuration.name} has {counts.total} parameters, the thesis's {THESIS_PARAMETERS[configuration]}"
        )
    config = TrainConfig(
        epochs=options.epochs,
        patience=options.epochs,
        lr=TT_RATE if configuration.n_cores else DENSE_RATE,
        weight_decay=0.0,  # AdamW without it is Adam
        gradient_clip=options.gradient_clip,
        precision="32-true",  # contracting is done in the cores' precision, so the dense network has the same
    )

    def dev_errors(model: nn.Module) -> dict[str, float]:
        return {
            name: error_rate(*score_trials(model, trials, options.crop_frames))
            for name, trials in data.dev.items()
        }

    history = fit(
        model,
        GE2E(),
        SpeakerBatches(data.train, options, seed),
        config,
        steps_per_epoch=options.steps_per_epoch,
        seed=seed,
        dev_score=lambda model: -float(np.mean(list(dev_errors(model).values()))),
    )
    best = max(history, key=lambda record: record["dev_score"])
    speakers, scores = score_trials(model, data.test, options.crop_frames)
    interval = subject_bootstrap(
        resampled_error(speakers, scores), np.unique(speakers), rng=np.random.default_rng(seed)
    )
    return {
        "kind": "run",
        "configuration": configuration.name,
        "n_cores": configuration.n_cores,
        "rank": configuration.rank,
        "seed": seed,
        "parameters": counts.total,
        "bias": counts.bias,
        "dense_parameters": counts.dense,
        "lr": config.lr,
        "steps": options.epochs * options.steps_per_epoch,
        "best_epoch": best["epoch"],
        "train_loss": history[-1]["ge2e"],
        "dev_eer": -best["dev_score"],
        "dev_eer_by_corpus": dev_errors(model),
        "test_eer": asdict(interval),
        "n_train_speakers": {name: len(speakers) for name, speakers in data.train.items()},
        "n_same": int((speakers[:, 0] == speakers[:, 1]).sum()),
        "n_different": int((speakers[:, 0] != speakers[:, 1]).sum()),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - started_cpu, 1),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "options": options.model_dump(),
        "versions": versions(),
        # The runs' own file keeps these for the intervals over seeds; the results leave them out.
        "speakers": speakers.tolist(),
        "scores": np.round(scores, 6).tolist(),
    }


def run_folder(name: str, options: BaseModel) -> Path:
    """Where runs under these options are kept, one JSON file each."""
    said = json.dumps([vagitus.__version__, options.model_dump()], sort_keys=True)
    return ROOT / "out" / name / hashlib.blake2b(said.encode(), digest_size=6).hexdigest()


def run_missing(folder: Path, jobs: Mapping[str, Callable[[], dict[str, Any]]]) -> None:
    """Do every job whose file is not there and that no other process is at; keep each answer as soon as it is there."""
    for name, job in jobs.items():
        path = folder / f"{name}.json"
        if path.exists():
            continue
        with ExitStack() as held:
            try:
                held.enter_context(locked(folder / "locks" / name, "this run"))
            except ValueError:
                continue  # another process is at it
            if not path.exists():
                line = job()
                write_atomic(path, json.dumps(line))
                print(f"{name}: {line['seconds']:.0f} s", flush=True)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs that are done, by configuration and seed.

    Raises:
        FileNotFoundError: none is.
    """
    lines = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    if not lines:
        raise FileNotFoundError(f"{folder}: no run is done under these options; leave out --collect first")
    return sorted(lines, key=lambda line: (line["n_cores"], line["rank"], line["seed"]))


def summaries(
    runs: list[dict[str, Any]],
    statistic_of: Callable[[dict[str, Any]], Statistic],
    metric: str,
    units: FloatArray | NDArray[np.int64],
) -> list[dict[str, Any]]:
    """One line a configuration: the mean over seeds, and the difference from dense, over seeds and units together.

    Args:
        statistic_of: run -> its metric as a function of weights of the units.
        metric: the name of the metric in the lines.
        units: what is resampled beside seeds.
    """
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for line in runs:
        by_name.setdefault(line["configuration"], {})[line["seed"]] = line
    made = []
    for name, by_seed in by_name.items():
        first = next(iter(by_seed.values()))
        rng = np.random.default_rng(0)
        interval = subject_bootstrap([statistic_of(line) for line in by_seed.values()], units, rng=rng)
        summary = {
            "kind": "summary",
            **{key: first[key] for key in ("configuration", "n_cores", "rank", "parameters", "bias", "lr")},
            "times_smaller": first["dense_parameters"] / first["parameters"],
            "seeds": list(by_seed),
            metric: asdict(interval),
            "cpu_seconds": round(sum(line["cpu_seconds"] for line in by_seed.values()) / len(by_seed), 1),
        }
        paired = [seed for seed in by_seed if seed in by_name.get("dense", {})]
        if name != "dense" and paired:
            difference = paired_bootstrap(
                [statistic_of(by_seed[seed]) for seed in paired],
                [statistic_of(by_name["dense"][seed]) for seed in paired],
                units,
                rng=rng,
            )
            summary["difference_from_dense"] = asdict(difference)
        made.append(summary)
    return made


def table(lines: list[dict[str, Any]]) -> str:
    """The thesis's table, from the lines of speaker-verification.jsonl."""
    return size_table(lines, "test_eer", "test EER %")


def write_results(name: str, lines: list[dict[str, Any]], dropped: Sequence[str] = ()) -> None:
    """Write recipes/results/NAME.jsonl, whole or not at all, without the keys that only the runs' files keep."""
    kept = [{key: value for key, value in line.items() if key not in dropped} for line in lines]
    write_atomic(RESULTS / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in kept))


def collect(options: Options) -> str:
    """Write the results of all runs that are done under these options, and give the table."""
    runs = read_runs(run_folder(NAME, options))
    speakers = np.unique(runs[0]["speakers"])
    made = summaries(
        runs,
        lambda line: resampled_error(np.array(line["speakers"]), np.array(line["scores"])),
        "test_eer",
        speakers,
    )
    write_results(NAME, [*runs, *made], dropped=("speakers", "scores"))
    return table(made)


def main() -> None:
    defaults = Options()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, help="the data root; default $VAGITUS_DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--cores", type=int, nargs="*", default=[2, 3, 4], help="of the tensor trains")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 3, 4])
    parser.add_argument("--dense", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--collect", action="store_true", help="write the results of what is done, and end")
    for name, value in defaults.model_dump().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = parser.parse_args()
    options = Options(**{name: getattr(arguments, name) for name in Options.model_fields})
    if arguments.collect:
        print(collect(options), end="")
        return
    # Fabric announces its precision once per fit.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    try:
        data = load_data(arguments.root, FeatureCache(ROOT / "out" / NAME / "features"))
    except FileNotFoundError as error:
        parser.error(str(error))
    configurations = [Configuration(0, 0)] * arguments.dense
    configurations += [Configuration(n, rank) for n in arguments.cores for rank in arguments.ranks]
    jobs = {
        f"{configuration.name}, seed {seed}": partial(run, configuration, seed, data, options)
        for seed in arguments.seeds
        for configuration in configurations
    }
    run_missing(run_folder(NAME, options), jobs)


if __name__ == "__main__":
    main()
