"""Likelihoods of a flow-matching policy: its sampling ODE with Gaussian noise injected once.

x_t = t·noise + (1 − t)·action, from t = 1 to 0, so that the network's velocity v gives both ends:
action x̂ = x − t·v and noise n̂ = x + (1 − t)·v. Flow-SDE's step from t to t' < t is then

x' ~ N((1 − t')·x̂ + √(1 − a²)·t'·n̂, (a·τ·t')²)    a: noise level, τ: temperature

It redraws the share a² of the variance that is left at t'; for a = 0 it is the Euler step. Start
noise of standard deviation τ has, for Gaussian actions, the score of unit noise divided by τ²,
hence the τ. In the limit of small steps its marginals are the ODE's (Song et al. 2021, as in
Flow-GRPO and πRL, arXiv 2510.25889). One step of a chunk, drawn at random, is such a step, the
others are Euler steps: one transition has a likelihood that costs one pass of the network.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.policy import PolicySample
from safedojo_ros.models.prefix import Prefix


@dataclass(frozen=True)
class FlowConfig:
    """How the policy explores in practice: noise is added in one of the denoising steps. Much noise
    in an early step teaches most."""

    noise_level: float = 0.9
    """a, share of the noise that the noisy step draws anew, (0, 1]."""
    least_time: float = 0.6
    """The noisy step ends at this flow time t or above, [0, 1]; t falls from 1 (noise) to 0
    (action). Later noise hardly changes the action, but makes its likelihood very steep."""

    def __post_init__(self) -> None:
        check_ranges(self, noise_level="(0, 1]", least_time="[0, 1]")


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
    """A π0 policy that samples by Flow-SDE; see `models.policy.StochasticPolicy`.

    The action expert learns; images and instruction pass the frozen language model once, when a
    chunk is drawn. Raises `ConfigError` where no denoising step may be noisy.
    """

    def __init__(self, policy: PI0Policy, config: FlowConfig) -> None:
        self.policy, self.config = policy, config
        self.steps = policy.size.denoising_steps
        ends = [1.0 - (k + 1) / self.steps for k in range(self.steps - 1)]
        self.noisy_steps = sum(end >= config.least_time - 1e-9 for end in ends)
        if self.noisy_steps == 0:
            raise ConfigError(
                f"of the policy's {self.steps} denoising steps none but the last ends at t = "
                f"{config.least_time} or above; lower practice.flow.least_time"
            )
        # of one head, keys and values
        self.feature_size = policy.scales.state_size + 2 * policy.size.head_dim
        self.modules = torch.nn.ModuleDict({"network": policy.network})

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """Of the action expert."""
        frozen = {id(p) for p in self.policy.network.model.vlm.parameters()}
        return [p for p in self.modules.parameters() if p.requires_grad and id(p) not in frozen]

    # ---------------------------------------------------------------- sampling

    @torch.no_grad()
    def sample_with_log_prob(
        self, observations: list[Observation], generators: list[torch.Generator]
    ) -> PolicySample:
        """One chunk an observation; the noisy transition is kept."""
        policy = self.policy
        policy.network.eval()
        images, tokens, state = policy.inputs(observations)
        prefix = policy.prefix(images, tokens)
        keys_values = prefix.stacked()
        draws = [self._draw(g) for g in generators]
        start, step, noise = (torch.stack(p).to(policy.device) for p in zip(*draws, strict=True))
        x = policy.size.temperature * start
        before, after = torch.zeros_like(x), torch.zeros_like(x)
        log_prob = torch.zeros(x.shape[:2], device=policy.device)
        for k in range(self.steps):
            number = torch.full((len(x),), k, device=policy.device)
            velocity = policy.velocity(prefix, state, x, 1.0 - number / self.steps)
            mean, std = self._transition(x, velocity, number)
            moved = mean + std * noise
            density = gaussian_log_prob(moved, mean, std).sum(-1)
            noisy = (step == k)[:, None, None]
            moved = torch.where(noisy, moved, x - velocity / self.steps)
            log_prob = torch.where(noisy[:, :, 0], density, log_prob)
            before, after = torch.where(noisy, x, before), torch.where(noisy, moved, after)
            x = moved
        tensors = {"state": state, "step": step, "before": before, "after": after}
        tensors |= {"keys_values": keys_values, "mask": prefix.mask}
        return PolicySample(policy.physical(x), log_prob, tensors)

    def _draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Start noise (H, 7), which step is noisy (), and its noise (H, 7)."""
        shape = (self.policy.chunk_length, self.policy.scales.action_size)
        start = torch.randn(shape, generator=generator)
        step = torch.randint(self.noisy_steps, (), generator=generator)
        return start, step, torch.randn(shape, generator=generator)

    def _transition(
        self, x: torch.Tensor, velocity: torch.Tensor, step: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (B, H, 7) and standard deviation (B, 1, 1) of the noisy denoising step `step`."""
        step = step[:, None, None]
        time, after = 1.0 - step / self.steps, 1.0 - (step + 1) / self.steps
        temperature = self.policy.size.temperature
        return sde_transition(x, velocity, time, after, self.config.noise_level, temperature)

    # ---------------------------------------------------------------- likelihood

    def log_prob(self, sample: PolicySample) -> torch.Tensor:
        """(B, H) of the noisy transition, summed over the seven numbers of an action."""
        tensors, policy = sample.tensors, self.policy
        policy.network.eval()  # the same network as at sampling: ratios start at 1
        prefix = Prefix.from_stacked(tensors["keys_values"], tensors["mask"])
        x, step = tensors["before"], tensors["step"]
        velocity = policy.velocity(prefix, tensors["state"], x, 1.0 - step / self.steps)
        mean, std = self._transition(x, velocity, step)
        return gaussian_log_prob(tensors["after"], mean, std).sum(-1)

    @torch.no_grad()
    def features(self, sample: PolicySample) -> torch.Tensor:
        """(B, F): the state, and the last layer's keys and values averaged over the tokens."""
        last = sample.tensors["keys_values"][:, -1]
        mask = sample.tensors["mask"][:, None, None, :, None].to(last.dtype)
        pooled = (last * mask).sum(-2) / mask.sum(-2)
        return torch.cat([sample.tensors["state"], pooled.flatten(1)], dim=1)
