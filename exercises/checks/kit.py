"""What the checks share: an independent process, and messages that say what is wrong and why.

Nothing here is taken from the modules under check.  The coefficients are computed in float64 and
from their definitions; `Process` stands in for DDPM, so that a check of one function does not
depend on any other that a student wrote.
"""
from types import SimpleNamespace

import torch


class Wrong(AssertionError):
    """An answer is not right; the message is for the student."""


def coefficients(beta):
    """Return {name: (T + 1,) float64} of beta_1..beta_T, by the definitions of sec. 2."""
    beta = [0.0] + [float(b) for b in beta]
    alpha_bar, product = [], 1.0
    for b in beta:
        product *= 1 - b
        alpha_bar.append(product)
    tilde = [0.0] + [(1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t]
                     for t in range(1, len(beta))]
    values = {"beta": beta, "alpha": [1 - b for b in beta], "alpha_bar": alpha_bar,
              "one_minus_alpha_bar": [1 - a for a in alpha_bar], "beta_tilde": tilde}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


class Process:
    """A DDPM of our own.  `of(beta, DDPM, "q_sample")` lends it methods of the student."""

    def __init__(self, beta, variance="beta"):
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

    @classmethod
    def of(cls, beta, DDPM, *names, variance="beta"):
        methods = {name: DDPM.__dict__[name] for name in names}
        return type("Process", (cls,), methods)(beta, variance)


def only(*variants):
    """Leave a check to these variants of its exercise."""
    def mark(check):
        check.variants = variants
        return check
    return mark


def speak(variant, eps, x_t, bar):
    """Turn a prediction of eps into what the network of a variant predicts: eps, x_0 or v."""
    x_0 = (x_t - (1 - bar) ** 0.5 * eps) / bar ** 0.5
    return (eps, x_0, bar ** 0.5 * eps - (1 - bar) ** 0.5 * x_0)[variant]


SAYS = ("eps", "x_0", "v")                           # what the network of a variant predicts


def show(value, first=0, digits=5):
    """Write a number, or four of a tensor from a place on."""
    if isinstance(value, torch.Tensor):
        few = value.flatten()[first:first + 4].tolist()
        if value.dim():
            return ("[" + "..., " * (first > 0) + ", ".join(f"{x:.{digits}g}" for x in few)
                    + ", ..." * (first + 4 < value.numel()) + "]")
        value = few[0]
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


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


def expect(got, expected, what, mistakes=(), rtol=1e-4, atol=1e-5):
    """Raise Wrong unless got is expected; name the mistake whose result it is, if it is one.

    Args:
        got: what the student's function returned.
        expected: tensor or number, from a closed form.
        what: the quantity and its equation.
        mistakes: pairs (what was done wrong, the result of that).
    """
    exact = torch.float64 if isinstance(expected, float) else None
    expected = torch.as_tensor(expected, dtype=exact)
    if got is None:
        raise Wrong(f"{what}: nothing was returned. Is there a `return`?")
    if not isinstance(got, torch.Tensor) and expected.dim():
        raise Wrong(f"{what}: expected a tensor, got {type(got).__name__}")
    got = torch.as_tensor(got).detach()
    if got.shape != expected.shape:
        raise Wrong(f"{what}: expected the shape {tuple(expected.shape)}, got {tuple(got.shape)}")
    if not got.double().isfinite().all():
        raise Wrong(f"{what}: expected {show(expected)}, got numbers that are not finite")
    if close(got, expected, rtol, atol):
        return
    # A mistake counts only if it can be told from the right answer.
    for name, result in mistakes:
        result = torch.as_tensor(result)
        if result.shape == got.shape and close(got, result, rtol, atol) \
                and not close(result, expected, rtol, atol):
            raise Wrong(f"{what}: {both(got, expected)}. This is what you get {name}.")
    raise Wrong(f"{what}: {both(got, expected)}")


def demand(condition, message):
    if not condition:
        raise Wrong(message)
