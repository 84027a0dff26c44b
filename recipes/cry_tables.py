"""Sections of RESULTS.md on cry events and cry verification, by the kind of a file's first line; see ``tables``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "recipes" / "results", ROOT / "benchmarks" / "results")


def lines_of(name: str) -> list[dict[str, Any]]:
    path = next(folder / f"{name}.jsonl" for folder in FOLDERS if (folder / f"{name}.jsonl").exists())
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_kind(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def interval(value: dict[str, Any], digits: int = 3) -> str:
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(
        *(value[key] for key in ("estimate", "low", "high")), d=digits
    )


def markdown(rows: list[list[str]], numbers_from: int = 1) -> str:
    header, *rest = rows
    rule = ["---"] * numbers_from + ["---:"] * (len(header) - numbers_from)
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rest))


def detector_section(name: str) -> str:
    """What the shipped cry detector was measured to do, on sources that its fold's network never heard."""
    lines = lines_of(name)
    about = lines[0]
    text = (
        f"\n## The cry detector that comes along ({name})\n\n`{about['command']}`; {about['n_parameters']:,} "
        f"parameters, {about['n_bytes'] / 1000:.0f} kB; {about['n_folds']} folds by source, every figure from networks "
        "that never heard the source. Nobody marked cries in these recordings: windows are labelled by "
        "`segment.cry_expirations`.\n\n"
    )
    rows = [["what", "metric", "n", "value"]]
    rows += [[m["what"], m["metric"], str(m["n"]), interval(m)] for m in of_kind(lines, "metric")]
    text += markdown(rows, 2)
    alarms = of_kind(lines, "false_alarms")
    thresholds = sorted({line["threshold"] for line in alarms})
    text += (
        "\nFalse alarms in an hour without a cry: expirations that level and pitch propose (threshold 0), and those "
        "that the detector lets through. Recordings were put end to end.\n\n"
    )
    rows = [["sound", "hours", *(f"from {threshold:g}" for threshold in thresholds)]]
    for what in dict.fromkeys(line["what"] for line in alarms):
        own = {line["threshold"]: line for line in alarms if line["what"] == what}
        hours = f"{next(iter(own.values()))['hours']:.2f}"
        rows.append([what, hours, *(interval(own[t], 0) if t in own else "" for t in thresholds)])
    return text + markdown(rows)


def verification_section(name: str) -> str:
    """EER of every arm and condition."""
    lines = lines_of(name)
    about = lines[0]
    text = (
        f"\n## Is this the same infant? ({name})\n\n`{about['command']}`\n\n{about['n_recordings']} recordings of "
        f"{about['n_infants']} infants ({about['n_infants_of_two']} with two recordings or more) on "
        f"{about['n_uuids']} phones; {about['n_folds']} folds by phone (app instance), seed {about['seed']}. An infant "
        "is an app instance, gender and age: **who shares one shares the phone**. EER with its interval over phones, "
        "scores normalised by the training folds; recordings that no arm was trained on. `background` hears only what "
        "is between the cries: what it reaches is the phone and the room. *Same phone*: the pairs of two are of one "
        "phone and another gender, so that the phone tells nothing.\n\n"
    )
    arms = [line for line in of_kind(lines, "arm") if line["scores"] == "s-norm"]
    conditions = list(dict.fromkeys(line["condition"] for line in arms))
    rows = [["arm", *conditions]]
    for arm in dict.fromkeys(line["arm"] for line in arms):
        own = {line["condition"]: line for line in arms if line["arm"] == arm}
        rows.append([f"`{arm}`", *(interval(own[condition]["eer"]) for condition in conditions)])
    first = {line["condition"]: line for line in arms if line["arm"] == arms[0]["arm"]}
    counts = [f"{first[c]['n_same']:,} of one, {first[c]['n_different']:,} of two" for c in conditions]
    text += markdown([*rows, ["trials", *counts]]) + "\n"
    for line in of_kind(lines, "all_pairs"):
        text += (
            f"- `{line['arm']}`, plain cosine over all pairs, {line['condition']}: {line['eer']:.3f} "
            f"({line['n_same']:,} of one, {line['n_different']:,} of two)\n"
        )
    for line in of_kind(lines, "identification"):
        if line["arm"] in ("ge2e", "fused"):
            rates = ", ".join(f"{key} {line[key]:.2f}" for key in ("rank 1", "rank 5", "rank 10"))
            text += (
                f"- `{line['arm']}`, identification a day or more later among {line['mean_infants']:.0f} infants, "
                f"{line['n_probes']} probes: {rates}\n"
            )
    for line in of_kind(lines, "det"):
        points = ", ".join(
            f"{miss:.2f} [{low:.2f}, {high:.2f}] at {rate:g}"
            for rate, miss, low, high in zip(
                line["false_accepts"], line["false_rejects"], line["low"], line["high"], strict=True
            )
        )
        text += f"- `{line['arm']}`, {line['condition']}, misses at shares of false accepts: {points}\n"
    for line in of_kind(lines, "adults"):
        text += (
            f"- adult sanity: `{line['arm']}` on {line['n_subjects']} speakers of LibriSpeech test-other, all pairs: "
            f"EER {interval(line['eer'])}\n"
        )
    return text


def speed_section(name: str) -> str:
    """The benchmark of events and trials."""
    lines = lines_of(name)
    text = (
        f"\n## Speed of cry events and trials ({name})\n\n`python benchmarks/events.py --json "
        f"benchmarks/results/{name}.jsonl`, one thread; CPU seconds, the best of three.\n\n"
    )
    rows = [["what", "how much", "CPU s", "aim", "peak MB"]]
    for line in lines:
        much = (
            f"{line['minutes']:g} min of {line['data']}"
            if "minutes" in line
            else f"{line['n_trials']:,} trials"
        )
        aim = f"< {line['limit_s']:g}: {'met' if line['is_met'] else 'missed'}" if "limit_s" in line else ""
        peak = f"{line['peak_mb']:.0f}" if "peak_mb" in line else ""
        rows.append([line["what"], much, f"{line['cpu_s']:.2f}", aim, peak])
    return text + markdown(rows, 2)


SECTIONS: dict[str, Callable[[str], str]] = {
    "cry_detector": detector_section,
    "infant_verification": verification_section,
    "events_speed": speed_section,
}
