"""Likelihoods of a flow-matching policy: its sampling ODE with Gaussian noise injected.

x_t = t·noise + (1 − t)·action, from t = 1 to 0, so that the network's velocity v tells both ends:
action x̂ = x − t·v and noise n̂ = x + (1 − t)·v. A step from t to t' < t is then

Flow-SDE    x' ~ N((1 − t')·x̂ + √(1 − a²)·t'·n̂, (a·τ·t')²)    a: noise level, τ: temperature
Flow-Noise  x' ~ N(x − (t − t')·v, s²)                         s: standard deviation

Flow-SDE redraws the share a² of the variance that is left at t'; for a = 0 it is the Euler step.
Start noise of standard deviation τ has, for Gaussian actions, the score of unit noise divided by
τ², hence the τ. In the limit of small steps its marginals are the ODE's (Song et al. 2021, as in
Flow-GRPO and πRL, arXiv 2510.25889); the last step adds no noise. Flow-Noise widens the marginals.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE, Observation
from safedojo_ros.models.images import to_uint8, to_unit
from safedojo_ros.models.pi0_policy import PI0Policy, Prefix
from safedojo_ros.models.policy import PolicySample


@dataclass(frozen=True)
class FlowConfig:
    """How the flow policy explores.

    kind: "sde" or "noise"; noise_level: a of Flow-SDE, in (0, 1]; everywhere: inject at every step
    that may be noisy, not at one random one; least_time: only steps that end at this t or above
    may be: late noise hardly changes the action, but makes its likelihood very steep; std_low,
    std_high: range of Flow-Noise's standard deviation, in normalised actions; learned_std: learn
    it, from its middle on; freeze_prefix: learn the action expert alone, with pictures and
    instruction encoded once at sampling.
    """

    kind: Literal["sde", "noise"] = "sde"
    noise_level: float = 0.5
    everywhere: bool = False
    least_time: float = 0.0
    std_low: float = 0.08
    std_high: float = 0.16
    learned_std: bool = False
    freeze_prefix: bool = True


def sde_transition(
    x: torch.Tensor,
    velocity: torch.Tensor,
    time: torch.Tensor,
    after: torch.Tensor,
    noise_level: float,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (as x) and standard deviation (as time) of Flow-SDE's step from `time` to `after`.

    time, after: broadcastable to x.
    """
    action = x - time * velocity
    noise = x + (1.0 - time) * velocity
    mean = (1.0 - after) * action + math.sqrt(1.0 - noise_level**2) * after * noise
    return mean, noise_level * temperature * after


