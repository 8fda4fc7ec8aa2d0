"""Tasks of the tests of worker processes, in a module that imports no more than the server they are forked from."""

import os
import signal
import time

from notbugs.training.loop import TrainingError


def of_process(task: int, say: object) -> tuple[int, int]:
    return task, os.getpid()


def talkative(task: int, say) -> int:
    for number in range(3):
        say((task, number))
    return task * task


def failing(task: int, say: object) -> int:
    if task == 2:
        raise TrainingError("the loss is nan; a smaller lr may help")
    return task


def dying(task: int, say: object) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def talking_to_the_end(task: int, say) -> int:
    for number in range(10**6):
        say(number)
        if task == 1 and number == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.001)
    return task


def sleeping(task: int, say) -> int:
    say(os.getpid())
    if task == 1:
        time.sleep(0.5)
        raise TrainingError("no more")
    time.sleep(600)
    return task
