"""13: the bug hunt.  Each examination tells a mended file from its defects, by what it does."""
import contextlib
import functools
import types

import torch
from torch import nn

from .kit import (BAR, BETA, EQ_4, EQ_7, Raised, Wrong, close, coefficients, demand, expect,
                  formula, normal, same, tensor, theirs)
from .run import Student


def blame(bad, defect):
    """Say no more than the name of a defect, which the handout's README explains."""
    demand(not bad, defect)


def judge(got, expected, what, defects, **options):
    """Expect, but some results are those of a defect: pairs, as the mistakes of `expect`."""
    got = tensor(got, what, torch.as_tensor(getattr(expected, "value", expected)).shape)
    for defect, result in defects:
        blame(close(got, result, 1e-4, 1e-5), defect)
    expect(got, expected, what, **options)


@theirs
def noised(student, x_0, t, eps):
    return student.forward.Forward(BETA).q_sample(x_0, t, eps)


def forward(student):
    t, (x_0, eps) = torch.arange(5), normal(student, 2, 5, 3, 2, 2)

    def x_t(old="", new=""):
        return formula(EQ_4.replace(old, new), t, x_0=x_0, eps=eps)
    judge(noised(student, x_0, t, eps), x_t(), "x_t of t = 0, 1, 2, 3, 4, Eq. 4", [
        ("variance-for-deviation", x_t("bar) ** 0.5", "bar)").value),
        ("alpha-bar-off-by-one", x_t("alpha_bar", "(0.9 * alpha_bar)").value),      # alpha_1 twice
        ("alpha-bar-off-by-one", x_t("alpha_bar", "before").value)], dtype=torch.float32)


@theirs
def loss(student, x_0, alpha_bar):
    """Return the loss of a model that predicts 0, and what that was asked."""
    asked = []

    def model(x_t, t):
        asked.append([x_t.clone(), t])
        return torch.zeros_like(x_t)
    return student.objective.loss(model, x_0, alpha_bar), asked


def objective(student):
    x_0 = torch.linspace(0.3, 0.9, 3).reshape(1, 3, 1, 1).repeat(4000, 1, 1, 1)
    value, asked = loss(student, x_0, BAR.float())
    demand(len(asked) == 1, f"the model was asked {len(asked)} times, and not once")
    x_t = tensor(asked[0][0], "x_t, which the model gets", x_0.shape)
    t = tensor(asked[0][1], "t, which the model gets, one for each image", (4000,), torch.int64)
    blame((t == t[0]).all(), "one-t-for-the-batch")
    blame(t.min() == 1 and t.max() == 3, "t-never-T")
    demand(t.min() == 1 and t.max() == 4, f"t ran from {t.min()} to {t.max()}, and not from 1 to 4")
    demand(t.bincount()[1:].min() > 850, "t is not uniform on 1..4")
    a = BAR[t].reshape(-1, 1, 1, 1)
    eps = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
    demand(close(eps.mean(), 0, 0, 0.1) and close(eps.std(), 1, 0.1, 0), "x_t is not that of Eq. 4")
    judge(value, (eps ** 2).mean(), "the loss of a model that predicts 0, the mean of eps^2, Eq. "
          "14", [("wrong-target", (each ** 2).mean()) for each in (x_t - x_0, x_0, x_t)])


def point(x_t, t, c):
    """The perfect model where all data are c."""
    bar = BAR[t].reshape(-1, *[1] * (x_t.dim() - 1))
    return ((x_t - bar ** 0.5 * c) / (1 - bar) ** 0.5).to(x_t)


@theirs
def sample(student, n, options, c=None):
    """Sample where all data are c, or with a model that predicts 0; return what that was asked."""
    asked = []

    def model(x_t, t):
        asked.append([int(torch.as_tensor(t).flatten()[0]), x_t.clone()])
        return torch.zeros_like(x_t) if c is None else point(x_t, t, c)
    return student.ancestral.sample(model, (n, 1), BETA, *options), asked


