"""What every algorithm of the package owes Stable-Baselines3: one suite over the list in :mod:`tests.contract.models`."""
