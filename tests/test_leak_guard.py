"""The leak guard of conftest.py really fails a test that leaves something, and no other test."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each leaky test keeps its leak alive in KEPT, so that only the guard can object, not a ResourceWarning.
INNER_TESTS = """
import asyncio, os, socket, subprocess, sys, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
import pytest

KEPT = []
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]

def test_task():
    loop = asyncio.new_event_loop()
    KEPT.append((loop, loop.create_task(asyncio.sleep(60), name="forgotten")))

def test_task_of_closed_loop():
    async def main():
        return asyncio.create_task(asyncio.sleep(60), name="abandoned")
    loop = asyncio.new_event_loop()
    KEPT.append((loop, loop.run_until_complete(main())))
    loop.close()

def test_task_destroyed():
    async def main():
        asyncio.create_task(asyncio.sleep(60), name="destroyed")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()

def test_exception_never_retrieved():
    async def fails():
        raise OSError("unseen")
    async def main():
        asyncio.create_task(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    asyncio.run(main())

def test_uvloop_task():
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    KEPT.append((loop, loop.create_task(asyncio.sleep(60), name="uv-forgotten")))

def test_thread():
    event = threading.Event()
    KEPT.append(event)
    threading.Thread(target=event.wait, args=(60,), name="straggler", daemon=True).start()

def test_executor():
    pool = ThreadPoolExecutor(1, thread_name_prefix="pool")
    pool.submit(int).result()
    KEPT.append(pool)

def test_socket():
    listener = socket.create_server(("127.0.0.1", 0))
    KEPT.append(listener)

def test_file(tmp_path):
    KEPT.append((tmp_path / "kept-open").open("w"))

def test_raw_descriptor():
    KEPT.append(os.pipe())

def test_process():
    KEPT.append(subprocess.Popen(SLEEPER))

def test_zombie():
    child = subprocess.Popen([sys.executable, "-c", ""])
    KEPT.append(child)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

def test_orphan():
    subprocess.run([sys.executable, "-c", f"import subprocess; subprocess.Popen({SLEEPER})"], check=True)

def test_temporary_file():
    descriptor, name = tempfile.mkstemp(suffix=".left")
    os.close(descriptor)

def test_temporary_file_of_child():
    make = "import tempfile; tempfile.mkdtemp(suffix='.by-child')"
    subprocess.run([sys.executable, "-c", make], check=True)

@pytest.fixture(scope="module")
def wider():
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        yield listener

def test_clean_with_wider_fixture(wider):
    wider.getsockname()

def test_clean_closes_everything(tmp_path, capfd, monkeypatch):
    async def main():
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        await asyncio.to_thread(int)
        async with server:
            pass
    asyncio.run(main())
    with tempfile.TemporaryDirectory(), (tmp_path / "stays").open("w"):
        subprocess.run([sys.executable, "-c", ""], check=True)

def test_clean_thread_that_is_just_ending():
    threading.Thread(target=time.sleep, args=(0.05,)).start()

def test_clean_open_of_urandom():
    KEPT.append(open("/dev/urandom", "rb"))
"""

INNER_TEST_OF_A_WIDER_FIXTURE = """
import socket
import pytest

KEPT = []

@pytest.fixture(scope="module")
def wider():
    KEPT.append(socket.create_server(("127.0.0.1", 0)))

def test_last(wider):
    pass
"""

EXPECTED = {
    "test_task": "task forgotten",
    "test_task_of_closed_loop": "task abandoned",
    "test_task_destroyed": "was destroyed but it is pending",
    "test_exception_never_retrieved": "was never retrieved",
    "test_uvloop_task": "task uv-forgotten",
    "test_thread": "thread straggler (daemon)",
    "test_executor": "thread pool_0",
    "test_socket": "AF_INET SOCK_STREAM ('127.0.0.1'",
    "test_file": "kept-open",
    "test_raw_descriptor": "pipe:[",
    "test_process": "time.sleep(60)",
    "test_zombie": "a zombie that nobody waited for",
    "test_orphan": "time.sleep(60)",
    "test_temporary_file": ".left",
    "test_temporary_file_of_child": ".by-child",
    "test_last": "the session left behind",
}
CLEAN = (
    "test_clean_with_wider_fixture",
    "test_clean_closes_everything",
    "test_clean_thread_that_is_just_ending",
    "test_clean_open_of_urandom",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Test name to its failure message, "" if it passed; one inner run serves all tests."""
    base = tmp_path_factory.mktemp("inner")
    shutil.copy(ROOT / "tests" / "conftest.py", base / "conftest.py")
    (base / "test_inner.py").write_text(INNER_TESTS, encoding="utf-8")
    (base / "test_wider.py").write_text(INNER_TEST_OF_A_WIDER_FIXTURE, encoding="utf-8")
    (base / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    report = base / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={base / 'tmp'}"]
    command += [f"--junitxml={report}", str(base / "test_inner.py"), str(base / "test_wider.py")]
    environment = {**os.environ, "ONECARD_TEST_GRACE_S": "0.5"}  # every leak waits that long in vain
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr

    messages: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        texts = [f"{part.get('message')}\n{part.text}" for part in case if part.tag in {"error", "failure"}]
        texts += ["skipped" for part in case if part.tag == "skipped"]
        messages[case.get("name", "")] = messages.get(case.get("name", ""), "") + "\n".join(texts)
    return messages


@pytest.mark.parametrize("name", EXPECTED)
def test_a_leak_fails_its_test_and_is_named(outcomes: Mapping[str, str], name: str) -> None:
    if outcomes[name] == "skipped":
        pytest.skip("what this needs is not installed")
    assert "left behind" in outcomes[name]
    assert EXPECTED[name] in outcomes[name]


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_test_passes(outcomes: Mapping[str, str], name: str) -> None:
    assert outcomes[name] == ""


def test_a_leak_is_reported_once(outcomes: Mapping[str, str]) -> None:
    """The socket of one test is not held against the tests after it."""
    assert set(outcomes) == {*EXPECTED, *CLEAN}
    assert [name for name, text in outcomes.items() if "AF_INET" in text] == ["test_socket", "test_last"]
