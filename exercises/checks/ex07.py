"""7: Algorithm 2, ancestral sampling."""
import torch

from .kit import SAYS, Process, Wrong, demand, expect, same, speak

BETA = [0.1, 0.3, 0.2, 0.5]
BAR = [1.0, 0.9, 0.63, 0.504, 0.252]                 # alpha_bar_0..alpha_bar_4
METHODS = ("p_sample", "estimate_x_0", "posterior_sample", "reverse_process", "sample")


def lend(student, variance="beta"):
    return Process.of(BETA, student.ddpm.DDPM, *METHODS, variance=variance)


def gaussian(m, s, variant=0):
    """The perfect model where x_0 ~ N(m, s^2): eps* in closed form, or what a variant predicts."""
    def model(x_t, t):
        demand((t >= 1).all(), "the model was told t = 0, where there is no noise: tell it the "
               "time of x_t, which is one more than that of x_{t-1}")
        bar = torch.tensor(BAR)[t].reshape(-1, *[1] * (x_t.dim() - 1))
        eps = (1 - bar) ** 0.5 * (x_t - bar ** 0.5 * m) / (bar * s ** 2 + 1 - bar)
        return speak(variant, eps, x_t, bar)
    return model


def constant(eps_theta, variant):
    """A model whose prediction stands for this eps everywhere."""
    def model(x_t, t):
        bar = torch.tensor(BAR)[t].reshape(-1, *[1] * (x_t.dim() - 1))
        return speak(variant, torch.full_like(x_t, eps_theta), x_t, bar)
    return model


def deviation(student, variance, t):
    """Return sigma_t of a process made with this variance, as the docstrings of a variant say."""
    beta, tilde = BETA[t - 1], (1 - BAR[t - 1]) / (1 - BAR[t]) * BETA[t - 1]
    named = beta if variance == "beta" else tilde
    return ((named, tilde, (beta * tilde) ** 0.5)[student.variant]) ** 0.5


def step(student, variance, t, s, std):
    """Return the deviation of x_{t-1} where x_0 ~ N(m, s^2), the model is perfect and x_t has std.

    The mean of a step is linear in x_t: Eq. 7 of E[x_0 | x_t].
    """
    slope = BAR[t] ** 0.5 * s ** 2 / (BAR[t] * s ** 2 + 1 - BAR[t])
    mean = (BAR[t - 1] ** 0.5 * BETA[t - 1] * slope
            + (1 - BETA[t - 1]) ** 0.5 * (1 - BAR[t - 1])) / (1 - BAR[t])
    noise = deviation(student, variance, t) if t > 1 else 0
    return (mean ** 2 * std ** 2 + noise ** 2) ** 0.5


def misread(variant, eps_theta, x, t):
    """Return the mean of x_{t-1} if what the model of a variant says is taken for eps."""
    x_t = torch.tensor([[x]])
    said = constant(eps_theta, variant)(x_t, torch.tensor([t])).item()
    return (x - BETA[t - 1] / (1 - BAR[t]) ** 0.5 * said) / (1 - BETA[t - 1]) ** 0.5


def check_one_step_has_the_mean_and_deviation_of_algorithm_2(student):
    """From a fixed x_t, with eps_theta = 0.4 everywhere and nothing clipped."""
    t, n, eps_theta, x = 3, 200_000, 0.4, 0.8
    beta, bar, before = BETA[t - 1], BAR[t], BAR[t - 1]
    tilde = (1 - before) / (1 - bar) * beta
    mean = (x - beta / (1 - bar) ** 0.5 * eps_theta) / (1 - beta) ** 0.5     # Algorithm 2, line 4
    for variance in ("beta", "beta_tilde"):
        sigma = deviation(student, variance, t)
        torch.manual_seed(student.seed)
        x_t = torch.full((n, 1), x)
        got = lend(student, variance).p_sample(constant(eps_theta, student.variant), x_t, t,
                                               clip=False)
        demand(got is not None, "p_sample: nothing was returned")
        demand(got.shape == x_t.shape, f"p_sample: expected the shape {tuple(x_t.shape)}, got "
               f"{tuple(got.shape)}")
        x_0_hat = (x - (1 - bar) ** 0.5 * eps_theta) / bar ** 0.5
        expect(got.mean(), mean, f"the mean of p_sample at t = {t}, Algorithm 2, line 4", [
            ("when sqrt(beta_t) stands where beta_t belongs",
             (x - beta ** 0.5 / (1 - bar) ** 0.5 * eps_theta) / (1 - beta) ** 0.5),
            ("when the division by sqrt(alpha_t) is missing",
             x - beta / (1 - bar) ** 0.5 * eps_theta),
            ("when alpha_bar_t stands where alpha_t belongs",
             (x - (1 - bar) / (1 - bar) ** 0.5 * eps_theta) / bar ** 0.5),
            ("when x_0_hat is returned: that is a guess of x_0, not of x_{t-1}", x_0_hat),
            (f"when the model is taken to predict eps, and not {SAYS[student.variant]}",
             misread(student.variant, eps_theta, x, t))],
            rtol=0, atol=0.01)
        expect(got.std(), sigma, f"the deviation of p_sample at t = {t}, of a process made with "
               f"variance={variance!r}", [
            ("when the variance stands where the deviation belongs", sigma ** 2),
            ("when beta_t is the variance", beta ** 0.5),
            ("when beta_tilde_t is the variance", tilde ** 0.5),
            ("when no noise is added", 0.0), ("when the noise is not scaled", 1.0)],
            rtol=0.01, atol=0.003)


