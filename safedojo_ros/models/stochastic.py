"""From a policy to the distribution over its chunks, whichever family it is of."""

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.models.flow_sde import FlowConfig, StochasticFlow
from safedojo_ros.models.pi0_policy import PI0Policy
from safedojo_ros.models.policy import StochasticPolicy, StoredPolicy
from safedojo_ros.models.token_policy import TokenPolicy
from safedojo_ros.models.token_sampling import StochasticTokens, TokenSampling


def stochastic(policy: StoredPolicy, flow: FlowConfig, tokens: TokenSampling) -> StochasticPolicy:
    """`policy` as reinforcement learning needs it; each family reads its own settings.

    Raises `ConfigError` for settings out of range, or a policy that has no likelihoods.
    """
    if isinstance(policy, PI0Policy):
        return StochasticFlow(policy, flow)
    if isinstance(policy, TokenPolicy):
        return StochasticTokens(policy, tokens)
    raise ConfigError(
        f"policy {policy.checkpoint_id} is a {type(policy).__name__}: it has no "
        "likelihoods to practise with"
    )
