"""Dictionaries of image patches, learned with scikit-learn's mini-batch dictionary learning.

Source: Mairal, Bach, Ponce & Sapiro, Online Dictionary Learning for Sparse Coding, ICML 2009.
"""

import importlib.util
import warnings
from typing import Any, cast

import torch
from torch import Tensor

from fastrecon.checks import expect


def learn_dictionary(
    patches: Tensor, atoms: int = 512, sparsity: float = 0.1, passes: float = 2.0, batch: int = 256, seed: int = 0
) -> Tensor:
    """A dictionary [m, atoms] with unit columns for patches [N, m]: the constant atom, and others of mean zero.

    Patches of mean zero are coded as A z with the lasso; the constant is left to an atom of its own, without which all
    atoms would be nearly parallel, |A| large, and the steps of LADMM small.

    Args:
        patches: clean patches, one a row, on [0, 1].
        atoms: at least 2.
        sparsity: weight of |z|_1 against |A z - patch|^2 / 2.
        passes: over the patches, which come in random order.
        batch: patches coded at a time.
        seed: of the first atoms and the order.

    Raises:
        ValueError: too few patches, or scikit-learn is not installed.
    """
    op, (count, m) = "learn_dictionary", patches.shape
    expect(atoms >= 2, op, "atoms", "an integer >= 2", atoms)
    installed = importlib.util.find_spec("sklearn") is not None
    expect(installed, op, "scikit-learn", "the package (pip install scikit-learn)", "none")
    varied = (patches - patches.mean(1, keepdim=True)).double()
    varied = varied[torch.linalg.vector_norm(varied, dim=1) > 0.01 * m**0.5]  # flat ones teach nothing but noise
    expect(
        len(varied) >= 2 * atoms, op, "patches", f"at least {2 * atoms} that are not flat", f"{len(varied)} of {count}"
    )
    from sklearn.decomposition import MiniBatchDictionaryLearning

    generator = torch.Generator().manual_seed(seed)
    start = varied[torch.randperm(len(varied), generator=generator)[: atoms - 1]]
    start = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    learner = MiniBatchDictionaryLearning(
        n_components=atoms - 1, alpha=cast(Any, sparsity), batch_size=batch, fit_algorithm="cd",
        dict_init=start.numpy(), random_state=seed,
    )  # fmt: skip
    steps = max(1, round(passes * len(varied) / batch))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Objective did not converge"
        )  # codes of a passing dictionary need not be exact
        for _ in range(steps):
            chosen = torch.randint(len(varied), (batch,), generator=generator)
            learner.partial_fit(varied[chosen].numpy())
    learned = torch.from_numpy(learner.components_).to(patches)
    learned = learned / torch.linalg.vector_norm(learned, dim=1, keepdim=True).clamp_min(1e-12)
    return torch.cat([torch.full((1, m), m**-0.5).to(learned), learned]).T.contiguous()
