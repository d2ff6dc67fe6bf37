"""13: the bug hunt.  Each examination tells a mended file from its defects, by what it does."""
import copy
import functools
import types

import torch
from torch import nn

from .kit import Wrong, close, coefficients, demand, same, show

BETA = [0.1, 0.3, 0.2, 0.5]
BAR = [1.0, 0.9, 0.63, 0.504, 0.252]                 # alpha_bar_0..alpha_bar_4
TRAINS = True                                        # an optimizer is made: worker.py


class Found(Wrong):
    """A defect that can be named."""

    def __init__(self, defect, message):
        super().__init__(message)
        self.defect = defect


def blame(bad, defect, message):
    if bad:
        raise Found(defect, message)


def forward(hunted, seed):
    x_0, eps = torch.randn(2, 4, 1, 2, 2, generator=torch.Generator().manual_seed(seed)).unbind(0)
    t = torch.tensor([1, 2, 3, 4])
    process = hunted.Forward(BETA)

    def x_t(bar, root=0.5):
        bar = torch.tensor(bar).reshape(4, 1, 1, 1)
        return bar ** 0.5 * x_0 + (1 - bar) ** root * eps

    got = process.q_sample(x_0, t, eps)
    blame(close(got, x_t(BAR[1:], 1.0), 1e-4, 1e-5), "variance-for-deviation", "x_t is what it is "
          "when 1 - alpha_bar_t is the factor of eps: a variance, and not its square root")
    twice = [0.9 * bar for bar in BAR[1:]]
    blame(close(got, x_t(twice), 1e-4, 1e-5), "alpha-bar-off-by-one", "x_t is what it is when "
          "alpha_1 stands twice in every alpha_bar_t")
    late = [1.0, *BAR[1:4]]
    blame(close(got, x_t(late), 1e-4, 1e-5), "alpha-bar-off-by-one", "x_t is what it is with "
          "alpha_bar_{t-1}")
    demand(close(got, x_t(BAR[1:]), 1e-4, 1e-5), f"x_t of t = 1, 2, 3, 4 is not that of Eq. 4: "
           f"expected {show(x_t(BAR[1:]))}, got {show(got)}")
    start = process.q_sample(x_0, torch.zeros(4, dtype=torch.int64), eps)
    blame(not same(start, x_0), "alpha-bar-off-by-one", "at t = 0, x_t is not x_0: "
          "alpha_bar_0 must be 1")


def objective(hunted, seed):
    calls = []

    def model(x_t, t):
        calls.append((x_t, t))
        return torch.zeros_like(x_t)

    torch.manual_seed(seed)
    bar = torch.tensor(BAR)
    value = hunted.loss(model, torch.full((4000, 1, 1, 1), 0.5), bar)
    x_t, t = calls[0]
    demand(t.shape == (4000,), "the model must get one t for each image, (B,)")
    blame(t.unique().numel() == 1, "one-t-for-the-batch", "all 4,000 images have the same t")
    blame(t.max() < 4, "t-never-T", f"with T = 4, no t above {t.max()} was drawn in 4,000: the "
          "upper end of randint is exclusive")
    demand(t.min() == 1 and t.max() == 4, f"t ran from {t.min()} to {t.max()}, and not from 1 to 4")
    demand(t.bincount()[1:].min() > 850, "t is not uniform on 1..4")
    a = bar[t].reshape(-1, 1, 1, 1)
    eps = (x_t - 0.5 * a.sqrt()) / (1 - a).sqrt()
    demand(close(eps.mean(), 0, 0, 0.1) and close(eps.std(), 1, 0.1, 0), "x_t is not that of Eq. 4")
    blame(not close(value, (eps ** 2).mean(), 1e-4, 0), "wrong-target", "a model that predicts 0 "
          "does not cost the mean of eps^2: its target is not the noise")


def point(c):
    """The perfect model where all data are c."""
    def model(x_t, t):
        bar = torch.tensor(BAR)[t].reshape(-1, *[1] * (x_t.dim() - 1))
        return (x_t - bar ** 0.5 * c) / (1 - bar) ** 0.5
    return model


