"""The upstream experiment: does what lies upstream of a region tell what will rain in it?

Experiment 1 forecasts the region from itself alone, experiment 2 from itself and its upstream
neighbour, both with the same model, parameters, seeds, windows and batches. A larger input may help
for other reasons than what is in it, so that controls are given an input as large that holds
nothing of the kind.
"""
