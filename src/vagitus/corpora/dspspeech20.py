"""DSPSpeech-20: twenty isolated words, twelve Mandarin and eight English, said by students.

The publisher's layout is ``SPEAKER/SPEAKER-WW-TT.wav`` (word, take); copies with numbered speakers are
``speakerNN/wordWW_takeT.flac``. Labels are ``wordWW`` in both.
"""

import re
from pathlib import Path

from vagitus.corpora.corpus import Corpus, Reading, Row, audio_files, skipped

NUMBERED = re.compile(r"(?P<speaker>speaker\d+)/word(?P<word>\d\d)_take\d+")
PUBLISHED = re.compile(r"(?P<speaker>\d+)/(?P=speaker)-(?P<word>\d\d)-\d+")


def read(folder: Path, task: str) -> Reading:
    """Rows of task ``words`` or ``speakers``."""
    files, notes = audio_files(folder)
    rows: list[Row] = []
    unparsed = []
    for stem, path in files.items():
        tail = "/".join(stem.split("/")[-2:])
        match = NUMBERED.fullmatch(tail) or PUBLISHED.fullmatch(tail)
        if match is None:
            unparsed.append(path)
            continue
        label = f"word{match['word']}" if task == "words" else match["speaker"]
        rows.append({"path": path, "subject": match["speaker"], "label": label})
    return Reading(rows, notes + skipped(unparsed, "their names do not parse"))


CORPUS = Corpus(
    name="dspspeech20",
    title="DSPSpeech-20: twenty words, Mandarin and English",
    folder=("dspspeech20", "DSPSpeech-20", "DSPSpeech-20-master"),
    marks=("speaker[0-9]*/word*_take*", "[0-9]*/[0-9]*-[0-9][0-9]-[0-9][0-9].*"),
    tasks=("words", "speakers"),
    default_task="words",
    licence="MIT",
    citation="Chen, Z. DSPSpeech-20 (2019), https://github.com/zhongyuchen/DSPSpeech-20",
    preset="mfcc40",
    read=read,
    n_published=13_599,
    gated="clone https://github.com/zhongyuchen/DSPSpeech-20 as DSPSpeech-20",
)
