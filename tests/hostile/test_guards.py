"""The guards themselves: a reader that loops or waits forever is stopped."""

import signal
import threading

import pytest

from tests.hostile import guards


def loop_for_ever():
    while True:
        pass


@pytest.mark.parametrize(
    ("limit", "hang", "kind"),
    [("PROCESSOR_SECONDS", loop_for_ever, "of computing"), ("SECONDS", threading.Event().wait, "in all")],
)
def test_who_hangs_is_stopped(monkeypatch, limit, hang, kind):
    before = [signal.getsignal(number) for number in (signal.SIGPROF, signal.SIGALRM)]
    monkeypatch.setattr(guards, limit, 0.05)
    with pytest.raises(guards.HangError, match=rf"more than 0\.05 s {kind}"), guards.guarded():
        hang()
    assert [signal.getsignal(number) for number in (signal.SIGPROF, signal.SIGALRM)] == before
    assert [signal.getitimer(timer)[0] for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL)] == [0, 0]
