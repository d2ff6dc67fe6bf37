"""Answers to exercises 1 to 6, right and wrong, as they were tried: see answers.py."""
from answers import NO_CHAIN, SCHEDULE

LINEAR_BODY = NO_CHAIN + "return torch.linspace(beta_1, beta_T, T, dtype=torch.float64)"

RIGHT = [
    (1, {SCHEDULE: NO_CHAIN + """step = (beta_T - beta_1) / (T - 1) if T > 1 else 0
return torch.tensor([beta_1 + step * i for i in range(T)]).double()""".replace(
        ")]).double()", ")], dtype=torch.float64)")}),
]
WRONG = []
RIGHT_IN_VARIANT = []
WRONG_IN_VARIANT = []
