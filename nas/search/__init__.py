"""Who proposes, who trains, who stops: Optuna's samplers, Ray Tune's trials, successive halving, freeze-thaw.

Imports nas.training, nas.measure, nas.runs and what is below them. Ray and Optuna are imported here.
"""
