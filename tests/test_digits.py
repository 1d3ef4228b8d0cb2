"""The demo's data and network: the real digits, truly learned, and the same bit by bit whenever it is done."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hubstate import digits
from hubstate.digits import LAYERS, Digits, Network, load_digits

SCRIPT = """
from hubstate.digits import Network, load_digits
learned, _ = load_digits()
network = Network.new(3)
for _ in range(2):
    network.learn(learned)
print(network.arrays["w1"].tobytes().hex()[:4000], network.arrays["w2"].tobytes().hex()[:4000])
"""


def bits(network: Network) -> dict[str, bytes]:
    """All that a network holds, bit by bit."""
    return {name: value.tobytes() for name, value in network.arrays.items()}


def trained(seed: int, epochs: int) -> Network:
    learned, _ = load_digits()
    network = Network.new(seed)
    for _ in range(epochs):
        network.learn(learned)
    return network


def test_the_data_is_the_whole_real_set():
    """Each of the 1,797 images is used once: 1,400 to learn from, 397 to test with, all ten digits in both."""
    learned, kept_apart = load_digits()
    assert (learned.images.shape, kept_apart.images.shape) == ((1400, 64), (397, 64))
    assert set(learned.labels) == set(kept_apart.labels) == set(range(10))
    everything = np.concatenate([learned.images, kept_apart.images])
    assert (everything.min(), everything.max()) == (0.0, 1.0)
    # Of the original table as it was published: how often each digit occurs, and the sum of all pixels.
    counts = np.bincount(np.concatenate([learned.labels, kept_apart.labels]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert round(everything.sum() * 16) == 561_718


def test_the_data_names_its_source_and_licence():
    """Whoever finds the data in the package finds beside it who made it and what may be done with it."""
    folder = Path(digits.__file__).parent / "data"
    note = (folder / "README.md").read_text(encoding="utf-8")
    for part in ("10.24432/C50P49", "CC BY 4.0", "Alpaydin", "Kaynak", "Changed"):
        assert part in note
    assert (folder / "digits.npz").stat().st_size <= 60_000


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_network_truly_learns(seed):
    """Of digits that it never saw it recognises about one in ten at first, and after 15 epochs more than 95 %."""
    _, kept_apart = load_digits()
    loss_before, share_before = Network.new(seed).judge(kept_apart)
    loss_after, share_after = trained(seed, 15).judge(kept_apart)
    assert share_before < 0.3
    assert share_after > 0.95
    assert loss_after < loss_before / 5


def test_what_it_learns_comes_from_the_digits():
    """With labels that mean nothing it recognises nothing: the test digits do not leak into the learning."""
    learned, kept_apart = load_digits()
    network = Network.new(0)
    wrong = Digits(learned.images, np.random.default_rng(5).permutation(learned.labels))
    for _ in range(5):
        network.learn(wrong)
    assert network.judge(kept_apart)[1] < 0.3


def test_the_slopes_are_those_of_the_loss(monkeypatch):
    """One step without momentum goes down the slope that is measured by trying each weight a little higher and lower."""
    learned, _ = load_digits()
    few = Digits(learned.images[:8], learned.labels[:8])
    network = Network.new(1)
    monkeypatch.setattr(digits, "BATCH", 8)
    before = {name: value.copy() for name, value in network.arrays.items()}
    network.learn(few)
    for name, spot in (("w1", (20, 3)), ("b1", (5,)), ("w2", (7, 2)), ("b2", (4,))):
        losses = []
        for step in (1e-6, -1e-6):
            arrays = {other: value.copy() for other, value in before.items()}
            arrays[name][spot] += step
            losses.append(Network(1, 0, arrays).judge(few)[0])
        slope = (losses[0] - losses[1]) / 2e-6
        assert network.arrays[name][spot] - before[name][spot] == pytest.approx(
            -digits.RATE * slope, abs=1e-8
        )


@pytest.mark.parametrize("saved_after", [0, 1, 4, 6])
def test_a_loaded_network_goes_on_bit_by_bit(tmp_path, saved_after):
    """Saved after any epoch and loaded again, a network ends exactly as one that was never interrupted."""
    learned, _ = load_digits()
    network = trained(7, saved_after)
    network.save(tmp_path / "last.npz")
    again = Network.load(tmp_path / "last.npz")
    assert (again.seed, again.epochs, bits(again)) == (7, saved_after, bits(network))
    for _ in range(6 - saved_after):
        again.learn(learned)
    assert bits(again) == bits(trained(7, 6))


def test_seeds_and_epochs_differ():
    """Other seeds begin elsewhere, and no epoch meets its images in the order of the one before."""
    assert bits(Network.new(0)) != bits(Network.new(1))
    learned, _ = load_digits()
    one, two = Network.new(0), Network.new(0)
    two.epochs = 1
    one.learn(learned)
    two.learn(learned)
    assert bits(one) != bits(two)


def test_the_number_of_threads_changes_nothing():
    """Whatever threads the linear algebra may use, a run on this machine gives the same bits."""
    ends = set()
    for threads in ("1", "2", "5"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True, text=True
        )
        ends.add(hashlib.sha256(run.stdout.encode()).hexdigest())
    assert len(ends) == 1


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    """A save that breaks off leaves the file as it was before."""
    network = trained(0, 1)
    path = tmp_path / "last.npz"
    network.save(path)
    before = path.read_bytes()

    def broken(file, **_arrays):
        file.write(b"PK\x03\x04 half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(digits.np, "savez", broken)
    with pytest.raises(OSError, match="No space left"):
        network.save(path)
    assert path.read_bytes() == before


def test_the_layers_are_as_they_are_named():
    """The numbers that the demo shows of its network are those of its weights."""
    arrays = Network.new(0).arrays
    assert (arrays["w1"].shape, arrays["w2"].shape) == (LAYERS[:2], LAYERS[1:])