def ancestral(hunted, seed):
    torch.manual_seed(seed)
    asked = []

    def model(x_t, t):
        asked.append(int(t[0]))
        return point(0.3)(x_t, t)

    x_0 = hunted.sample(model, (2000, 1), BETA)
    blame(asked == [4, 3, 2], "last-step-skipped", "the model was asked for t = 4, 3, 2 and never "
          "for 1")
    demand(asked == [4, 3, 2, 1], f"the model was asked for t = {asked}, not [4, 3, 2, 1]")
    noise = x_0.std().item()
    blame(noise > 0.05, "noise-at-the-last-step", f"where all data are 0.3, samples have the "
          f"deviation {noise:.2g}, and not 0: noise was added at the last step")
    demand(close(x_0, torch.full((2000, 1), 0.3), 0, 1e-3), "where all data are 0.3, samples are "
           f"{x_0.mean().item():.3g}")
    for kind, values in coefficients(BETA).items():
        if kind in ("beta", "beta_tilde"):
            seen = []

            def keep(x_t, t, seen=seen):
                seen.append(x_t)
                return torch.zeros_like(x_t)

            hunted.sample(keep, (20_000, 1), BETA, kind)
            expected = 1.0
            for t in (4, 3, 2):                      # of x_{t-1}, where eps_theta is 0
                expected = (expected ** 2 / (1 - BETA[t - 1]) + values[t]) ** 0.5
                got = seen[5 - t].std().item()
                demand(abs(got / expected - 1) < 0.03, f"with the variance {kind!r} x_{t - 1} has "
                       f"the deviation {got:.3g}, and not {expected:.3g}")
    try:
        hunted.sample(point(0.3), (1, 1), BETA, "betatilde")
    except Exception:                                # of whatever kind, with whatever words
        return
    raise Found("unknown-option-accepted", 'kind = "betatilde" is no variance, and was accepted. '
                "Raise a ValueError.")


def clipping(hunted, seed):
    t, x_t = 3, torch.full((2, 1), 2.5)

    def mean(x_0_hat, before):
        of_x_t = (1 - BETA[t - 1]) ** 0.5 * (1 - BAR[t - 1]) * 2.5
        return (before ** 0.5 * BETA[t - 1] * x_0_hat + of_x_t) / (1 - BAR[t])

    far = (2.5 + 3 * (1 - BAR[t]) ** 0.5) / BAR[t] ** 0.5        # where eps_theta is -3
    got = hunted.mean(lambda x_t, t: torch.full_like(x_t, -3.0), x_t, t, BETA)[0, 0]
    blame(close(got, mean(far, BAR[t - 1]), 1e-4, 0), "dead-clipping", "x_0_hat = "
          f"{far:.3g} was used as it is; the clipped one was not used")
    blame(close(got, min(mean(far, BAR[t - 1]), 1), 1e-4, 0), "dead-clipping", "the mean was "
          "clipped, and x_0_hat should be, before the mean is taken")
    blame(close(got, mean(1, BAR[t]), 1e-4, 0), "wrong-time-in-the-posterior", "the mean is what "
          "it is when alpha_bar_t stands where alpha_bar_{t-1} belongs, in the factor of x_0")
    demand(close(got, mean(1, BAR[t - 1]), 1e-4, 0), "the mean of x_2 with x_0_hat clipped to 1: "
           f"expected {mean(1, BAR[t - 1]):.4g}, got {got.item():.4g}")
    low = hunted.mean(lambda x_t, t: torch.full_like(x_t, 3.0), -x_t, t, BETA)[0, 0]
    demand(close(low, -mean(1, BAR[t - 1]), 1e-4, 0), "the mean of x_2 with x_0_hat clipped to -1: "
           f"expected {-mean(1, BAR[t - 1]):.4g}, got {low.item():.4g}")
    last = hunted.mean(point(0.3), torch.full((2, 1), 0.8), 1, BETA)
    demand(close(last, torch.full((2, 1), 0.3), 1e-4, 1e-5), "where all data are 0.3, the mean at "
           f"t = 1 is {last[0, 0].item():.4g}, and not 0.3")


