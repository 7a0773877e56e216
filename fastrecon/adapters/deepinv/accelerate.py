"""deepinv's optimisation algorithms driven by a loop of fastrecon: `accelerate`.

The algorithm, its parameters and its result are deepinv's. The loop computes what the algorithm needs: the adjoint at
y once, one A and one adjoint an iteration, objectives only where metrics, a stopping rule or backtracking read them.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fastrecon import threads
from fastrecon.adapters.deepinv._library import dinv
from fastrecon.adapters.deepinv.in_one_call import Estimate, alike, in_one_call
from fastrecon.adapters.deepinv.parts import OURS, Fidelity, forget, twin
from fastrecon.checks import expect

SMALL = 1e-6  # of deepinv's relative changes
PER_IMAGE = "each image by its own measure, so that no result depends on the others of a batch (deepinv: by the mean)"
OF_BATCH = "by the mean over the batch, as deepinv"


def accelerate(model: Any, strict: bool = False) -> Any:
    """The same model of deepinv, its iterations driven by fastrecon.

    PGD, FISTA, HQS, ADMM and PDCP, with `unfold` and gradients, `metrics[name][image][iteration]` and the state_dict as
    they were. Parts that are the same mathematics here run on kernels; all others stay deepinv's. What was done with
    each part, and why, is in `model.fastrecon_report`, of the physics after a first call.

    Args:
        model: of deepinv.optim.
        strict: whether stopping and backtracking decide by the mean over the batch, as deepinv does. Else an image
            stops, and chooses its step, by itself: then results of batches differ where either is used.

    Raises:
        ValueError: it is no such model.
    """
    optim = dinv.optim
    kinds = (optim.PGD, optim.FISTA, optim.HQS, optim.ADMM, optim.PDCP)
    names = "PGD, FISTA, HQS, ADMM or PDCP of deepinv"
    expect(isinstance(model, kinds), "accelerate", "model", names, type(model).__name__)
    slow = model.fixed_point
    step = STEPS.get(type(slow.iterator))
    twins = [twin(p) for p in model.prior]
    report = {
        "algorithm": f"{type(model).__name__} by fastrecon's loop",
        "prior": "; ".join(dict.fromkeys(why for _, why in twins)),
        "physics": "known after a first call",
        "stopping": "none is asked for",
    }
    if slow.early_stop or slow.backtracking_config is not None:
        report["stopping"] = OF_BATCH if strict else PER_IMAGE
    reason = _not_here(model, step)
    if reason:
        report = {"algorithm": f"deepinv's loop: {reason}", "prior": "deepinv's", "physics": "deepinv's"}
    else:
        fast = copy.copy(slow)
        fast.__class__ = Loop
        fast.twins, fast.step, fast.strict, fast.report = tuple(p for p, _ in twins), step, strict, report
        model.fixed_point = fast
    model.fastrecon_report = report
    return model


def _not_here(model: Any, step: Any) -> str:
    """Why the loop cannot run this model; "" if it can."""
    slow = model.fixed_point
    if step is None:
        return f"{type(slow.iterator).__name__} is an iteration of your own"
    if slow.anderson_acceleration_config is not None:
        return "Anderson acceleration"
    if slow.backtracking_config is not None and model.backtracking:
        several = any(len(v) > 1 for v in model.init_params_algo.values())
        if step is not pgd or several:
            return "backtracking of other methods than PGD, or with parameters of each iteration"
    return ""


class Loop(dinv.optim.fixed_point.FixedPoint):
    """The fixed-point loop of a model that was accelerated."""

    twins: tuple[Any, ...]
    step: Callable[..., Estimate]
    strict: bool
    report: dict[str, str]

    def forward(
        self, *args: Any, init: Any = None, compute_metrics: bool = False, x_gt: Any = None, **kwargs: Any
    ) -> tuple[dict[str, Any], Any]:
        """The fixed point and the metrics, as deepinv's loop."""
        y, physics = args
        model = self.update_params_fn.__self__
        searches = bool(model.backtracking) and model.has_cost and bool(model.backtracking_config)
        config = model.backtracking_config
        costs = model.has_cost and (compute_metrics or searches or (self.early_stop and model.crit_conv == "cost"))
        s = self.init_iterate_fn(*args, init, cost_fn=self.iterator.cost_fn if costs else None)
        metrics = self.init_metrics_fn(s, x_gt=x_gt) if self.init_metrics_fn and compute_metrics else None
        for prior in self.twins:
            forget(prior)
        x = s["est"][0]
        parts: dict[int, Fidelity] = {}
        left = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # images that are done
        count, failures = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(2))
        search = _first_step(model, x) if searches else None
        watched = bool(costs) or metrics is not None or self.early_stop or searches
        it = 0
        while it < self.max_iter:
            before = s
            params, fidelity = self.update_params_fn(it), self.update_data_fidelity_fn(it)
            prior = self.twins[min(it, len(self.twins) - 1)]
            if id(fidelity) not in parts:
                parts[id(fidelity)] = Fidelity(fidelity, y, physics, x)
            f = parts[id(fidelity)]
            if search is not None:
                params["stepsize"] = search
            with threads.alone if f.known and type(prior) in OURS else nullcontext():  # networks want their threads
                est, many = self._steps(s["est"], f, prior, params, it, watched)
            cost = self.iterator.cost_fn(est[0], fidelity, prior, params, y, physics) if costs else None
            keep = left
            if search is not None:
                good = self._decreases(before, est, cost, search)
                search = torch.where(_as(good | left, search), search, config.eta * search)
                failures = torch.where(good, 0, failures + 1)
                keep = left | ~good
            s = _frozen(keep, before, {"est": est, "cost": cost})
            if metrics is not None:
                metrics = self.update_metrics_fn(metrics, before, s, x_gt=x_gt)
                _without(metrics, keep)
            count = count + many * (~keep).long()
            if self.early_stop:
                left = left | (self._converged(model, before, s) & ~keep & (count > 2))
            if search is not None:
                left = left | (failures >= config.max_iter) | (count >= self.max_iter)
            it = it + many if search is None else int(torch.where(left, self.max_iter, count).min())
            if (self.early_stop or search is not None) and bool(left.all()):
                model.has_converged = bool(self.early_stop)
                break
        self.report["physics"] = next(iter(parts.values())).why if parts else "no iteration was asked for"
        return s, metrics

    def _steps(
        self, est: Estimate, f: Fidelity, prior: Any, params: dict[str, Any], it: int, watched: bool
    ) -> tuple[Estimate, int]:
        """The estimate after the next iteration, or after those that are one call where no other is looked at."""
        if self.step in (pgd, fista):
            several = not (watched or len(self.twins) > 1 or len(self.update_params_fn.__self__.data_fidelity) > 1)
            many = alike(self.update_params_fn, it, self.max_iter - it) if several else 1
            found = in_one_call(self.iterator, est, f, prior, params, it, many, self.step is fista)
            if found is not None:
                return found, many
        return self.step(self.iterator, est, f, prior, params, it), 1

    def _converged(self, model: Any, before: dict[str, Any], s: dict[str, Any]) -> Tensor:
        """Whether images are done [B]."""
        if model.crit_conv == "residual":
            a, b = (model.get_output(t).flatten(1) for t in (before, s))
        else:
            a, b = (t["cost"].reshape(len(t["cost"]), -1) for t in (before, s))
        change = (a - b).norm(dim=1) / (b.norm(dim=1) + SMALL)
        return (change.mean().expand(len(a)) if self.strict else change) < model.thres_conv

    def _decreases(self, before: dict[str, Any], est: Estimate, cost: Any, step: Tensor) -> Tensor:
        """Whether the objective fell enough for the step [B]."""
        fell = before["cost"] - cost
        moved = (est[0] - before["est"][0]).flatten(1).norm(dim=1).square()
        if self.strict:
            fell, moved = fell.mean().expand(len(moved)), moved.mean().expand(len(moved))
        return ~(fell < self.backtracking_config.gamma / step.flatten() * moved)


