"""The tables of README.md and RESULTS.md, from the lines in recipes/results and benchmarks/results: ``make results``.

A table stands between two markers, ``<!-- table NAME -->`` and ``<!-- end -->``; what is between them is
replaced. RESULTS.md is written whole.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cry_tables import SECTIONS as CRY_SECTIONS
from drawing import difference_text, panels, save_svg
from representation_table import PREFIX, overview, plot_label_efficiency
from robustness_table import ALPHA, curves_table, plot_curves

from vagitus.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes" / "results"
DOCS = ROOT / "docs"
BENCHMARKS = ROOT / "benchmarks" / "results"
SHOWN = {"auroc": "AUROC", "macro_auroc": "macro AUROC", "uar": "UAR", "brier": "Brier"}
MARKED = re.compile(r"(<!-- table ([\w.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

HEAD = """# Results

Made by `make results` from the lines in `recipes/results/`; never typed. Each study runs again with the command
above its table and the data root in `$VAGITUS_DATA`. Brackets are 95 % intervals from resampling subjects.
The recordings at hand are **subsets** of the corpora: no figure here is a full corpus's figure. Research use only,
not a diagnosis.
"""


def read_results(name: str) -> list[dict[str, Any]]:
    """The committed lines of one recipe."""
    folder = RESULTS if (RESULTS / f"{name}.jsonl").exists() else BENCHMARKS
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def of_kind(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == kind]


def cell(metric: dict[str, float | None]) -> str:
    values = [value for key in ("estimate", "low", "high") if (value := metric[key]) is not None]
    if len(values) < 3:
        return "undefined"
    return "{:.3f} [{:.3f}, {:.3f}]".format(*values)


def arms_table(lines: list[dict[str, Any]]) -> str:
    """Arms with their main metrics, best first."""
    summaries = of_kind(lines, "summary")
    names = [name for name in SHOWN if name in summaries[0]["metrics"]]
    summaries.sort(key=lambda line: -(line["metrics"][names[0]]["estimate"] or 0))
    rows = [["arm", *(SHOWN[name] for name in names)], ["---"] * (1 + len(names))]
    rows += [[f"`{line['arm']}`", *(cell(line["metrics"][name]) for name in names)] for line in summaries]
    return markdown(rows)


def sites_table(lines: list[dict[str, Any]]) -> str:
    """AUROC and UAR of every arm at every site."""
    sites = of_kind(lines, "site")
    names = sorted({line["site"] for line in sites})
    size = {line["site"]: line["n_recordings"] for line in sites}
    rows = [
        ["arm", *(f"{name or 'one site'} (n={size[name]})" for name in names)],
        ["---"] * (1 + len(names)),
    ]
    for arm in dict.fromkeys(line["arm"] for line in sites):
        found = {line["site"]: line["metrics"] for line in sites if line["arm"] == arm}
        metric = "auroc" if "auroc" in found[names[0]] else "macro_auroc"
        rows.append([f"`{arm}`", *(two(found[name][metric], found[name]["uar"]) for name in names)])
    return "AUROC / UAR by site:\n\n" + markdown(rows)


def two(auroc: float | None, uar: float | None) -> str:
    return " / ".join("?" if value is None else f"{value:.3f}" for value in (auroc, uar))


def markdown(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def section(name: str) -> str:
    """One study of RESULTS.md."""
    lines = read_results(name)
    study = lines[0]
    summary = of_kind(lines, "summary")[0]
    text = f"\n## {study['data']}: {study['task'] or 'default task'} ({name})\n\n"
    text += f"`{study['command']}`\n\n"
    text += f"{summary['n_recordings']} recordings, {summary['n_subjects']} subjects, classes "
    text += ", ".join(f"{c} ({n})" for c, n in zip(study["class_names"], study["class_counts"], strict=True))
    text += f"; headline {summary['headline']}; seed {study['config']['seed']}; "
    minutes = sum(line["seconds"] for line in of_kind(lines, "fold")) / 60
    text += f"{minutes:.0f} minutes of one process to fit; vagitus {study['versions']['vagitus']}.\n\n"
    text += "".join(f"- {note}\n" for note in study["notes"]) + ("\n" if study["notes"] else "")
    text += arms_table(lines) + "\n"
    if len(study["sites"]) > 1:
        text += sites_table(lines) + "\n"
    return text + leakage_table(study) + "\n"


def leakage_table(study: dict[str, Any]) -> str:
    """What random recordings and metadata would have made of it, beside whole subjects."""
    probes = [*study["lookups"], *(study["leakage"][side] for side in ("wrong", "right") if study["leakage"])]
    rows = [["what", "split", "AUROC", "UAR"], ["---"] * 4]
    for probe in probes:
        split = f"**{probe['split']}**" if probe["is_wrong"] else probe["split"]
        rows.append([probe["what"], split, cell(probe["auroc"]), cell(probe["uar"])])
    return "The leakage gap, and what is scored with no audio at all:\n\n" + markdown(rows)


def smaller_section(name: str) -> str:
    """What smaller networks cost: a table a network, and the plot of all."""
    lines = read_results(name)
    first = lines[0]
    ranking = ", ".join(f"`{way}`" for way in ("tt rank r", "low_rank rank r", "prune xN", "tt searched xN"))
    text = f"\n## {first['data']}: smaller networks ({name})\n\n`python recipes/smaller_networks.py`\n\n"
    text += f"{first['n_recordings']} recordings, {first['n_subjects']} subjects, seeds {first['seeds']}; one network "
    text += f"a fold. {ranking}: fine-tuned against the dense one; `int8`: the same, stored as integers. Bytes are of "
    text += "the stored tensors; the last column is the AUROC minus the dense network's, with its paired interval.\n\n"
    text += f"![AUROC against bytes](docs/{name}.svg)\n"
    for model in dict.fromkeys(line["model"] for line in lines):
        own = [line for line in lines if line["model"] == model]
        dense = next(line for line in own if line["way"] == "dense")
        rows = [[f"`{model}`", "parameters", "kB", "times smaller", "AUROC", "minus dense"], ["---"] * 6]
        rows += [
            [
                line["way"],
                f"{line['n_parameters']:,.0f}",
                f"{line['n_bytes'] / 1000:,.1f}",
                f"{dense['n_bytes'] / line['n_bytes']:.1f}",
                cell(line["auroc"]),
                "" if line is dense else cell(line["difference"]),
            ]
            for line in sorted(own, key=lambda line: -line["n_bytes"])
        ]
        text += "\n" + markdown(rows)
    return text


def plot_smaller(name: str) -> None:
    """AUROC against bytes, one panel a network, one line a way."""
    lines = read_results(name)
    models = list(dict.fromkeys(line["model"] for line in lines))
    families = ("tt rank", "low_rank rank", "prune", "tt searched")
    figure, axes = panels(len(models), width=5.2)
    for panel, model in zip(axes, models, strict=True):
        own = [line for line in lines if line["model"] == model]
        for way, marker in (("dense", "*"), ("dense int8", "P")):
            line = next(line for line in own if line["way"] == way)
            panel.plot(
                line["n_bytes"] / 1000, line["auroc"]["estimate"], marker, color="black", ms=10, label=way
            )
        for color, family in enumerate(families):
            for suffix, dashes in (("", "-"), (" int8", ":")):
                chosen = [line for line in own if line["way"].startswith(family)]
                chosen = [line for line in chosen if line["way"].endswith("int8") == bool(suffix)]
                chosen.sort(key=lambda line: line["n_bytes"])
                x = [line["n_bytes"] / 1000 for line in chosen]
                y = [line["auroc"]["estimate"] for line in chosen]
                panel.plot(x, y, dashes, marker="o", ms=4, color=f"C{color}", label=family + suffix)
        panel.set(xscale="log", xlabel="kB of weights", title=model)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("AUROC, subjects kept apart")
    axes[-1].legend(fontsize=8)
    save_svg(figure, DOCS / f"{name}.svg")


def robustness_section(name: str) -> str:
    """Means along the curves of every model, and a figure of the curves."""
    lines = read_results(name)
    about = lines[0]
    arguments = about.get("arguments", "")
    script = name.removesuffix(f"-{arguments}").replace("-", "_")
    text = f"\n## {about['data']}: {name.replace('-', ' ')} ({name})\n\n"
    text += f"`{f'python recipes/{script}.py {arguments}'.strip()}`\n\n{about['n_recordings']} recordings, "
    n_seeds = about.get("n_seeds", 1)
    seeds = ", ".join(str(about["seed"] + i) for i in range(n_seeds))
    text += f"{about['n_subjects']} subjects, out of fold, seed{'s' * (n_seeds > 1)} {seeds}; intervals draw subjects"
    text += f"{' and seeds' * (n_seeds > 1)}. The mean of the AUROC along each curve, its area over its span (in dB, "
    text += "Hz or s as they stand), and in parentheses the paired difference from "
    text += (
        f"{about.get('baseline', 'dense')}; in bold where its interval leaves out zero, not adjusted for the "
    )
    text += f"number of curves. {starred(lines)}\n\n"
    if "noise_heard_by" in about:
        heard = ", ".join(f"`{source}` {n}" for source, n in about["noise_heard_by"].items())
        text += f"Clips of the noise of classes that sources had learned from: {heard}.\n\n"
    text += f"![AUROC as recordings get worse](docs/{name}.svg)\n\n"
    return text + markdown(curves_table(lines))


def starred(lines: list[dict[str, Any]]) -> str:
    """What a star says, or why there is none: p of a bootstrap is at least 2 / (n_resamples + 1)."""
    n_tested = sum(line.get("p_holm") is not None for line in lines)
    n_resamples = lines[0].get("n_resamples", 1000)  # of lines written before they said it
    adjusted = f"p adjusted by Holm for all {n_tested}"
    if 2 * n_tested / (n_resamples + 1) >= ALPHA:
        return f"Of {n_resamples:,} resamples no {adjusted} can be under {ALPHA}; the lines hold every point."
    return f"A star: {adjusted} is under {ALPHA}; the lines hold each p, and every point."


def variants_section(name: str) -> str:
    """What else was tried for transfer: a row a variant."""
    about, *lines = read_results(name)
    text = f"\n## {about['data']}: what else was tried for transfer ({name})\n\n"
    text += (
        f"`python recipes/transfer_variants.py {about['arguments']}`\n\n{about['n_recordings']} recordings, "
    )
    text += f"{about['n_subjects']} subjects, seed {about['seed']}. In parentheses the paired difference from what the "
    text += "variant is set beside, with its interval over subjects; in bold where that leaves out zero (not adjusted "
    text += "for the number of variants).\n\n"
    rows = [["variant", "beside", "AUROC", "UAR"], ["---"] * 4]
    for line in lines:
        values = [line["auroc"], line["uar"]]
        cells = [cell(value) for value in values]
        if line["variant"] != line["beside"]:
            keys = ("difference", "difference_low", "difference_high")
            cells = [
                f"{c} {difference_text(*(v[k] for k in keys))}" for c, v in zip(cells, values, strict=True)
            ]
        rows.append([line["variant"], line["beside"] if line["variant"] != line["beside"] else "", *cells])
    return text + markdown(rows)


def size_table(lines: list[dict[str, Any]], metric: str, title: str) -> str:
    """Markdown of the summaries: sizes, the metric in per cent with its interval, and the difference from dense."""
    rows = [["network", "parameters (of which bias)", "times smaller", title, "minus dense"], ["---"] * 5]
    for line in lines:
        if line["kind"] != "summary":
            continue
        difference = line.get("difference_from_dense")
        rows.append(
            [
                line["configuration"],
                f"{line['parameters']:,} ({line['bias']:,})",
                f"{line['times_smaller']:.0f}" if line["n_cores"] else "",
                percent(line[metric], "estimate", ""),
                percent(difference, "difference", "+") if difference else "",
            ]
        )
    return markdown(rows)


def percent(interval: Mapping[str, float], key: str, sign: str) -> str:
    return "{:{s}.1f} [{:{s}.1f}, {:{s}.1f}]".format(
        *(100 * interval[end] for end in (key, "low", "high")), s=sign
    )


# Recipes that train one network in many sizes: title, metric, name of its column.
SIZES = {
    "speaker-verification": ("Speaker verification by tensor trains", "test_eer", "test EER %"),
    "digits": ("Sequential digits, 8 x 8", "test_error", "test error %"),
}


def size_section(name: str) -> str:
    """One recipe of SIZES."""
    title, metric, column = SIZES[name]
    lines = read_results(name)
    script = f"python recipes/{name.replace('-', '_')}.py"
    n_seeds = len(of_kind(lines, "summary")[0]["seeds"])
    text = f"\n## {title} ({name})\n\n`{script}`, then `{script} --collect`; {n_seeds} seeds, biases counted.\n\n"
    return text + size_table(lines, metric, column)


def speed_section(name: str) -> str:
    """The tensor-train benchmark: ratios to the dense layer, and what was aimed at."""
    lines = read_results(name)
    points = of_kind(lines, "speed")
    first = points[0]
    text = (
        f"\n## Speed of tensor-train recurrent layers ({name})\n\n"
        "`python benchmarks/tensor_train.py --json benchmarks/results/tensor-train-speed.jsonl`; "
        f"{first['what'].upper()}, {first['n_inputs']} inputs, {first['n_steps']} steps, rank {first['rank']}, torch "
        f"{first['torch']}. Time as a multiple of torch's dense layer in the same round, the median over rounds; "
        "`auto` is what runs unless told otherwise.\n\n"
    )
    ways = ("rebuild", "contract", "auto")
    head = ["threads", "hidden", "batch", "passes", "dense, ms", *ways, "tensorly-torch"]
    rows = [head, ["---:"] * len(head)]
    for point in points:
        peers = [ratio for name, ratio in point["ratios"].items() if name in ("factorized", "reconstructed")]
        rows.append(
            [
                *(str(point[key]) for key in ("threads", "hidden", "batch", "passes")),
                f"{point['dense_ms']:.1f}",
                *(f"{point['ratios'][way]:.2f}" for way in ways),
                " ".join(f"{ratio:.2f}" for ratio in peers),
            ]
        )
    text += markdown(rows) + "\n\n" + "\n".join(f"- {line['text']}" for line in of_kind(lines, "verdict"))
    for line in of_kind(lines, "memory"):
        peaks = ", ".join(f"{way} {value:.0f}" for way, value in line["peak_mb"].items())
        text += f"\n- peak memory of training, hidden {line['hidden']}, batch {line['batch']}, MB: {peaks}"
    for line in of_kind(lines, "export"):
        files = ", ".join(
            f"{way} {file['kilobytes']:.1f} kB, {file['milliseconds']:.2f} ms"
            for way, file in line["files"].items()
        )
        text += f"\n- exported with hidden {line['hidden']}, a clip of 1 s in onnxruntime: {files}"
    return text + "\n"


def forms_section(name: str) -> str:
    """One model in every form that it is shipped in, on the same clips."""
    lines = read_results(name)
    first = lines[0]
    text = (
        f"\n## One model, every form ({name})\n\n"
        "`python benchmarks/same_clips.py MODEL.safetensors --json benchmarks/results/same-clips.jsonl`; "
        f"{first['model']}, {first['n_clips']} clips of {first['data']} (subset), which may be among those that it was "
        "trained on: AUROC shows what a form loses, not what the model is worth. Against torch; the time is the median "
        "of a clip, from the file to the score.\n\n"
    )
    head = ["form", "largest difference", "decisions changed", "abstained", "AUROC", "ms", "bytes"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for line in lines:
        difference, changed = f"{line['max_difference']:.1e}", f"{line['n_changed']} of {line['n_clips']}"
        rows.append(
            [
                line["form"],
                *(("", "") if line is first else (difference, changed)),
                str(line["n_abstained"]),
                f"{line['auroc']:.4f}",
                f"{line['ms']:.1f}",
                f"{line['n_bytes']:,}",
            ]
        )
    return text + markdown(rows) + "\n"


def adaptation_section(name: str) -> str:
    """Each method at the site left out, beside where it began and its control."""
    lines = read_results(name)
    first = lines[0]
    text = f"\n## {first['data']}: adaptation to the database left out ({name})\n\n"
    text += f"`python recipes/{name}.py`, then `python recipes/{name}_table.py`; rules and reading in docs/{name}.md; "
    text += (
        f"{first['n_recordings']} recordings (subset). Means over databases; balanced accuracy is read at "
    )
    text += "the median of the target's scores. No subject is known: intervals resample recordings and seeds, and "
    text += "may be too narrow. Rows named oracle read the target's labels.\n\n"
    marked = {site: n for site, n in first["n_without_cycle"].items() if n}
    text += "Recordings without a heart cycle get the middle of their site's ranking: "
    text += ", ".join(f"{n} of {site}" for site, n in marked.items()) + ".\n\n"
    rows = [
        [
            "what",
            "of the target",
            "seeds",
            "AUROC, all six",
            "a, b, e, f",
            "balanced accuracy, all six",
            "AUROC gain",
        ],
        ["---"] * 7,
    ]
    found = sorted(of_kind(lines, "row"), key=lambda line: -line["auroc, all six"]["estimate"])
    for line in found:
        gains = [
            f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] on {other}"
            for other, gain in line["gain in auroc"].items()
        ]
        shown = [cell(line[key]) for key in ("auroc, all six", "auroc, a, b, e, f", "uar, all six")]
        rows.append([f"`{line['name']}`", line["regime"], str(len(line["seeds"])), *shown, "; ".join(gains)])
    text += markdown(rows)
    sites = sorted(found[0]["auroc by site"])
    rows = [
        [
            "AUROC",
            *sites,
            "sources' dev part",
            "its change from the source network",
            "e left out of everything",
        ],
        ["---"] * (4 + len(sites)),
    ]
    for line in found:
        by_site = [f"{line['auroc by site'][site]:.3f}" for site in sites]
        at_sources, without_e = (
            "" if value is None else f"{value:.3f}"
            for value in (line.get("source auroc"), line.get("auroc, e left out of everything"))
        )
        change = line.get("change of source auroc")
        changed = (
            f"{change['difference']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" if change else ""
        )
        rows.append([f"`{line['name']}`", *by_site, at_sources, changed, without_e])
    text += "\n" + markdown(rows) + "\nWhat the sources of each target chose (see docs): "
    text += "; ".join(
        f"{site}: {' and '.join(chosen['with self-training'])}, kept {chosen['kept_share']:g}"
        for site, chosen in first["chosen"].items()
    )
    text += ".\n"
    for line in of_kind(lines, "time"):
        text += (
            f"\nTime on `{line['input']}`, from cached features: {line['n_jobs']} trainings and adaptations "
            f"({', '.join(f'`{method}`' for method in line['methods'])}; {len(line['seeds'])} seeds) took "
            f"{line['cpu_s'] / 60:.1f} CPU minutes, {line['cpu_s'] / 60 / line['cores']:.1f} on each of "
            f"{line['cores']} cores that share them evenly; asked for: under {line['asked_minutes']}. The sum of "
            f"their wall times beside other work was {line['wall_s'] / 60:.0f} minutes.\n"
        )
    for line in of_kind(lines, "shift"):
        rows = [["made equal first", "UAR of naming the database", "removed"], ["---"] * 3]
        rows += [
            [n["what"] or "nothing", cell(n["uar"]), f"{round(n['removed'], 2) + 0.0:.0%}"]
            for n in line["naming"]
        ]
        text += "\nWhat tells the databases apart, by statistics of log-mel:\n\n" + markdown(rows)
        text += f"\n{line['n_flipping']} of {line['n_features']} phase features turn round between databases"
        text += "".join(
            f"{',' if i else ':'} {flip['feature']} ({flip['site_up']} {flip['auroc_up']:.2f}, {flip['site_down']} "
            f"{flip['auroc_down']:.2f})"
            for i, flip in enumerate(line["flips"][:5])
        )
        text += ".\n"
    return text


def adaptation_cries_section(name: str) -> str:
    """Cries at the next device: each method beside where it began and its control."""
    lines = of_kind(read_results(name), "row")
    script = f"python recipes/{name.replace('-', '_')}.py"
    text = f"\n## Cries at the next device ({name})\n\n`{script}`, then with `--collect`; rules in docs/adaptation.md; "
    text += "balanced accuracy at the target's median score; intervals resample app instances, seeds. `cry`: "
    text += "usable or rejected, from one platform of donateacry to the other. `detection`: from ESC-10's cries and "
    text += "other sounds to the same labels.\n\n"
    head = ["task and target", "method", "of the target", "seeds", "AUROC", "balanced accuracy", "AUROC gain"]
    rows = [head, ["---"] * len(head)]
    for line in lines:
        gains = [
            f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] on {other}"
            for other, gain in line["gain in auroc"].items()
        ]
        where = f"{line['task']}, {line['target']} (n={line['n_target']})"
        shown = [where, f"`{line['name']}`", line["regime"], str(len(line["seeds"]))]
        rows.append([*shown, cell(line["auroc"]), cell(line["uar"]), "; ".join(gains)])
    return text + markdown(rows)


def training_speed_section(name: str) -> str:
    """Clips a second of the training loop beside the plain one."""
    rows = [
        ["network", "plain loop, clips/s", "from cached features", "with augmentation", "from audio files"],
        ["---"] * 5,
    ]
    for line in read_results(name):
        ratios = line["ratios"]
        rows.append(
            [
                f"`{line['network']}`",
                f"{line['clips_per_s']['plain']:.1f}",
                *(f"{ratios[way]:.2f}" for way in ("cached", "augmented", "from audio")),
            ]
        )
    text = (
        f"\n## Speed of the training loop ({name})\n\n`python benchmarks/training.py`\n\nOne thread, CPU "
        "time; ratios to the plain PyTorch loop over crops in memory, median over rounds.\n\n"
    )
    return text + markdown(rows)


def faults_section(name: str) -> str:
    """Faults that were injected, what was seen, and what was lost by them."""
    rows = [["fault", "where", "what was seen", "lost"], ["---"] * 4]
    rows += [[line["fault"], line["where"], line["seen"], line["lost"]] for line in read_results(name)]
    text = (
        f"\n## Faults injected ({name})\n\n`python benchmarks/faults.py`\n\nSimulated recordings, short trainings. "
        "What was broken was started again with the same words; lost is what then differs from an unbroken "
        "run, byte by byte, but for times. See [docs/faults.md](docs/faults.md).\n\n"
    )
    return text + markdown(rows)


def scale_section(name: str) -> str:
    """Time and memory against recordings and workers, what a killed worker cost, and the model beyond."""
    lines = read_results(name)
    featurised = [line for line in lines if line["what"] == "featurising"]
    rows = [["recordings", "workers", "CPU, ms a recording", "wall, s", "driver, MB", "a worker, MB"]]
    rows.append(["---"] * len(rows[0]))
    for line in featurised:
        n = line["n_recordings"]
        workers = (
            f"{line['n_workers']} {'on a LocalCluster, one killed' if line['n_killed'] else 'in processes'}"
        )
        cpu_ms = 1000 * (line["driver_cpu_s"] + line["workers_cpu_s"]) / n
        memory = [f"{line[which]:.0f}" for which in ("driver_mb", "worker_mb")]
        rows.append([f"{n:,}", workers, f"{cpu_ms:.2f}", f"{line['wall_s']:.0f}", *memory])
    text = (
        f"\n## Very many recordings ({name})\n\n`python benchmarks/scale.py`\n\nRecordings of a second of simulated "
        "cries at 8 kHz to MFCC in shards of 1,000 (`vagitus featurise`), on "
        f"{lines[0]['n_processors']} processors that did other things as well: CPU time counts, wall time does not "
        "repeat. Memory is the highest of the process.\n\n"
    )
    text += markdown(rows)
    for line in featurised:
        if line["n_killed"]:
            n = line["n_recordings"]
            local = next(a for a in featurised if a["n_recordings"] == n and not a["n_killed"])
            worker_ms = 1000 * local["workers_cpu_s"] / n
            handed = next(a for a in lines if a["what"] == "overhead")
            shard_ms = 1000 * max(handed["driver_cpu_s"], handed["scheduler_cpu_s"]) / handed["n_jobs"]
            text += (
                f"\nAfter the worker was killed midway: {line['n_rows']:,} recordings of {n:,}, {line['n_in_place']:,} "
                f"in their place, {line['n_contents']:,} different contents, {line['n_without_features']} without "
                f"features, {line['n_damaged_shards']} damaged shards; every shard "
                f"{'is' if line['same'] else 'IS NOT'} bit by bit that of the single process.\n\n"
                f"Model beyond two processors, not measured: n recordings on w workers take n times {worker_ms:.2f} ms "
                f"divided by w, until the driver or the scheduler, whichever is slower, has no time left: it needs "
                f"{shard_ms:.1f} ms a shard of 1,000, which w = {1000 * worker_ms / shard_ms:.0f} workers ask for. A "
                "file system that slows down is not in it.\n"
            )
    studies = [line for line in lines if line["what"] == "study"]
    if studies:
        rows = [
            ["recordings in a study", "CPU, ms a recording", "wall, s", "of which audit, s", "driver, MB"]
        ]
        rows.append(["---"] * len(rows[0]))
        for line in studies:
            cpu_ms = 1000 * (line["driver_cpu_s"] + line["workers_cpu_s"]) / line["n_recordings"]
            times = [f"{line[which]:.0f}" for which in ("wall_s", "audit_s", "driver_mb")]
            rows.append([f"{line['n_recordings']:,}", f"{cpu_ms:.1f}", *times])
        text += (
            "\nThe ridge on log-mel, three folds, two processes, with audit and intervals:\n\n"
            + markdown(rows)
        )
    return text


SECTIONS = {
    "adaptation": adaptation_section,
    "faults": faults_section,
    "adaptation_cries": adaptation_cries_section,
    "form": forms_section,
    "speed": speed_section,
    "study": section,
    "compression": smaller_section,
    "robustness_study": robustness_section,
    "transfer_variants": variants_section,
    "training_speed": training_speed_section,
    "scale": scale_section,
    **CRY_SECTIONS,
}


def write_tables() -> None:
    """RESULTS.md whole, its plots, and every marked table of README.md."""
    names = sorted(path.stem for folder in (RESULTS, BENCHMARKS) for path in folder.glob("*.jsonl"))
    kinds = {name: read_results(name)[0]["kind"] for name in names}
    made = [size_section(name) if name in SIZES else SECTIONS[kinds[name]](name) for name in names]
    learned_elsewhere = {name: read_results(name) for name in names if name.startswith(PREFIX)}
    write_atomic(ROOT / "RESULTS.md", HEAD + overview(learned_elsewhere) + "".join(made))
    for corpus, figure in plot_label_efficiency(learned_elsewhere).items():
        save_svg(figure, DOCS / f"label-efficiency-{corpus}.svg")
    for name in names:
        if kinds[name] == "compression":
            plot_smaller(name)
        elif kinds[name] == "robustness_study":
            save_svg(plot_curves(read_results(name)), DOCS / f"{name}.svg")
    readme = (ROOT / "README.md").read_text()
    filled = MARKED.sub(lambda m: f"{m[1]}{arms_table(read_results(m[2]))}{m[3]}", readme)
    write_atomic(ROOT / "README.md", filled)


if __name__ == "__main__":
    write_tables()
