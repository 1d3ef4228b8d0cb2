import json
from pathlib import Path

import pytest

import hubstate
from hubstate.testing import TrainerTests


def my_training(*, epochs, resume, at_epoch):
    with hubstate.start("curve", epochs=epochs, resume=resume) as session:
        last = session.last_checkpoint
        weight = json.loads(last.path.read_text()) if last else 0.0
        for epoch in session.epochs():
            at_epoch(epoch)  # the tests look, or break something, here
            weight += 0.5 * (1.0 - weight)
            session.log({"weight": weight})
            Path("last.json").write_text(json.dumps(weight))
            session.save("last.json", fitness=weight)


class TestMyTraining(TrainerTests):
    @pytest.fixture
    def train(self):
        return my_training
