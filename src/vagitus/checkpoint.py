"""One safetensors file per model: weights, how to rebuild it, how to read its scores, where it came from.

The header's ``vagitus`` entry is one JSON text. Nothing is ever unpickled: a file that is
not safetensors is refused by its first bytes.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vagitus.features import FeatureConfig
from vagitus.files import content_hash, refuse_pickle, write_atomic
from vagitus.manifest import Manifest
from vagitus.models import build_model
from vagitus.tensor_train.compress import Plan, pack, retensorize, unpack

FORMAT = 1
WEIGHTS = Path(__file__).parent / "weights"  # models that come with the package
RESEARCH_ONLY = "Research use only, not a diagnosis."
TRAINED_ON_BYTES = 6  # of a hash: among 100,000 recordings a chance match is one in 50,000
MAX_OPTION = 1 << 20
MAX_NUMBERS = 250_000_000  # a gigabyte; the largest network here has 81 million
MAX_WINDOW_S = 600.0
# What torch, a layer or a lookup raises where numbers and names of a file do not go together.
MISFITS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)
HASH = "blake2"  # of the rest of the header and of the tensors, an entry of the header that ``read_tensors`` takes out


@dataclass(frozen=True)
class ModelCard:
    """Everything about a model but its weights.

    Attributes:
        model: a name in MODELS.
        options: what ``build_model`` takes.
        features: the front end the weights were trained on.
        window_s: length of the stretch that one forward pass sees.
        class_names: in the order of the logits.
        positive: the class a binary score is the probability of; "" when there are more classes.
        threshold: binary decision threshold on the calibrated score; None for more classes.
        calibration: what ``vagitus.calibration`` wrote, {} for none.
        compression: how the weights are stored: ``plan`` (the tensor trains, or None), ``bits``, ``sparse``;
            {} for plain ones.
        provenance: command, seed, data, versions, metrics: free of local paths.
    """

    model: str
    options: dict[str, int]
    features: FeatureConfig
    window_s: float
    class_names: tuple[str, ...]
    positive: str = ""
    threshold: float | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    compression: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "notice": RESEARCH_ONLY,
            **asdict(self),
            "features": self.features.model_dump(),
        }


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write ``model`` and ``card`` to ``path``, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if card.compression:
        tensors = pack(tensors, bits=card.compression["bits"], sparse=card.compression["sparse"])
    write_tensors(path, tensors, card.to_json())


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Rebuild a model from its file, in evaluation mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a vagitus model, a pickle, another format version, or tensors that
            do not fit the model; the message names them.
    """
    tensors, header = read_tensors(path)
    card = _card(path, header)
    try:
        with torch.device("meta"):  # sizes alone: a damaged option could ask for any amount of memory
            sizes = [
                tensor.numel() for tensor in build_model(card.model, **card.options).state_dict().values()
            ]
        if sum(sizes) > MAX_NUMBERS:
            raise ValueError(
                f"a {card.model} of {sum(sizes):,} numbers, at most {MAX_NUMBERS:,}; it is damaged"
            )
        model = build_model(card.model, **card.options)
        if card.compression:
            tensors = unpack(tensors)
            if card.compression["plan"]:
                model = retensorize(model, Plan.from_json(card.compression["plan"]))
        missing, extra = model.load_state_dict(tensors, strict=False)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except MISFITS as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path}: its weights do not fit its card ({type(error).__name__}: {reason}); it is damaged, copy it again"
        ) from error
    if missing or extra:
        raise ValueError(f"{path}: tensors do not fit {card.model}: missing {missing}, unexpected {extra}")
    return model.eval(), card


def _card(path: Path, header: dict[str, Any]) -> ModelCard:
    if "model" not in header:
        raise ValueError(f"{path}: holds tensors but no vagitus model; `vagitus train` or `study` writes one")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path}: model format {header.get('format')!r}, this version reads {FORMAT}; "
            "install the vagitus that wrote it"
        )
    fields = {name: header[name] for name in ModelCard.__dataclass_fields__ if name in header}
    for name, (is_right, rule) in CARD_RULES.items():
        if name in fields and not is_right(fields[name]):
            raise ValueError(
                f"{path}: its card is damaged: {name} must be {rule}, it is {str(fields[name])[:60]!r}; copy it again"
            )
    try:
        fields["features"] = FeatureConfig(**fields["features"])
        fields["class_names"] = tuple(fields["class_names"])
        return ModelCard(**fields)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: its card is damaged ({reason}); copy it again") from error