def _first_step(model: Any, x: Tensor) -> Tensor:
    """The step size as one of each image."""
    step = torch.as_tensor(model.params_algo["stepsize"][0], dtype=x.real.dtype, device=x.device)
    return step.reshape(-1).expand(len(x)).clone().view(-1, *[1] * (x.ndim - 1))


def _as(t: Tensor, like: Tensor) -> Tensor:
    return t.view(-1, *[1] * (like.ndim - 1))


def _frozen(keep: Tensor, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """`after`, with the images `keep` as they were before."""
    if not bool(keep.any()):
        return after
    olds = before["est"] + after["est"][len(before["est"]) :]
    est = tuple(
        torch.where(_as(keep, new), old, new) if old.shape == new.shape else new
        for old, new in zip(olds, after["est"], strict=True)
    )
    cost = None if after["cost"] is None else torch.where(keep, before["cost"], after["cost"])
    return {"est": est, "cost": cost}


def _without(metrics: dict[str, Any], keep: Tensor) -> None:
    """Takes the last entries of images back that did not iterate."""
    for k in keep.nonzero().flatten().tolist():
        for name, rows in metrics.items():
            if rows[k] and not (name == "psnr" and len(rows[k]) == 1):
                rows[k].pop()


# The iterations, as deepinv's classes of the same names: (iterator, estimate, f, prior, parameters, k) -> estimate


def pgd(iterator: Any, est: Estimate, f: Fidelity, g: Any, c: dict[str, Any], k: int) -> Estimate:
    """x+ = prox_g(x - step grad f(x)), or the other way round."""
    x, step = est[0], c["stepsize"]
    if iterator.g_first:
        u = x - c["lambda"] * step * g.grad(x, c["g_param"])
        new = f.prox(u, step)
    else:
        u = f.descent(x, step)
        new = g.prox(u, c["g_param"], gamma=c["lambda"] * step)
    return _relaxed(new, x, c), u


def fista(iterator: Any, est: Estimate, f: Fidelity, g: Any, c: dict[str, Any], k: int) -> Estimate:
    """The same at z, z+ = x+ + alpha (x+ - x)."""
    x, z = est[0], est[1]
    alpha = (k + c["a"] - 1) / (k + c["a"])
    new = pgd(iterator, (z,), f, g, c | {"beta": 1.0}, k)[0]
    return new, new + alpha * (new - x) if isinstance(alpha, Tensor) else torch.lerp(x, new, 1 + alpha)


def hqs(iterator: Any, est: Estimate, f: Fidelity, g: Any, c: dict[str, Any], k: int) -> Estimate:
    """x+ = prox_g(prox_f(x)), or the other way round."""
    x, step = est[0], c["stepsize"]
    if iterator.g_first:
        u = g.prox(x, c["g_param"], gamma=c["lambda"] * step)
        new = f.prox(u, step)
    else:
        u = f.prox(x, step)
        new = g.prox(u, c["g_param"], gamma=c["lambda"] * step)
    return _relaxed(new, x, c), u


def admm(iterator: Any, est: Estimate, f: Fidelity, g: Any, c: dict[str, Any], k: int) -> Estimate:
    """u = prox_f(x - z), x+ = prox_g(u + z), z+ = z + beta (u - x+), or f and g the other way round."""
    x, step = est[0], c["stepsize"]
    z = est[1] if est[1].shape == x.shape else torch.zeros_like(x)
    if iterator.g_first:
        u = g.prox(x - z, c["g_param"], gamma=c["lambda"] * step)
        new = f.prox(u + z, step)
    else:
        u = f.prox(x - z, step)
        new = g.prox(u + z, c["g_param"], gamma=c["lambda"] * step)
    return new, z + c["beta"] * (u - new)


def pdcp(iterator: Any, est: Estimate, f: Fidelity, g: Any, c: dict[str, Any], k: int) -> Estimate:
    """u+ = prox_F*(u + sigma K z), x+ = prox_G(x - tau K* u+), z+ = x+ + beta (x+ - x)."""
    x, z, u = est
    tau, sigma, lam = c["stepsize"], c["stepsize_dual"], c["lambda"]
    p = u + sigma * c["K"](z)
    if iterator.g_first:
        u = g.prox_conjugate(p, c["g_param"], gamma=lam * sigma, lamb=lam)
        new = f.prox(x - tau * c["K_adjoint"](u), tau)
    else:
        u = f.prox_conjugate(p, sigma)
        new = g.prox(x - tau * c["K_adjoint"](u), c["g_param"], gamma=tau * lam)
    return new, new + c["beta"] * (new - x), u


def _relaxed(new: Tensor, x: Tensor, c: dict[str, Any]) -> Tensor:
    beta = c.get("beta", 1.0)
    return new if isinstance(beta, float | int) and beta == 1 else beta * new + (1 - beta) * x


STEPS: dict[type, Callable[..., Estimate]] = {  # classes themselves: subclasses may do other things
    dinv.optim.optim_iterators.PGDIteration: pgd,
    dinv.optim.optim_iterators.FISTAIteration: fista,
    dinv.optim.optim_iterators.HQSIteration: hqs,
    dinv.optim.optim_iterators.ADMMIteration: admm,
    dinv.optim.optim_iterators.CPIteration: pdcp,
}
