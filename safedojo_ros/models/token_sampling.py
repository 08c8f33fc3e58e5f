"""Likelihoods of a token policy: the log-softmax of its bins at the rollout's temperature."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import STATE_SIZE, Observation
from safedojo_ros.models.images import to_uint8, to_unit
from safedojo_ros.models.policy import PolicySample
from safedojo_ros.models.token_policy import TokenPolicy, draw_bins


@dataclass(frozen=True)
class TokenSampling:
    """How the token policy explores. temperature: of the logits; 1 is what imitation has fitted."""

    temperature: float = 1.0


class StochasticTokens:
    """A token policy that draws its bins; see `models.policy.StochasticPolicy`.

    Raises `ConfigError` for a temperature out of range.
    """

    def __init__(self, policy: TokenPolicy, config: TokenSampling) -> None:
        if not config.temperature > 0.0:
            raise ConfigError(f"tokens.temperature is {config.temperature}, expected above 0")
        self.policy, self.config = policy, config
        self.feature_size = STATE_SIZE + policy.size.width
        self.modules = torch.nn.ModuleDict({"network": policy.network})

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """The whole network."""
        return list(self.modules.parameters())

    @torch.no_grad()
    def sample_with_log_prob(
        self, observations: list[Observation], generators: list[torch.Generator]
    ) -> PolicySample:
        """One chunk an observation; what was seen and the bins are kept."""
        policy = self.policy
        policy.network.eval()
        pictures, tokens, state = policy.inputs(observations)
        log_prob = self._log_prob_of_bins(pictures, tokens, state)
        chosen = draw_bins(log_prob, generators)
        tensors = {
            "pictures": to_uint8(pictures),
            "tokens": tokens,
            "state": state,
            "bins": chosen,
        }
        return PolicySample(policy.actions(chosen), _of_chosen(log_prob, chosen), tensors)

    def log_prob(self, sample: PolicySample) -> torch.Tensor:
        """(B, H), summed over the seven numbers of an action."""
        self.policy.network.eval()  # the same network as at sampling: ratios start at 1
        log_prob = self._log_prob_of_bins(*_seen(sample))
        return _of_chosen(log_prob, sample.tensors["bins"])

    @torch.no_grad()
    def features(self, sample: PolicySample) -> torch.Tensor:
        """(B, F): the state, and the language model's mean output over what was seen."""
        _, context = self.policy.network(*_seen(sample))
        return torch.cat([sample.tensors["state"], context], dim=1)

    def _log_prob_of_bins(
        self, pictures: torch.Tensor, tokens: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        """(B, H, 7, bins) float32."""
        logits, _ = self.policy.network(pictures, tokens, state)
        return (logits.float() / self.config.temperature).log_softmax(-1)


def _of_chosen(log_prob: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """(B, H): of the chosen bins (B, H, 7), summed over an action."""
    return log_prob.gather(-1, chosen[..., None])[..., 0].sum(-1)


def _seen(sample: PolicySample) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tensors = sample.tensors
    return to_unit(tensors["pictures"]), tensors["tokens"], tensors["state"]
