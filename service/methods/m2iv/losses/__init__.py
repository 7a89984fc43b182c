"""The losses of M²IV, one file each, and their weighted sum, the training objective.

To add a loss, add a file with its function, what it reads to `inputs.LossInputs`, and its name to `objective.LOSSES`.
"""
