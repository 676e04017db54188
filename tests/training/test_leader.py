"""Two threads as two processes: what the first does and how it went reaches the second while it happens."""

import threading
from queue import Queue
from types import SimpleNamespace

import pytest

from deq_nc.config import ConfigError
from deq_nc.runs import Held
from deq_nc.training import leader
from deq_nc.training.leader import WAITS, LeaderError, led
from deq_nc.training.stop import Stop, Stopped


@pytest.fixture
def both(monkeypatch):
    """`both(act, stop)`: what `led` gives or raises in the first and in the second, and what went between them."""
    sent, heard = Queue(), []

    def agreed(value):
        if threading.current_thread() is threading.main_thread():
            sent.put(value)
            return value
        heard.append(sent.get(timeout=20))
        return heard[-1]

    monkeypatch.setattr(leader, "agreed", agreed)
    monkeypatch.setattr(leader, "is_leader", lambda: threading.current_thread() is threading.main_thread())

    def run(act, stop=None):
        came = []

        def call():
            try:
                came.append(led(act, stop))
            except Exception as error:
                came.append(error)

        second = threading.Thread(target=call, daemon=True)
        second.start()
        call()
        second.join(timeout=20)
        return *came, heard

    return run


def test_who_waits_for_the_first_hears_that_it_waits(both, monkeypatch):
    monkeypatch.setattr(leader, "time", SimpleNamespace(sleep=lambda seconds: None))
    first, second, heard = both(lambda sleep: [sleep(2), sleep(2)] and "done")
    assert {first, second} == {"done", None} and heard == [WAITS, WAITS, 0]


@pytest.mark.parametrize(
    "error, kind", [(Held("no"), Held), (ConfigError("no"), ConfigError), (OSError(28, "no"), LeaderError)]
)
def test_where_the_first_fails_all_do(both, error, kind):
    def act(_):
        raise error

    *came, _ = both(act)
    came.remove(error)  # the first's own
    assert type(came[0]) is kind and "says why" in str(came[0])


def test_a_signal_while_the_first_waits_stops_both(both, monkeypatch):
    looks = {True: 0, False: 0}

    class Flag(Stop):
        def now(self):
            mine = threading.current_thread() is threading.main_thread()
            looks[mine] += 1
            return looks[mine] == 3

    monkeypatch.setattr(leader, "time", SimpleNamespace(sleep=lambda seconds: None))

    def act(sleep):
        while True:
            sleep(2)

    *came, _ = both(act, Flag())
    assert [type(each) for each in came] == [Stopped, Stopped] and looks == {True: 3, False: 3}