def check_the_last_step_is_deterministic(student):
    """Algorithm 2, line 3: z = 0 at t = 1.  For data that are one point, x_0 is that point."""
    for variance in ("beta", "beta_tilde"):
        process, x_t = lend(student, variance), torch.full((1000, 1), 0.7)
        got = process.p_sample(gaussian(0.3, 0.0, student.variant), x_t, 1)
        demand(got.std() < 1e-3, f"p_sample at t = 1: the deviation is {got.std().item():.3g}, not "
               "0. This is what you get when noise is added at the last step.")
        expect(got, torch.full((1000, 1), 0.3), "p_sample at t = 1 where all data are 0.3")


def check_one_step_takes_q_t_to_q_t_minus_1(student):
    """Two cases in which a variance is exact: data N(0, 1) with beta, one point with beta_tilde.

    With the variances of another variant the deviation is a little off, and known as well.
    """
    n = 200_000
    torch.manual_seed(student.seed)
    for m, s, variance in ((0.0, 1.0, "beta"), (0.5, 0.0, "beta_tilde")):
        for t in (4, 3, 2):
            x_t = BAR[t] ** 0.5 * m + (BAR[t] * s ** 2 + 1 - BAR[t]) ** 0.5 * torch.randn(n, 1)
            got = lend(student, variance).p_sample(gaussian(m, s, student.variant), x_t, t,
                                                   clip=False)
            mean = BAR[t - 1] ** 0.5 * m
            std = step(student, variance, t, s, (BAR[t] * s ** 2 + 1 - BAR[t]) ** 0.5)
            what = f"of x_{t - 1}, where x_0 ~ N({m}, {s}^2) and x_{t} ~ q(x_{t})"
            expect(got.mean(), mean, f"the mean {what}", rtol=0, atol=0.015)
            expect(got.std(), std, f"the deviation {what}", rtol=0.015)


def check_x_0_hat_is_clipped_before_the_mean(student):
    """A model far off: x_0_hat = 5 or so must count as 1, and x_{t-1} itself is not clipped."""
    t = 3
    x_t = torch.full((4000, 1), 2.5)
    process = lend(student, "beta_tilde")

    model = constant(-3.0, student.variant)
    weight = BAR[t - 1] ** 0.5 * BETA[t - 1] / (1 - BAR[t])
    rest = (1 - BETA[t - 1]) ** 0.5 * (1 - BAR[t - 1]) / (1 - BAR[t]) * 2.5
    far = (2.5 + 3 * (1 - BAR[t]) ** 0.5) / BAR[t] ** 0.5
    torch.manual_seed(student.seed)
    got = process.p_sample(model, x_t, t).mean()
    expect(got, weight + rest, "the mean of p_sample with x_0_hat clipped to 1", [
        ("when nothing is clipped", weight * far + rest),
        ("when x_{t-1} is clipped instead of x_0_hat", 1.0)], rtol=0, atol=0.06)
    got = process.p_sample(constant(3.0, student.variant), -x_t, t).mean()
    expect(got, -weight - rest, "the mean of p_sample with x_0_hat clipped to -1", [
        ("when x_0_hat is clipped to [0, 1]: images lie in [-1, 1]", -rest)], rtol=0, atol=0.06)
    got = process.p_sample(model, x_t, t, clip=False).mean()
    expect(got, weight * far + rest, "the mean of p_sample with clip=False", [
        ("when x_0_hat is clipped although clip is False", weight + rest)], rtol=0, atol=0.06)


def check_sample_asks_for_T_to_1_in_order(student):
    """Algorithm 2, line 2: for t = T, ..., 1."""
    asked = []

    def model(x_t, t):
        demand(isinstance(t, torch.Tensor) and t.shape == (len(x_t),),
               "the model must get t as a (B,) tensor, one time for each image")
        demand(len(set(t.tolist())) == 1, "in one step of sampling all images have the same time")
        asked.append(int(t[0]))
        return torch.zeros_like(x_t)                 # of any kind: nobody looks at the values

    x_0, error = None, ""
    try:
        x_0 = lend(student).sample(model, (2, 1, 2, 2))
    except (ValueError, IndexError) as raised:                   # of a t outside 1..T, say
        error = f" Then came: {raised}."
    zero_based = "This is what you get from range(T - 1, -1, -1): our t is the paper's, 1..T."
    diagnosis = {(3, 2, 1, 0): zero_based, (4, 3, 2, 1, 0): "There is no step from t = 0.",
                 (4, 3, 2): "This is what you get when the last step is skipped.",
                 (1, 2, 3, 4): "This is what you get when time runs forwards.",
                 (3, 2, 1): zero_based if error else
                 "This is what you get when the first step is skipped."}.get(tuple(asked), "")
    demand(asked == [4, 3, 2, 1] and not error, f"sample: with T = 4 the model was asked for t = "
           f"{asked}, not [4, 3, 2, 1].{error} {diagnosis}")
    demand(x_0 is not None, "sample: nothing was returned")
    demand(x_0.shape == (2, 1, 2, 2), f"sample: expected the shape (2, 1, 2, 2), got "
           f"{tuple(x_0.shape)}")


