"""The lock of a run's folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest

from sgm_core.errors import SgmError
from sgm_core.runs.lock import FILE, LOCK, locked, refuse_held


def lock_of(folder, **changed):
    own = {"host": socket.gethostname(), "pid": os.getpid()}
    (folder / FILE).write_text(json.dumps(own | changed))


def test_a_lock_is_there_inside_and_gone_after_whatever_happens(tmp_path):
    held = []

    def fail():
        with locked(tmp_path):
            held.append(json.loads((tmp_path / FILE).read_text()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (held[0]["host"], held[0]["pid"]) == (socket.gethostname(), os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_second_one_is_refused_and_the_first_keeps_it(tmp_path):
    with locked(tmp_path):
        with pytest.raises(SgmError, match=f"in use by process {os.getpid()} on this machine"), locked(tmp_path):
            pytest.fail("two at once")
        assert {path.name for path in tmp_path.iterdir()} == {FILE, LOCK}


@pytest.mark.parametrize("name", ["metrics.jsonl", LOCK, FILE, "images", "checkpoints/step-00000002.ckpt", "loop"])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_with_a_link_that_leads_out_of_it_is_refused_and_nothing_is_written(tmp_path, name, there):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    (folder / "checkpoints").mkdir(parents=True)
    if there:
        outside.write_text("precious")
    (folder / name).symlink_to(outside)
    with pytest.raises(SgmError, match=f"{name}: a link that leads out of the run's folder"), locked(folder):
        pytest.fail("held")
    assert outside.exists() == there
    assert not there or outside.read_text() == "precious"


def test_links_within_the_folder_are_fine(tmp_path):
    (tmp_path / "last.ckpt").symlink_to("step-00000002.ckpt")
    (tmp_path / "loop").symlink_to("loop")
    with locked(tmp_path):
        pass


RACE = """
import sys, pathlib
from sgm_core.errors import SgmError
from sgm_core.runs.lock import locked
sys.stdin.readline()
try:
    with locked(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
except SgmError:
    print("refused", flush=True)
"""


def holding(folder, script=RACE):
    """A process that holds the folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "held\n"
    return child


def test_the_lock_of_a_process_that_is_gone_is_taken_over(tmp_path):
    child = holding(tmp_path)
    for attempt in (locked, lambda folder: nullcontext(refuse_held(folder))):
        with pytest.raises(SgmError, match=f"in use by process {child.pid} .*kill {child.pid}"), attempt(tmp_path):
            pytest.fail("it lives")
    child.kill()
    child.wait()
    assert (tmp_path / FILE).exists()
    refuse_held(tmp_path)
    with locked(tmp_path):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="zombies")
def test_a_process_that_has_ended_and_was_not_waited_for_holds_nothing(tmp_path):
    child = holding(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with locked(tmp_path):
        pass
    child.wait()


FORKS = """
import os, pathlib, sys, time
from sgm_core.runs.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    if os.fork() == 0:  # as the workers of a data loader are
        print("held", flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that share what is open")
def test_a_worker_that_outlives_a_killed_run_does_not_hold_its_folder(tmp_path):
    child = holding(tmp_path, FORKS)
    with pytest.raises(SgmError, match="in use"), locked(tmp_path):
        pytest.fail("it lives")
    child.kill()
    child.wait()
    with locked(tmp_path):
        pass


def test_a_file_that_names_a_process_of_this_host_is_no_lock(tmp_path):
    lock_of(tmp_path)  # its number belongs to another process by now
    with locked(tmp_path):
        pass


def test_another_host_is_named_with_the_way_out(tmp_path):
    lock_of(tmp_path, host="node-7")
    with pytest.raises(SgmError, match=r"on node-7.*remove .*running\.json") as caught, locked(tmp_path):
        pytest.fail("that run may live")
    assert "\n" not in str(caught.value)
    (tmp_path / FILE).unlink()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense", "[" * 100_000, '{"host": "a", "pid": Infinity}'])
def test_a_lock_that_says_nothing_is_not_removed(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(SgmError, match="cannot be read"), locked(tmp_path):
        pytest.fail("who knows")
    assert (tmp_path / FILE).read_text() == text


def test_one_that_was_removed_by_hand_is_not_the_one_to_let_go_of(tmp_path):
    with locked(tmp_path):
        lock_of(tmp_path, host="node-7")
    assert (tmp_path / FILE).exists()


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_processes_one_gets_it(tmp_path, stale):
    if stale:
        lock_of(tmp_path)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    barrier = threading.Barrier(len(children))

    def go(child):
        barrier.wait()
        child.stdin.write("\n")
        child.stdin.flush()

    threads = [threading.Thread(target=go, args=(child,)) for child in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = sorted(child.stdout.readline().strip() for child in children)
    assert said == ["held"] + ["refused"] * 5
    for child in children:
        child.communicate("\n" if child.poll() is None else None)
