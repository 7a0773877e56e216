"""Model cards: what a weight file is, how it was made and how well it does, as Markdown."""

from typing import Any


def _page(meta: dict[str, Any], what: list[str], code: list[str], facts: dict[str, str]) -> str:
    """What the model is, how to use it, what is known of its training, and the command that repeats it."""
    training, settings = meta["training"], meta["training"]["settings"]
    kind = {"adam": "Adam", "sgd": "SGD"}[settings.get("optimiser", "adam")]
    optimiser = f"{kind}, learning rate {settings['lr']:g}"
    facts = facts | {
        "optimiser": f"{optimiser} ({settings.get('decay', 'cosine')}){facts.get('optimiser', '')}",
        **({"changed": "; ".join(training["changes"])} if training.get("changes") else {}),
        "time": f"{training['hours']} h, {training['processes']} process(es)",
    }
    rows = [f"| {k} | {v} |" for k, v in facts.items()]
    example = ["```python", "import fastrecon as fr", *code, "```"]
    table = ["| fact | value |", "| --- | --- |", *rows]
    command = ["```", training["command"], "```", ""]
    return "\n".join([f"# {meta['name']}", "", *what, "", *example, "", *table, "", *command])


def model_card(meta: dict[str, Any]) -> str:
    """The card of a model from its metadata: `name`, `method`, `task`, `ratio`, `training`."""
    training = meta["training"]
    settings = training["settings"]
    what = [
        f"LDA for block compressed sensing at {meta['ratio']:g}% ({settings['block']}x{settings['block']} blocks):"
        f" {settings['phases']} phases, {settings['channels']} channels, {settings['layers']} convolutions.",
        "Method: Chen, Liu, Ye & Zhang, Learnable Descent Algorithm for Nonsmooth Nonconvex Image Reconstruction,"
        " arXiv:2007.11245.",
    ]
    code = [
        "",
        f'model = fr.load("{meta["name"]}")',
        "result = model(model.operator(image), size=image.shape[-2:])  # image [B, 1, H, W] on [0, 1]",
    ]
    facts = {
        "training data": f"{', '.join(training['data'])}: luminance, {training['images']['training']} images",
        "validation": f"{training['images']['validation']} images, PSNR {training['validation_psnr']} dB"
        if training["validation_psnr"] is not None
        else "none",
        "steps": f"{training['steps']} of {settings['steps']}",
        "stages": "; ".join(training["stages"]),
        "optimiser": f", batch {settings['batch']} of {settings['patch']}x{settings['patch']} pixels",
        "seeds": f"network and data {settings['seed']}, sampling matrix {settings['phi_seed']}",
    }
    return _page(meta, what, code, facts)


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
    page = [
        f"D-LADMM with {settings['layers']} layers {what}: min {meta['lam']:g} |Z|_1 + |X - A Z|_1.",
        "Method: Xie, Wu, Zhong, Liu & Lin, Differentiable Linearized ADMM, arXiv:1905.06179.",
    ]
    code = [
        "",
        f'model = fr.load("{meta["name"]}")',
        "result = model(noisy)  # noisy [B, 1, H, W] on [0, 1]" if denoiser else "result = model(x)  # x [B, m]",
    ]
    name, quality = "PSNR" if denoiser else "NMSE", training.get("validation_psnr")
    if not denoiser:  # once written with the other sign, as a PSNR
        quality = training["validation_nmse"] if quality is None else -quality
    facts = {
        "training data": f"{', '.join(training['data'])}: luminance, {training['images']['training']} images,"
        f" {100 * settings['noise']:g}% of the pixels black or white"
        if denoiser
        else f"{settings['samples']} samples, drawn with seed {settings['seed']}",
        "validation": "none" if quality is None else f"{name} {quality} dB",
        "loss": f"{settings['loss']}, "
        + (f"each layer {settings['deep']:g} of the next" if settings["deep"] else "last layer"),
        "steps": f"{training['steps']} of {settings['steps']}, batch {settings['batch']}",
        "seed": f"{settings['seed']}",
    }
    return _page(meta, page, code, facts)


def sgp_card(meta: dict[str, Any]) -> str:
    """The card of a network for SGP, or of a direct U-Net, from its metadata: `name`, `method`, `task`, `training`."""
    training = meta["training"]
    settings = training["settings"]
    direct = meta["method"] == "unet"
    what = {
        "sgp-step": "chooses a step size for each image in each iteration of SGP",
        "sgp-diag": "chooses a step size for each coefficient in each iteration of SGP",
        "unet": "maps the zero-filled image, or the filtered back-projection, to the image",
    }[meta["method"]]
    use = [
        "image = network(p.image(p.start()))",
    ] if direct else [
        "c, report = fr.solvers.SGP(p.operator, p.lam, 1.0, network)(p.y, p.start(), iterations=20)",
        "image = p.image(c)",
    ]  # fmt: skip
    goal = (
        f"end to end through {settings['unroll']} iterations, towards the true images"
        if settings["unroll"]
        else f"{settings['stages']} greedy stages, towards {settings['target_iterations']} iterations of FISTA"
    )
    page = [
        f"A U-Net of width {settings['width']} that {what}; task {meta['task']}.",
        "Method: Lee & Chun, Accelerating Optimization Algorithms With Dynamic Parameter Selections Using Convolutional"
        " Neural Networks for Inverse Problems in Image Processing.",
    ]
    code = [
        "from fastrecon import problems",
        "",
        f'network = fr.load("{meta["name"]}")',
        f'p = problems.instance("{meta["task"]}", x, rate=0.5)  # simulates measurements of x [B, 1, H, W] on [0, 1]',
        *use,
    ]
    quality = training["validation_psnr"]
    facts = {
        "training data": f"{', '.join(training['data'])}: luminance, {training['images']} central squares of"
        f" {settings['side']}x{settings['side']} pixels",
        "problems": _problems_of(meta["task"], settings, direct),
        "validation": "none"
        if quality is None
        else f"{settings['held']} images, PSNR {quality} dB, NMSE {training['validation_nmse']:.2f} dB",
        "trained": "mean squared error" if direct else goal,
        "steps": f"{training['steps']}, batch {settings['batch']}",
        "seed": f"{settings['seed']}",
    }
    return _page(meta, page, code, facts)


def _problems_of(task: str, settings: dict[str, Any], direct: bool) -> str:
    def said(values: Any) -> str:
        return " or ".join(f"{v:g}" for v in values)

    known = f"{settings['views']} views" if task == "ct" else f"rate {said(settings['rate'])}"
    words = ([] if task == "deblur" else [known]) + [f"noise {said(settings['noise'])} of 255"]
    return ", ".join(words + ([] if direct else [f"lam {said(settings['lam_factor'])} times the paper's"]))
