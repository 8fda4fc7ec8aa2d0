"""The nine classes of Restricted ImageNet as ranges of ILSVRC 2012's 1,000 classes, and the synsets in them.

A class's number is the rank of its WordNet id among the 1,000, as torchvision numbers the folders. Ends are included:
203 classes in all.

Sources: the ranges are tabulated in Ilyas et al. 2019, appendix C, and stand in the authors' library
(MadryLab/robustness, tools/constants.py, RESTRICTED_IMAGNET_RANGES; its comment counts 14 primates, its range 18).
The ids are those of these ranks in ILSVRC 2012's list of classes (LOC_synset_mapping.txt). The table, synsets.txt, has
a line a class, in the paper's order: name, first and last rank, ids.
"""

from importlib.resources import files

_LINES = [line.split() for line in files(__package__).joinpath("synsets.txt").read_text("utf-8").splitlines()]

RANGES = {name: (int(first), int(last)) for name, first, last, *_ in _LINES}
"""First and last rank of each class."""

SYNSETS: dict[str, tuple[str, ...]] = {name: tuple(ids) for name, _, _, *ids in _LINES}
"""Class -> WordNet ids of its folders, in the paper's order of classes."""