def ancestral(student):
    def asked_rightly(n, *args):
        x_0, asked = sample(student, n, *args)
        times = [t for t, _ in asked]
        blame(times == [4, 3, 2], "last-step-skipped")
        demand(times == [4, 3, 2, 1], f"the model was asked for t = {times}, not [4, 3, 2, 1]")
        return [tensor(x, "a sample, or x_t on the way", (n, 1)) for x in (
            x_0, *(x_t for _, x_t in asked))]
    x_0 = asked_rightly(2000, [], 0.3)[0]
    blame(x_0.std() > 0.05, "noise-at-the-last-step")
    expect(x_0, torch.full((2000, 1), 0.3), "samples where all data are 0.3", atol=1e-3)
    c = coefficients()
    for kind in "beta", "beta_tilde":                # eps_theta = 0: x_{t-1} = x_t / sqrt(alpha_t)
        x = asked_rightly(20_000, [kind])[1:]        # and noise, its deviation known to 0.5 %
        for t in 4, 3, 2:
            got, expected = (x[5 - t] - x[4 - t] / c["alpha"][t] ** 0.5).std(), c[kind][t] ** 0.5
            demand(abs(got / expected - 1) < 0.03, f"with the variance {kind!r} the noise of "
                   f"x_{t - 1} has the deviation {got:.3g}, and not {expected:.3g}")
    with contextlib.suppress(Raised):                # of whatever kind, with whatever words
        blame(sample(student, 1, ["betatilde"]), "unknown-option-accepted")


@theirs
def mean(student, x_t, t, eps):
    return student.clipping.mean(lambda x_t, t: eps, x_t, t, BETA)


def clipping(student):
    for sign in 1, -1:
        x_t, eps = torch.full((2, 3), 2.5 * sign), torch.full((2, 3), -3.0 * sign)
        far = (x_t - (1 - BAR[3]) ** 0.5 * eps) / BAR[3] ** 0.5
        near = formula(EQ_7, 3, x_0=far.clamp(-1, 1), x_t=x_t)
        unclipped = formula(EQ_7, 3, x_0=far, x_t=x_t).value
        late = formula(EQ_7.replace("before **", "alpha_bar **"), 3, **near.variables)
        judge(mean(student, x_t, 3, eps), near, f"the mean of x_2, x_0_hat clipped to {sign}", [
            ("dead-clipping", unclipped), ("dead-clipping", unclipped.clamp(-1, 1)),
            ("wrong-time-in-the-posterior", late.value)])
    x_t = torch.full((2, 1), 0.8)
    expect(mean(student, x_t, 1, point(x_t, 1, 0.3)), torch.full((2, 1), 0.3),
           "the mean at t = 1 where all data are 0.3")


@theirs
def levels(student, x):
    """Return the levels' widths, and what is said at some times; at the end each level changes."""
    net = student.network.Network(4, (1, 3, 2))
    says = [net(x, torch.tensor(t)) for t in ([1, 1], [9, 9], [1, 9], [3, 3])]
    for linear in net.embs:
        with torch.no_grad():
            linear.weight.add_(1.0)
        says.append(net(x, torch.tensor([3, 3])))
    return [conv.out_channels for conv in net.convs], says


def network(student):
    x = normal(student, 2, 1, 4, 5)
    widths, says = levels(student, x)
    blame(widths == [4, 12, 24], "multipliers-accumulated")
    demand(widths == [4, 12, 8], f"channels 4 and mults (1, 3, 2) gave levels of {widths} channels,"
           " and not [4, 12, 8]")
    early, late, mixed, *rest = [tensor(each, "the network", x.shape) for each in says]
    blame(same(early, late) or any(map(same, rest, rest[1:])), "time-ignored")
    expect(mixed, torch.stack([early[0], late[1]]), "the network, each image at its own time",
           [("when all have the first image's time", early)])


@theirs
def attend(student, x):
    """Return what the layer makes of x, and its weights, which are drawn at random."""
    layer = student.attention.Attention(x.shape[1])
    for weight in layer.parameters():
        nn.init.normal_(weight)
    return layer(x), layer.state_dict()


def attention(student):
    for size in (8, 8), (3, 5), (2, 4):
        x = normal(student, 2, 4, *size)
        try:
            got, w = attend(student, x)
        except Raised as error:
            blame("RuntimeError" in error.kinds, "size-hard-coded")
            raise

        def layer(name, h, w=w):
            return (torch.einsum("oc,bcn->bon", w[f"{name}.weight"][:, :, 0, 0], h.flatten(2))
                    + w[f"{name}.bias"][:, None])

        def right(h, axis=2, x=x, layer=layer):
            q, k, v = (layer(name, h) for name in "qkv")
            h = v @ (torch.einsum("bci,bcj->bij", q, k) / 2).softmax(axis).transpose(1, 2)
            return x + layer("proj", h).reshape(x.shape)
        h = nn.functional.group_norm(x, 2, w["norm.weight"], w["norm.bias"])
        judge(got, right(h), f"attention over {size} pixels", [("norm-not-called", right(x))],
              mistakes=[("when the softmax is over the queries, not the keys", right(h, 1)),
                        ("when x itself is not added", right(h) - x)], rtol=1e-3, atol=1e-4)


