"""What the checks share: an independent process, and messages that say what is wrong and why.

A check has two halves.  What is marked `theirs` runs the student's code, takes data and gives back
data: tensors, numbers, words.  The check itself judges them, and a grader runs it in a process that
the student's code never enters.

Nothing here is taken from the modules under check.  The coefficients are computed in float64 and
from their definitions; `Process` stands in for DDPM, so that a check of one function does not
depend on any other that a student wrote.
"""
import functools
import inspect
import numbers
from types import SimpleNamespace

import torch

from .formula import Formula

DTYPES = {str(dtype): dtype for dtype in (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)}


BETA = [0.1, 0.3, 0.2, 0.5]                          # of the chain that most checks take
EQ_4 = "alpha_bar ** 0.5 * x_0 + (1 - alpha_bar) ** 0.5 * eps"
EQ_7 = "(before ** 0.5 * beta * x_0 + alpha ** 0.5 * (1 - before) * x_t) / (1 - alpha_bar)"
SAYS = ("eps", "x_0", "v")                           # what the network of a variant predicts


class Wrong(AssertionError):
    """An answer is not right; the message is for the student."""


class Raised(Exception):
    """The student's code raised: kinds are the names of the exception's class and of its bases."""

    def __init__(self, kinds, text, place):
        super().__init__(f"{kinds[0]}: {text} ({place})")
        self.kinds, self.text, self.place = kinds, str(text), place


class Odd(str):
    """What is no data: the name of its type."""


ON_META = Odd("tensor on the device meta")           # which every machine has; there are no numbers


def theirs(probe):
    """Mark a function that runs the student's code: called with a student, it runs where that is.

    Its arguments, and what it returns, are data.  Tensors among the arguments must be after it as
    they were before.  Random numbers are seeded with the student's seed.
    """
    @functools.wraps(probe)
    def ask(student, *args, **kwargs):
        bound = inspect.signature(probe).bind(student, *args, **kwargs)
        bound.apply_defaults()
        return student.ask(probe, list(bound.arguments.values())[1:])
    return ask


