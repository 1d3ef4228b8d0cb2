"""What the demo trains: a small network on real handwritten digits, the same bit by bit whenever it is run.

The data is the test set of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (CC BY 4.0, see
`data/README.md`): 1,797 images of 8x8 pixels, of which 1,400 are learned from and 397 are kept apart to test with.
The network has one hidden layer and learns by gradient descent with momentum.

Whatever is left to chance comes from the seed and the number of the epoch, and from nothing that was drawn before.
So a network that was saved after any epoch and loaded again goes on exactly as if it had never been interrupted: a
saved one holds the weights, the momentum, the seed, and how many epochs it was trained.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BATCH", "LAYERS", "RATE", "Digits", "Network", "load_digits"]

#: Pixels in, hidden units, classes out.
LAYERS = (64, 64, 10)
BATCH, RATE, MOMENTUM = 32, 0.02, 0.9

#: How many images are learned from; the rest is for testing. The split is the same for every seed.
_LEARNED, _SPLIT_SEED = 1400, 0
_BRIGHTEST = 16.0
_NAMES = ("w1", "b1", "w2", "b2")

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


class Digits(NamedTuple):
    """Images as rows of 64 numbers from 0 to 1, and the digit that each one shows."""

    images: Floats
    labels: Labels


def load_digits() -> tuple[Digits, Digits]:
    """The digits to learn from, and those to test with."""
    packed = resources.files("hubstate") / "data" / "digits.npz"
    with packed.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images = arrays["images"].astype(np.float64) / _BRIGHTEST
        labels = arrays["labels"].astype(np.intp)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    learned, kept = order[:_LEARNED], order[_LEARNED:]
    return Digits(images[learned], labels[learned]), Digits(images[kept], labels[kept])


class Network:
    """A network with one hidden layer, and what its training has to remember."""

    def __init__(self, seed: int, epochs: int, arrays: dict[str, Floats]) -> None:
        """`epochs`: how many it was trained. `arrays`: weights `w1`, `b1`, ..., and their momentum `m_w1`, ..."""
        self.seed = seed
        self.epochs = epochs
        self.arrays = arrays

    @classmethod
    def new(cls, seed: int) -> Network:
        """One that has learned nothing yet."""
        chance = np.random.default_rng([seed, 0])
        inputs, hidden, classes = LAYERS
        weights = {
            "w1": chance.normal(0.0, np.sqrt(2.0 / inputs), (inputs, hidden)),
            "b1": np.zeros(hidden),
            "w2": chance.normal(0.0, np.sqrt(2.0 / hidden), (hidden, classes)),
            "b2": np.zeros(classes),
        }
        momentum = {f"m_{name}": np.zeros_like(value) for name, value in weights.items()}
        return cls(seed, 0, weights | momentum)

    @classmethod
    def load(cls, path: Path) -> Network:
        """One that was saved."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _NAMES} | {
                f"m_{name}": file[f"m_{name}"] for name in _NAMES
            }
            return cls(int(file["seed"]), int(file["epochs"]), arrays)

    def save(self, path: Path) -> None:
        """Writes it beside `path` and renames it, so that the file of this name is whole at every moment."""
        making = path.with_name(f".{path.name}.part")
        everything: dict[str, Any] = {"seed": self.seed, "epochs": self.epochs, **self.arrays}
        with making.open("wb") as file:
            np.savez(file, **everything)
            file.flush()
            os.fsync(file.fileno())
        making.replace(path)

    def learn(self, digits: Digits) -> float:
        """Trains one epoch; returns the mean loss (cross-entropy) over its images, each as it was met."""
        order = np.random.default_rng([self.seed, self.epochs + 1]).permutation(len(digits.labels))
        loss = 0.0
        for begin in range(0, len(order), BATCH):
            batch = order[begin : begin + BATCH]
            loss += self._step(digits.images[batch], digits.labels[batch])
        self.epochs += 1
        return loss / len(order)

    def judge(self, digits: Digits) -> tuple[float, float]:
        """The mean loss on these digits, and the share of them that is recognised."""
        _, likely = self._forward(digits.images)
        right = likely.argmax(axis=1) == digits.labels
        return float(_losses(likely, digits.labels).mean()), float(right.mean())

    def _forward(self, images: Floats) -> tuple[Floats, Floats]:
        """What the hidden units make of the images, and how likely each class is."""
        hidden = np.maximum(images @ self.arrays["w1"] + self.arrays["b1"], 0.0)
        scores = hidden @ self.arrays["w2"] + self.arrays["b2"]
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, likely / likely.sum(axis=1, keepdims=True)

    def _step(self, images: Floats, labels: Labels) -> float:
        """One step of gradient descent; returns the sum of the losses before it."""
        hidden, likely = self._forward(images)
        loss = float(_losses(likely, labels).sum())
        wrong = likely.copy()
        wrong[np.arange(len(labels)), labels] -= 1.0
        wrong /= len(labels)
        back = (wrong @ self.arrays["w2"].T) * (hidden > 0.0)
        slopes = (images.T @ back, back.sum(axis=0), hidden.T @ wrong, wrong.sum(axis=0))
        for name, slope in zip(_NAMES, slopes, strict=True):
            momentum = self.arrays[f"m_{name}"]
            momentum *= MOMENTUM
            momentum -= RATE * slope
            self.arrays[name] += momentum
        return loss


def _losses(likely: Floats, labels: Labels) -> Floats:
    losses: Floats = -np.log(likely[np.arange(len(labels)), labels])
    return losses
