"""The launchers: linted, their dry runs true, and what they do with signals and statuses."""

import copy
import importlib
import inspect
import re
import shlex
import signal
import subprocess

import launch_schema
import pytest
import yaml
from launchers import LAUNCH, ROOT, Machine, commands, tool, wait_for
from packaging.requirements import Requirement

from lm2_jax import cli
from lm2_jax.runtime import processes

TRAIN = ["lm2", "train", "--config=configs/lm2_1b7.py", '--workdir=/mnt/a "b" \\c&d']
POD = {"NAME": "pod", "PROJECT": "project", "ZONE": "zone-a", "TYPE": "v5litepod-16",
       "VERSION": "v2-alpha-tpuv5-lite", "SHARE": "10.0.0.2:/lm2", "POLL": "0.01"}
GKE = {"NAME": "run-1", "IMAGE": "example.com/lm2:1", "CLAIM": "lm2-runs"}
SCRIPTS = ["local.sh", "pieces.sh", "tpu_pod.sh", "gke.sh", "slurm.sbatch", "ssh.sh"]
SSH = {"HOSTS": "gpu1 me@gpu2", "COORDINATOR": "10.0.0.1:29500"}
FILES = [path for path in LAUNCH.iterdir() if path.suffix != ".ipynb"]


def script(name):
    return ["bash", str(LAUNCH / name)]


def lint(name, *arguments, **options):
    path = tool(name)
    if path is None:
        pytest.skip(f"no {name} here (it comes with the extra `test`)")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, **options)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def jobset(machine, *command, **environment):
    status, out, err = machine.run(*script("gke.sh"), "--dry-run", "start", *command,
                                   **GKE | environment)
    assert status == 0 and not err and not re.search(r"\$\{[A-Z]", out)
    return yaml.safe_load(out)


# Linters, and what the files say.

