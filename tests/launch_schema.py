"""A strict JSON schema of the parts of JobSet (v1alpha2), Job and Pod that launch/gke.yaml uses.

Kubernetes drops a key that it does not know, or refuses it only once a cluster is asked. Here every
object names all its keys; only labels, annotations, selectors and resources have keys of their own.
"""

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 1}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"}
FREE = {"type": "object", "minProperties": 1, "additionalProperties": TEXT,
        "propertyNames": {"pattern": r"^([-a-z0-9.]+/)?[A-Za-z0-9][-A-Za-z0-9_.]*$"}}


def one_of(*values):
    return {"enum": list(values)}


def some(items):
    return {"type": "array", "items": items, "minItems": 1}


def strict(required, **properties):
    """An object of these keys and no others; `required` names those that must be there."""
    return {"type": "object", "properties": properties, "required": required.split(),
            "additionalProperties": False}


CONTAINER = strict(
    "name image command args securityContext resources volumeMounts",
    name=NAME, image=TEXT, command=some(TEXT), args=some({"type": "string"}),
    ports=some(strict("containerPort", containerPort={**COUNT, "maximum": 65535})),
    securityContext=strict("", privileged={"type": "boolean"},
                           runAsUser={"type": "integer", "minimum": 0}),
    resources=strict("limits", limits={
        "type": "object", "required": ["google.com/tpu"],
        "properties": {"google.com/tpu": COUNT, "cpu": TEXT, "memory": TEXT},
        "additionalProperties": False}),
    volumeMounts=some(strict("name mountPath", name=NAME,
                             mountPath={"type": "string", "pattern": "^/"})))

POD = strict(
    "restartPolicy terminationGracePeriodSeconds nodeSelector containers volumes",
    restartPolicy=one_of("Never"),  # a podFailurePolicy allows no other
    terminationGracePeriodSeconds=COUNT, nodeSelector=FREE,
    tolerations=some(strict("key operator effect", key=TEXT, operator=one_of("Equal", "Exists"),
                            value=TEXT, effect=one_of("NoSchedule", "NoExecute"))),
    containers={**some(CONTAINER), "maxItems": 1},
    volumes=some({"oneOf": [
        strict("name persistentVolumeClaim", name=NAME,
               persistentVolumeClaim=strict("claimName", claimName=NAME)),
        strict("name emptyDir", name=NAME, emptyDir=strict("medium", medium=one_of("Memory")))]}))

JOB = strict(
    "parallelism completions completionMode backoffLimit template",
    parallelism=COUNT, completions=COUNT, completionMode=one_of("Indexed"),
    backoffLimit=one_of(0),
    podFailurePolicy=strict("rules", rules=some(strict(
        "action onPodConditions", action=one_of("FailJob", "Ignore", "Count"),
        onPodConditions=some(strict("type status", type=one_of("DisruptionTarget"),
                                    status=one_of("True", "False")))))),
    template=strict("spec", metadata=strict("", labels=FREE, annotations=FREE), spec=POD))

JOBSET = strict(
    "apiVersion kind metadata spec",
    apiVersion=one_of("jobset.x-k8s.io/v1alpha2"), kind=one_of("JobSet"),
    metadata=strict("name", name=NAME, labels=FREE, annotations=FREE),
    spec=strict(
        "failurePolicy replicatedJobs",
        failurePolicy=strict("maxRestarts", maxRestarts=COUNT, rules=some(strict(
            "name action", name=NAME,
            action=one_of("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
            onJobFailureReasons=some(one_of("BackoffLimitExceeded", "DeadlineExceeded",
                                            "FailedIndexes", "MaxFailedIndexesExceeded",
                                            "PodFailurePolicy"))))),
        replicatedJobs=some(strict("name replicas template", name=NAME, replicas=COUNT,
                                   template=strict("spec", spec=JOB)))))