@theirs
def train(student):
    """Make an average and a step; return modes, how far the weights moved, and the average."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5)).train()
    ema = student.averaging.start_average(model)
    modes = [any(each.training for each in ema.modules()), model.training,
             any(weight.requires_grad for weight in ema.parameters())]
    for weight in (*ema.parameters(), *model.parameters()):
        nn.init.ones_(weight)
        weight.grad = torch.full_like(weight, 100.0)             # left over from before
    student.averaging.train_step(
        model, ema, torch.optim.SGD(model.parameters(), lr=0.5),
        lambda net: 30 * net[0].weight.sum() + 40 * net[0].bias.sum(), 0.9, 1.0)
    moved = [1 - weight.item() for weight in model.parameters()]
    return modes, torch.tensor(moved), next(ema.parameters())[0, 0]


@theirs
def train_a_broken_model(student):
    """Its parameters() fails the first time it is asked, to clip the gradient."""
    odd, calls = nn.Linear(1, 1), iter([lambda: 1 / 0])
    optimizer, ask = torch.optim.SGD(odd.parameters()), odd.parameters
    odd.parameters = lambda: next(calls, ask)()
    student.averaging.train_step(odd, nn.Linear(1, 1), optimizer, lambda net: net.weight.sum())


def averaging(student):
    (on, model_on, graded), moved, average = train(student)
    blame(on, "dropout-left-on")
    demand(model_on, "the model itself must stay in training mode")
    demand(not graded, "the average needs no gradients")
    judge(moved, torch.tensor([0.3, 0.4]), "a step of 0.5 along the gradient (30, 40), clipped to "
          "the norm 1", [("errors-swallowed", torch.tensor([15.0, 20.0]))])
    try:
        train_a_broken_model(student)
    except Raised as error:
        demand("ZeroDivisionError" in error.kinds, f"a step with a model that cannot be clipped: "
               f"{error}")
    else:
        blame(True, "errors-swallowed")
    judge(average, torch.tensor(0.97), "the average from 1 towards 0.7 with decay 0.9",
          [("average-swapped", 0.1 + 0.9 * 0.7)])


@theirs
def convert(student, name, x):
    return getattr(student.pictures, name)(x)


def pictures(student):
    even = torch.linspace(-1, 1, 256)
    judge(convert(student, "to_model", torch.arange(256, dtype=torch.uint8)), even, "0..255 to "
          "-1..1", [("wrong-range", (even + 1) / 2)], dtype=torch.float32)
    x = torch.cat([torch.tensor([-0.9952, 0.0035, -3.0, 3.0]), even])        # 0.61, 127.95
    back = tensor(convert(student, "to_uint8", x), "to_uint8", (260,), torch.uint8)
    blame(back[:2].tolist() == [0, 127], "values-truncated")
    expect(back[:4], torch.tensor([1, 128, 0, 255]), "0.61, 127.95 and what lies outside [-1, 1]")
    expect(back[4:], torch.arange(256), "0..255 to [-1, 1] and back")


EXAMINE = {function.__name__: function for function in (
    forward, objective, ancestral, clipping, network, attention, averaging, pictures)}


def wrong_with(name, student):
    """Say what is wrong with a file, if anything: of a defect of the list, its name."""
    try:
        EXAMINE[name](student)
    except Wrong as wrong:
        return str(wrong)


def as_given(name, student):
    """Return the name of the defect that a file was handed out with; it is looked for once."""
    if name not in student.kept:
        module = types.ModuleType(name)
        exec(compile(student.given[name], f"{name}.py", "exec"), module.__dict__)
        student.kept[name] = wrong_with(name, Student(student.seed, modules={name: module}))
    return student.kept[name]


def mended(name, student):
    """Does the file do what its docstrings say?  What is wrong is told only of a new mistake."""
    wrong = wrong_with(name, student)
    demand(not wrong or wrong != as_given(name, student), f"{name}.py still has the defect that it "
           "was given with")
    demand(not wrong, f"{name}.py is not mended, it is wrong in another way: {wrong}")


@theirs
def defect(student, name):
    return getattr(student, name).DEFECT


def named(name, student):
    """Is DEFECT what the file as it was given has?"""
    said = defect(student, name)
    demand(isinstance(said, str) and said, f"{name}.py: DEFECT is empty. Write the name of the "
           "defect.")
    demand(said == as_given(name, student), f"{name}.py: DEFECT = {said!r} is not what was wrong "
           "with it. What did the file do that its docstring does not say?")


for _name in EXAMINE:                                # two checks for each file
    globals()[f"check_{_name}_is_mended"] = functools.partial(mended, _name)
    globals()[f"check_{_name}_is_named"] = functools.partial(named, _name)
