"""Training runs, and opening what they left.

loop.train                            trains a configuration until its end
machine.Machine                       a run made concrete: compiled functions, up to the prediction table of a split
population.make                       the machine of one model, or of many at once
step.make_train_step                  the pure functions that are compiled
choosing.choose_steps, restore        which checkpoint is meant, and what it holds
checkpoint.Checkpoints, writers       what a run writes
"""