@pytest.mark.parametrize("path", [*(LAUNCH / name for name in [*SCRIPTS, "lock.sh", "shared.sh"]),
                                  ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_shellcheck(path):
    lint("shellcheck", "--external-sources", path)


def test_lint_of_the_image():
    lint("hadolint", "--no-color", LAUNCH / "Dockerfile")


def test_lint_of_the_yaml():
    rules = "line-length: {max: 100}, document-start: disable, comments-indentation: disable"
    lint("yamllint", "-d", f"{{extends: default, rules: {{{rules}, "
         "comments: {min-spaces-from-content: 1}}}", LAUNCH / "gke.yaml")


def test_every_command_line_is_one_of_lm2():
    found = 0
    for path in FILES:
        for line in re.findall(r"\blm2 (?:train|eval)(?: --?\S+)+", path.read_text("utf-8")):
            words = [word.rstrip('"') for word in line.split()[1:]]
            name, *words = words
            command = importlib.import_module("lm2_jax.commands." + cli.MODULES.get(name, name))
            args, rest = cli.make_parser(name, command).parse_known_args(words)
            cli.overrides(name, args, rest)
            assert args.config == "..." or (ROOT / args.config).is_file() or (
                ROOT / "configs" / f"{args.config}.py").is_file(), line
            found += 1
    assert found >= 8


def test_the_environment_is_one_that_lm2_reads():
    read = "".join(path.read_text("utf-8") for path in (ROOT / "lm2_jax").rglob("*.py"))
    names = {name for path in FILES
             for name in re.findall(r"LM2_[A-Z_]+", path.read_text("utf-8"))}
    names -= {"LM2_LLAMA"}  # of the notebook
    assert {"LM2_COORDINATOR", "LM2_NUM_PROCESSES", "LM2_PROCESS_ID", "LM2_DISTRIBUTED"} < names
    made = {f"LM2_{name.upper()}" for name in inspect.signature(processes.initialize).parameters}
    assert all(f'"{name}"' in read or name in made for name in names)


def test_the_image_holds_what_it_copies_and_is_not_root():
    text = (LAUNCH / "Dockerfile").read_text("utf-8")
    lines = [line.split() for line in text.splitlines() if line and line[0] != "#"]
    assert {line[0] for line in lines} <= {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER",
                                           "ENTRYPOINT"}
    copied = [name for line in lines if line[0] == "COPY" for name in line[1:-1]]
    everything, *shown = (LAUNCH / "Dockerfile.dockerignore").read_text("utf-8").split()
    assert everything == "*"
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in shown, name
    assert {"setup.py", "README.md", "lm2_jax", "configs"} <= set(copied)
    setup = (ROOT / "setup.py").read_text("utf-8")
    assert all(f'"{extra}": [' in setup for extra in ("tpu", "cuda"))
    assert ["ARG", "EXTRA=tpu"] in lines and ["USER", "1000"] in lines
    assert lines[-1] == ["ENTRYPOINT", '["lm2"]']


@pytest.mark.parametrize("extra", ["tpu", "cuda"])
def test_the_image_has_every_dependency_at_one_version_with_its_hash(extra):
    """As setup.py wants them: to write the files anew, launch/lock.sh."""
    text = (LAUNCH / f"requirements-{extra}.txt").read_text("utf-8")
    locked = dict(re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?==([\w.]+) \\$", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(locked) == len(lines) > 40 and text.count("--hash=sha256:") >= len(locked)
    setup = (ROOT / "setup.py").read_text("utf-8")
    wanted = re.search(r"install_requires=\[(.*?)\n    \]", setup, re.DOTALL)[1]
    extras = re.search(rf'"{extra}": \[(.*?)\],\n', setup, re.DOTALL)[1]
    assert {"gcsfs", "s3fs"} <= locked.keys()  # for runs in buckets
    for text in re.findall(r'"([^"]+)"', wanted + extras):
        requirement = Requirement(text)
        name = requirement.name.replace("_", "-").lower()
        assert requirement.specifier.contains(locked[name], prereleases=True), requirement


def test_the_audit_reads_the_versions_of_the_images():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]
    audit = jobs["audit"]
    assert any("pip-audit" in step.get("run", "") and "launch/requirements-${{ matrix.extra }}.txt"
               in step["run"] for step in audit["steps"])
    assert set(audit["strategy"]["matrix"]["extra"]) == {"tpu", "cuda"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name, tmp_path):
    status, out, err = Machine(tmp_path).run(*script(name), "--help")
    assert status == 0 and not err
    assert f"launch/{name}" in out and "lm2 train --config=configs/" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("name,arguments,wanted", [
    ("local.sh", [], "no command"), ("local.sh", ["lm2"], "unknown argument lm2"),
    ("local.sh", ["-n", "0", "--", "true"], "-n is '0'; it must be a number from 1 to 1024"),
    ("local.sh", ["-n"], "-n needs a number"), ("local.sh", ["--", "no-such"], "no-such"),
    ("tpu_pod.sh", [], "one of create, setup"), ("tpu_pod.sh", ["strat"], "unknown command strat"),
    ("tpu_pod.sh", ["stop"], "NAME is not set"), ("gke.sh", ["start", "lm2"], "NAME is not set"),
    ("gke.sh", ["watch", "0"], "watch takes no 0"), ("gke.sh", ["begin"], "begin"),
    ("pieces.sh", [], "no -o FOLDER"), ("pieces.sh", ["-o", "x", "-m", "a", "--"], "-m is 'a'"),
    ("pieces.sh", ["-o", "x", "--"], "no config"),
    ("pieces.sh", ["-i", "none", "-o", "x", "--", "y"], "no run.npz.* in 'none'"),
    ("ssh.sh", [], "one of setup, start"), ("ssh.sh", ["start", "lm2"], "HOSTS is not set"),
    ("ssh.sh", ["stop", "now"], "stop takes no now"), ("ssh.sh", ["run"], "unknown command run"),
    ("slurm.sbatch", [], "no command"), ("slurm.sbatch", TRAIN, "no Slurm job"),
])
def test_mistakes_are_one_line(name, arguments, wanted, tmp_path):
    status, out, err = Machine(tmp_path).run(*script(name), *arguments)
    line, = err.splitlines()
    assert status == 2 and not out and line.startswith(f"{name}: ") and wanted in line


@pytest.mark.parametrize("changed,wanted", [
    ({"NAME": "Run_1"}, "NAME is 'Run_1'"), ({"CLAIM": ""}, "CLAIM is not set"),
    ({"SLICES": "two"}, "SLICES is 'two'"), ({"QUEUE": "A queue"}, "QUEUE is 'A queue'"),
    ({"TOPOLOGY": "4 x 4"}, "TOPOLOGY is '4 x 4'"), ({"CHIPS": "3"}, "no multiple of CHIPS 3"),
])
def test_mistakes_in_the_environment_of_gke(changed, wanted, tmp_path):
    status, out, err = Machine(tmp_path).run(*script("gke.sh"), "--dry-run", "start", *TRAIN,
                                             **GKE | changed)
    line, = err.splitlines()
    assert status == 2 and not out and wanted in line


# A TPU pod.

@pytest.mark.parametrize("arguments", [["create"], ["setup"], ["start", *TRAIN], ["watch"],
                                       ["status"], ["stop"], ["resume", *TRAIN], ["delete"]],
                         ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("spot,slices", [("", "1"), ("1", "1"), ("1", "2")])
def test_the_dry_run_of_a_pod_is_what_is_run(arguments, spot, slices, tmp_path):
    describes = "[[ $* != *describe* ]] || if [[ -e $FOLDER/there ]]; then echo ACTIVE; fi\n"
    creates = '[[ $3 != queued-resources || $4 != create ]] || touch "$FOLDER/there"\n'
    machine = Machine(tmp_path, gcloud=describes + creates, git="", mkdir="")
    pod = POD | {"SPOT": spot, "SLICES": slices}
    status, out, err = machine.run(*script("tpu_pod.sh"), "--dry-run", *arguments, **pod)
    assert status == 0 and not err and not machine.calls()
    printed = commands(out)
    assert unknown_flags(printed) == []
    if slices == "2" and arguments[0] in ("setup", "start", "status", "stop"):
        assert {call[5] for call in printed if "ssh" in call} == {"pod-0", "pod-1"}
    assert ("--spot" in sum(printed, [])) == bool(spot and arguments[0] in ("create", "resume"))
    status, _, err = machine.run(*script("tpu_pod.sh"), *arguments, **pod)
    assert status == 0 and not err and machine.calls() == printed


def test_a_pod_runs_the_command_as_given(tmp_path):
    _, out, _ = Machine(tmp_path).run(*script("tpu_pod.sh"), "--dry-run", "start", *TRAIN, **POD)
    (*_, command), = commands(out)
    on_host = shlex.split(command.removeprefix("--command="))
    assert on_host[:2] == ["sudo", "systemd-run"] and on_host[-4:] == TRAIN
    assert on_host[-5] == "/usr/bin/env" and "--setenv=LM2_DISTRIBUTED=1" in on_host


def test_waiting_for_a_pod(tmp_path):
    """It looks until the slice is there, gives up when it failed, and deletes none that runs."""
    answers = tmp_path / "answers"
    machine = Machine(tmp_path, gcloud='[[ $* != *describe* ]] || { head -n1 "$FOLDER/answers"; '
                                       'sed -i 1d "$FOLDER/answers"; }\n')
    answers.write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    status, out, _ = machine.run(*script("tpu_pod.sh"), "create", **POD)
    assert status == 0 and len(machine.calls()) == 4
    assert out.splitlines() == ["pod: WAITING_FOR_RESOURCES; waiting", "pod: PROVISIONING; waiting"]
    answers.write_text("FAILED\n")
    status, _, err = machine.run(*script("tpu_pod.sh"), "create", **POD)
    assert status == 2 and "pod is FAILED" in err
    machine.calls()
    answers.write_text("ACTIVE\n")
    status, _, err = machine.run(*script("tpu_pod.sh"), "resume", *TRAIN, **POD)
    assert status == 2 and "start goes on" in err
    assert [call[4] for call in machine.calls()] == ["describe"]


# GKE.

def test_the_dry_run_of_gke_is_what_is_run(tmp_path):
    machine = Machine(tmp_path, kubectl='[[ $* != *"create -f -" ]] || cat > "$FOLDER/stdin"\n')
    status, out, _ = machine.run(*script("gke.sh"), "--dry-run", "start", *TRAIN, **GKE)
    *rendered, last = out.splitlines()
    assert status == 0 and not machine.calls()
    assert machine.run(*script("gke.sh"), "start", *TRAIN, **GKE)[0] == 0
    assert (tmp_path / "stdin").read_text().splitlines() == rendered
    assert machine.calls() == commands(last.partition(": ")[2])
    for command in ("watch", "status", "stop"):
        status, out, _ = machine.run(*script("gke.sh"), "--dry-run", command, **GKE)
        assert status == 0 and out and not machine.calls()
        assert machine.run(*script("gke.sh"), command, **GKE)[0] == 0
        assert machine.calls() == commands(out)


@pytest.mark.parametrize("environment", [{}, {"SLICES": "2", "SPOT": "1", "QUEUE": "team-a"}],
                         ids=str)
def test_a_jobset_by_its_schema(environment, tmp_path):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(launch_schema.JOBSET)
    made = jobset(Machine(tmp_path), *TRAIN, **environment)
    assert [error.message for error in validator.iter_errors(made)] == []
    refused = 0
    for path, key in keys(made):
        if path and path[-1] in ("labels", "annotations", "nodeSelector"):
            continue
        wrong = copy.deepcopy(made)
        at = wrong
        for part in path:
            at = at[part]
        at[key + "s"] = at.pop(key)
        assert not validator.is_valid(wrong), f"{path}: {key}s"
        refused += 1
    assert refused > 50


def test_a_jobset_of_two_spot_slices_in_a_queue(tmp_path):
    made = jobset(Machine(tmp_path), *TRAIN, SLICES="2", SPOT="1", QUEUE="team-a")
    slices, = made["spec"]["replicatedJobs"]
    pod = slices["template"]["spec"]["template"]["spec"]
    assert slices["replicas"] == 2 and slices["template"]["spec"]["parallelism"] == 4
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert {port["containerPort"] for port in pod["containers"][0]["ports"]} >= {8080, 8471, 8482}
    (tmp_path / "one").mkdir()
    one = jobset(Machine(tmp_path / "one"), *TRAIN)
    pod = one["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert "tolerations" not in pod and len(pod["nodeSelector"]) == 2


def keys(node, path=()):
    """Every key of every object, with the path to the object."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(node, dict):
            yield path, key
        if isinstance(value, (dict, list)):
            yield from keys(value, (*path, key))


@pytest.mark.parametrize("workdir", [["--workdir=gs://bucket/run"], ["--workdir", "s3://b-1/run"]],
                         ids=str)
def test_a_workdir_in_a_bucket_needs_no_volume(workdir, tmp_path):
    made = jobset(Machine(tmp_path), "lm2", "train", *workdir, CLAIM="")
    pod = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    container, = pod["containers"]
    assert [volume["name"] for volume in pod["volumes"]] == ["shm"]
    assert [mount["name"] for mount in container["volumeMounts"]] == ["shm"]
    validator = pytest.importorskip("jsonschema").Draft202012Validator(launch_schema.JOBSET)
    assert [error.message for error in validator.iter_errors(made)] == []


@pytest.mark.parametrize("topology,chips,hosts", [("4x4", 4, 4), ("2x2x4", 4, 4), ("2x4", 8, 1)])
def test_a_pod_for_each_host(topology, chips, hosts, tmp_path):
    made = jobset(Machine(tmp_path), *TRAIN, TOPOLOGY=topology, CHIPS=str(chips))
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert (job["parallelism"], job["completions"]) == (hosts, hosts)
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    container, = pod["containers"]
    assert container["resources"]["limits"]["google.com/tpu"] == chips
    assert container["args"] == TRAIN and container["image"] == GKE["IMAGE"]
    assert made["metadata"]["name"] == GKE["NAME"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == GKE["CLAIM"]
    for labels in (made["metadata"]["labels"], job["template"]["metadata"]["labels"]):
        assert labels["xpk.google.com/workload"] == GKE["NAME"]


@pytest.mark.parametrize("ends,signalled,wanted", [
    ("exit 0", False, 0), ("exit 3", False, 3), ("exit 0", True, 75), ("exit 5", True, 5)])
def test_the_status_of_a_pod(ends, signalled, wanted, tmp_path):
    """One that was asked to leave does not count as done."""
    job = jobset(Machine(tmp_path), *TRAIN)["spec"]["replicatedJobs"][0]["template"]["spec"]
    command = job["template"]["spec"]["containers"][0]["command"]
    if tool("shellcheck"):
        lint("shellcheck", "--shell=bash", "-", input=command[2])
    waits = f"trap '{ends}' TERM; echo ready; for _ in {{1..900}}; do sleep 0.02; done"
    process = subprocess.Popen([*command, "bash", "-c", waits if signalled else ends],
                               stdout=subprocess.PIPE, text=True)
    if signalled:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == wanted


# xpk, and the flags of other people's tools.

# As their documentation lists them; only those of the commands that are used here.
FLAGS = {
    ("gcloud", "compute", "tpus", "queued-resources", "create"): {
        "--zone", "--project", "--runtime-version", "--accelerator-type", "--topology", "--type",
        "--node-id", "--node-count", "--node-prefix", "--async", "--best-effort", "--guaranteed",
        "--internal-ips", "--labels", "--metadata", "--network", "--reserved", "--service-account",
        "--spot", "--subnetwork", "--tags", "--valid-after-duration", "--valid-until-duration"},
    ("gcloud", "compute", "tpus", "queued-resources", "describe"): {
        "--zone", "--project", "--format"},
    ("gcloud", "compute", "tpus", "queued-resources", "delete"): {
        "--zone", "--project", "--force", "--quiet", "--async"},
    ("gcloud", "compute", "tpus", "tpu-vm", "ssh"): {
        "--zone", "--project", "--worker", "--command", "--internal-ip", "--batch-size"},
    ("gcloud", "compute", "tpus", "tpu-vm", "scp"): {
        "--zone", "--project", "--worker", "--recurse", "--internal-ip", "--batch-size"},
    ("xpk", "workload", "create"): {
        "--workload", "--cluster", "--command", "--tpu-type", "--device-type", "--num-slices",
        "--docker-image", "--base-docker-image", "--script-dir", "--priority", "--max-restarts",
        "--termination-grace-period-seconds", "--restart-on-user-code-failure", "--env",
        "--env-file", "--spot", "--on-demand", "--reservation", "--project", "--zone",
        "--ttl-seconds-after-finished", "--scheduler"},
    ("xpk", "workload", "list"): {"--cluster", "--project", "--zone", "--filter-by-job",
                                  "--filter-by-status", "--wait-for-job-completion"},
    ("xpk", "workload", "delete"): {"--cluster", "--workload", "--project", "--zone", "--force"},
    ("kubectl",): {"--namespace", "--container", "--tail", "--follow", "--output", "--selector",
                   "--cascade", "--dry-run"},
    ("srun",): {"--kill-on-bad-exit", "--label", "--cpus-per-task", "--container-image",
                "--container-mounts", "--container-workdir", "--mpi"},
}


def unknown_flags(calls):
    """Flags that the tool's documentation does not list, and commands of tools that it does not."""
    tools = {prefix[0] for prefix in FLAGS}
    found = []
    for call in calls:
        if call[0] not in tools:
            continue
        known = [names for prefix, names in FLAGS.items() if tuple(call[:len(prefix)]) == prefix]
        found += [] if known else [" ".join(call)]
        found += [word for word in call if known and word.startswith("--")
                  and word.partition("=")[0] not in known[0]]
    return found


def readme_commands(program):
    """The commands of a program in the blocks of launch/README.md and its neighbours."""
    text = "".join(path.read_text("utf-8") for path in sorted(LAUNCH.glob("*.md")))
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines()
            if line.startswith(f"{program} ")]


def test_the_commands_of_other_tools_have_their_flags():
    assert unknown_flags([["gcloud", "compute", "tpus", "queued-resources", "create", "--sport"],
                          ["xpk", "workload", "run"]]) == ["--sport", "xpk workload run"]
    created, *_ = readme_commands("xpk workload create")
    assert unknown_flags(readme_commands("xpk") + readme_commands("gcloud compute tpus")) == []
    assert any(word.startswith("--num-slices=") for word in created)
    command, = (word for word in created if word.startswith("--command="))
    words = shlex.split(command.removeprefix("--command="))
    assert words[:2] == ["lm2", "train"]


# Hosts that are reached by SSH.

@pytest.mark.parametrize("arguments", [["setup"], ["start", *TRAIN], ["watch"], ["status"],
                                       ["stop"]], ids=lambda arguments: arguments[0])
def test_the_dry_run_of_ssh_is_what_is_run(arguments, tmp_path):
    machine = Machine(tmp_path, ssh="", scp="", git="", mkdir="")
    status, out, err = machine.run(*script("ssh.sh"), "--dry-run", *arguments, **SSH)
    assert status == 0 and not err and not machine.calls()
    printed = commands(out)
    assert machine.run(*script("ssh.sh"), *arguments, **SSH)[0] == 0
    assert machine.calls() == printed
    hosts = {call[5] for call in printed if call[0] == "ssh"}
    assert hosts == ({"gpu1"} if arguments == ["watch"] else {"gpu1", "me@gpu2"})


def test_hosts_run_the_command_each_with_its_index_until_they_are_stopped(tmp_path):
    """The command of each host is run here, by a stand-in of ssh."""
    machine = Machine(tmp_path, ssh='cd "$FOLDER" && mkdir -p "$5/d" && cd "$5" && bash -c "$6"\n',
                      lm2='trap "echo saved; exit 0" TERM; echo "$LM2_PROCESS_ID of '
                          '$LM2_NUM_PROCESSES at $LM2_COORDINATOR: $*"\n'
                          'for _ in {1..900}; do sleep 0.02; done\n')
    hosts = SSH | {"DIR": "d"}
    assert machine.run(*script("ssh.sh"), "start", *TRAIN, **hosts)[0] == 0
    logs = [tmp_path / host / "d" / "lm2.log" for host in ("gpu1", "me@gpu2")]
    wait_for(lambda: all(log.exists() and log.read_text() for log in logs))
    for index, log in enumerate(logs):
        said = log.read_text().strip()
        assert said == f"{index} of 2 at 10.0.0.1:29500: {' '.join(TRAIN[1:])}"
    _, out, _ = machine.run(*script("ssh.sh"), "status", **hosts)
    assert out.count(": runs") == 2
    status, _, err = machine.run(*script("ssh.sh"), "start", *TRAIN, **hosts)
    assert status == 1 and "a run is there already" in err
    assert machine.run(*script("ssh.sh"), "stop", **hosts)[0] == 0
    assert all(log.read_text().endswith("saved\n") for log in logs)
    _, out, _ = machine.run(*script("ssh.sh"), "status", **hosts)
    assert out.count(": ended") == 2


# SLURM.

SLURM = {"SLURM_JOB_ID": "77", "SRUN_ARGS": "--container-image=I --mpi=none",
         "SLURM_CPUS_PER_TASK": "12"}


def test_the_dry_run_of_slurm_is_what_is_run(tmp_path):
    machine = Machine(tmp_path, srun="exit 4\n", scontrol="", scancel="")
    status, out, _ = machine.run(*script("slurm.sbatch"), *TRAIN, DRY_RUN="1", **SLURM)
    assert status == 0 and not machine.calls()
    printed, = commands(out)
    assert printed == ["srun", "--kill-on-bad-exit=1", "--label", "--container-image=I",
                       "--mpi=none", "--cpus-per-task=12", *TRAIN]
    assert machine.run(*script("slurm.sbatch"), *TRAIN, **SLURM)[0] == 4
    assert machine.calls() == [printed]


@pytest.mark.parametrize("number,requeued", [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_job_that_is_to_leave_saves_first(number, requeued, tmp_path):
    saves = ('for _ in {1..900}; do [[ -e $FOLDER/told ]] && break; sleep 0.02; done\n'
             'sleep 0.2; touch "$FOLDER/saved"\n')
    machine = Machine(tmp_path, srun=saves, scancel='touch "$FOLDER/told"\n',
                      scontrol='[[ -e $FOLDER/saved ]]\n')
    process = machine.start(*script("slurm.sbatch"), *TRAIN, **SLURM)
    wait_for(lambda: (tmp_path / "calls").stat().st_size)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0 and not err and (tmp_path / "saved").exists()
    assert ("requeueing job" in out) == requeued
    (srun, *_), *others = machine.calls()
    assert srun == "srun" and others == [["scancel", "--signal=TERM", "77"]] + [
        ["scontrol", "requeue", "77"]] * requeued


def test_slurm_starts_a_task_for_each_gpu():
    text = (LAUNCH / "slurm.sbatch").read_text("utf-8")
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, flags=re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"].startswith("B:USR1@") and {"requeue", "open-mode"} <= options.keys()
    assert not {"gpus-per-task", "gpu-bind"} & options.keys()


# pieces.sh.

PIECE = """#!/bin/bash
echo "$3" >> "$CALLS"
case $3 in
  unpack) cp "$4" "$CALLS.unpacked" ;;
  train)
    w=${4#--workdir=}
    [[ $STATUS == 9 ]] || mkdir -p "$w/eval" "$w/checkpoints/5"
    trap 'echo saved >> "$CALLS"; exit 0' TERM
    [[ ${STEPS:-} != stuck ]] || trap '' TERM
    [[ ${STEPS:-} != unsaved ]] || mv "$w/checkpoints/5" "$w/checkpoints/5.tmp"
    [[ -z ${STEPS:-} ]] || while true; do sleep 0.1; done
    echo "{}" > "$w/metrics.jsonl"
    exit "$STATUS"
    ;;
  eval) echo "[]" > "${4#--workdir=}/eval/results.json" ;;
  pack) head -c 31000000 /dev/urandom | tee "$CALLS.packed" > "${5#--out=}" ;;
esac
"""


def test_a_piece_hands_on_what_the_one_before_left(tmp_path):
    """Also if training fails: what it has saved is kept, and its status is returned."""
    machine, python, calls = Machine(tmp_path), tmp_path / "python", tmp_path / "calls"
    python.write_text(PIECE)
    python.chmod(0o755)
    first, second = tmp_path / "the first", tmp_path / "second"

    def piece(*arguments, status=0):
        return machine.run(*script("pieces.sh"), *map(str, arguments), "--", "--config=x",
                           PYTHON=str(python), CALLS=str(calls), STATUS=str(status),
                           SCRATCH=str(tmp_path / "scratch"))[0]

    assert piece("-o", first, status=3) == 3
    assert calls.read_text().split() == ["train", "pack"]
    parts = sorted(first.glob("run.npz.*"))
    assert [part.stat().st_size for part in parts] == [15_000_000, 15_000_000, 1_000_000]
    packed = (tmp_path / "calls.packed").read_bytes()
    assert {path.name for path in first.iterdir()} == {
        "metrics.jsonl", "output.log", *(part.name for part in parts)}

    assert piece("-i", first, "-o", second, "--eval") == 0
    assert calls.read_text().split()[2:] == ["unpack", "eval", "pack"]
    assert (tmp_path / "calls.unpacked").read_bytes() == packed
    assert (second / "results.json").read_text() == "[]\n"


def test_a_piece_ends_in_time_and_says_when_nothing_was_saved(tmp_path):
    machine, python, calls = Machine(tmp_path), tmp_path / "python", tmp_path / "calls"
    python.write_text(PIECE)
    python.chmod(0o755)

    def piece(name, minutes="0.03", **environment):
        calls.write_text("")
        status = machine.run(*script("pieces.sh"), "-m", minutes, "-g", "0.5", "-o",
                             str(tmp_path / name), "--", "--config=x", PYTHON=str(python),
                             CALLS=str(calls), SCRATCH=str(tmp_path / f"{name}_scratch"),
                             **environment)[0]
        return status, calls.read_text().split(), len(list((tmp_path / name).glob("run.npz.*")))

    assert piece("long", STATUS="0", STEPS="endless") == (0, ["train", "saved", "pack"], 3)
    assert piece("stuck", STATUS="0", STEPS="stuck") == (137, ["train", "pack"], 3)
    for name, options, status in (("failed", {"STATUS": "9", "minutes": "8"}, 9),
                                  ("unsaved", {"STATUS": "0", "STEPS": "unsaved"}, 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.npz.00").write_text("of an earlier attempt")
        found, called, parts = piece(name, **options)
        assert (found, parts) == (status, 1) and "pack" not in called
        assert "nothing was saved in this piece" in (tmp_path / name / "output.log").read_text()
