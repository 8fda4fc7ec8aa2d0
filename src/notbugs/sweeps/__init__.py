"""Sweeps: how the constructed datasets depend on eps, the PGD steps and the source model. The only home of Optuna.

`settings` says what is searched, `points` what a trial is, `trial` does one, `storage` and `study` keep them,
`worker` and `session` run them, `outputs` writes what was found, `choosing` takes a point over into params.yaml.
Importing this imports no Optuna.
"""
