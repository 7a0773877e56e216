"""Model cards: what a weight file is, how it was made and how well it does, as Markdown."""

from typing import Any


def model_card(meta: dict[str, Any]) -> str:
    """The card of a model from its metadata: `name`, `method`, `task`, `ratio`, `training`."""
    training = meta["training"]
    settings = training["settings"]
    lines = [
        f"# {meta['name']}",
        "",
        f"LDA for block compressed sensing at {meta['ratio']:g}% ({settings['block']}x{settings['block']} blocks):"
        f" {settings['phases']} phases, {settings['channels']} channels, {settings['layers']} convolutions.",
        "Method: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,"
        " arXiv:2007.11245.",
        "",
        "```python",
        "import fastrecon as fr",
        "",
        f'model = fr.load("{meta["name"]}")',
        "result = model(model.operator(image), size=image.shape[-2:])  # image [B, 1, H, W] on [0, 1]",
        "```",
        "",
        "| fact | value |",
        "| --- | --- |",
    ]
    facts = {
        "training data": f"{', '.join(training['data'])}: luminance, {training['images']['training']} images",
        "validation": f"{training['images']['validation']} images, PSNR {training['validation_psnr']} dB"
        if training["validation_psnr"] is not None
        else "none",
        "steps": f"{training['steps']} of {settings['steps']}",
        "stages": "; ".join(training["stages"]),
        "optimiser": f"Adam, learning rate {settings['lr']:g} ({settings['decay']}), batch {settings['batch']}"
        f" of {settings['patch']}x{settings['patch']} pixels",
        "time": f"{training['hours']} h, {training['processes']} process(es)",
        "seeds": f"network and data {settings['seed']}, sampling matrix {settings['phi_seed']}",
    }
    lines += [f"| {k} | {v} |" for k, v in facts.items()]
    return "\n".join([*lines, "", "```", training["command"], "```", ""])


def dladmm_card(meta: dict[str, Any]) -> str:
    """The card of a D-LADMM model from its metadata: `name`, `task`, `lam`, `training`."""
    training = meta["training"]
    settings = training["settings"]
    denoiser = meta["task"] == "salt-and-pepper"
    what = {
        True: f"removes salt-and-pepper noise from images by {settings['patch']}x{settings['patch']} patches, with a"
        f" dictionary of {settings['atoms']} atoms",
        False: f"finds sparse codes of data with sparse errors, {settings['rows']}x{settings['columns']}",
    }[denoiser]
    lines = [
        f"# {meta['name']}",
        "",
        f"D-LADMM with {settings['layers']} layers {what}: min {meta['lam']:g} |Z|_1 + |X - A Z|_1.",
        "Method: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM, arXiv:1905.06179.",
        "",
        "```python",
        "import fastrecon as fr",
        "",
        f'model = fr.load("{meta["name"]}")',
        "result = model(noisy)  # noisy [B, 1, H, W] on [0, 1]" if denoiser else "result = model(x)  # x [B, m]",
        "```",
        "",
        "| fact | value |",
        "| --- | --- |",
    ]
    quality = training["validation_psnr"]
    facts = {
        "training data": f"{', '.join(training['data'])}: luminance, {training['images']['training']} images,"
        f" {100 * settings['noise']:g}% of the pixels black or white"
        if denoiser
        else f"{settings['samples']} samples, drawn with seed {settings['seed']}",
        "validation": "none" if quality is None else f"{'PSNR' if denoiser else 'signal-to-error ratio'} {quality} dB",
        "loss": f"{settings['loss']}, "
        + (f"each layer {settings['deep']:g} of the next" if settings["deep"] else "last layer"),
        "steps": f"{training['steps']} of {settings['steps']}, batch {settings['batch']}",
        "optimiser": f"{settings['optimiser']}, learning rate {settings['lr']:g} ({settings['decay']})",
        "time": f"{training['hours']} h, {training['processes']} process(es)",
        "seed": f"{settings['seed']}",
    }
    lines += [f"| {k} | {v} |" for k, v in facts.items()]
    return "\n".join([*lines, "", "```", training["command"], "```", ""])
