"""Hugging Face model card of a checkpoint, and its settings for publishing it as a timm model."""

import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from common.model.facts import Card, command, crop_flags, facts, tables
from common.render.text import escaped, markdown

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData

ANY_REPO = "OWNER/MODEL"  # for the reader to replace by the repository
USE = """For counting over many photos of faces (how often a class occurs in a crowd, a shift, an archive)
and for research on such models. It is one of three that classify the same crop of a face: how a mask is
worn, gender, age group."""
LIMITS = """- **Not for decisions about a person, and not for identifying people**: no access, work, police,
  insurance or health. It judges by appearance; the genders are the two of its training table.
- **The scores are those of other people of the same data set.** Other cameras, lighting, framing, ages
  and countries give lower ones.
- **Few old people.** Where a table's ages end at 60, all of its old people are exactly 60. Check the
  number of people in a row below before you rely on its score; a group without a row has nobody.
- **Drawn masks.** A model trained with masks drawn onto bare faces recognises real ones less well than
  its score suggests.
- **A probability is an average.** Of the held-out photos with 80 %, eight in ten are right; for one
  photo, one group, or other photos it promises nothing.
- **It predicts a class for anything**, also for a photo without a face."""
LICENCE = (
    "The licence is the code's; whether the weights may be used depends on the photos they learned "
    "from."
)


def model_card(card: Card, repo: str = ANY_REPO) -> "ModelCard":
    """Hugging Face's model card: metadata, use, limits, and scores by class and group."""
    from huggingface_hub import ModelCard

    text = "\n\n".join(_text(card, repo))
    return ModelCard(f"---\n{_metadata(card).to_yaml()}\n---\n\n{text}\n")


def for_timm(card: Card) -> dict[str, Any]:
    """Arguments of timm.models.push_to_hf_hub: how to prepare images, and the logits' names."""
    prepared = card["preprocessing"]
    data = {name: tuple(prepared[name]) for name in ("mean", "std")}
    data |= {"input_size": (3, *prepared["size"]), "crop_pct": 1.0, "crop_mode": "squash"}
    return {
        "data_config": data | {"interpolation": "bicubic"},
        "model_config": {"label_names": card["outputs"]},
    }


def _metadata(card: Card) -> "ModelCardData":
    from huggingface_hub import EvalResult, ModelCardData

    names = {"f1": ("macro F1", "macro_f1"), "accuracy": ("accuracy", "accuracy")}
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type="held-out-people",
            dataset_name=f"held-out people, split {card['split']['hash']}",
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
    """The repository of timm's weights that training started from, if any."""
    from timm import get_pretrained_cfg

    config = get_pretrained_cfg(recipe["model"])
    from_timm = recipe["pretrained"] and not recipe["weights"]
    return config.hf_hub_id if from_timm and config is not None else None


def _text(card: Card, repo: str) -> Iterator[str]:
    yield f"# {card['task']} of a face: {escaped(', '.join(card['classes']))}"
    yield f"## Use\n\n{USE}"
    yield _code(card, repo)
    yield f"## Limits\n\n{LIMITS}"
    yield f"## Model\n\n{markdown(('', ''), list(facts(card)))}"
    yield "## Scores on people held out of training"
    for title, header, rows in tables(card):
        yield f"{title[0].upper()}{title[1:]}:\n\n{markdown(header, rows)}"
    yield f"## Training\n\n```\n{shlex.join(command(card))}\n```\n\n{LICENCE}"


def _code(card: Card, repo: str) -> str:
    """Code that loads the model by timm and predicts, and the meaning of its logits."""
    from common.model.network import stem_name

    temperature, names = card["decision"]["temperature"], card["outputs"]
    stride, stem = card["recipe"]["stem_stride"], stem_name(card["model"])
    lines = [
        "import timm\n",
        f'model = timm.create_model("hf_hub:{repo}", pretrained=True).eval()',
        *([f"model.{stem}.stride = ({stride}, {stride})"] if stride else []),
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        f"logits = model(transform(crop).unsqueeze(0)) / {temperature:g}  # temperature",
    ]
    words = (
        f"`crop` is a PIL image of the face, cropped as in training ({crop_flags(card)}); with other "
        "crops the scores below don't hold. The project's `combine.py` crops, predicts and decides."
    )
    classes = card["classes"]
    if names[: len(classes)] == classes:
        own = "logits" if names == classes else f"logits[:, :{len(classes)}]"
        lines.append(f"probabilities = {own}.softmax(dim=1)  # {', '.join(classes)}")
    else:
        words += f" The logits are {', '.join(names)}; the project's code turns them into classes."
    return "```python\n{}\n```\n\n{}".format("\n".join(lines), escaped(words))
