"""Model cards: what a weight file is, how it was made and how well it does, as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastrecon.checks import expect


def training_of(meta: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of a model's training, and its settings.

    Raises:
        ValueError: the model has none.
    """
    training = meta.get("training")
    known = isinstance(training, dict) and isinstance(training.get("settings"), dict)
    expect(known, "card", "meta", "facts of a training", "none")
    assert isinstance(training, dict)
    return training, training["settings"]


def page(meta: Mapping[str, Any], what: Sequence[str], code: Sequence[str], facts: Mapping[str, str]) -> str:
    """What the model is, how to use it, what is known of its training, and the command that repeats it."""
    training, settings = training_of(meta)
    kind = {"adam": "Adam", "sgd": "SGD"}[settings.get("optimiser", "adam")]
    optimiser = f"{kind}, learning rate {settings['lr']:g}"
    facts = {
        **facts,
        "optimiser": f"{optimiser} ({settings.get('decay', 'cosine')}){facts.get('optimiser', '')}",
        **({"changed": "; ".join(training["changes"])} if training.get("changes") else {}),
        "time": f"{training['hours']} h, {training['processes']} process(es)",
    }
    rows = [f"| {k} | {v} |" for k, v in facts.items()]
    example = ["```python", "import fastrecon as fr", "", f'model = fr.load("{meta["name"]}")', *code, "```"]
    table = ["| fact | value |", "| --- | --- |", *rows]
    command = ["```", training["command"], "```", ""]
    return "\n".join([f"# {meta['name']}", "", *what, "", *example, "", *table, "", *command])


def of_minimiser(training: Mapping[str, Any], patches: bool) -> str:
    """What the card says of the second regulariser, and whether `patches` are beside it."""
    settings, images = training["settings"], training["images"]
    beside = (" + v s(x)" if patches else "") + (" + mu |x - x_K|^2 / 2" if settings.get("anchor") else "")
    sparse = "; s tells how far its patches are from sparse in the cosine transform" if patches else ""
    quality = training["validation_psnr"]
    given, kind = ("y, operator", "") if "rate" in settings else ("y", ": luminance")
    facts = {
        "training data": f"{', '.join(training['data'])}{kind}, {images['training']} images",
        "validation": "none" if quality is None else f"{images['validation']} images, converged, PSNR {quality} dB",
        "steps": f"{training['steps']} of {settings['steps']}",
        "optimiser": f"Adam, learning rate {settings['lr']:g} ({settings['decay']}), batch {settings['batch']} of"
        f" {settings['patch']}x{settings['patch']} pixels",
        "time": f"{training['hours']} h",
    }
    rows = [f"| {k} | {v} |" for k, v in facts.items()]
    return "\n".join([
        "", "## Rigorous mode", "",
        f"`model({given}, rigorous=True)` goes on from the image x_K of the phases to a stationary point of"
        f" |A x - y|^2 / 2 + r(x){beside} with a second regulariser r, trained for that point{sparse}; the phases"
        " are as they were.", "",
        "| fact | value |", "| --- | --- |", *rows, "", "```", training["command"], "```", "",
    ])  # fmt: skip