def plain(value):
    """Turn what a probe returned into data: no gradients, no other classes, nothing shared."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            return ON_META
        if value.layout != torch.strided or str(value.dtype) not in DTYPES:
            return Odd(f"{value.layout} tensor of {value.dtype}")
        return value.detach().cpu().as_subclass(torch.Tensor).clone().resolve_conj().resolve_neg()
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if value is None or type(value) in (bool, int, float, str, Odd):
        return value
    return Odd(f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins."))


def coefficients(beta=BETA):
    """Return {name: (T + 1,) float64} of beta_1..beta_T, by the definitions of sec. 2 and Eq. 7."""
    beta = torch.tensor([0.0, *beta], dtype=torch.float64)
    alpha_bar, beta_tilde = (1 - beta).cumprod(0), torch.zeros_like(beta)
    beta_tilde[1:] = (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]) * beta[1:]
    return {"beta": beta, "alpha": 1 - beta, "alpha_bar": alpha_bar,
            "one_minus_alpha_bar": 1 - alpha_bar, "beta_tilde": beta_tilde}


BAR = coefficients()["alpha_bar"]


def formula(text, t, **variables):
    """Make a `Formula` with that chain's alpha_bar_t, alpha_bar_{t-1} (`before`), alpha_t, beta_t.

    t: int, or (B,) times of variables (B, ...); times are moved to 0..T where a slip leaves it.
    """
    c, t, dim = coefficients(), torch.as_tensor(t), max(x.dim() for x in variables.values())
    shape = [-1] + [1] * (dim - 1) if t.dim() else []

    def at(shift):
        now, before = ((t + shift - back).clamp(0, len(BETA)) for back in (0, 1))
        return {name: c[of][when].reshape(shape) for name, of, when in (
            ("alpha_bar", "alpha_bar", now), ("before", "alpha_bar", before),
            ("alpha", "alpha", now), ("beta", "beta", now),
            ("alpha_before", "alpha", before), ("beta_before", "beta", before),
            ("beta_tilde", "beta_tilde", now))}
    return Formula(text, at, **{name: value.double() for name, value in variables.items()})


class Process:
    """A DDPM of our own.  `of(DDPM, "q_sample")` lends it methods of the student."""

    def __init__(self, beta=BETA, variance="beta"):
        self.T = len(beta)
        self.exact = SimpleNamespace(**coefficients(beta))
        for name, value in vars(self.exact).items():
            setattr(self, name, value.float())
        self.sigma = getattr(self, variance).sqrt()

    @staticmethod
    def column(values, t, x):
        return values[t].reshape([-1] + [1] * (x.dim() - 1))

    def q_sample(self, x_0, t, eps):
        a = self.column(self.alpha_bar, t, x_0)
        return a ** 0.5 * x_0 + (1 - a) ** 0.5 * eps

    def predict_x_0(self, x_t, t, eps_theta):
        a = self.column(self.alpha_bar.double(), t, x_t)
        return (x_t / a ** 0.5 - (1 / a - 1) ** 0.5 * eps_theta).float()

    def estimate_x_0(self, model, x_t, t, clip=True):
        t = torch.full((len(x_t),), t)
        x_0_hat = self.predict_x_0(x_t, t, model(x_t, t))
        return x_0_hat.clamp(-1, 1) if clip else x_0_hat

    def posterior_mean(self, x_0, x_t, t):
        """By precision weighting: q(x_t | x_{t-1}) times q(x_{t-1} | x_0)."""
        a, b, before = (self.column(values.double(), at, x_t) for values, at in (
            (self.alpha, t), (self.beta, t), (self.one_minus_alpha_bar, t - 1)))
        mean = self.column(self.alpha_bar.double(), t - 1, x_t) ** 0.5 * x_0
        weights = 1 / before.clamp(min=1e-300), a / b            # before = 0 where x_{t-1} is x_0
        return ((weights[0] * mean + weights[1] * x_t / a ** 0.5) / sum(weights)).float()

    def draw_t(self, B):
        return torch.randint(1, self.T + 1, (B,), device=self.beta.device)

    def loss(self, model, x_0):
        """Algorithm 1."""
        t, eps = self.draw_t(len(x_0)), torch.randn_like(x_0)
        return ((model(self.q_sample(x_0, t, eps), t) - eps) ** 2).mean()

    @torch.no_grad()
    def sample(self, model, shape, clip=True):
        """Algorithm 2."""
        x_t = torch.randn(shape)
        for t in range(self.T, 0, -1):
            z = torch.randn(shape) if t > 1 else 0
            x_0_hat = self.estimate_x_0(model, x_t, t, clip)
            x_t = self.posterior_mean(x_0_hat, x_t, t) + self.sigma[t] * z
        return x_t

    def to(self, device):
        for name, value in vars(self).items():
            setattr(self, name, value.to(device) if isinstance(value, torch.Tensor) else value)
        return self

    @classmethod
    def of(cls, DDPM, *names, beta=BETA, variance="beta"):
        own = {name: value for name, value in vars(DDPM).items() if not hasattr(cls, name)}
        methods = own | {name: vars(DDPM)[name] for name in names}       # and what helps them
        return type("Process", (cls,), methods)(beta, variance)


def normal(student, *shape):
    """Draw normal numbers of the student's seed, but not those that a `theirs` begins with."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(student.seed + 1))


def only(*variants):
    """Leave a check to these variants of its exercise."""
    def mark(check):
        check.variants = variants
        return check
    return mark


class Model(torch.nn.Module):
    """A model that keeps what it is asked, as data, and has a weight, as networks have.

    says: what it returns, a tensor or a number; or [m, s], and it is the best that there is where
    x_0 ~ N(m, s^2), and predicts what the network of a variant does.
    """

    def __init__(self, says, variant=0, beta=BETA):
        super().__init__()
        self.says, self.bar, self.variant = says, coefficients(beta)["alpha_bar"].float(), variant
        self.asked, self.one = [], torch.nn.Parameter(torch.ones(()))

    def forward(self, x_t, t):
        self.asked.append(plain([x_t, t]))
        if not isinstance(x_t, torch.Tensor) or getattr(self.says, "shape", x_t.shape) != x_t.shape:
            return x_t
        said = torch.zeros_like(x_t)
        if not isinstance(self.says, list):
            said = said + self.says
        elif isinstance(t, torch.Tensor) and t.shape == x_t.shape[:1] and t.dtype == torch.int64:
            m, s = self.says
            bar = Process.column(self.bar, t.clamp(1, len(self.bar) - 1), x_t)
            eps = (1 - bar) ** 0.5 * (x_t - bar ** 0.5 * m) / (bar * s ** 2 + 1 - bar)
            x_0 = (x_t - (1 - bar) ** 0.5 * eps) / bar ** 0.5
            said = (eps, x_0, bar ** 0.5 * eps - (1 - bar) ** 0.5 * x_0)[self.variant]
        return said * self.one.to(said.device)