def _are_text(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


# What a card must hold before anything is made of it: (test, rule).
CARD_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda v: isinstance(v, str), "a name"),
    "options": (
        lambda v: isinstance(v, dict) and all(type(n) is int and 0 <= n <= MAX_OPTION for n in v.values()),
        f"whole numbers up to {MAX_OPTION}",
    ),
    "window_s": (lambda v: type(v) in (int, float) and 0 < v <= MAX_WINDOW_S, f"up to {MAX_WINDOW_S:g} s"),
    "class_names": (_are_text, "a list of names"),
    "positive": (lambda v: isinstance(v, str), "a name or blank"),
    "threshold": (lambda v: v is None or (type(v) in (int, float) and 0 <= v <= 1), "from 0 to 1, or null"),
    "calibration": (lambda v: isinstance(v, dict), "an object"),
    "compression": (lambda v: isinstance(v, dict), "an object"),
    "provenance": (lambda v: isinstance(v, dict), "an object"),
}


def shipped(name: str) -> Path:
    """The file of a model that comes with the package.

    Raises:
        ValueError: there is none of that name; lists those there are.
    """
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in WEIGHTS.glob("*.safetensors")))
        raise ValueError(f"no model {name!r} comes with this package; there are {known or 'none'}")
    return path


def read_card(path: Path) -> ModelCard:
    """A model file's card alone. Errors as ``load_model``."""
    return _card(path, read_tensors(path)[1])


def trained_on(files: Iterable[Path], *, before: Iterable[str] = ()) -> str:
    """What a card keeps of the recordings: a short hash of each one's bytes, to recognise it, nothing to hear.

    Args:
        before: what this function said of recordings that were learned earlier.

    Returns:
        The hashes in ascending order as one text in base64, eight letters each.
    """
    known = {bytes.fromhex(content_hash(file))[:TRAINED_ON_BYTES] for file in set(files)}
    known.update(*map(_hashes, before))
    return base64.b64encode(b"".join(sorted(known))).decode()


def learned_rows(card: ModelCard, manifest: Manifest) -> list[int]:
    """Rows of a manifest that hold a recording which the model was trained on, under whatever name."""
    known = _hashes(card.provenance.get("trained_on", ""))
    if not known:
        return []
    hashes = (bytes.fromhex(content_hash(manifest.file(i)))[:TRAINED_ON_BYTES] for i in range(len(manifest)))
    return [i for i, short in enumerate(hashes) if short in known]


def _hashes(text: str) -> set[bytes]:
    joined = base64.b64decode(text)
    return {joined[i : i + TRAINED_ON_BYTES] for i in range(0, len(joined), TRAINED_ON_BYTES)}


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write named tensors, a JSON header and a hash of both as safetensors, atomically."""
    plain = json.loads(json.dumps(header))  # as it will be read
    # One entry: safetensors writes several in any order, and the same model should be the same bytes.
    text = json.dumps(plain | {HASH: _hash(tensors, plain)}, sort_keys=True)
    write_atomic(path, save(tensors, metadata={"vagitus": text}))


def has_hash(path: Path) -> bool:
    """Whether a file that ``read_tensors`` reads holds a hash of its contents, which that compares."""
    with safe_open(path, framework="pt") as file:
        return HASH in json.loads(file.metadata()["vagitus"])


def _hash(tensors: dict[str, Tensor], header: dict[str, Any]) -> str:
    """BLAKE2b of the header and of every tensor's name, type, shape and bytes, 32 hex digits."""
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``write_tensors`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a pickle (with the way to convert it), a truncated file, one without our header, or one whose
            contents are not those that were written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        refuse_pickle(path)
        raise ValueError(f"{path}: not a whole safetensors file ({error})") from error
    if "vagitus" not in metadata:
        raise ValueError(f"{path}: safetensors without a vagitus header; it was written by another program")
    try:
        header = json.loads(metadata["vagitus"])
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: its vagitus header is not a JSON object; it is damaged, copy it again")
    expected = header.pop(HASH, None)  # None: written by an earlier version
    if expected is not None and _hash(tensors, header) != expected:
        raise ValueError(
            f"{path}: its contents are not those that were written; it is damaged, copy it again"
        )
    return tensors, header
