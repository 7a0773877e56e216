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
