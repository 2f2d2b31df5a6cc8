"""Commands as processes: pipes, signals, the time of the first answer."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_cases import DATA, DUMP, STUDENT, TEACHER, good, kdcache, pressing, refused

from kdcache.cache.layout import read_layout

pytestmark = pytest.mark.usefixtures("home")
KDCACHE = [sys.executable, "-m", "kdcache"]
INTERRUPTED = "kdcache: interrupted; the same command goes on where it was\n"
RESUMED = INTERRUPTED.replace("goes on", "with --resume goes on")


def process(line: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run([*KDCACHE, *line.split()], text=True, stderr=subprocess.PIPE, timeout=60, **kwargs)


# The time of the first answer


def test_help_answers_at_once():
    def spent() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("--help", stdout=subprocess.DEVNULL).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(spent() for _ in range(3)) < 0.3  # of the processor: the machine may be busy


LIGHT = {
    "summary": "from kdcache import summary; summary('a.h5')",
    **{
        line: f"from kdcache.cli import main; main({line.split()!r}, standalone_mode=False)"
        for line in ("inspect a.h5", "list", "list sources", "list views", "list codecs", "list methods")
    },
}


@pytest.mark.parametrize("code", LIGHT.values(), ids=LIGHT)
def test_what_answers_at_once_does_not_load_torch(code):
    code = f"import sys; {code}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["False"], done.stderr


# Pipes


def test_a_pipe_gets_no_progress_bar():
    done = process(f"{DUMP} -o piped.h5 --json", stdout=subprocess.PIPE)
    said = [line for line in done.stderr.splitlines() if "hardly more than by chance" not in line]
    assert said == []  # but for what a teacher of 64 images deserves
    assert json.loads(done.stdout)["complete"] is True


@pytest.mark.parametrize("line", ["--help", "inspect a.h5", "frobnicate"])
def test_nobody_reads(line):
    reader, writer = os.pipe()
    os.close(reader)
    done = process(line, stdout=writer)
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert len(done.stderr.splitlines()) == (line == "frobnicate")


def test_nobody_reads_the_remarks():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*KDCACHE, "frobnicate"], stdout=subprocess.PIPE, stderr=writer, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("line", "code"), [("verify a.h5", 0), pytest.param("verify broken.h5", 1, marks=pytest.mark.slow)]
)
def test_a_verdict_does_not_depend_on_who_reads_it(line, code):
    """As with `kdcache verify F | head -1`, which reads one line and goes."""
    data = bytearray(Path("a.h5").read_bytes())
    layout = read_layout(Path("a.h5"))
    data[layout.places["knowledge/logits"].offset] ^= 1
    Path("broken.h5").write_bytes(data)
    reader, writer = os.pipe()
    os.close(reader)
    done = process(f"{line} --no-data", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
@pytest.mark.parametrize("line", ["inspect a.h5", "--help", "verify --help"])
def test_a_full_disk_under_the_output(line):
    with open("/dev/full", "w") as full:
        done = process(line, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("kdcache: the output: expected ")
    assert len(done.stderr.splitlines()) == 1


# Ctrl-C, as the kernel sends it to this very process


@pytest.mark.parametrize("after", [1, 5, 9])
def test_interrupted_dump(after, tmp_path, monkeypatch):
    """Of eight blocks of views and one of evaluation: no final name, and the same command finishes it."""
    dump = f"{DUMP} --views 8 --batch 8"
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    good(f"{dump} -o {whole}")
    with monkeypatch.context() as patch:
        pressing(patch, "make", after)
        said = kdcache(f"{dump} -o {broken}")
    assert (said.code, said.out, said.err) == (130, "", INTERRUPTED)
    assert not broken.exists()
    assert good(f"inspect {tmp_path}/broken.h5.part --json").json()["complete"] is False
    assert "unfinished" in good(f"inspect {tmp_path}/broken.h5.part").out
    refused(f"{STUDENT} --cache {broken}", 1, "broken.h5.part")
    good(f"{dump} -o {broken}")
    assert broken.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.h5", "whole.h5"]


@pytest.mark.parametrize("command", [TEACHER, f"{STUDENT} --cache a.h5"])
def test_interrupted_training(command, tmp_path, monkeypatch):
    command += " --epochs 4"
    good(f"{command} --out {tmp_path}/whole")
    with monkeypatch.context() as patch:
        pressing(patch, "make", after=11)  # in the third of epochs of four batches
        said = kdcache(f"{command} --out {tmp_path}/broken")
    assert (said.code, said.out) == (130, "")
    assert said.err.endswith(f" left\n{RESUMED}")  # behind the line of the second epoch
    refused(f"{command} --out {tmp_path}/broken", 2, "one that was left after epoch 2 of 4", "resume", "restart")
    refused(f"{command} --out {tmp_path}/broken --resume --lr 0.5", 2, "leave --resume out")
    good(f"{command} --out {tmp_path}/broken --resume")
    for name in ("last.safetensors", "best.safetensors"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_whatever_ctrl_c_broke_is_an_interruption(monkeypatch):
    """In the middle of an import, Ctrl-C comes out as almost any exception."""

    def half_imported(_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise AttributeError("module 'numpy' has no attribute 'diff'") from None

    monkeypatch.setattr("kdcache.cache.summary.summary", half_imported)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # which the door replaces, at its end
    said = kdcache("inspect a.h5")
    assert (said.code, said.err) == (130, "kdcache: interrupted\n")  # there is nothing to go on with


class Dropping:
    """Python drops what is raised in a __del__, as in some callbacks of its own."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)


