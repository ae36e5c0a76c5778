"""Between the messages of settings.proto and shims.proto and the values of the SDK."""

from __future__ import annotations

from typing import Any

from orlop import values as v
from orlop._times import duration, when
from orlop_protos.orlop.engine.v1 import containers_pb2, settings_pb2, shims_pb2

NAMESPACES = {
    v.NamespaceMode.UNSPECIFIED: settings_pb2.NAMESPACE_MODE_UNSPECIFIED,
    v.NamespaceMode.PRIVATE: settings_pb2.NAMESPACE_MODE_PRIVATE,
    v.NamespaceMode.HOST: settings_pb2.NAMESPACE_MODE_HOST,
}
STATUSES = {
    settings_pb2.HEALTH_STATUS_STARTING: v.HealthStatus.STARTING,
    settings_pb2.HEALTH_STATUS_HEALTHY: v.HealthStatus.HEALTHY,
    settings_pb2.HEALTH_STATUS_UNHEALTHY: v.HealthStatus.UNHEALTHY,
}
STAGES = {
    v.HookStage.PRESTART: settings_pb2.HOOK_STAGE_PRESTART,
    v.HookStage.CREATE_RUNTIME: settings_pb2.HOOK_STAGE_CREATE_RUNTIME,
    v.HookStage.CREATE_CONTAINER: settings_pb2.HOOK_STAGE_CREATE_CONTAINER,
    v.HookStage.START_CONTAINER: settings_pb2.HOOK_STAGE_START_CONTAINER,
    v.HookStage.POSTSTART: settings_pb2.HOOK_STAGE_POSTSTART,
    v.HookStage.POSTSTOP: settings_pb2.HOOK_STAGE_POSTSTOP,
}
KINDS = ("pid", "ipc", "uts", "cgroup")
TIMES = ("interval", "timeout", "start_period", "start_interval")
PLAIN_RESOURCES = (
    *("memory_bytes", "nano_cpus", "pids", "memory_swap_bytes", "memory_reservation_bytes", "cpu_shares"),
    *("cpu_quota", "cpu_period", "cpuset_cpus", "cpuset_mems", "block_weight"),
)
BLOCK = ("path", "weight", "read_bytes", "write_bytes", "read_operations", "write_operations")
SECURITY = ("no_new_privileges", "seccomp", "apparmor", "unmask", "privileged")
DEVICE = ("path", "cdi", "target", "permissions")
SHIM = (
    *("container", "name", "runtime", "binary", "runtime_binary", "pid", "container_pid", "address"),
    *("protocol", "version", "memory_bytes", "bundle", "log", "problem"),
)


def pick(source: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


# --- Out to the daemon --------------------------------------------------------------------------------------


def settings_message(s: v.ContainerSpec) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "devices": [device_message(each) for each in s.devices],
        "healthcheck": healthcheck_message(s.healthcheck) if s.healthcheck else None,
        "rlimits": [settings_pb2.Rlimit(name=r.name, soft=r.soft, hard=r.hard) for r in s.rlimits],
        "sysctls": s.sysctls,
        "annotations": s.annotations,
        "group_add": s.group_add,
        "shm_bytes": s.shm_bytes,
        "oom_score_adj": s.oom_score_adj,
        "hooks": [
            settings_pb2.Hook(
                stage=STAGES[h.stage], path=h.path, args=h.args, env=h.env, timeout_seconds=h.timeout
            )
            for h in s.hooks
        ],
    }
    if s.user_namespace:
        fields["user_namespace"] = settings_pb2.UserNamespace(
            uids=ranges_message(s.user_namespace.uids),
            gids=ranges_message(s.user_namespace.gids),
            remap=s.user_namespace.remap,
        )
    if s.security != v.Security():
        fields["security"] = settings_pb2.Security(**pick(s.security, SECURITY))
    if s.namespaces != v.Namespaces():
        fields["namespaces"] = settings_pb2.Namespaces(
            **{kind: NAMESPACES[getattr(s.namespaces, kind)] for kind in KINDS}
        )
    return fields


