"""Launchers of pods and clusters: what they would run, and what they do when things go wrong.

The clouds' own programs (gcloud, srun, ...) are replaced by scripts that note how they were called.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from launch.gke_jobset import main, make_jobset

ROOT = Path(__file__).parents[2]
CONFIG = "configs/tats_ssv2.py:L"
SPACES = "--config.data.manifest=my files/it's $HOME.csv"
SCRIPTS = (
    "env.sh", "local.sh", "small_conv.sh", "test.sh", "tpu_pod.sh", "tpu_host.sh", "slurm.sbatch",
)  # fmt: skip
# Answers "describe" and "status" from one line after the other of two files.
GCLOUD = """
echo "$*" >> "$FAKE/calls"
case "$*" in
  *" describe "*) file=$FAKE/states ;;
  *tpu_host.sh??status*) file=$FAKE/statuses ;;
  *) exit 0 ;;
esac
line=$(head -n 1 "$file"); sed -i 1d "$file"
if [ "$line" = NOT_FOUND ]; then echo "ERROR: NOT_FOUND: resource" >&2; exit 1; fi
if [ "$line" = DENIED ]; then echo "ERROR: you are nobody" >&2; exit 1; fi
echo "$line"
"""


@pytest.fixture
def fake(tmp_path):
    """Adds a program to a folder that comes first in the returned environment's PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    env |= {"PATH": f"{folder}:{env['PATH']}", "FAKE": str(tmp_path), "WAIT": "0"}

    def add(name, text):
        (folder / name).write_text("#!/usr/bin/env bash\n" + text)
        (folder / name).chmod(0o755)
        return env

    return add


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like an installed checkout."""
    root = tmp_path / "check out"
    shutil.copytree(ROOT / "launch", root / "launch")
    (root / "launch/env.sh").write_text("")
    (root / "configs").mkdir()
    (root / "configs/a.py").write_text("")
    return root


def bash(*args, cwd=ROOT, **options):
    kind = {"text": True, "capture_output": True, "timeout": 60, **options}
    return subprocess.run(["bash", *map(str, args)], cwd=cwd, check=False, **kind)


@pytest.mark.parametrize("name", SCRIPTS)
def test_syntax(name):
    assert bash("-n", f"launch/{name}").stderr == ""


@pytest.mark.parametrize(
    "script, args, message",
    [
        ("tpu_pod.sh", [], "NAME is missing"),
        ("tpu_pod.sh", ["--dry-run", "pod"], "ZONE is missing"),
        ("tpu_pod.sh", ["pod", "zone", "--workdir=w"], "CONFIG is missing"),
        ("tpu_pod.sh", ["pod", "zone", "configs/no.py:L", "--workdir=w"], "no file configs/no.py"),
        ("tpu_pod.sh", ["pod", "zone", CONFIG], "--workdir=FOLDER is missing"),
        ("tpu_pod.sh", ["pod", "zone", CONFIG, "--workdir="], "--workdir=FOLDER is missing"),
        (
            "tpu_pod.sh",
            ["pod", "zone", CONFIG, "--workdir=/w", "--distributed=auto"],
            "set by this",
        ),
        (
            "tpu_pod.sh",
            ["pod", "zone", CONFIG, "--workdir=w", "--dry-run"],
            "--dry-run comes first",
        ),
        ("tpu_pod.sh", ["pod", "zone", CONFIG, "--workdir=runs/w"], "or an absolute path"),
        ("slurm.sbatch", [], "CONFIG is missing"),
        ("slurm.sbatch", ["configs/no.py", "--workdir=w"], "no file configs/no.py"),
        ("slurm.sbatch", [CONFIG], "--workdir=FOLDER is missing"),
        ("slurm.sbatch", [CONFIG, "--workdir=w", "--distributed=a:1,0,2"], "set by this"),
        ("slurm.sbatch", [CONFIG, "--workdir=w"], "start it with sbatch"),
    ],
)
def test_what_is_missing_is_one_clear_error(script, args, message, fake):
    found = bash(f"launch/{script}", *args, env=fake("gcloud", "exit 9"))
    assert found.returncode == 2
    assert found.stdout == ""
    assert len(found.stderr.splitlines()) == 1
    assert f"launch/{script}: " in found.stderr and message in found.stderr


def dry_pod(*flags, **env):
    args = ["--dry-run", "pod", "us-west4-a", CONFIG, "--workdir=/mnt/w", *flags]
    found = bash("launch/tpu_pod.sh", *args, env=os.environ | {"TMPDIR": "/tmp"} | env)
    assert found.stderr == "" and found.returncode == 0
    return [shlex.split(line) for line in found.stdout.splitlines()]


def test_pod_dry_run_prints_the_commands_in_order():
    lines = dry_pod(SPACES)
    verbs = [line[4] if line[0] == "gcloud" else line[0] for line in lines]
    assert verbs == ["describe", "create", "tar", "scp", "rm", "ssh", "ssh", "ssh", "ssh", "ssh"]
    assert all("--zone=us-west4-a" in line for line in lines if line[0] == "gcloud")
    assert {"--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"} <= set(
        lines[1]
    )
    workers = [line[7] for line in lines if line[4:5] == ["ssh"]]
    assert workers == ["--worker=all"] * 3 + ["--worker=0"] * 2
    # Two shells stand between this one and the program: that of gcloud's ssh, and no more.
    started = shlex.split(lines[7][-1].removeprefix("--command="))
    assert started == [
        "bash", "jaxvid/launch/tpu_host.sh", "start", f"--config={CONFIG}", "--distributed=auto",
        "--stopped_status=75", "--workdir=/mnt/w", SPACES,
    ]  # fmt: skip


def test_pod_settings():
    lines = dry_pod(SPOT="0", ACCELERATOR="v4-64", RUNTIME="base", PROJECT="mine", SETUP="mount x")
    assert "--spot" not in lines[1]
    assert {"--accelerator-type=v4-64", "--version=base", "--project=mine"} <= set(lines[1])
    unpacked = shlex.split(lines[5][-1].removeprefix("--command="))
    assert unpacked[-1].endswith("-C jaxvid && mount x")


def pod(fake, tmp_path, states, statuses):
    env = fake("gcloud", GCLOUD) | {"TMPDIR": str(tmp_path)}
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    (tmp_path / "statuses").write_text("\n".join(statuses) + "\n")
    fake("tar", "exit 0"), fake("rm", "exit 0")
    found = bash("launch/tpu_pod.sh", "pod", "zone", CONFIG, "--workdir=/w", env=env)
    words = ("create", "delete", "tpu_host.sh start", "follow")
    calls = (tmp_path / "calls").read_text().splitlines()
    return found, [w.split()[-1] for call in calls for w in words if w in call]


def test_a_preempted_pod_is_made_again(fake, tmp_path):
    states = ["NOT_FOUND", "NOT_FOUND", "CREATING", "READY", "PREEMPTED", "NOT_FOUND", "READY"]
    found, calls = pod(fake, tmp_path, states, ["none", "", "none", "done"])
    assert found.returncode == 0, found.stderr
    once = ["create", "start", "follow"]
    assert calls == [*once, "delete", *once]


def test_a_run_that_goes_on_is_only_followed(fake, tmp_path):
    found, calls = pod(fake, tmp_path, ["READY"] * 3, ["running", "running", "running", "done"])
    assert found.returncode == 0, found.stderr
    assert calls == ["follow", "follow"]


def test_a_worker_out_of_reach_is_waited_for(fake, tmp_path):
    found, calls = pod(fake, tmp_path, ["READY"] * 3, ["", "running", "done"])
    assert found.returncode == 0, found.stderr
    assert calls == ["follow"]


def test_a_stopped_run_is_started_again(fake, tmp_path):
    found, calls = pod(fake, tmp_path, ["READY"] * 3, ["none", "stopped", "stopped", "done"])
    assert found.returncode == 0, found.stderr
    assert calls == ["start", "follow"] * 2


def test_a_failed_run_is_not_started_again(fake, tmp_path):
    found, calls = pod(fake, tmp_path, ["READY"] * 3, ["none", "failed"])
    assert found.returncode == 2
    assert "the run failed" in found.stderr and "--worker=all" in found.stderr
    assert calls == ["start", "follow"]


def test_gcloud_that_refuses_is_quoted(fake, tmp_path):
    found, calls = pod(fake, tmp_path, ["DENIED"], [])
    assert found.returncode == 2 and calls == []
    assert "you are nobody" in found.stderr


@pytest.mark.parametrize(
    "platform, extras, wanted", [("tpu", "", ".[tpu]"), ("cuda", "test", ".[cuda,test]")]
)
def test_what_is_installed(checkout, fake, platform, extras, wanted):
    shutil.copy(ROOT / "launch/env.sh", checkout / "launch")
    (checkout / "setup.py").write_text("")
    making = (
        'if [ "$1" = -m ]; then mkdir -p .venv/bin; touch .venv/bin/activate\n'
        "printf 'echo \"$@\" > installed\\n' > .venv/bin/pip; chmod +x .venv/bin/pip; fi\n"
    )
    env = fake("some-python", making) | {"PYTHON": "some-python", "JAXVID_PLATFORM": platform}
    found = bash("-c", f'source launch/env.sh "{extras}"; pwd', cwd=checkout, env=env)
    assert found.stdout.splitlines()[-1] == str(checkout), found.stderr
    assert (checkout / "installed").read_text().split()[-2:] == ["-e", wanted]


@pytest.mark.parametrize("status, word", [(0, "done"), (75, "stopped"), (1, "failed")])
def test_one_host_of_a_pod(checkout, status, word):
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/usr/bin/env bash\nprintf '%s|' \"$@\"\n"
        f"until [ -e go ]; do sleep 0.05; done\nexit {status}\n"
    )
    python.chmod(0o755)

    def host(*args):
        return bash("launch/tpu_host.sh", *args, cwd=checkout).stdout

    assert host("status") == "none\n"
    assert host("start", "--config=a", SPACES) == ""
    assert host("status") == "running\n"
    host("start", "--config=another")  # changes nothing
    (checkout / "go").write_text("")
    assert host("follow") == f"-m|jaxvid.main|--config=a|{SPACES}|"
    assert host("status") == f"{word}\n"


def test_slurm_dry_run():
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | {"DRY_RUN": "1"}
    found = bash("launch/slurm.sbatch", CONFIG, "--workdir=w", SPACES, env=env)
    assert found.returncode == 0 and found.stderr == ""
    step = shlex.split(found.stdout.splitlines()[1])
    assert step[:3] == ["srun", "--wait=120", "bash"]
    assert step[6:] == [f"--config={CONFIG}", "--distributed=auto", "--stopped_status=75",
                        "--workdir=w", SPACES]  # fmt: skip
    assert 'scontrol requeue "$SLURM_JOB_ID"' in found.stdout


def test_slurm_asks_for_one_process_per_node_and_a_signal_ahead_of_time():
    lines = (ROOT / "launch/slurm.sbatch").read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--ntasks-per-node=1", "--signal=B:USR1@300", "--requeue", "--open-mode=append"} <= (
        options
    )
    # Slurm stops looking at the first line that is neither a comment nor empty.
    assert lines.index("set -euo pipefail") > max(
        i for i, line in enumerate(lines) if line.startswith("#SBATCH")
    )


def slurm(fake, checkout, python):
    fake("srun", 'shift; echo $$ > "$FAKE/step"; exec "$@"')
    fake("scancel", 'echo "scancel $*" >> "$FAKE/calls"; kill -TERM "$(cat "$FAKE/step")"')
    fake("scontrol", 'echo "scontrol $*" >> "$FAKE/calls"')
    env = fake("python", python) | {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "3"}
    env["SLURM_SUBMIT_DIR"] = str(checkout)
    return subprocess.Popen(
        ["bash", str(ROOT / "launch/slurm.sbatch"), "configs/a.py", "--workdir=w", SPACES],
        cwd="/", env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize("status", [0, 1])
def test_slurm_gives_a_process_all_gpus_of_its_node(fake, checkout, tmp_path, status):
    job = slurm(fake, checkout, f"echo $JAX_LOCAL_DEVICE_IDS; printf '%s|' \"$@\"; exit {status}")
    output = job.communicate(timeout=60)[0]
    flags = f"--config=configs/a.py|--distributed=auto|--stopped_status=75|--workdir=w|{SPACES}|"
    assert output == f"0,1,2\n-m|jaxvid.main|{flags}"
    assert job.returncode == status
    assert not (tmp_path / "calls").exists()  # neither stopped nor put back into the queue


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_stops_the_run_ahead_of_time_and_requeues(fake, checkout, tmp_path, number):
    waits = 'trap "exit 75" TERM; touch "$FAKE/ready"; while :; do sleep 0.05; done'
    job = slurm(fake, checkout, waits)
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < end and job.poll() is None
        time.sleep(0.02)
    job.send_signal(number)
    assert job.wait(60) == 75, job.stdout.read()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["scancel --signal=TERM 7.0", "scontrol requeue 7"]
    job.stdout.close()


def jobset(*flags, **fields):
    fields = {"image": "image: 1", "workdir": "gs://bucket/run", **fields}
    return yaml.safe_load(make_jobset("my-run", CONFIG, flags, **fields))


def test_jobset_has_what_jobset_needs():
    found = jobset(SPACES, '--config.note="$(HOME)": #x', topology="2x2x4")
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert found["metadata"]["name"] == "my-run"
    (group,) = found["spec"]["replicatedJobs"]
    assert group["name"] == "slice" and group["replicas"] == 1
    job = group["template"]["spec"]
    # One pod per host; a pod that fails takes the job with it, the JobSet starts it again.
    assert job["parallelism"] == job["completions"] == 4
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
        "cloud.google.com/gke-spot": "true",
    }
    (container,) = pod["containers"]
    assert container["image"] == "image: 1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert container["command"] == ["python", "-m", "jaxvid.main"]
    assert container["args"] == [
        f"--config={CONFIG}", "--workdir=gs://bucket/run", "--distributed=auto",
        "--stopped_status=75", SPACES, '--config.note="$$(HOME)": #x',
    ]  # fmt: skip


def test_jobset_restarts_a_stopped_or_preempted_run_without_counting_it():
    spec = jobset()["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob"] * 2
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert rules[1]["onExitCodes"]["values"] == [75]
    assert (
        rules[1]["onExitCodes"]["containerName"]
        == (job["template"]["spec"]["containers"][0]["name"])
    )
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts" and rule["name"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] == 3


def test_jobset_over_two_slices():
    (group,) = jobset(slices=2, topology="4x8")["spec"]["replicatedJobs"]
    assert group["replicas"] == 2
    assert group["template"]["spec"]["completions"] == 8  # hosts of each


def test_jobset_on_demand():
    pod = jobset(spot=False)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert "cloud.google.com/gke-spot" not in pod["nodeSelector"]


@pytest.mark.parametrize(
    "args, message",
    [
        ([], "the following arguments are required: NAME, CONFIG, --image, --workdir"),
        (["My_run", "c", "--image=i", "--workdir=w"], "NAME 'My_run'"),
        (["a", "c", "--image=i", "--workdir=/w", "--topology=4"], "expected 4x4"),
        (["a", "c", "--image=i", "--workdir=/w", "--topology=2x3"], "6 chips, no multiple of"),
        (["a", "c", "--image=i", "--workdir=/w", "--slices=0"], "--slices=0: at least 1"),
        (["a", "c", "--image=i", "--workdir=/w", "--", "seed=1"], "flag 'seed=1'"),
        (
            ["a", "c", "--image=i", "--workdir=/w", "--", "--distributed=x"],
            "flag '--distributed=x'",
        ),
        (["a", "c", "--image=i", "--workdir=/w", "--config.seed=1"], "unrecognized arguments"),
        (["a", "c", "--image=i", "--workdir=runs/w"], "--workdir=runs/w: gs://... or an absolute"),
    ],
)
def test_jobset_errors(args, message, capsys):
    with pytest.raises(SystemExit):
        main(args)
    shown = capsys.readouterr()
    assert message in shown.err and shown.out == ""


def test_jobset_command_line(capsys):
    main(["a", CONFIG, "--image=i", "--workdir=/w", "--on_demand", "--", SPACES])
    assert capsys.readouterr().out == make_jobset(
        "a", CONFIG, [SPACES], image="i", workdir="/w", spot=False
    )