def check_all_of_sampling_gives_the_data(student):
    """One point comes back exactly; N(0, 1) has its mean and deviation."""
    torch.manual_seed(student.seed)
    got = lend(student, "beta_tilde").sample(gaussian(0.3, 0.0, student.variant), (100, 1))
    expect(got, torch.full((100, 1), 0.3), "samples where all data are 0.3", atol=1e-4)
    seen, model = [], gaussian(0.0, 1.0, student.variant)

    def keep(x_t, t):
        seen.append(x_t)
        return model(x_t, t)

    got = lend(student).sample(keep, (100_000, 1), clip=False)
    expect(seen[0].mean(), 0.0, "the mean of x_T", [("when x_T is uniform", 0.5)], atol=0.02)
    expect(seen[0].std(), 1.0, "the deviation of x_T, which is drawn from N(0, I)", [
        ("when x_T is not drawn but is 0", 0.0), ("when x_T is uniform", 12 ** -0.5)], rtol=0.02)
    right = 1.0
    for t in (4, 3, 2, 1):
        right = step(student, "beta", t, 1.0, right)
    noisy = (right ** 2 + deviation(student, "beta", 1) ** 2) ** 0.5
    expect(got.std(), right, "the deviation of x_0 where data are N(0, 1): the last step takes the "
           "mean", [("when noise is added at the last step", noisy)], rtol=0.02)


def check_reverse_process_shows_every_step(student):
    """Yields t = T, ..., 0 with x_t and x_0_hat; at t = 0 both are x_0."""
    x_T = torch.full((3, 1), 0.9)
    steps = list(lend(student).reverse_process(gaussian(0.3, 0.0, student.variant), x_T))
    demand([t for t, _, _ in steps] == [4, 3, 2, 1, 0], "reverse_process: expected t = 4, 3, 2, 1, "
           f"0, got {[t for t, _, _ in steps]}")
    expect(steps[0][1], x_T, "x_T, the first that reverse_process yields")
    for t, _, x_0_hat in steps:
        expect(x_0_hat, torch.full((3, 1), 0.3), f"x_0_hat at t = {t}, where all data are 0.3",
               atol=1e-4)
    expect(steps[-1][1], steps[-1][2], "x_t and x_0_hat at t = 0")


def check_the_generator_fixes_the_noise(student):
    """The same generator, the same x_{t-1}; no noise from anywhere else."""
    process, x_t = lend(student), torch.zeros(50, 1)
    draws = []
    for seed in (0, 0, 1):
        g = torch.Generator().manual_seed(seed)
        draws.append(process.p_sample(gaussian(0, 1, student.variant), x_t, 3, generator=g))
    demand(same(draws[0], draws[1]), "p_sample: the same generator gave other noise. Pass "
           "generator to torch.randn.")
    demand(not same(draws[0], draws[2]), "p_sample: another generator gave the same noise")
    demand(draws[0].unique().numel() > 40, "p_sample: all images share their noise")
    for name, draw in (("sample", lambda g: process.sample(gaussian(0, 1, student.variant), (50, 1),
                                                           generator=g)),
                       ("reverse_process", lambda g: list(process.reverse_process(
                           gaussian(0, 1, student.variant), x_t, generator=g))[-1][1])):
        one, two = (draw(torch.Generator().manual_seed(5)) for _ in range(2))
        demand(same(one, two), f"{name}: the same generator gave other noise. Pass it "
               "on, to the first draw and to every step.")


def check_reverse_process_clips_only_if_told(student):
    x_T, model = torch.full((3, 1), 2.5), constant(-3.0, student.variant)
    for clip in (True, False):
        x_0_hat = next(iter(lend(student).reverse_process(model, x_T, clip=clip)))[2]
        far = (2.5 + 3 * (1 - BAR[4]) ** 0.5) / BAR[4] ** 0.5
        expect(x_0_hat, torch.full((3, 1), 1.0 if clip else far), f"x_0_hat of reverse_process "
               f"with clip={clip}", [("when clip is not passed on", torch.full((3, 1), far)),
                                ("when clip is not passed on", torch.ones(3, 1))])


def check_there_is_no_step_from_a_time_outside_1_to_T(student):
    for t in (0, 5):
        try:
            lend(student).p_sample(lambda x_t, t: 0 * x_t, torch.zeros(1, 1), t)
        except ValueError:
            continue
        except IndexError as error:
            raise Wrong(f"p_sample at t = {t}, T = 4: expected a ValueError, got {error}") from None
        raise Wrong(f"p_sample at t = {t}, T = 4, was accepted. Raise a ValueError.")
