"""scikit-learn's digits under the optimisation of Sun & Shi 2024, as far as it is known (`configs.paper`).

    make train-balanced RECIPE=digits_paper

Cost: half a minute an arm on two CPU cores. Expect what experiments/results/digits_paper tells: a rate of 1e-4 does not
finish learning in 100 epochs of ten steps, let alone collapse.
"""

from experiments.configs import paper
from experiments.configs.digits import experiment as digits

experiment = paper(digits)
