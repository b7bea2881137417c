"""The engine: types, step, optimisers, sharding, checkpoints, configuration."""
