"""`notbugs plots`: the plots of dvc.yaml on a page that needs no network.

DVC's page loads Vega from the network. Ours, .dvc/plots/page.html, takes it from beside the page where it lies there.
"""

import subprocess
import sys
from pathlib import Path

import click

from notbugs.cli.project import project_root

PAGE = Path("dvc_plots") / "index.html"
"""Where `dvc plots show` and `dvc plots diff` write, in the project."""
LIBRARY = "vega.js"


@click.command()
@click.option("--prepare", is_flag=True, help="Only put Vega there; `dvc plots show` and `dvc plots diff` then use it.")
def plots(prepare: bool) -> None:
    """Draw the plots of dvc.yaml (`dvc plots show`) on a page that needs no network."""
    root = project_root()
    put_library(root)
    if not prepare:
        sys.exit(subprocess.run([sys.executable, "-m", "dvc", "plots", "show"], cwd=root, check=False).returncode)


def put_library(root: Path) -> Path:
    """Write Vega, Vega-Lite and vega-embed as one script beside the page; where it is, it stays.

    Returns: the script.
    """
    from notbugs.runtime.files import write_text

    script = root / PAGE.with_name(LIBRARY)
    if not script.exists():
        from notbugs.report.live import bundle  # the report's: made by an engine of its own, in seconds

        script.parent.mkdir(exist_ok=True)
        write_text(script, bundle())
    return script
