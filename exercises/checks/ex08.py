"""8: the averaged weights, and going on with a run."""
import copy
import csv
import tempfile
from pathlib import Path

import torch
from torch import nn

from .kit import demand, expect, same

TRAINS = True                                        # an optimizer is made: worker.py


def network(w):
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.fill_(w)
        net.bias.fill_(10 * w)
    return net


def check_the_average_moves_towards_the_model(student):
    """ema <- decay ema + (1 - decay) model."""
    ema, model = network(1.0).requires_grad_(False), network(2.0)
    weight = ema.weight
    student.train.update_ema(ema, model, 0.9)
    demand(ema.weight is weight, "update_ema: the weights of ema must be changed in place")
    expect(model.weight.detach(), torch.full((1, 2), 2.0), "the weights of model, after update_ema",
           [("when model is changed and ema is not", torch.full((1, 2), 1.9)),
            ("when model is changed and ema is not", torch.full((1, 2), 1.1))])
    expect(ema.weight, torch.full((1, 2), 1.1), "update_ema with decay 0.9, from 1 towards 2", [
        ("when decay and 1 - decay are exchanged", torch.full((1, 2), 1.9)),
        ("when the weights are copied", torch.full((1, 2), 2.0)),
        ("when nothing happens", torch.full((1, 2), 1.0)),
        ("when 1 - decay is forgotten", torch.full((1, 2), 0.9 + 2)),
        ("when the two are just averaged", torch.full((1, 2), 1.5))])
    expect(ema.bias, torch.full((1,), 11.0), "the bias after update_ema", [
        ("when only the first of the parameters is averaged", torch.full((1,), 10.0))])
    demand(not ema.weight.requires_grad, "update_ema: the average must not need gradients")


def check_a_thousand_updates_are_a_geometric_sum(student):
    ema, model = network(0.0).requires_grad_(False), network(1.0)
    for _ in range(1000):
        student.train.update_ema(ema, model, 0.999)
    expect(ema.weight, torch.full((1, 2), 1 - 0.999 ** 1000), "1,000 updates towards 1",
           rtol=1e-3)


def check_buffers_are_copied(student):
    """They are no weights: an average of counts and running means is of no use."""
    ema, model = (nn.Sequential(network(0.0), nn.BatchNorm1d(1)).requires_grad_(False)
                  for _ in range(2))
    model[1].running_mean.fill_(3.0)
    model[1].num_batches_tracked.fill_(7)
    student.train.update_ema(ema, model, 0.9)
    expect(ema[1].running_mean, torch.full((1,), 3.0), "a buffer of ema, after update_ema", [
        ("when buffers are averaged as weights are", torch.full((1,), 0.3)),
        ("when buffers are left as they are", torch.full((1,), 0.0))])
    demand(ema[1].num_batches_tracked == 7, "update_ema: a buffer of integers is copied too")
    model[1].running_mean.fill_(5.0)
    demand(ema[1].running_mean == 3, "update_ema: ema and model must not share their buffers")


LOGGED = [[step, *[0.5] * 6] for step in (1, 2, 3)]  # the rows of log.csv when a run was killed


def begin(student, out):
    """Make two steps of a run of ten, and save it; its log has a line of a third."""
    run = fresh(student, out, student.seed)
    for _ in range(2):
        step(run)
    run.tally[1, 2] = 3.0
    run.save()
    with open(Path(out, "log.csv"), "w", newline="") as f:
        csv.writer(f).writerows([student.run.COLUMNS, *LOGGED])
    return run


def fresh(student, out, seed, resume=False):
    """Make a run whose network and optimizer know of no other."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    config = {"out": str(out), "data": "digits", "steps": 10, "batch_size": 5, "log_every": 2,
              "seed": student.seed, "precision": "float32"}
    return student.run.Run(config, model, copy.deepcopy(model).requires_grad_(False),
                           torch.optim.Adam(model.parameters(), lr=0.1), torch.device("cpu"), (),
                           resume)


def step(run):
    run.optimizer.zero_grad()
    run.model(torch.randn(5, 3)).square().mean().backward()
    run.optimizer.step()
    with torch.no_grad():
        for average, weight in zip(run.ema.parameters(), run.model.parameters(), strict=True):
            average.lerp_(weight, 0.1)
    run.step += 1


def resumed(student, out):
    """Make a run with other weights in that folder, and let the student's restore go on there."""
    again = fresh(student, out, student.seed + 1, resume=True)
    again.restore()
    return again


def check_restore_puts_everything_back(student):
    """The checkpoint is written by the project's own `save`.

    Numbers are only moved, into a file and back: they come back bit for bit.
    """
    with tempfile.TemporaryDirectory() as out:
        run = begin(student, out)
        expected = torch.get_rng_state()
        again = resumed(student, out)
        rng = torch.get_rng_state()
    demand(again.step == 2, f"restore: expected step 2, got {again.step}")
    for name, told in (("model", "the weights"), ("ema", "the averaged weights")):
        for one, two in zip(getattr(run, name).parameters(), getattr(again, name).parameters(),
                            strict=True):
            demand(torch.equal(one, two), f"restore: {told} ({name}) are not those of the file")
    demand(len(again.optimizer.state) == 4, "restore: the optimizer has no moments. Adam would "
           "start anew: its state belongs to the checkpoint too.")
    for moment in "exp_avg", "exp_avg_sq", "step":
        kept = [[state[moment] for state in each.optimizer.state.values()] for each in (run, again)]
        demand(all(map(torch.equal, *kept)), f"restore: the optimizer's moments are others: "
               f"{moment}")
    demand(torch.equal(rng, expected), "restore: the state of the random numbers is not that of "
           "the checkpoint, so the batches and the noise will be others")
    demand(torch.equal(run.tally, again.tally), "restore: the tally, the losses since the last "
           "line of the log, was not put back")


def check_the_log_is_cut_where_the_checkpoint_is(student):
    """Of three lines the third was lived after the checkpoint, and the second's interval goes on.

    That is how it is where a run is saved between two lines of its log, and goes on with a tally.
    """
    with tempfile.TemporaryDirectory() as out:
        begin(student, out)
        resumed(student, out)
        kept = [row[0] for row in student.run.read_log(Path(out, "log.csv"))]
    demand(kept, "restore: no line of log.csv is left. This is what you get when it is cut before "
           "self.step is back: `keep_log` looks at it.")
    demand(3 not in kept, "restore: log.csv has a line of step 3, and the checkpoint is of step 2: "
           "going on would write it a second time. `keep_log` cuts it.")
    demand(kept == [1], f"restore: log.csv has lines of the steps {kept}, and should have that of "
           "step 1 only: the tally goes on with the second interval. This is what you get when it "
           "is cut before self.tally is back: `keep_log` looks at it.")


def check_going_on_equals_never_having_stopped(student):
    """Two steps, restore, two steps: the same as four steps."""
    with tempfile.TemporaryDirectory() as out:
        run = begin(student, out)
        state = torch.get_rng_state()
        for _ in range(2):
            step(run)
        torch.set_rng_state(state)
        again = resumed(student, out)
        for _ in range(2):
            step(again)
    for name in "model", "ema":
        for one, two in zip(getattr(run, name).parameters(), getattr(again, name).parameters(),
                            strict=True):
            demand(same(one, two), "four steps, and two, restore, two, gave other weights "
                   f"({name})")
