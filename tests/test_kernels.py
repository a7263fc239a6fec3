"""BLAS threads: one while several threads compute, as many as before once they are done."""

from __future__ import annotations

import threading

from vecpipe import kernels


def blas_threads() -> list[int]:
    return [library.get_num_threads() for library in kernels._blas().lib_controllers]


def wait_for_timers() -> None:
    """Wait until whatever gives BLAS its threads back has run."""
    while timers := [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]:
        for timer in timers:
            timer.join()


def test_blas_has_one_thread_inside_and_its_own_number_afterwards() -> None:
    wait_for_timers()
    before = blas_threads()
    with kernels.one_blas_thread():
        assert set(blas_threads()) == {1}
    wait_for_timers()
    assert blas_threads() == before


def test_the_last_thread_out_may_be_another_than_the_first_in() -> None:
    wait_for_timers()
    before, entered, leave, inside = blas_threads(), threading.Event(), threading.Event(), []

    def first() -> None:
        with kernels.one_blas_thread():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with kernels.one_blas_thread():
        leave.set()
        thread.join()
        inside.extend(blas_threads())
    wait_for_timers()
    assert set(inside) == {1}
    assert blas_threads() == before
