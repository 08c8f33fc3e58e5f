"""The one loop that fits a network: resume, schedule, clipping, average, metrics, saves.

Several processes, as `accelerate launch` or `torchrun` starts them, share the batches of each step.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import torch
from torch.optim.swa_utils import AveragedModel

from safedojo_ros.core.config import check_ranges
from safedojo_ros.learning import processes, sharding
from safedojo_ros.learning.compiling import compiled
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.learning.training_run import TrainingRun

RECORD_EVERY = 20
"""Gradient steps between two lines of metrics."""

Loss = Callable[[int, torch.Generator], dict[str, torch.Tensor]]
"""(number of the batch, its generator) → {"loss": what is minimised, other metrics}."""


@dataclass(frozen=True)
class FitConfig:
    """The gradient steps, by AdamW. Used by every training."""

    steps: int = 1500
    """Gradient steps, 0 or more."""
    batch_size: int = 64
    """Samples in a batch, at least 1."""
    learning_rate: float = 1e-3
    """Learning rate after the warm-up, its maximum, 0 or more."""
    weight_decay: float = 1e-2
    """AdamW's weight decay, 0 or more."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises, 0 or more; then it falls to 0 by half a cosine."""
    gradient_clip: float = 1.0
    """The gradient is scaled down to this norm where it is larger, above 0."""
    save_every: int = 250
    """Gradient steps between two saves, from which a run can be resumed, at least 1."""
    seed: int = 0
    """Seed of the first weights, batches and noise, 0 or more."""
    batches_per_step: int = 1
    """Batches over which the gradient of each step is averaged, at least 1; several processes share
    them equally."""
    shard: bool = False
    """Several processes keep a part each of weights, gradients and AdamW's moments (FSDP 2), where
    each would keep all; one process keeps all."""

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "weight_decay", "warmup_steps", "seed"):
            check_ranges(self, **{name: "[0, inf)"})
        check_ranges(
            self,
            batch_size="[1, inf)",
            batches_per_step="[1, inf)",
            save_every="[1, inf)",
            gradient_clip="(0, inf]",
        )


def fit(
    name: str,
    network: torch.nn.Module,
    loss: Loss,
    config: FitConfig,
    run: TrainingRun | None = None,
    *,
    parameters: Iterable[torch.nn.Parameter] | None = None,
    average: AveragedModel | None = None,
    compile: Sequence[torch.nn.Module] = (),
    saved: Callable[[Mapping[str, torch.Tensor]], None] | None = None,
) -> None:
    """Minimise `loss` in place; the draws of a batch depend on the seed and its number alone.

    run: where it resumes from, is saved and records its metrics; parameters: which of `network` to
    fit (default: all); average: a moving average of the weights, which is saved, too; compile: the
    modules in which the time goes, `compiled` where there are many steps; saved: called after every
    save, in the first process, with the weights (the average's, if there is one). An observer of
    the progress bar may raise: the run is saved first, unless it is in parts. Raises `ConfigError`
    for batches that the processes cannot share equally, or where the run cannot be restored.
    """
    parameters = list(network.parameters() if parameters is None else parameters)
    share = processes.own_share(config.batches_per_step)
    together = processes.Together(parameters[0].device)
    in_parts = config.shard and processes.count() > 1
    with ExitStack() as stack:
        if run:
            stack.enter_context(closing(run))
        if in_parts:
            fitted = {id(parameter): number for number, parameter in enumerate(parameters)}
            names = {fitted[id(p)]: n for n, p in network.named_parameters() if id(p) in fitted}
            loss = stack.enter_context(sharding.sharded(network, average, loss))
            parts = dict(network.named_parameters())
            parameters = [parts[names[number]] for number in range(len(parameters))]
        optimizer = torch.optim.AdamW(
            parameters, config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        kept = network if average is None else torch.nn.ModuleList([network, average])
        first = run.restore(kept, optimizer) if run else 0
        processes.meet()  # nobody saves before all have restored
        smooth = None
        stack.enter_context(compiled(compile, config.steps, in_parts=in_parts))
        show = stack.enter_context(progress_bar(name, first, config.steps))
        for step in range(first, config.steps):
            rate = config.learning_rate * learning_rate_factor(
                step, config.warmup_steps, config.steps
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            network.train()
            optimizer.zero_grad(set_to_none=True)
            every = []
            for part in share:
                batch = step * config.batches_per_step + part
                seed = config.seed * 1_000_003 + batch
                torch.manual_seed(seed)  # dropout
                every.append(loss(batch, torch.Generator().manual_seed(seed)))
                (every[-1]["loss"] / len(share)).backward()
            losses = processes.mean(every)
            # FSDP has averaged the gradients itself
            together.average(_alike(losses, [] if in_parts else parameters, network))
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.gradient_clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(network)
            value = losses["loss"].item()
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            done = step + 1
            try:
                show(done, f"loss {smooth:.4f}")
            except BaseException:
                if run and not in_parts:  # the other processes may be at another step
                    run.save(done, kept, optimizer)
                raise
            if run and (done % RECORD_EVERY == 0 or done == config.steps):
                metrics = {key: one.item() for key, one in losses.items()}
                metrics |= {"smooth_loss": smooth}
                metrics |= {"gradient_norm": float(sharding.whole(norm))}
                run.record(done, metrics | {"learning_rate": rate})
            if run and (done % config.save_every == 0 or done == config.steps):
                run.save(done, kept, optimizer)
                if saved is not None:
                    weights = sharding.whole_weights(network if average is None else average.module)
                    if processes.number() == 0:
                        saved(weights)


def _alike(
    losses: dict[str, torch.Tensor],
    parameters: list[torch.nn.Parameter],
    network: torch.nn.Module,
) -> Iterator[torch.Tensor]:
    """What several processes have to average: metrics, gradients, and running statistics."""
    yield from losses.values()
    yield from (p.grad for p in parameters if p.grad is not None)
    yield from (b for b in network.buffers() if b.is_floating_point())


def learning_rate_factor(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to zero at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return 0.5 * (1.0 + float(torch.cos(torch.tensor(share * torch.pi))))