def network(hunted, seed):
    torch.manual_seed(seed)
    net = hunted.Network(4, (1, 3, 2))
    widths = [conv.out_channels for conv in net.convs]
    blame(widths == [4, 12, 24], "multipliers-accumulated", "channels 4 and mults (1, 3, 2) gave "
          f"levels of {widths} channels: each multiplied the level before it")
    demand(widths == [4, 12, 8], f"channels 4 and mults (1, 3, 2) gave levels of {widths} channels,"
           " and not [4, 12, 8]")
    x = torch.randn(2, 1, 4, 4)
    early, late = net(x, torch.tensor([1, 1])), net(x, torch.tensor([9, 9]))
    demand(early.shape == x.shape, f"expected the shape {tuple(x.shape)}, got {tuple(early.shape)}")
    blame(same(early, late), "time-ignored", "the network returns the same at t = 1 and 9")
    for linear in net.embs:                          # does each level hear of t?
        before = net(x, torch.tensor([3, 3]))
        with torch.no_grad():
            linear.weight.add_(1.0)
        blame(same(before, net(x, torch.tensor([3, 3]))), "time-ignored", "a level of the network "
              "never hears of t")
    mixed = net(x, torch.tensor([1, 9]))
    demand(close(mixed[1], net(x, torch.tensor([9, 9]))[1], 1e-4, 1e-5), "each image must have its "
           "own time")


def attention(hunted, seed):
    torch.manual_seed(seed)
    layer = hunted.Attention(4)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.randn_like(weight))

    def expected(x, norm=True):
        B, C, H, W = x.shape
        h = nn.functional.group_norm(x, 2, layer.norm.weight, layer.norm.bias) if norm else x
        q, k, v = (torch.einsum("oc,bchw->bohw", f.weight[:, :, 0, 0], h).flatten(2)
                   + f.bias[:, None] for f in (layer.q, layer.k, layer.v))
        weights = (torch.einsum("bci,bcj->bij", q, k) / C ** 0.5).softmax(2)
        h = torch.einsum("bij,bcj->bci", weights, v)
        return x + (torch.einsum("oc,bci->boi", layer.proj.weight[:, :, 0, 0], h)
                    + layer.proj.bias[:, None]).reshape(x.shape)

    with torch.no_grad():
        for size in ((8, 8), (3, 5), (2, 4)):
            x = torch.randn(2, 4, *size)
            try:
                got = layer(x)
            except RuntimeError as error:
                raise Found("size-hard-coded", f"images of {size[0]} x {size[1]} do not pass: "
                            f"{error}") from error
            blame(close(got, expected(x, norm=False), 1e-3, 1e-4), "norm-not-called", "q, k and v "
                  "are made of x as it is: the norm is never called")
            demand(close(got, expected(x), 1e-3, 1e-4), "the output is not that of the docstring")


def fails():
    raise ZeroDivisionError