def walked(name, asked, down, shape, raised=""):
    """Raise Wrong unless a `Model` was asked of x_t of this shape, of each of these times in turn.

    raised: the ValueError or IndexError that ended it, if one did.
    """
    for x_t, t in asked:
        kind = (f"a {t.dtype} tensor of the shape {tuple(t.shape)}" if isinstance(t, torch.Tensor)
                else t if isinstance(t, Odd) else f"one {type(t).__name__}")
        demand(isinstance(t, torch.Tensor) and t.shape == shape[:1] and t.dtype == torch.int64,
               "the model must get t as a (B,) tensor of int64, one time for each image, which is "
               f"torch.full((len(x_t),), t, device=x_t.device) for an int t; it got {kind}")
        demand(len(set(t.tolist())) == 1, "in one step of sampling all images have the same time")
        tensor(x_t, "x_t, as the model is given it", shape, torch.float32)
    told, less = [int(t[0]) for _, t in asked], [t - 1 for t in down]
    if told == down and not raised:
        return
    why = next((f" This is what you get from {slip}." for slip, times in (
        ("range(T - 1, -1, -1): our t is the paper's, 1..T", less * (len(down) > 1)),
        ("range(T - 1, -1, -1): our t is the paper's, 1..T", less[:-1] if raised else None),
        ("range(T, -1, -1): there is no step from t = 0", down if raised else [*down, 0]),
        ("letting time run forwards", down[::-1]), ("leaving out the first step", down[1:]),
        ("leaving out the last step", down[:-1]),
        ("asking the model twice at each time", [t for t in down for _ in "ab"]))
        if told and told == times), "")
    raise Wrong(f"{name}: the model was asked for t = {told}, not {down}"
                + (f"; then came {raised}." if raised else ".") + why)


def show(value, first=0, digits=5):
    """Write a number, or four of a tensor from a place on."""
    few = ", ".join(f"{x:.{digits}g}" for x in value.flatten()[first:first + 4].tolist())
    return few if not value.dim() else (
        "[" + "..., " * (first > 0) + few + ", ..." * (first + 4 < value.numel()) + "]")


def both(got, expected):
    """Write what was expected and what came, where they differ most, with digits that tell them."""
    worst = (got.double() - expected.double()).abs().flatten().argmax().item()
    first = max(0, min(worst, got.numel() - 4))
    for digits in (5, 8, 12, 17):
        one, two = show(expected, first, digits), show(got, first, digits)
        if one != two:
            break
    return f"expected {one}, got {two}"


def close(one, two, rtol, atol):
    return torch.allclose(torch.as_tensor(one).double(), torch.as_tensor(two).double(), rtol, atol)


def same(one, two):
    """Are these two results the same but for rounding?

    Which processor or library computes decides the last bits, so no check asks for them, unless
    numbers were only moved.
    """
    return one.shape == two.shape and close(one, two, 1e-4, 1e-5)


def tensor(got, what, shape=None, dtype=None):
    """Raise Wrong unless got is a tensor of that shape and dtype; return it."""
    if got is None:
        raise Wrong(f"{what}: nothing was returned. Is there a `return`?")
    if not isinstance(got, torch.Tensor):
        kind = got if isinstance(got, Odd) else type(got).__name__
        kind = "a tuple or a list" if kind == "list" else kind
        hint = ": torch.as_tensor makes one of it" if kind.startswith("numpy") else ""
        raise Wrong(f"{what}: expected a torch.Tensor, got {kind}{hint}")
    if shape is not None and got.shape != tuple(shape):
        raise Wrong(f"{what}: expected the shape {tuple(shape)}, got {tuple(got.shape)}")
    if dtype is not None and got.dtype != dtype:
        raise Wrong(f"{what}: expected {dtype}, got {got.dtype}")
    return got


