"""Stored datasets in other people's formats, and theirs as stored datasets; released models as our own.

    imagefolder  torchvision's tree, one file an image: <class>/<index>.npy (exact) or .png (8 bits)
    huggingface  parquet files that `datasets.load_dataset` opens
    madry        the files that the paper's authors released: lists of tensors, CIFAR_ims and CIFAR_lab
    npz          one NumPy archive

Each is a module with `write` and `read`; `exporting` and `importing` do what all share. Importing this loads
nothing heavy.
"""

FORMATS = ("imagefolder", "huggingface", "madry", "npz")
MODEL_FORMATS = ("robustness", "robustbench", "state_dict")
"""Whose checkpoints `checkpoints.import_model` reads."""
ENCODINGS = ("npy", "png")
"""Files of an imagefolder: exact, or rounded to 8 bits."""
