"""The one function: overlapping boxes are left out, but for the one with the highest score."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["nms"]


def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
    """The indices of the boxes (x1, y1, x2, y2) that stay, the highest score first."""
    left = scores.argsort(descending=True)
    stay = []
    areas = (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)
    while left.numel():
        first, left = left[0], left[1:]
        stay.append(first)
        corner = torch.maximum(boxes[first, :2], boxes[left, :2])
        opposite = torch.minimum(boxes[first, 2:], boxes[left, 2:])
        shared = (opposite - corner).clamp(min=0).prod(dim=1)
        left = left[shared / (areas[first] + areas[left] - shared) <= iou_threshold]
    return torch.stack(stay) if stay else left