def averaging(hunted, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).train()
    ema = hunted.start_average(model)
    blame(ema.training, "dropout-left-on", "the average is in training mode, like the model it is "
          "a copy of: its dropout is on when one samples from it")
    demand(model.training, "the model itself must stay in training mode")
    demand(not any(weight.requires_grad for weight in ema.parameters()), "the average needs no "
           "gradients")
    with torch.no_grad():
        for weight in (*model.parameters(), *ema.parameters()):
            weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 100.0)             # left over from before
    before = copy.deepcopy(model)
    hunted.train_step(model, ema, optimizer, lambda net: 30 * net[0].weight.sum()
                      + 40 * net[0].bias.sum(), 0.9, 1.0)
    moved = [(one - two).item() for one, two in zip(before.parameters(), model.parameters(),
                                                    strict=True)]
    blame(close(torch.tensor(moved), torch.tensor([15.0, 20.0]), 1e-3, 0), "errors-swallowed",
          "the gradient (30, 40) was not clipped to the norm 1: the call that should do it fails, "
          "and the failure is swallowed")
    demand(close(torch.tensor(moved), torch.tensor([0.3, 0.4]), 1e-3, 0), "a step of 0.5 along the "
           f"gradient (30, 40), clipped to the norm 1, is (0.3, 0.4), and not {show(moved)}")
    odd, calls = nn.Linear(1, 1), iter([fails])      # fails the first time it is asked, to clip
    ask, odd.parameters = odd.parameters, lambda: next(calls, ask)()
    try:
        hunted.train_step(odd, nn.Linear(1, 1), optimizer, lambda net: net.weight.sum())
    except ZeroDivisionError:
        pass
    else:
        raise Found("errors-swallowed", "a call that fails while the gradient is clipped goes "
                    "unnoticed")
    got = ema[0].weight.item()
    blame(close(got, 0.9 * 0.7 + 0.1, 1e-4, 0), "average-swapped", "with decay 0.9 the average went"
          " nine tenths of the way: decay and 1 - decay are exchanged")
    demand(close(got, 0.9 + 0.1 * 0.7, 1e-4, 0), f"with decay 0.9, from 1 towards 0.7, the average "
           f"is 0.97, and not {got:.4g}")


def pictures(hunted, seed):
    every = torch.arange(256, dtype=torch.uint8)
    x = hunted.to_model(every)
    blame(close(x.min(), 0, 0, 1e-4), "wrong-range", "0 becomes 0, and not -1: the network sees "
          "[0, 1], and noise is drawn and clipped for [-1, 1]")
    demand(close(x, torch.linspace(-1, 1, 256), 0, 1e-4), "0..255 must become -1..1, evenly spaced")
    back = hunted.to_uint8(torch.linspace(-1, 1, 256))
    demand(back.dtype == torch.uint8, f"expected uint8, got {back.dtype}")
    low = hunted.to_uint8(torch.tensor([-0.9952, 0.0035]))       # 0.61 and 127.95
    blame(low.tolist() == [0, 127], "values-truncated", "0.61 became 0 and 127.95 became 127: "
          "values are cut, not rounded")
    demand(low.tolist() == [1, 128], f"0.61 and 127.95 became {low.tolist()}")
    demand(torch.equal(back, every), "0..255 to [-1, 1] and back are not all the same")
    demand(hunted.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255], "what lies outside "
           "[-1, 1] must be clipped")


EXAMINE = {function.__name__: function for function in (
    forward, objective, ancestral, clipping, network, attention, averaging, pictures)}


def defect(hunted, name, student):
    """Return the Wrong that an examination raises, or None."""
    try:
        EXAMINE[name](hunted, student.seed)
    except Wrong as wrong:
        return wrong


def as_given(name, student):
    """Return the name of the defect that a file was handed out with; it is looked for once."""
    if name not in student.kept:
        module = types.ModuleType(name)
        exec(compile(student.given[name], f"{name}.py", "exec"), module.__dict__)
        student.kept[name] = defect(module, name, student).defect
    return student.kept[name]


def mended(name, student):
    """Does the file do what its docstrings say?  What is wrong is told only of a new mistake."""
    wrong = defect(getattr(student, name), name, student)
    if getattr(wrong, "defect", None) == as_given(name, student):
        raise Wrong(f"{name}.py still has the defect that it was given with")
    demand(wrong is None, f"{name}.py is not mended, it is wrong in another way: {wrong}")


def named(name, student):
    """Is DEFECT what the file as it was given has?"""
    said = getattr(student, name).DEFECT
    demand(said, f"{name}.py: DEFECT is empty. Write the name of what you found.")
    demand(said == as_given(name, student), f"{name}.py: DEFECT = {said!r} is not what was wrong "
           "with it. What did the file do that its docstring does not say?")


for _name in EXAMINE:                                # two checks for each file
    globals()[f"check_{_name}_is_mended"] = functools.partial(mended, _name)
    globals()[f"check_{_name}_is_named"] = functools.partial(named, _name)
