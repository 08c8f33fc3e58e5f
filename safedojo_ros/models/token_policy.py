"""A policy of discrete action tokens, decoded in parallel: OpenVLA-OFT's scheme.

Each of an action's seven numbers is one of `bins` equal intervals of [−1, 1], which stands for the
demonstrations' 1st to 99th percentile. The language model (transformers' PaliGemma: SigLIP and
Gemma) reads pictures, instruction, state and H·7 placeholders, in which nothing is masked but
padding, and one pass gives the logits of the whole chunk (Kim et al. 2025, arXiv 2502.19645).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE, Observation
from safedojo_ros.models.network_policy import (
    BackboneSize,
    NetworkPolicy,
    backbone_config,
    train_tokenizer,
)
from safedojo_ros.models.normalisation import unit_scales

ARCHITECTURE = "token_policy"


@dataclass(frozen=True)
class TokenPolicySize(BackboneSize):
    """How large the network is; the presets hold the values of `tiny` and `small`.

    bins: of each number of an action. temperature: of the logits that `act` draws from; at 0 it
    takes the likeliest bin.
    """

    bins: int = 256
    temperature: float = 0.0


def to_bins(actions: torch.Tensor, bins: int) -> torch.Tensor:
    """Normalised actions → int64 bins, as shaped; what lies outside [−1, 1] goes to the ends."""
    return ((actions + 1.0) * (bins / 2)).floor().clamp(0, bins - 1).long()


def from_bins(chosen: torch.Tensor, bins: int) -> torch.Tensor:
    """Bins → their centres, float32 in (−1, 1)."""
    return (chosen.float() + 0.5) * (2 / bins) - 1.0


def draw_bins(log_prob: torch.Tensor, generators: Sequence[torch.Generator] | None) -> torch.Tensor:
    """(B, H, 7) bins drawn from log-probabilities (B, H, 7, bins), by the Gumbel-max trick."""
    shape = log_prob.shape[1:]
    sources = generators if generators is not None else [None] * len(log_prob)
    waits = torch.stack([torch.empty(shape).exponential_(generator=g) for g in sources])
    return (log_prob - waits.log().to(log_prob)).argmax(-1)


class TokenNetwork(torch.nn.Module):
    """PaliGemma without causal mask, over [pictures, instruction, state, H·7 placeholders]."""

    def __init__(self, size: TokenPolicySize, vocabulary: int) -> None:
        super().__init__()
        self.size = size
        config = AutoConfig.for_model(**backbone_config(size, vocabulary))
        self.backbone = AutoModel.from_config(config)
        self.state = torch.nn.Linear(STATE_SIZE, size.width)
        slots = size.chunk_length * ACTION_SIZE
        spread = config.text_config.initializer_range * size.width**0.5  # as that of words
        self.placeholders = torch.nn.Parameter(spread * torch.randn(slots, size.width))
        self.head = torch.nn.Linear(size.width, size.bins)

    def forward(
        self, pictures: torch.Tensor, tokens: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, H, 7, bins), and the mean output of what was seen (B, width).

        pictures: (B, cameras, 3, S, S); tokens: (B, L); state: (B, 8), normalised.
        """
        count, slots = len(state), len(self.placeholders)
        patches = self.backbone.get_image_features(pictures.flatten(0, 1)).pooler_output
        words = self.backbone.get_input_embeddings()(tokens)
        seen = [patches.reshape(count, -1, self.size.width), words, self.state(state)[:, None]]
        asked = self.placeholders.expand(count, -1, -1)
        mask = torch.cat(
            [
                torch.ones(seen[0].shape[:2], dtype=torch.long, device=tokens.device),
                (tokens != 0).long(),
                torch.ones(count, 1 + slots, dtype=torch.long, device=tokens.device),
            ],
            dim=1,
        )
        output = self.backbone(
            inputs_embeds=torch.cat([*seen, asked], dim=1),
            attention_mask=mask,
            position_ids=mask.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(mask),  # one block: everything sees everything
            use_cache=False,
        ).last_hidden_state
        shape = (self.size.chunk_length, ACTION_SIZE)
        logits = self.head(output[:, -slots:]).unflatten(1, shape)
        weight = mask[:, :-slots, None].to(output)
        return logits, (output[:, :-slots] * weight).sum(1) / weight.sum(1)


class TokenPolicy(NetworkPolicy[TokenPolicySize]):
    """A token network, its tokenizer and its normalisation: all that a checkpoint holds."""

    architecture = ARCHITECTURE
    size_class = TokenPolicySize

    def _new_network(self) -> torch.nn.Module:
        return TokenNetwork(self.size, self.tokenizer.get_vocab_size())

    @torch.no_grad()
    def act(
        self, observations: list[Observation], generators: list[torch.Generator] | None = None
    ) -> np.ndarray:
        """(B, H, 7) actions; see `models.policy.Policy.act`. At temperature 0 nothing is drawn."""
        self.network.eval()
        logits, _ = self.network(*self.inputs(observations))
        if self.size.temperature == 0.0:
            return self.actions(logits.argmax(-1))
        log_prob = (logits / self.size.temperature).log_softmax(-1)
        return self.actions(draw_bins(log_prob, generators))

    def actions(self, chosen: torch.Tensor) -> np.ndarray:
        """(B, H, 7) bins → metres and radians, within limits."""
        return self.physical(from_bins(chosen, self.size.bins))


def tiny_tokens(seed: int = 0, instructions: Sequence[str] = ()) -> TokenPolicy:
    """A policy with random weights, for tests."""
    torch.manual_seed(seed)
    sentences = list(instructions) or ["put the red cube on the plate"]
    size = TokenPolicySize(width=32, layers=2, heads=2, head_dim=16)
    return TokenPolicy(
        size,
        train_tokenizer(sentences),
        unit_scales(),
        instructions,
        checkpoint_id=f"tokens{seed}",
    )
