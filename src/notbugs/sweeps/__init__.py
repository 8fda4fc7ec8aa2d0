"""Sweeps: how the constructed datasets depend on eps, the PGD steps and the source model. The only home of Optuna.

`settings` says what is searched, `trial` tries one point of it, `storage` and `study` keep the trials,
`worker` and `session` run them, `outputs` writes what was found, `editing` takes a point over into params.yaml.
Importing this imports no Optuna.
"""
