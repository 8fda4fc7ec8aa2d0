"""The only home of Dask: the stages of the pipeline side by side, on this machine or on a cluster.

Importing this is quick; Dask and DVC are imported when something is run.
"""