def resources_message(r: v.Resources) -> containers_pb2.Resources:
    return containers_pb2.Resources(
        **pick(r, PLAIN_RESOURCES),
        block_limits=[settings_pb2.BlockLimit(**pick(each, BLOCK)) for each in r.block_limits],
        huge_pages=r.huge_pages,
        unified=r.unified,
        device_rules=r.device_rules,
    )


def ranges_message(ranges: Any) -> list[settings_pb2.IdRange]:
    return [settings_pb2.IdRange(inside=r.inside, outside=r.outside, size=r.size) for r in ranges]


def device_message(d: v.Device) -> settings_pb2.Device:
    if bool(d.path) == bool(d.cdi):
        raise ValueError("a device has either a path or a CDI name")
    return settings_pb2.Device(**{key: value for key, value in pick(d, DEVICE).items() if value})


def healthcheck_message(h: v.Healthcheck) -> settings_pb2.Healthcheck:
    times = {name: duration(getattr(h, name)) for name in TIMES if getattr(h, name)}
    return settings_pb2.Healthcheck(test=h.test, retries=h.retries, **times)


# --- In from the daemon -------------------------------------------------------------------------------------


def settings(m: containers_pb2.ContainerSpec) -> dict[str, Any]:
    modes = {number: mode for mode, number in NAMESPACES.items()}
    stages = {number: stage for stage, number in STAGES.items()}
    names = m.user_namespace
    return {
        "user_namespace": v.UserNamespace(ranges(names.uids), ranges(names.gids), names.remap)
        if m.HasField("user_namespace")
        else None,
        "devices": tuple(v.Device(**pick(each, DEVICE)) for each in m.devices),
        "healthcheck": healthcheck(m.healthcheck) if m.HasField("healthcheck") else None,
        "rlimits": tuple(v.Rlimit(each.name, each.soft, each.hard) for each in m.rlimits),
        "sysctls": dict(m.sysctls),
        "annotations": dict(m.annotations),
        "security": v.Security(**pick(m.security, SECURITY)),
        "group_add": tuple(m.group_add),
        "shm_bytes": m.shm_bytes,
        "namespaces": v.Namespaces(
            **{kind: modes.get(getattr(m.namespaces, kind), v.NamespaceMode.UNSPECIFIED) for kind in KINDS}
        ),
        "oom_score_adj": m.oom_score_adj if m.HasField("oom_score_adj") else None,
        "hooks": tuple(
            v.Hook(stages[h.stage], h.path, tuple(h.args), tuple(h.env), h.timeout_seconds)
            for h in m.hooks
            if h.stage in stages
        ),
    }


def resources(m: containers_pb2.Resources) -> v.Resources:
    return v.Resources(
        **pick(m, PLAIN_RESOURCES),
        block_limits=tuple(v.BlockLimit(**pick(each, BLOCK)) for each in m.block_limits),
        huge_pages=dict(m.huge_pages),
        unified=dict(m.unified),
        device_rules=tuple(m.device_rules),
    )


def ranges(messages: Any) -> tuple[v.IdRange, ...]:
    return tuple(v.IdRange(m.inside, m.outside, m.size) for m in messages)


def healthcheck(m: settings_pb2.Healthcheck) -> v.Healthcheck:
    times = {name: getattr(m, name).seconds + getattr(m, name).nanos / 1e9 for name in TIMES}
    return v.Healthcheck(test=tuple(m.test), retries=m.retries, **times)


def health(m: settings_pb2.Health) -> v.Health:
    return v.Health(
        status=STATUSES.get(m.status, v.HealthStatus.UNSPECIFIED),
        failing_streak=m.failing_streak,
        log=tuple(
            v.HealthResult(when(each, "started_at"), when(each, "ended_at"), each.exit_code, each.output)
            for each in m.log
        ),
    )


def spec_change(m: settings_pb2.SpecChange) -> v.SpecChange:
    return v.SpecChange(m.plugin, m.path, m.operation)


def shim(m: shims_pb2.Shim) -> v.Shim:
    return v.Shim(**pick(m, SHIM), started_at=when(m, "started_at"))
