"""scikit-learn's digits under the optimisation of Sun & Shi 2024, as far as it is known (`configs.paper`).

    make train-balanced RECIPE=digits_paper

Cost: half a minute an arm on two CPU cores. Results: not measured; at a rate of 1e-4 expect 100 epochs of ten steps to
end long before the terminal phase.
"""

from deq_nc.recipes._paper import paper
from deq_nc.recipes.digits import experiment as digits

experiment = paper(digits)