def gaussian_log_prob(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Log-density of N(mean, std²) at `x`, elementwise."""
    return -0.5 * ((x - mean) / std).square() - std.log() - 0.5 * math.log(2.0 * math.pi)


class StochasticFlow:
    """A π0 policy that samples by Flow-SDE or Flow-Noise; see `models.policy.StochasticPolicy`.

    Raises `ConfigError` for a noise level out of range, or too few denoising steps.
    """

    def __init__(self, policy: PI0Policy, config: FlowConfig) -> None:
        self.policy, self.config = policy, config
        self.steps = policy.size.denoising_steps
        if config.kind not in ("sde", "noise"):
            raise ConfigError(f"flow.kind is '{config.kind}', expected sde or noise")
        if not 0.0 < config.noise_level <= 1.0:
            raise ConfigError(f"flow.noise_level is {config.noise_level}, expected (0, 1]")
        if not 0.0 < config.std_low <= config.std_high:
            raise ConfigError(
                f"flow.std_low {config.std_low} and std_high {config.std_high} are no range"
            )
        ends = [1.0 - (k + 1) / self.steps for k in range(self.steps - 1)]
        self.noisy_steps = sum(end >= config.least_time - 1e-9 for end in ends)
        if config.kind == "sde" and self.noisy_steps == 0:
            raise ConfigError(
                f"of the policy's {self.steps} denoising steps none but the last ends at t = "
                f"{config.least_time} or above; lower flow.least_time, or use Flow-Noise"
            )
        self.feature_size = STATE_SIZE + 2 * policy.size.head_dim  # one head of keys and values
        self.std_logit = torch.nn.Parameter(torch.zeros(ACTION_SIZE, device=policy.device))
        self.std_logit.requires_grad_(config.kind == "noise" and config.learned_std)
        self.modules = torch.nn.ModuleDict(
            {"network": policy.network, "std": torch.nn.ParameterList([self.std_logit])}
        )

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Of the action expert, and of the rest where it is not frozen."""
        frozen = self.policy.network.model.vlm if self.config.freeze_prefix else None
        held = set() if frozen is None else {id(p) for p in frozen.parameters()}
        return [p for p in self.modules.parameters() if p.requires_grad and id(p) not in held]

    # ---------------------------------------------------------------- sampling

    @torch.no_grad()
    def sample_with_log_prob(
        self, observations: list[Observation], generators: list[torch.Generator]
    ) -> PolicySample:
        """One chunk an observation; the chain around each noisy step is kept."""
        policy = self.policy
        policy.network.eval()
        pictures, tokens, state = policy.inputs(observations)
        prefix = policy.prefix(pictures, tokens)
        keys_values = prefix.stacked()
        shape = (policy.chunk_length, ACTION_SIZE)
        draws = [self._draw(shape, g) for g in generators]
        start, step, noise = (torch.stack(p).to(policy.device) for p in zip(*draws, strict=True))
        x = policy.size.temperature * start
        before, after = torch.zeros_like(noise), torch.zeros_like(noise)
        log_prob = torch.zeros(x.shape[:2], device=policy.device)
        for k in range(self.steps):
            number = torch.full((len(x),), k, device=policy.device)
            velocity = policy.velocity(prefix, state, x, 1.0 - number / self.steps)
            mean, std = self._transition(x, velocity, number[:, None, None])
            noisy = step == k  # (B, J): at most one of the J transitions is this step
            here = noisy.any(1)[:, None, None]
            at = noisy[:, :, None, None]
            moved = mean + std * (noise * at).sum(1)
            density = gaussian_log_prob(moved, mean, std).sum(-1)
            log_prob = torch.where(here[:, :, 0], log_prob + density, log_prob)
            moved = torch.where(here, moved, x - velocity / self.steps)
            before = torch.where(at, x[:, None], before)
            after = torch.where(at, moved[:, None], after)
            x = moved
        tensors = {"state": state, "step": step, "before": before, "after": after}
        if self.config.freeze_prefix:
            tensors |= {"keys_values": keys_values, "mask": prefix.mask}
        else:
            tensors |= {"pictures": to_uint8(pictures), "tokens": tokens}
        return PolicySample(policy.physical(x), log_prob, tensors)

    def _draw(
        self, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Start noise (H, 7), the J steps that are noisy (J,), and their noise (J, H, 7)."""
        start = torch.randn(shape, generator=generator)
        if self.config.kind == "noise":
            step = torch.arange(self.steps)
        elif self.config.everywhere:
            step = torch.arange(self.noisy_steps)
        else:
            step = torch.randint(self.noisy_steps, (1,), generator=generator)
        return start, step, torch.randn(len(step), *shape, generator=generator)

    def _transition(
        self, x: torch.Tensor, velocity: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the noisy denoising step number `step`."""
        if self.config.kind == "noise":
            return x - velocity / self.steps, self.std()
        time, after = 1.0 - step / self.steps, 1.0 - (step + 1) / self.steps
        temperature = self.policy.size.temperature
        return sde_transition(x, velocity, time, after, self.config.noise_level, temperature)

    def std(self) -> torch.Tensor:
        """(7,) Flow-Noise's standard deviation."""
        low, high = self.config.std_low, self.config.std_high
        return low + (high - low) * torch.sigmoid(self.std_logit)

    # ---------------------------------------------------------------- likelihood

    def log_prob(self, sample: PolicySample) -> torch.Tensor:
        """(B, H), summed over the noisy transitions and the seven numbers of an action."""
        tensors, policy = sample.tensors, self.policy
        policy.network.eval()  # the same network as at sampling: ratios start at 1
        step = tensors["step"]
        times = step.shape[1]
        prefix = self._prefix(sample)
        if times > 1:
            prefix = prefix.repeated(times)
        x = tensors["before"].flatten(0, 1)
        state = tensors["state"].repeat_interleave(times, 0)
        number = step.flatten()
        velocity = policy.velocity(prefix, state, x, 1.0 - number / self.steps)
        mean, std = self._transition(x, velocity, number[:, None, None])
        density = gaussian_log_prob(tensors["after"].flatten(0, 1), mean, std)
        return density.sum(-1).unflatten(0, (-1, times)).sum(1)

    def _prefix(self, sample: PolicySample) -> Prefix:
        tensors = sample.tensors
        if self.config.freeze_prefix:
            return Prefix.from_stacked(tensors["keys_values"], tensors["mask"])
        return self.policy.prefix(to_unit(tensors["pictures"]), tensors["tokens"])

    @torch.no_grad()
    def features(self, sample: PolicySample) -> torch.Tensor:
        """(B, F): the state, and the last layer's keys and values averaged over the tokens."""
        prefix = self._prefix(sample)
        last = prefix.stacked()[:, -1]
        mask = prefix.mask[:, None, None, :, None].to(last.dtype)
        pooled = (last * mask).sum(-2) / mask.sum(-2)
        return torch.cat([sample.tensors["state"], pooled.flatten(1)], dim=1)