def test_ctrl_c_while_the_commands_are_imported():
    lines = [
        "import sys",
        "class Pressed:",
        "    def find_spec(self, name, *rest):",
        "        if name == 'kdcache.cli.make': raise KeyboardInterrupt",
        "sys.meta_path.insert(0, Pressed())",
        "from kdcache.__main__ import main",
        "main()",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "kdcache: interrupted\n")


def test_ctrl_c_where_python_drops_exceptions(monkeypatch):
    def busy(_):
        Dropping()
        time.sleep(20)

    monkeypatch.setattr("kdcache.jobs.facts_of", busy, raising=False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    started = time.monotonic()
    said = kdcache("inspect a.h5")
    assert (said.code, said.err, time.monotonic() - started < 15) == (130, "kdcache: interrupted\n", True)


def test_ctrl_c_waits_for_the_end_of_an_import(monkeypatch, tmp_path):
    """C++ code that imports a module, as that of torch does, aborts the process where an exception leaves it."""
    code = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01); WHOLE = True"
    (tmp_path / "interrupted_import.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    whole = []

    def importing(_):
        import interrupted_import

        whole.append(interrupted_import.WHOLE)
        time.sleep(20)

    monkeypatch.setattr("kdcache.jobs.facts_of", importing, raising=False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    started = time.monotonic()
    said = kdcache("inspect a.h5")
    assert (said.code, whole, time.monotonic() - started < 15) == (130, [True], True)


def test_workers_that_end_do_not_disturb_the_unwinding(monkeypatch):
    """torch raises an error in the handler of SIGCHLD when a worker of a loader has died."""
    unwound = []

    def died(*_):
        raise RuntimeError("DataLoader worker exited unexpectedly")

    def interrupted(_):
        before = signal.signal(signal.SIGCHLD, died)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)
        finally:
            subprocess.run(["true"], check=True)
            unwound.append(signal.signal(signal.SIGCHLD, before))

    monkeypatch.setattr("kdcache.jobs.facts_of", interrupted, raising=False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    assert kdcache("inspect a.h5").code == 130
    assert unwound


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    good("inspect a.h5")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [1, 4, 7])
@pytest.mark.parametrize("command", ["train-teacher --model tiny-3 --workers 2 --epochs 9999", "dump-logits"])
def test_signals_to_a_process_group(command, seconds, number, tmp_path, pictures):
    if command == "dump-logits":
        command = f"dump-logits --teacher tiny-3 {DATA} --views 999999 --batch 4 -o {tmp_path}/x.h5"
    else:
        command += f" --data folder:{pictures} --augment resized-crop:32 --out {tmp_path}/run"
    running = subprocess.Popen(
        [*KDCACHE, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(seconds)
    os.killpg(running.pid, number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    word = INTERRUPTED if command.startswith("dump") else RESUMED
    assert (out, err) == ("", word if number == signal.SIGINT else word.replace("interrupt", "terminat"))
    assert not (tmp_path / "x.h5").exists()