def expect(got, expected, what, mistakes=(), rtol=1e-4, atol=1e-5, dtype=None):
    """Raise Wrong unless got is expected; name the mistake whose result it is, if it is one.

    Args:
        got: what the student's function returned, as data.
        expected: tensor or number, from a closed form; or a `Formula`, whose slips are mistakes.
        what: the quantity and its equation.
        mistakes: pairs (what was done wrong, the result of that), tried before those slips.
        dtype: which it must have, if that matters.
    """
    slips = ()
    if isinstance(expected, Formula):
        expected, slips = expected.value, expected.slips()
    expected = torch.as_tensor(expected, dtype=torch.float64 if isinstance(expected, float)
                               else None)
    if isinstance(got, numbers.Real) and not expected.dim():
        got = torch.tensor(got)
    got = tensor(got, what, expected.shape)
    if not got.double().isfinite().all():
        raise Wrong(f"{what}: expected {show(expected)}, got numbers that are not finite")
    if not close(got, expected, rtol, atol):
        # A mistake counts only if it can be told from the right answer.
        for name, result in (*mistakes, *slips):
            result = torch.as_tensor(result)
            if result.shape == got.shape and close(got, result, rtol, atol) \
                    and not close(result, expected, rtol, atol):
                raise Wrong(f"{what}: {both(got, expected)}. This is what you get {name}.")
        raise Wrong(f"{what}: {both(got, expected)}")
    tensor(got, what, dtype=dtype)


def expect_noise(noise, deviation, seed, what, mistakes=()):
    """Raise Wrong unless noise, (B, ...), is N(0, deviation^2), each number drawn for itself.

    If torch.randn drew it, with a generator of that seed, the deviation is known exactly and a
    mistake has a name; else it is known as well as so many numbers tell: to five standard errors.
    """
    z = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
    got = ((noise * z).sum() / (z * z).sum()).abs()
    if close(noise.abs(), got * z.abs(), 1e-3, 1e-5):
        return expect(got, deviation, f"the deviation of {what}", [
            ("when the variance stands where the deviation belongs", deviation ** 2),
            ("when no noise is added", 0.0), ("when the noise is not scaled", 1.0), *mistakes],
                      1e-3, 1e-4)
    for dim, name in enumerate(("images", "channels", "rows", "columns")[:noise.dim()]):
        demand(noise.shape[dim] == 1 or not same(noise, noise.roll(1, dim)), f"{what}: all {name} "
               "share their noise. Draw z in the shape of x_t.")
    error = 5 * deviation / noise.numel() ** 0.5
    expect(noise.mean(), 0.0, f"the mean of the noise of {what}", rtol=0, atol=error)
    expect(noise.std(), deviation, f"the deviation of {what}", rtol=0, atol=error)


def demand(condition, message):
    if not condition:
        raise Wrong(message)


def refused(ask, what, *kinds):
    """Raise Wrong unless ask(), a call of the student's code, raises one of these exceptions.

    kinds: their names; ValueError unless told.  Check first that what is allowed is done: code that
    refuses everything must not pass.
    """
    kinds = kinds or ("ValueError",)
    try:
        ask()
    except Raised as error:
        if not set(kinds) & set(error.kinds):
            raise Wrong(f"{what}: expected a {kinds[0]}, got {error}") from None
        return
    raise Wrong(f"{what}, was accepted. Raise a {kinds[0]}.")


def on_meta(ask, what, hint="Give device= to what makes it."):
    """Raise Wrong unless ask(), a call of the student's code, stays on the device meta.

    That stands for a GPU, and holds no numbers: whoever must look at some is not judged.
    """
    try:
        got = ask()
        stays = got == ON_META
    except Raised as error:
        stays = "expected device" not in error.text
    demand(stays, f"{what}: what it makes is on the CPU, whatever device it is given. {hint}")
