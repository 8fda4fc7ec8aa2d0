import json
import multiprocessing
import os
import time

from notbugs.runtime.process import alive, identity


def test_a_process_is_known_by_number_start_machine_and_boot() -> None:
    own = identity()
    assert alive(own) is True
    assert alive(json.dumps({**json.loads(own), "started": time.time() - 9999})) is False
    assert alive(json.dumps({**json.loads(own), "boot": "another"})) is False
    assert alive(json.dumps({**json.loads(own), "host": "another"})) is None
    assert alive(None) is None
    assert alive("no json") is None


def test_a_dead_process_is_dead_even_before_it_is_reaped() -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_tell_identity, args=(sender,))
    child.start()
    name = receiver.recv()
    assert alive(name) is True
    os.kill(child.pid or 0, 9)
    deadline = time.monotonic() + 20
    while alive(name) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alive(name) is False
    child.join()
    assert alive(name) is False


def _tell_identity(sender: "multiprocessing.connection.Connection") -> None:
    sender.send(identity())
    time.sleep(60)
