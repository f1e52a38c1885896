"""What one update is made of: the state it changes, the task's protocol, passes over a batch, losses, optimizers.

state.TrainState                      all that training carries, and all that a checkpoint holds
task.TaskKind                         what the engine must know of a task
preprocess.make_preprocess            stored integers to the images that a model sees
sweep.Sweep                           sums and gradients over the global batch
losses, optim                         one loss per example; optax chains from the configuration
"""
