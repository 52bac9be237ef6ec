"""Models for others: Hugging Face's model card, and a repository from which timm loads them."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.base.errors import UserError
from common.model.card import NO_GROUPS, Card, command, crop, facts, tables

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

NAME = "OWNER/MODEL"
USE = """For counting over many photos of faces (how often a class occurs in a crowd, a shift, an archive)
and for research on such models. It is one of three that look at the same crop of a face and say how a
mask is worn, the gender and the age group."""
LIMITS = """- **Not for decisions about a person, and not for telling who somebody is**: no access, work, police,
  insurance or health. It sees looks; the genders are the two that its table has.
- **The scores are of other persons of the same table.** Other cameras, light, framing, ages and
  countries give lower ones.
- **Few old people.** Where a table's ages end at 60, all of its old people are exactly 60. Look at the
  number of persons in a row below before believing its figure; a group without a row has nobody.
- **Drawn masks.** A model that learned from masks drawn onto bare faces knows real ones less well than
  its score says.
- **A probability is a mean.** Of the held-out photos with 80 %, eight in ten are right; of one photo, of
  one group, or of other photos it promises nothing.
- **It answers to anything**, also to a photo without a face."""
LICENCE = (
    "The licence is the code's; whether the weights may be used follows from the photos they saw."
)


def check(repo: str, path: Path) -> None:
    """UserError for what publishing would fail at: the name, the kind of file, login, network."""
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    from common.model.exported import is_exported
    from common.model.weights import reachable

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"--push-to-hub {repo}: expected {NAME}: {_line(error)}") from None
    if is_exported(path):
        raise UserError(f"--push-to-hub: {path}: timm loads a checkpoint's weights, no export's")
    if not get_token():
        raise UserError(
            "--push-to-hub: no access token: `hf auth login` keeps one, or set HF_TOKEN"
        )
    if constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT):
        raise UserError(f"--push-to-hub: no way to {constants.ENDPOINT} (or HF_HUB_OFFLINE is set)")


def push(path: Path, repo: str, *, private: bool) -> str:
    """Publish the checkpoint `path` by timm; returns where. UserError where that isn't let."""
    import timm
    from huggingface_hub import HfApi

    from common.model.checkpoint import read
    from common.model.export import rebuilt

    content = read(path)
    model, _, outputs = rebuilt(path, content)
    card = content["card"]
    try:
        # The card first: timm writes one of its own where there is none.
        url = HfApi().create_repo(repo, private=private, exist_ok=True)
        model_card(card, url.repo_id).push_to_hub(url.repo_id)
        timm.models.push_to_hf_hub(
            model.backbone, url.repo_id, private=private, safe_serialization=True,
            commit_message=f"Weights {card['sha256'][:12]}", **for_timm(card, outputs),
        )  # fmt: skip
    except Exception as error:  # the hub's own and the network's, of many kinds
        raise UserError(f"--push-to-hub {repo}: {_line(error)}") from None
    return str(url)


def for_timm(card: Card, outputs: int) -> dict[str, Any]:
    """How timm is to prepare images for the network, and what its `outputs` logits are called."""
    ready = card["preprocessing"]
    data = {name: tuple(ready[name]) for name in ("mean", "std")}
    data |= {"input_size": (3, *ready["size"]), "crop_pct": 1.0, "crop_mode": "squash"}
    names = card.get("outputs", card["classes"])
    return {
        "data_config": data | {"interpolation": "bicubic"},
        "model_config": {"label_names": names} if len(names) == outputs else {},
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def model_card(card: Card, repo: str | None = None) -> "ModelCard":
    """Hugging Face's model card: metadata, use, limits, held-out figures, also of groups."""
    from huggingface_hub import ModelCard

    text = "\n\n".join(_text(card, repo or NAME))
    return ModelCard(f"---\n{_metadata(card).to_yaml()}\n---\n\n{text}\n")


def _metadata(card: Card) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    names = {"f1": ("macro F1", "macro_f1"), "accuracy": ("accuracy", "accuracy")}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="held-out-persons",
            dataset_name=f"held-out persons, split {card['split']['hash']}",
            dataset_split="validation",
            metric_type=kind,
            metric_name=name,
            metric_value=round(card["metrics"][key], 4),
        )
        for kind, (name, key) in names.items()
    ]
    return ModelCardData(
        license="mit",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["timm", "face", card["task"]],
        metrics=list(names),
        base_model=_base_model(card["recipe"]),
        model_name=f"{card['task']} of a face",
        eval_results=results,
    )


def _base_model(recipe: Mapping[str, Any]) -> str | None:
    """The repository of the weights that training started from, where timm had them."""
    from timm import get_pretrained_cfg

    known = get_pretrained_cfg(recipe["model"])
    from_timm = recipe["pretrained"] and not recipe["weights"]
    return known.hf_hub_id if from_timm and known is not None else None


def _text(card: Card, repo: str) -> Iterator[str]:
    yield f"# {card['task']} of a face: {_escaped(', '.join(card['classes']))}"
    yield f"## Use\n\n{USE}"
    yield _code(card, repo)
    yield f"## Limits\n\n{LIMITS}"
    yield f"## What it is\n\n{table(('', ''), list(facts(card)))}"
    yield "## Scores on persons whom training never saw"
    for title, header, rows in tables(card):
        yield f"{title[0].upper()}{title[1:]}:\n\n{table(header, rows)}"
    if not card["metrics"].get("groups"):
        yield f"{NO_GROUPS[0].upper()}{NO_GROUPS[1:]}."
    yield f"## Training\n\n```\n{shlex.join(command(card))}\n```\n\n{LICENCE}"


def _code(card: Card, repo: str) -> str:
    """How to ask it, and what its logits are."""
    from common.model.network import stem_name

    temperature = card["decision"]["temperature"] if "decision" in card else 1.0
    names = card.get("outputs", card["classes"])
    stride = card["recipe"].get("stem_stride")
    lines = [
        "import timm\n",
        f'model = timm.create_model("hf_hub:{repo}", pretrained=True).eval()',
        *([f"model.{stem_name(card['model'])}.stride = ({stride}, {stride})"] if stride else []),
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        f"logits = model(transform(crop).unsqueeze(0)) / {temperature:g}  # temperature",
    ]
    if names == card["classes"]:
        lines.append(f"probabilities = logits.softmax(dim=1)  # {', '.join(names)}")
    code = "\n".join(lines)
    said = [
        f"`crop` is a PIL image of the face, cut as in training ({crop(card)}); cut otherwise, the scores "
        "below don't hold. The project's `combine.py` cuts, asks and decides."
    ]
    if names != card["classes"]:
        said.append(f"The logits are {', '.join(names)}; the project's code makes classes of them.")
    elif "outputs" not in card:
        said.append(
            "Where the logits aren't as many as the classes, the project's code joins them."
        )
    return f"```python\n{code}\n```\n\n{_escaped(' '.join(said))}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first set to the right where they are numbers."""
    right = [all(re.fullmatch(r"[\d,.]+", row[k]) for row in rows) for k in range(len(header))]
    rule = ["---:" if number else "---" for number in right]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(map(_escaped, cells))} |" for cells in lines)


def _escaped(text: str) -> str:
    """Plain text that Markdown leaves as it is."""
    return re.sub(r"([|<*])", r"\\\1", text)
