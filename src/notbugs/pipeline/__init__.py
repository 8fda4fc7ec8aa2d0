"""The stages of the pipeline: one module and one function of the same name for each stage of dvc.yaml."""
