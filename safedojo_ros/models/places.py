"""What a policy knows of places, in numbers: where the gripper is, and where it grasps next."""

import torch

CENTIMETRE = 0.01
PLACES = 9
"""The gripper's place, the next one where it will open or close, and the way there: x, y, z."""


class Places(torch.nn.Module):
    """Reads the places off what the action expert sees, and tells the expert.

    Attention finds a small thing early, but learns late to turn what it found into millimetres of
    an action; a linear map reads them at once. The expert is told what was read, beside the state.
    No gradient of the actions changes what is read: that stays an estimate of places.
    """

    def __init__(self, features: int, width: int) -> None:
        """features: F of `Prefix.features`; width: of the action expert."""
        super().__init__()
        self.read = torch.nn.Linear(features, PLACES)
        self.tell = torch.nn.Linear(PLACES + 3, width, bias=False)
        torch.nn.init.zeros_(self.tell.weight)

    def told(self, places: torch.Tensor) -> torch.Tensor:
        """(B, width) of `places` (B, 9), in centimetres: coarse, and the last bit of the way."""
        near = torch.tanh(places[:, 6:] / 2.0)
        return self.tell(torch.cat([places / 10.0, near], dim=1).detach())

    @staticmethod
    def loss(places: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Scalar: Huber's loss, in centimetres, quadratic below 2 mm; true: (B, 3, 3) m."""
        wanted = true.flatten(1) / CENTIMETRE
        return torch.nn.functional.smooth_l1_loss(places, wanted, beta=0.2)
