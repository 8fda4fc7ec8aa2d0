"""A program of `warm.py`: hand the command to the server and end as it does.

It starts in hundredths of a second, for which it does without pathlib.
"""
# ruff: noqa: PTH109, PTH119

import array
import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def main(address: str, source: str, program: str, *arguments: str) -> int:
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    one_of_several = "RANK" in os.environ  # of processes that look whether their parent lives
    if {*paths} - {"", source} or one_of_several or not understood(program, arguments):
        os.execv(program, [program, *arguments])
    server = socket.socket(socket.AF_UNIX)
    for number in FORWARDED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: server.send(bytes([number])))
    server.connect(address)
    request = {"program": program, "arguments": arguments, "folder": os.getcwd(), "environment": {**os.environ}}
    content = json.dumps(request).encode()
    files = array.array("i", [0, 1, 2])
    server.sendmsg([len(content).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(content)
    code = int(server.recv(16) or 1)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def understood(program: str, arguments: tuple[str, ...]) -> bool:
    """Whether the server runs this; of Python's command lines it knows code, scripts and two modules."""
    if not os.path.basename(program).startswith("python"):
        return True
    first, second = (*arguments, "", "")[:2]
    return first == "-c" or first.endswith(".py") or (first, second) in (("-P", "-c"), ("-m", "notbugs"), ("-m", "dvc"))


sys.exit(main(*sys.argv[1:]))
